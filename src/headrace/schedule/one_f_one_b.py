"""1F1B: after a warm-up, one forward and one backward in turn.

PipeDream-Flush (Narayanan et al. 2021, arXiv 2006.09503, section 2.2) and DAPPLE (Fan et al. 2020, arXiv 2007.01045).
"""

from itertools import chain

from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


def one_f_one_b(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage a rank. Bubble ``(p - 1)(F + B)``, ``min(m, p - s)`` micro-batches in flight on stage ``s``."""
    orders = tuple(_order(stage, num_ranks - 1 - stage, num_microbatches) for stage in range(num_ranks))
    return Schedule("1f1b", num_ranks, num_microbatches, tuple(range(num_ranks)), orders)


def _order(stage: int, num_warm_up: int, num_microbatches: int) -> tuple[Op, ...]:
    warm_up = min(num_warm_up, num_microbatches)
    forwards = [Op("F", stage, mb) for mb in range(num_microbatches)]
    backwards = [Op("B", stage, mb) for mb in range(num_microbatches)]
    turns = chain.from_iterable(zip(forwards[warm_up:], backwards, strict=False))
    return (*forwards[:warm_up], *turns, *backwards[num_microbatches - warm_up :])
