"""What weights that change within the step cost: the optimizer's seconds in the course of it, and their versions."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from headrace.chain.chain import Chain
from headrace.costs.costs import StageCosts
from headrace.plan.memory import num_learning_parameters, version_bytes
from headrace.schedule.checker import Checked
from headrace.schedule.schedule import Schedule


def with_updates(
    stages: StageCosts,
    chain: Chain,
    bounds: Sequence[int],
    speeds: Sequence[float],
    schedule: Schedule,
    optimizer_s_per_byte: float,
) -> StageCosts:
    """Prices whose backwards carry their share of the step's updates; unchanged where one comes after the step.

    Args:
        stages: Without updates.
        chain: The model.
        bounds: Stage ``s`` holds layers ``bounds[s] … bounds[s + 1] - 1``.
        speeds: How fast each stage's device is, as a multiple of the device that was priced.
        schedule: Says how many updates there are.
        optimizer_s_per_byte: Seconds of one update on the device that was priced.
    """
    if not schedule.update_every:
        return stages
    num_updates = -(-schedule.num_microbatches // schedule.update_every)
    s_per_byte = optimizer_s_per_byte * num_updates / schedule.num_microbatches
    num_bytes = [num_learning_parameters(chain, range(*span)) * chain.dtype_bytes for span in pairwise(bounds)]
    rows = zip(stages.w_s, num_bytes, speeds, strict=True)
    return replace(stages, w_s=tuple(w_s + s_per_byte * stepped / speed for w_s, stepped, speed in rows))


def copies_bytes(chain: Chain, bounds: Sequence[int], checked: Checked, rank: int) -> int:
    """Of the versions of the weights that a rank holds beside the newest."""
    return sum(
        version_bytes(chain, range(bounds[stage], bounds[stage + 1]), checked.weight_versions[stage].held)
        for stage in checked.schedule.stages_of(rank)
    )
