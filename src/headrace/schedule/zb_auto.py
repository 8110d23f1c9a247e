"""ZB-1p and ZB-2p: the automatic scheduler of the Zero Bubble paper (Qi et al. 2023, arXiv 2401.10241, section 3).

As there, a rank first runs as many forwards as memory and usefulness allow, then ``F`` and ``I`` in turn, with ``W``
in the gaps; a small grid over how many, and how readily ``W`` may delay an op, replaces the paper's binary switches.
"""

from collections.abc import Callable, Iterator
from itertools import product
from math import ceil, floor

from headrace.errors import RequestError
from headrace.schedule.fill import fill
from headrace.schedule.op import Op
from headrace.schedule.placement import straight
from headrace.schedule.prices import Prices, counted, unit_prices
from headrace.schedule.schedule import Schedule

Rounding = Callable[[float], int]

_SLOPES = tuple(1 + step / 8 for step in range(17))
_ROUNDINGS: tuple[Rounding, ...] = (floor, ceil)
_EAGERNESS = (0.0, 0.25, 0.5, 1.0)
_MOST_OPS_TRIED = 1_000_000


def zb_auto(name: str, num_microbatches: int, prices: Prices, limit: float) -> Schedule:
    """One stage a rank; the order with the shortest time between a rank's own first and last op.

    Args:
        name: Of the result.
        num_microbatches: Micro-batches of the step.
        prices: One entry a rank.
        limit: The most activations that a rank may hold, in the unit of ``prices.saved``.

    Raises:
        RequestError: When not even one micro-batch fits.
    """
    num_ranks = prices.num_stages
    if max(prices.saved) > limit * (1 + 1e-9):
        raise RequestError(
            f"schedule '{name}' may hold {limit:g} on each rank, but one micro-batch takes {max(prices.saved):g}; "
            "raise the memory limit"
        )
    most, limits = floor(limit * (1 + 1e-9) / max(prices.saved)) - 1, [limit] * num_ranks
    found = [
        fill(warm_up_order(name, num_ranks, num_microbatches, most, slope, rounding), prices, limits, eagerness)
        for slope, rounding, eagerness in _choices(3 * num_ranks * num_microbatches)
    ]
    best = min((one for one in found if one is not None), key=lambda one: (one.span_s, one.step_s))
    return best.schedule


def zb_1p(num_ranks: int, num_microbatches: int, prices: Prices | None = None) -> Schedule:
    """Within the memory of 1F1B: ``p`` micro-batches on each rank."""
    return zb_auto("zb-1p", num_microbatches, counted(prices or unit_prices(num_ranks)), num_ranks)


def zb_2p(num_ranks: int, num_microbatches: int, prices: Prices | None = None) -> Schedule:
    """Within twice the memory of 1F1B: ``2p`` micro-batches on each rank."""
    return zb_auto("zb-2p", num_microbatches, counted(prices or unit_prices(num_ranks)), 2 * num_ranks)


def _choices(num_ops: int) -> list[tuple[float, Rounding, float]]:
    """The grid, thinned out for large schedules so that the search stays linear in the number of ops."""
    choices = list(product(_SLOPES, _ROUNDINGS, _EAGERNESS))
    stride = ceil(len(choices) * num_ops / _MOST_OPS_TRIED)
    return choices[:: min(stride | 1, 49)]


def warm_up_order(
    name: str, num_ranks: int, num_microbatches: int, most: int, slope: float, rounding: Rounding
) -> Schedule:
    """``slope`` more forwards for each rank that lies behind, ``most`` at most, before ``F`` and ``I`` in turn.

    ``W`` are still to be filled in.
    """
    warm_ups = (min(most, rounding((num_ranks - 1 - rank) * slope)) for rank in range(num_ranks))
    orders = tuple(tuple(_order(rank, num_microbatches, warm_up)) for rank, warm_up in enumerate(warm_ups))
    return Schedule(name, num_ranks, num_microbatches, straight(num_ranks), orders)


def _order(stage: int, num_microbatches: int, warm_up: int) -> Iterator[Op]:
    for mb in range(num_microbatches + warm_up):
        if mb < num_microbatches:
            yield Op("F", stage, mb)
        if mb >= warm_up:
            yield Op("I", stage, mb - warm_up)
