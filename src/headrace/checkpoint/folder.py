"""A checkpoint's folder: its name, its ``meta.json``, and the proof that it is whole."""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from headrace.errors import RequestError

_META_FILE = "meta.json"
_WHOLE_NAME = re.compile(r"step-(\d{6,})")


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands once it is whole."""
    return run_dir / "checkpoints" / f"step-{step:06d}"


def partial_folder(folder: Path) -> Path:
    """Where it is written; nothing ever reads a folder of this name."""
    return folder.with_name(folder.name + ".partial")


def list_checkpoints(parent: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first; those still being written are left out."""
    return sorted((f for f in parent.glob("step-*") if _WHOLE_NAME.fullmatch(f.name)), key=_step_of)


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint of the highest step, or None where a run has none yet."""
    return next(reversed(list_checkpoints(run_dir / "checkpoints")), None)


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Writes ``meta.json``, last of all files: ``meta``, and under ``files`` the bytes of every file beside it."""
    num_bytes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    with (folder / _META_FILE).open("w", encoding="utf-8") as file:
        file.write(json.dumps({**meta, "files": num_bytes}, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_meta(folder: Path) -> dict[str, Any]:
    """What was said of a checkpoint when it was saved.

    Raises:
        RequestError: The folder is missing or half written.
    """
    require_whole(folder)
    meta: dict[str, Any] = json.loads((folder / _META_FILE).read_text(encoding="utf-8"))
    del meta["files"]
    return meta


def require_whole(folder: Path) -> None:
    """Refuses a checkpoint that lacks anything, and names the newest older one that lacks nothing.

    Raises:
        RequestError: The folder is missing or half written.
    """
    damage = find_damage(folder)
    if damage is None:
        return
    older = (f for f in list_checkpoints(folder.parent) if _is_older(f, folder))
    whole = [f for f in older if find_damage(f) is None]
    way_out = f"{whole[-1]} is whole, use that one" if whole else "no older checkpoint is whole, start a new run"
    raise RequestError(f"Checkpoint {folder} cannot be read: {damage}; {way_out}.")


def find_damage(folder: Path) -> str | None:
    """What a checkpoint lacks, in words; None when it is whole. Reads sizes only, no tensors."""
    if not folder.is_dir():
        return "there is no such folder"
    try:
        num_bytes = json.loads((folder / _META_FILE).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{_META_FILE} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{_META_FILE} is cut off or was changed"
    return next(filter(None, (_file_damage(folder / name, size) for name, size in num_bytes.items())), None)


def commit_folder(partial: Path, folder: Path) -> None:
    """Gives a finished folder its name: the one moment from which a checkpoint counts.

    A checkpoint of the same step gives way; that happens when a run went on from an older one.
    """
    _sync_folder(partial)
    replaced = _take_name(folder) if folder.exists() else None
    partial.rename(folder)
    _sync_folder(folder.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def remove_surplus(newest: Path, keep: int) -> None:
    """Leaves ``newest`` and the ``keep - 1`` whole checkpoints of the highest steps; damaged ones are not touched."""
    others = [f for f in list_checkpoints(newest.parent) if f != newest and find_damage(f) is None]
    for folder in others[: max(0, len(others) - (keep - 1))]:
        with contextlib.suppress(OSError):  # What cannot be removed costs room, and is no reason to stop a job.
            shutil.rmtree(_take_name(folder))


def remove_partials(parent: Path) -> None:
    """Removes what a save that failed, or a job that was killed while it saved, has left."""
    for folder in parent.glob("step-*.partial"):
        shutil.rmtree(folder, ignore_errors=True)


def _take_name(folder: Path) -> Path:
    """Done before a removal, so that a half-removed checkpoint is never taken for one."""
    return folder.rename(partial_folder(folder.with_name(folder.name + ".old")))


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _is_older(folder: Path, than: Path) -> bool:
    return _WHOLE_NAME.fullmatch(than.name) is not None and _step_of(folder) < _step_of(than)


def _file_damage(file: Path, expected_bytes: int) -> str | None:
    if not file.exists():
        return f"{file.name} is missing"
    found_bytes = file.stat().st_size
    return f"{file.name} has {found_bytes} of {expected_bytes} bytes" if found_bytes != expected_bytes else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
