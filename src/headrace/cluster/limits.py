"""What the operating system grants: limits of control groups, and the processor's name."""

import platform
from collections.abc import Iterator
from math import ceil
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def cgroup_memory_bytes(groups: Path = _GROUPS, own: Path = _SELF) -> int | None:
    """The tightest memory limit of this process's control groups, version 1 or 2; None where there is none."""
    texts = _read(groups, own, "memory", ("memory.max", "memory.limit_in_bytes"))
    return min((int(text) for text in texts if text.isdigit()), default=None)


def cgroup_cores(groups: Path = _GROUPS, own: Path = _SELF) -> int | None:
    """The tightest share of processor time, in cores, rounded up; None where there is none."""
    quotas = [text.split() for text in _read(groups, own, "cpu", ("cpu.max",))]
    limits = [ceil(int(quota) / int(period)) for quota, period in quotas if quota.isdigit()]
    quota = _read(groups, own, "cpu", ("cpu.cfs_quota_us",))
    period = _read(groups, own, "cpu", ("cpu.cfs_period_us",))
    limits += [ceil(int(a) / int(b)) for a, b in zip(quota, period, strict=True) if a.isdigit()]
    return min(limits, default=None)


def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, or ``cpu`` where the system does not tell."""
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or "cpu")


def _read(groups: Path, own: Path, controller: str, files: tuple[str, ...]) -> list[str]:
    """Contents of these files in this process's groups and all groups above them."""
    found = [folder / name for folder in _folders(groups, own, controller) for name in files]
    return [path.read_text().strip() for path in found if path.is_file()]


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups, innermost first. A line of ``own`` is ``id:controllers:path``; version 2 names none."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, names, inside = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = groups / names if names else groups
        path = root / inside.lstrip("/")
        yield path
        yield from (folder for folder in path.parents if folder.is_relative_to(root))
