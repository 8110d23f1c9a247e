"""Breadth-first pipeline: GPipe over several stages a rank (Lamy-Poirier 2022, arXiv 2211.05953, section 4)."""

from headrace.schedule.op import Op
from headrace.schedule.placement import looped
from headrace.schedule.schedule import Schedule


def looped_bfs(num_ranks: int, num_microbatches: int, chunks: int) -> Schedule:
    """Stage ``s`` on rank ``s mod p``; every stage takes all micro-batches before the next stage of its rank.

    Bubble ``(p - 1)(F + B) / v`` from ``p`` micro-batches on; all of them are in flight.
    """
    orders = tuple(_order(range(rank, num_ranks * chunks, num_ranks), num_microbatches) for rank in range(num_ranks))
    return Schedule("looped-bfs", num_ranks * chunks, num_microbatches, looped(num_ranks, chunks), orders)


def _order(stages: range, num_microbatches: int) -> tuple[Op, ...]:
    forwards = [Op("F", stage, mb) for stage in stages for mb in range(num_microbatches)]
    return (*forwards, *(Op("B", stage, mb) for stage in reversed(stages) for mb in range(num_microbatches)))
