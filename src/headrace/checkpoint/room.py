"""Room on the disk."""

import shutil
from pathlib import Path

from headrace.errors import RequestError


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuses what cannot fit, before it starts; ``folder`` need not exist yet.

    Raises:
        RequestError: Fewer than ``needed_bytes`` are free where ``folder`` is or would be.
    """
    free = free_bytes(folder)
    if free < needed_bytes:
        raise RequestError(
            f"There is no room in {folder}: {describe_bytes(needed_bytes)} are needed and {describe_bytes(free)} "
            "are free; make room or choose another folder."
        )


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the disk that holds, or would hold, a folder."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def describe_bytes(num_bytes: int) -> str:
    """Bytes for people: ``12.5 MB``."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
