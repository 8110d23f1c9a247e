"""Loading: any rank of any layout takes the tensors it asks for, and no others are read."""

import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint.state_dict_loader as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from headrace.checkpoint.folder import require_whole
from headrace.errors import RequestError

_DECODING_ERRORS = (OSError, EOFError, RuntimeError, pickle.UnpicklingError)


def load_state(folder: Path, into: dict[str, Tensor]) -> None:
    """Fills tensors in place from a checkpoint, whatever layout saved it; no rank waits for another.

    Args:
        folder: A checkpoint.
        into: The tensors to fill, by their names in the unsplit model; the rest of the checkpoint is not read.

    Raises:
        RequestError: The checkpoint is half written or damaged, or holds no tensor of that name, shape and type;
            then nothing is filled.
    """
    stored = stored_tensors(folder)
    for name, tensor in into.items():
        _require_same(folder, name, stored.get(name), tensor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            dcp.load(
                dict(into),
                storage_reader=FileSystemReader(folder),
                planner=DefaultLoadPlanner(flatten_state_dict=False),
                no_dist=True,
            )
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            if not isinstance(cause, _DECODING_ERRORS):
                raise
            raise RequestError(
                f"Checkpoint {folder} is damaged: a tensor is unreadable ({type(cause).__name__}); use an older one."
            ) from error


def stored_tensors(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Shape and type of every tensor in a checkpoint, by name, without reading one.

    Raises:
        RequestError: The checkpoint is missing or half written.
    """
    require_whole(folder)
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def _require_same(folder: Path, name: str, stored: TensorStorageMetadata | None, tensor: Tensor) -> None:
    wanted = _describe(tensor.shape, tensor.dtype)
    found = "missing" if stored is None else _describe(stored.size, stored.properties.dtype)
    if found != wanted:
        raise RequestError(
            f"Checkpoint {folder} is of another model: {name} is {found} there and {wanted} here; "
            "give the model it was saved from, or start a new run."
        )


def _describe(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
