"""What this machine has: devices, their memory, and their measured speed."""

import os
from typing import Literal

import psutil

from headrace.cluster.cluster import MEMORY_MARGIN, Cluster, Device, Link
from headrace.cluster.known import PEER_LATENCY_S, peer_link
from headrace.cluster.limits import cgroup_cores, cgroup_memory_bytes, cpu_name
from headrace.cluster.probe import probe
from headrace.errors import RequestError

CPU_LINK = Link(latency_s=0.5e-3, bytes_per_s=1.5e9)
"""Gloo over loopback. A message that finds its receiver awake takes 0.05 ms, one that wakes it about 0.5 ms; large ones
move 1-4 GB/s (seen on a machine of 2 cores). Used where processes share no memory, and nobody measures the link."""

UNKNOWN_CUDA_LINK = Link(PEER_LATENCY_S, bytes_per_s=12e9)
"""Between CUDA devices that are not in the table: about what PCIe 3 reaches. Used where nobody measures the link."""


def this_machine(
    num_devices: int | None = None, kind: Literal["cpu", "cuda"] | None = None, dtype: str = "float32"
) -> Cluster:
    """The devices for ``num_devices`` ranks on this machine, measured for a fraction of a second.

    A rank on ``cpu`` gets an equal part of the cores, memory and speed, also where ranks outnumber cores; on ``cuda``
    a device of its own.

    Args:
        num_devices: Ranks. By default every CUDA device, or the whole machine as one CPU device.
        kind: By default ``cuda`` where there are enough such devices, else ``cpu``.
        dtype: Of the matrix products that are measured, as torch names it.

    Raises:
        RequestError: There are fewer CUDA devices than ranks, or none is asked for.
    """
    if num_devices is not None and num_devices < 1:
        raise RequestError(f"{num_devices} devices were asked for; at least 1 is needed.")
    num_cuda = _num_cuda_devices()
    kind = kind or ("cuda" if num_cuda >= (num_devices or 1) else "cpu")
    if kind == "cpu":
        count = num_devices or 1
        return Cluster((_cpu_part(count, dtype),) * count, CPU_LINK, num_cores())
    count = num_devices or max(num_cuda, 1)
    if count > num_cuda:
        raise RequestError(f"{count} CUDA devices were asked for but this machine has {num_cuda}; choose cpu or fewer.")
    devices = tuple(_cuda_device(index, dtype) for index in range(count))
    return Cluster(devices, peer_link(devices[0].name) or UNKNOWN_CUDA_LINK)


def num_cores() -> int:
    """Physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical, cgroup_cores() or allowed))


def _cpu_part(parts: int, dtype: str) -> Device:
    whole_bytes = psutil.virtual_memory().total
    memory_bytes = MEMORY_MARGIN * min(whole_bytes, cgroup_memory_bytes() or whole_bytes)
    speed = probe("cpu", dtype)
    return Device(
        cpu_name(), "cpu", int(memory_bytes / parts), speed.flops_per_s / parts, speed.memory_bytes_per_s / parts
    )


def _num_cuda_devices() -> int:
    import torch  # Not at the top: planning needs no torch.

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _cuda_device(index: int, dtype: str) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(index)
    speed = probe(f"cuda:{index}", dtype)
    memory_bytes = int(MEMORY_MARGIN * properties.total_memory)
    return Device(properties.name, "cuda", memory_bytes, speed.flops_per_s, speed.memory_bytes_per_s)
