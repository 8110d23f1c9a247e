"""Saving: every rank writes what it holds, and one rename makes it a checkpoint."""

import errno
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint.state_dict_saver as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from headrace.checkpoint.folder import (
    checkpoint_folder,
    commit_folder,
    partial_folder,
    remove_partials,
    remove_surplus,
    write_meta,
)
from headrace.checkpoint.room import describe_bytes, free_bytes
from headrace.errors import RequestError, RunError

T = TypeVar("T")

# torch.save frames each tensor in a zip (1.6 kB measured), and the index has a line for it.
_FRAME_BYTES = 2048


class _WriteFailedError(Exception):
    """The disk refused on some rank; raised on all ranks with the same text."""


def save_checkpoint(
    run_dir: Path,
    step: int,
    state: dict[str, Tensor],
    meta: dict[str, Any],
    keep: int,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Saves the state that the ranks hold together; every rank of ``group`` calls it.

    It is written beside the older checkpoints, so the disk holds ``keep + 1`` of them for a moment. A job killed at
    any time leaves the older ones whole and no new one.

    Args:
        run_dir: The run's folder, seen by all ranks.
        step: Steps done; names the folder ``checkpoints/step-000100``.
        state: This rank's tensors by their names in the unsplit model, persistent buffers included. A name that
            several ranks hold (a tied parameter, copies of data parallelism) has equal values there and is saved once.
        meta: What a reader must know before the tensors, as JSON; the first rank's is written to ``meta.json``.
        keep: How many whole checkpoints remain, this one included.
        group: The ranks that save; all of them when None, this process alone when there is no process group.

    Returns:
        The folder, on every rank.

    Raises:
        RequestError: ``keep`` is below 1.
        RunError: A rank could not write, on every rank with one text; nothing of this checkpoint remains, and the
            older ones are as they were.
    """
    if keep < 1:
        raise RequestError(f"checkpoint.keep is {keep}, and at least 1 checkpoint must remain; set it to 1 or more.")
    meta = json.loads(json.dumps(meta))  # What is not JSON fails on every rank alike, before any of them writes.
    folder = checkpoint_folder(run_dir, step)
    needed_bytes = _count_bytes(state, group)
    try:
        _on_first_rank(lambda: _start(folder), group)
        _on_every_rank(lambda: _require_room(folder.parent, needed_bytes), group)
        _write_tensors(partial_folder(folder), state, group)
        _on_first_rank(lambda: _finish(folder, meta, keep), group)
    except _WriteFailedError as error:
        _on_first_rank(lambda: remove_partials(folder.parent), group)
        free = min(_gather(free_bytes(folder), group))
        raise RunError(
            f"Checkpoint {folder} was not written: {error}; it needs {describe_bytes(needed_bytes)} and "
            f"{describe_bytes(free)} are free; make room and resume, older checkpoints are untouched."
        ) from error
    return folder


def _start(folder: Path) -> None:
    remove_partials(folder.parent)
    partial_folder(folder).mkdir(parents=True)


def _require_room(folder: Path, needed_bytes: int) -> None:
    if free_bytes(folder) < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _finish(folder: Path, meta: dict[str, Any], keep: int) -> None:
    write_meta(partial_folder(folder), meta)
    commit_folder(partial_folder(folder), folder)
    remove_surplus(folder, keep)


def _write_tensors(folder: Path, state: dict[str, Tensor], group: dist.ProcessGroup | None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            dcp.save(
                state,
                storage_writer=_Writer(folder),
                planner=DefaultSavePlanner(flatten_state_dict=False),
                process_group=group,
            )
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            if not isinstance(cause, OSError):
                raise
            raise _WriteFailedError(_describe(rank, cause)) from error


class _Writer(FileSystemWriter):
    """Lets the disk's own error through: torch.save hides it behind one about the zip it was writing."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _count_bytes(state: dict[str, Tensor], group: dist.ProcessGroup | None) -> int:
    """Bytes of the whole checkpoint, a tensor of several ranks once (a DTensor counts its global size)."""
    local = {name: tensor.numel() * tensor.element_size() + _FRAME_BYTES for name, tensor in state.items()}
    return sum({name: size for rank in _gather(local, group) for name, size in rank.items()}.values())


def _on_first_rank(action: Callable[[], None], group: dist.ProcessGroup | None) -> None:
    is_first = not dist.is_initialized() or dist.get_rank(group) == 0
    _on_every_rank(action if is_first else lambda: None, group)


def _on_every_rank(action: Callable[[], None], group: dist.ProcessGroup | None) -> None:
    """Nobody goes on before all have done it, and where one fails all fail: a rank left behind would wait for ever."""
    failure = None
    try:
        action()
    except OSError as error:
        failure = error
    for rank, refusal in enumerate(_gather(failure, group)):
        if refusal is not None:
            raise _WriteFailedError(_describe(rank, refusal))


def _describe(rank: int, error: OSError) -> str:
    return f"rank {rank} met '{error.strerror or error}'"


def _gather(value: T, group: dist.ProcessGroup | None) -> list[T]:
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values
