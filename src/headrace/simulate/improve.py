"""Local search: moves ops of the critical path, one at a time, and keeps what makes the step shorter.

The critical path is the chain of ops, each waiting for the one before, that ends with the step; nothing else can
shorten it. So searches for job shops move only what lies on it (Nowicki & Smutnicki 1996); here memory limits them too.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule
from headrace.schedule.table import W
from headrace.simulate.shop import Shop

_DELAYS = (1, 2, 4, 8, 16, 32)
"""Places by which a ``W`` moves back."""


def improve(schedule: Schedule, prices: Prices, limits: Sequence[float], most_ops: int) -> tuple[Schedule, float]:
    """Moves ops while that helps; the same result on every machine.

    Args:
        schedule: Within the limits, its backwards split.
        prices: Of the stages.
        limits: The most activations that each rank may hold.
        most_ops: Ops that may be priced in all.

    Returns:
        A schedule that takes no longer, and its step in seconds.
    """
    shop, draw = Shop(schedule, prices, limits), Random(0)
    tries = most_ops // len(shop.rank)
    best = shop.run()
    assert best is not None, "a legal schedule ends"
    while tries > 0:
        pairs = list(shop.critical_pairs())
        draw.shuffle(pairs)
        moves = (move for pair in pairs for move in (*_forward(shop, *pair), *_back(shop, *pair)))
        better = (shop.move(rank, order, best) for rank, order in islice(moves, tries))
        tried, found = next(((n, found) for n, found in enumerate(better, 1) if found is not None), (tries, best))
        tries, best = tries - tried, found
    return shop.schedule(), best[0]


def _forward(shop: Shop, first: int, second: int) -> Iterator[tuple[int, list[int]]]:
    """Runs ``second`` earlier: as early as its input is there, half as far, or one place."""
    rank = shop.rank[second]
    order = shop.orders[rank]
    place = order.index(second)
    arrival_s, target = shop.arrival_s(second), place
    while target > 0 and shop.may_swap(order[target - 1], second) and shop.ends[order[target - 1]] > arrival_s + 1e-12:
        target -= 1
    for to in dict.fromkeys((target, (target + place) // 2, place - 1)):
        if target <= to < place:
            yield rank, [*order[:to], second, *order[to:place], *order[place + 1 :]]


def _back(shop: Shop, first: int, second: int) -> Iterator[tuple[int, list[int]]]:
    """Runs a ``W`` later; those of its stage that it passes move up, so that they stay in their order."""
    if shop.kind[first] != W:
        return
    rank, line = shop.rank[first], shop.line[first]
    order = shop.orders[rank]
    place = order.index(first)
    for to in dict.fromkeys(min(place + delay, len(order) - 1) for delay in (*_DELAYS, len(order))):
        lines = [shop.line[op] for op in order]
        lines.insert(to, lines.pop(place))
        weights = iter([op for op in order if shop.line[op] == line])
        others = iter([op for op in order if shop.line[op] != line])
        yield rank, [next(weights if one == line else others) for one in lines]
