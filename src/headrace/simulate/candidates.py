"""Where the search starts: orders of `F` and `I` of many shapes, straight, looped and in a V, and the families' own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import ceil

from headrace.errors import RequestError
from headrace.schedule.families import FAMILIES, make_schedule
from headrace.schedule.greedy import Key, Preference, greedy
from headrace.schedule.placement import looped, straight, waves
from headrace.schedule.prices import Prices, spread
from headrace.schedule.schedule import Schedule
from headrace.schedule.v_blocks import Block, v_block_order
from headrace.schedule.zb_auto import warm_up_order

_SLOPES = (1.0, 1.5, 2.0, 3.0)
_BLOCKS = (
    Block((2, 1, 2, 1), (1, 1, 1)),
    Block((1, 3, 1, 3), (1, 1, 1)),
    Block((1, 5, 1, 5), (1, 1, 1)),
    Block((1, 5, 1, 5), (3, 1, 4)),
)
_KEYS: tuple[Key, ...] = (lambda stage, mb: (-stage, mb), lambda stage, mb: (mb, -stage))
"""Nearest to the loss first, or oldest micro-batch first."""


def synchronous_families(num_microbatches: int, rank_prices: Prices) -> Iterator[tuple[Schedule, Prices]]:
    """Every family that updates once a step and takes these numbers, with its stages' prices."""
    num_ranks = rank_prices.num_stages
    for name, family in FAMILIES.items():
        try:
            schedule = make_schedule(name, num_ranks, num_microbatches)
        except RequestError:
            continue
        prices = spread(rank_prices, schedule.placement)
        if family.priced:
            schedule = make_schedule(name, num_ranks, num_microbatches, prices=prices)
        if not schedule.update_every:
            yield schedule, prices


def bare_orders(num_microbatches: int, rank_prices: Prices, limits: Sequence[float]) -> Iterator[Schedule]:
    """Orders of ``F`` and ``I`` that neither the families nor their memory bind; ``W`` are still to be filled in."""
    num_ranks = rank_prices.num_stages
    yield from _warm_ups(num_ranks, num_microbatches, rank_prices, limits)
    for block in _BLOCKS:
        yield v_block_order("auto", block, num_ranks, num_microbatches)
    bare = Schedule("auto", num_ranks, num_microbatches, straight(num_ranks), ())
    down, up = bare.placement, bare.placement[::-1]
    both = replace(bare, copies=(up,), copy_of=tuple(mb % 2 for mb in range(num_microbatches)))
    shapes = [bare, both] if down != up else [bare]
    for placement in (waves(num_ranks, 2), looped(num_ranks, 2)):
        shapes.append(replace(bare, num_stages=2 * num_ranks, placement=placement))
    for shape in shapes:
        yield from _greedy_orders(shape, rank_prices, limits)


def _warm_ups(
    num_ranks: int, num_microbatches: int, rank_prices: Prices, limits: Sequence[float]
) -> Iterator[Schedule]:
    fits = min(
        limit * (1 + 1e-9) // one if one else num_microbatches
        for limit, one in zip(limits, rank_prices.saved, strict=True)
    )
    most = min(int(fits), num_microbatches) - 1
    for slope in _SLOPES:
        yield warm_up_order("auto", num_ranks, num_microbatches, most, slope, ceil)


def _greedy_orders(shape: Schedule, rank_prices: Prices, limits: Sequence[float]) -> Iterator[Schedule]:
    """Orders for the placements of ``shape``, by list scheduling; a backward takes ``I`` and ``W``, or ``I`` alone."""
    prices = spread(rank_prices, shape.placement)
    copy_of = shape.copy_of or (0,) * shape.num_microbatches
    keys = _KEYS if len(shape.stages_of(0)) > 1 else _KEYS[:1]
    timings = (prices, replace(prices, w_s=(0.0,) * prices.num_stages))
    for forward, backward, timing in product(keys, keys, timings):
        preference = Preference(forward, backward, backward_first=False)
        orders = greedy(shape.placements, copy_of, timing, limits, preference)
        if orders is not None:
            yield replace(shape, orders=orders)
