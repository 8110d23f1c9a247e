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
    for placement in (straight(num_ranks), waves(num_ranks, 2), looped(num_ranks, 2)):
        yield from _greedy_orders(placement, num_microbatches, rank_prices, limits)


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


def _greedy_orders(
    placement: tuple[int, ...], num_microbatches: int, rank_prices: Prices, limits: Sequence[float]
) -> Iterator[Schedule]:
    """By list scheduling under the real prices, with backwards as long as ``I`` or as ``I`` and ``W``."""
    prices = spread(rank_prices, placement)
    keys = _KEYS if len(placement) > rank_prices.num_stages else _KEYS[:1]
    timings = (prices, replace(prices, w_s=(0.0,) * prices.num_stages))
    for forward, backward, timing in product(keys, keys, timings):
        preference = Preference(forward, backward, backward_first=False)
        orders = greedy([placement], [0] * num_microbatches, timing, limits, preference)
        if orders is not None:
            yield Schedule("auto", len(placement), num_microbatches, placement, orders)
