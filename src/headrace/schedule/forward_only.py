"""Forward only: evaluation, and each new token of a sample; nothing is kept for a backward."""

from collections.abc import Sequence

from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


def forward_only(placement: Sequence[int], num_microbatches: int) -> Schedule:
    """Each rank takes its stages in turn, every one with all micro-batches.

    No order is shorter for one stage a rank, for a loop and for a V: with stages of one second a loop of ``v`` chunks
    on ``p`` ranks takes ``v m + p - 1`` (from ``p`` micro-batches on), a V ``2 m + 2 (p - 1)``.

    Args:
        placement: The rank of each stage.
        num_microbatches: Micro-batches of one run.
    """
    stages_of = [
        [stage for stage, owner in enumerate(placement) if owner == rank] for rank in range(max(placement) + 1)
    ]
    orders = tuple(
        tuple(Op("F", stage, mb) for stage in stages for mb in range(num_microbatches)) for stages in stages_of
    )
    return Schedule("forward", len(placement), num_microbatches, tuple(placement), orders, forward_only=True)
