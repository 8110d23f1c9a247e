"""Text that every machine has: the sources and documentation of Python's standard library."""

import os
import sysconfig
from pathlib import Path

MAX_BYTES = 12 << 20
_SUFFIXES = {".py", ".txt", ".rst"}
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def stdlib_files(max_bytes: int = MAX_BYTES) -> list[Path]:
    """Its files in a fixed order, tests and installed packages apart, up to ``max_bytes`` in all.

    Files that are not UTF-8 are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files, num_bytes = [], 0
    for path in sorted(_walk(root)):
        content = path.read_bytes()
        if num_bytes + len(content) <= max_bytes and _is_text(content):
            files.append(path)
            num_bytes += len(content)
    return files


def _walk(root: Path) -> list[Path]:
    """Files with the right suffix; skipped folders are not entered, for installed packages are many."""
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        found += [Path(folder, name) for name in names if Path(name).suffix in _SUFFIXES]
    return found


def _is_text(content: bytes) -> bool:
    try:
        return bool(content.decode("utf-8"))
    except UnicodeDecodeError:
        return False
