"""Hanayo: waves over the ranks, so that a micro-batch turns without a message (Liu et al. 2023, arXiv 2308.15762)."""

from headrace.errors import RequestError
from headrace.schedule.greedy import Preference, greedy
from headrace.schedule.placement import waves
from headrace.schedule.prices import unit_prices
from headrace.schedule.schedule import Schedule


def hanayo(num_ranks: int, num_microbatches: int, chunks: int) -> Schedule:
    """``chunks / 2`` waves, each down the ranks and up again; at most ``p`` micro-batches on a rank, as in 1F1B.

    A free rank takes forwards and backwards in turn, of those forwards the nearest to the loss, of those backwards the
    oldest micro-batch.

    Raises:
        RequestError: For an odd number of chunks.
    """
    if chunks % 2:
        raise RequestError(f"schedule 'hanayo' has two chunks for each wave, not {chunks}; take {chunks + 1}")
    placement, unit = waves(num_ranks, chunks), unit_prices(num_ranks * chunks)
    preference = Preference(lambda stage, mb: (-stage, mb), lambda stage, mb: (mb, -stage), backward_first=False)
    limits = [float(num_ranks * chunks)] * num_ranks
    orders = greedy([placement], [0] * num_microbatches, unit, limits, preference)
    assert orders is not None, "p micro-batches are room for one"
    return Schedule("hanayo", num_ranks * chunks, num_microbatches, placement, orders)
