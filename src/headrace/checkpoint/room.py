"""Room on the disk."""

import shutil
from pathlib import Path

from headrace.errors import RequestError


def check_room(run_dir: Path, needed_bytes: int) -> None:
    """Refuses a job whose checkpoint cannot fit, before it starts; ``run_dir`` need not exist yet.

    Raises:
        RequestError: Fewer than ``needed_bytes`` are free where ``run_dir`` is or would be.
    """
    free = free_bytes(run_dir)
    if free < needed_bytes:
        raise RequestError(
            f"There is no room in {run_dir}: a checkpoint needs {describe_bytes(needed_bytes)} and "
            f"{describe_bytes(free)} are free; make room or choose another run folder."
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
