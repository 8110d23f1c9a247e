"""PipeDream and PipeDream-2BW: 1F1B that never drains, over weights of several versions.

PipeDream: Narayanan et al. 2019, arXiv 1806.03377, weight stashing. PipeDream-2BW: Narayanan et al. 2021, arXiv
2006.09503.
"""

from dataclasses import replace

from headrace.schedule.one_f_one_b import one_f_one_b
from headrace.schedule.schedule import Schedule


def pipedream(num_ranks: int, num_microbatches: int) -> Schedule:
    """Every backward updates its stage; it uses the weights of its own forward: up to ``p - s`` versions."""
    return replace(one_f_one_b(num_ranks, num_microbatches), name="pipedream", update_every=1)


def pipedream_2bw(num_ranks: int, num_microbatches: int) -> Schedule:
    """An update after each ``p`` micro-batches, with gradients of the weights before: two versions, one update late."""
    order = one_f_one_b(num_ranks, num_microbatches)
    return replace(order, name="pipedream-2bw", update_every=num_ranks, delayed_update=True)
