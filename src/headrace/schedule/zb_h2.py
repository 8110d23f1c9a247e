"""ZB-H2: no bubble but the start, for twice the memory (Qi et al. 2023, arXiv 2401.10241, section 2.1.2)."""

from headrace.schedule.schedule import Schedule
from headrace.schedule.split import lagged_order


def zb_h2(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage a rank, up to ``2p - 1`` micro-batches in flight.

    Each rank idles ``(p - 1)(F + I - 2W)`` between its own first and last op: ranks neither start nor end together.
    """
    orders = tuple(lagged_order(r, num_microbatches, 2 * (num_ranks - 1 - r), 2 * r) for r in range(num_ranks))
    return Schedule("zb-h2", num_ranks, num_microbatches, tuple(range(num_ranks)), orders)
