"""The cluster: devices and the links between them."""

from dataclasses import dataclass

MEMORY_MARGIN = 0.9
"""Share of a device's memory that a plan may fill; the rest is for the libraries, messages and fragmentation."""


@dataclass(frozen=True)
class Device:
    """One place where a rank runs.

    Attributes:
        name: Such as ``cpu`` or ``NVIDIA A100-SXM4-80GB``.
        kind: ``cpu`` or ``cuda``.
        memory_bytes: What a rank may use.
        flops_per_s: Dense matrix products at the model's precision, as reached, not as advertised.
        memory_bytes_per_s: Memory bandwidth.
    """

    name: str
    kind: str
    memory_bytes: int
    flops_per_s: float
    memory_bytes_per_s: float


@dataclass(frozen=True)
class Link:
    """How two neighbouring ranks talk: ``latency_s + bytes / bytes_per_s``."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Cluster:
    """The devices that a job may use, in rank order, and the link between neighbours.

    Attributes:
        devices: One a rank.
        link: Between neighbours.
        cores: That all ranks share where they are processes on one CPU; more ranks than cores take turns. None: no two
            ranks compute on the same core.
    """

    devices: tuple[Device, ...]
    link: Link
    cores: int | None = None

    def ranks_per_core(self, num_ranks: int) -> float:
        """How many times as long an op takes where ``num_ranks`` ranks take turns; 1 where they need not."""
        return max(1.0, num_ranks / self.cores) if self.cores else 1.0
