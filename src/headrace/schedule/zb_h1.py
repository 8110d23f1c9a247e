"""ZB-H1: 1F1B's memory with a third of its bubble (Qi et al. 2023, arXiv 2401.10241, section 2.1.1)."""

from headrace.schedule.schedule import Schedule
from headrace.schedule.split import lagged_order


def zb_h1(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage a rank. Bubble ``(p - 1)(F + I - W)``; ``p`` in flight, on rank ``r`` ``r`` of them for ``W`` alone."""
    orders = tuple(lagged_order(r, num_microbatches, num_ranks - 1 - r, r) for r in range(num_ranks))
    return Schedule("zb-h1", num_ranks, num_microbatches, tuple(range(num_ranks)), orders)
