"""What a device holds when activations wait in the host's memory."""

from collections.abc import Sequence

from headrace.cluster.cluster import Cluster
from headrace.costs.costs import StageCosts
from headrace.schedule.memory import Level
from headrace.schedule.schedule import Schedule

MOST_ON_DEVICE = 3
"""Micro-batches of a stage: one goes backward, the next comes in, and the last that went forward is on its way out."""


def has_host(cluster: Cluster) -> bool:
    """Whether the devices have a memory of their own, so that the host's is another."""
    return all(device.kind != "cpu" for device in cluster.devices)


def on_device(levels: Sequence[Level]) -> list[Level]:
    """The moments of one stage, with no more micro-batches than stay on the device."""
    return [level._replace(saved=min(level.saved, MOST_ON_DEVICE)) for level in levels]


def bytes_on_device(schedule: Schedule, costs: StageCosts, levels: Sequence[Sequence[Level]]) -> tuple[int, ...]:
    """The most that each rank holds; of several stages on a rank the sum, though they are seldom fullest together.

    Args:
        schedule: Whose placement.
        costs: Of each stage.
        levels: Of each stage, from `on_device`.
    """
    sizes = zip(costs.saved_bytes, costs.weight_saved_bytes, costs.working_bytes, levels, strict=True)
    alone = [
        max(level.saved * saved + level.kept * kept + level.working * working for level in stage)
        for saved, kept, working, stage in sizes
    ]
    return tuple(sum(alone[stage] for stage in schedule.stages_of(rank)) for rank in range(schedule.num_ranks))
