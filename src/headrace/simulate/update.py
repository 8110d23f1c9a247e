"""The end of the step: the sum of gradients over the data-parallel copies, and the optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import RequestError
from headrace.schedule.table import B, W
from headrace.simulate.simulator import Simulation


@dataclass(frozen=True)
class Update:
    """When each rank has done its part of the update.

    Attributes:
        ends_s: Per rank, its optimizer's end, on the clock of the simulation.
        period_s: Seconds from one step to the next. With a wait for all that is the last rank's end; without, each
            rank begins the next step on its own, and the longest rank sets the pace.
    """

    ends_s: tuple[float, ...]
    period_s: float


def update(
    simulation: Simulation, all_reduce_s: Sequence[float], optimizer_s: Sequence[float], post_validation: bool = False
) -> Update:
    """Adds the update to a step.

    A stage's all-reduce starts when its last gradient is complete, beside the ops that follow; a rank's all-reduces go
    one after another. Then its optimizer runs: after all ranks have come as far (a global norm or overflow check), or
    at once, with the check made on the way and a wrong step taken back (``post_validation``: Qi et al. 2023, arXiv
    2401.10241, section 4).

    Args:
        simulation: The step.
        all_reduce_s: Per stage.
        optimizer_s: Per stage.
        post_validation: Whether no rank waits for the others.

    Raises:
        RequestError: For counts that differ from the stages'.
    """
    schedule = simulation.schedule
    for name, seconds in (("all_reduce_s", all_reduce_s), ("optimizer_s", optimizer_s)):
        if len(seconds) != schedule.num_stages:
            raise RequestError(f"{name} has {len(seconds)} entries for {schedule.num_stages} stages; give one for each")
    ready_s = [_gradients_s(simulation, rank, all_reduce_s) for rank in range(schedule.num_ranks)]
    begin_s = ready_s if post_validation else [max(ready_s)] * schedule.num_ranks
    ends_s = [
        begin + sum(optimizer_s[stage] for stage in schedule.stages_of(rank)) for rank, begin in enumerate(begin_s)
    ]
    if not post_validation:
        return Update(tuple(ends_s), max(ends_s))
    return Update(tuple(ends_s), max(e - s for e, s in zip(ends_s, simulation.rank_starts_s, strict=True)))


def _gradients_s(simulation: Simulation, rank: int, all_reduce_s: Sequence[float]) -> float:
    """When the rank's last op and last all-reduce have ended."""
    table = simulation.schedule.table
    complete_s: dict[int, float] = {}
    for i in range(int(table.first[rank]), int(table.first[rank + 1])):
        if table.kind[i] in (B, W):
            complete_s[int(table.stage[i])] = simulation.ends_s[i]
    free_s = 0.0
    for stage, end_s in sorted(complete_s.items(), key=lambda item: item[1]):
        free_s = max(free_s, end_s) + all_reduce_s[stage]
    return max(free_s, simulation.rank_ends_s[rank])
