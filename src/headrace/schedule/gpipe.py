"""GPipe: all forwards, then all backwards (Huang et al. 2018, arXiv 1811.06965, section 2.3)."""

from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


def gpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage a rank. Bubble ``(p - 1)(F + B)``, all micro-batches in flight.

    Backwards run in ascending order of micro-batches, unlike the paper's picture: the step takes as long, and
    each gradient is the sum of the micro-batches in the order in which one process would add them.
    """
    orders = tuple(
        tuple(Op(kind, stage, mb) for kind in ("F", "B") for mb in range(num_microbatches))
        for stage in range(num_ranks)
    )
    return Schedule("gpipe", num_ranks, num_microbatches, tuple(range(num_ranks)), orders)
