"""The search: the fastest order that it finds under real prices and memory limits, never slower than the families."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headrace.errors import RequestError
from headrace.schedule.checker import check
from headrace.schedule.fill import fill
from headrace.schedule.memory import held_activations, peaks
from headrace.schedule.prices import Prices, spread
from headrace.schedule.schedule import Schedule
from headrace.schedule.split import split_backward
from headrace.simulate.candidates import bare_orders, synchronous_families
from headrace.simulate.improve import improve
from headrace.simulate.simulator import step_seconds

_FIRST_EAGERNESS, _LATER_EAGERNESS = (0.0, 0.75), (0.25, 0.5, 1.0)
_KEPT_SHARE = 6
_NUM_IMPROVED, _MOST_OPS = 3, 10_000_000


@dataclass(frozen=True)
class Found:
    """An order, its stages' prices and what it takes.

    Attributes:
        schedule: Named after what it grew from until `auto` gives it its own name.
        prices: Of its stages.
        step_s: Seconds from the first op to the end of the last.
    """

    schedule: Schedule
    prices: Prices
    step_s: float


def auto(num_microbatches: int, rank_prices: Prices, limits: Sequence[float], max_copies: int = 2) -> Found:
    """Searches over placements (straight, looped, a V, two directions), orders of ``F`` and ``I``, and places of ``W``.

    It prices the families as they are; then takes their orders of ``F`` and ``I``, and many more, and fills in ``W``
    under the real prices and limits; then does so again, ready to delay an op for a ``W``, with the best of them; last
    it moves single ops of the fastest few. The result is the same on every machine.

    Args:
        num_microbatches: Micro-batches of the step.
        rank_prices: One entry a rank; a rank's work is cut into equal stages where the placement has several.
        limits: The most activations that each rank may hold, in the unit of ``rank_prices.saved``.
        max_copies: 1 leaves out orders that need two copies of the weights.

    Raises:
        RequestError: When not even one micro-batch fits on some rank, which is the least that any order needs.
    """
    _check_limits(rank_prices, limits)
    families = [one for one in _families(num_microbatches, rank_prices) if len(one.schedule.placements) <= max_copies]
    found = [one for one in families if _fits(one, limits)]
    bare = [*(one.schedule for one in families), *bare_orders(num_microbatches, rank_prices, limits)]
    bare = [schedule for schedule in bare if len(schedule.placements) <= max_copies]
    filled = list(_filled(bare, rank_prices, limits, _FIRST_EAGERNESS))
    filled.sort(key=lambda one: one.step_s)
    best = [one.schedule for one in filled[: len(filled) // _KEPT_SHARE + 1]]
    found += [*filled, *_filled(best, rank_prices, limits, _LATER_EAGERNESS)]
    found += [_improved(one, limits) for one in sorted(found, key=lambda one: one.step_s)[:_NUM_IMPROVED]]
    winner = _lightest(found)
    return replace(winner, schedule=replace(winner.schedule, name="auto"))


def _lightest(found: Sequence[Found]) -> Found:
    """Of the fastest (to nine digits) the one with one copy of the weights, then the least activations."""
    best_s = min(one.step_s for one in found) * (1 + 1e-9)
    return min((one for one in found if one.step_s <= best_s), key=_weight)


def _weight(one: Found) -> tuple[int, float]:
    return len(one.schedule.placements), max(_held(one))


def _improved(one: Found, limits: Sequence[float]) -> Found:
    schedule, step_s = improve(split_backward(one.schedule), one.prices, limits, _MOST_OPS)
    return Found(schedule, one.prices, step_s)


def families_within(num_microbatches: int, rank_prices: Prices, limits: Sequence[float]) -> list[Found]:
    """The synchronous families as they are, of which those that hold within the limits."""
    return [one for one in _families(num_microbatches, rank_prices) if _fits(one, limits)]


def _families(num_microbatches: int, rank_prices: Prices) -> list[Found]:
    families = synchronous_families(num_microbatches, rank_prices)
    return [Found(schedule, prices, step_seconds(check(schedule), prices)) for schedule, prices in families]


def _filled(
    schedules: Sequence[Schedule], rank_prices: Prices, limits: Sequence[float], eagerness: Sequence[float]
) -> Iterator[Found]:
    for schedule in schedules:
        prices = spread(rank_prices, schedule.placement)
        for share in eagerness:
            filled = fill(schedule, prices, limits, share)
            if filled is not None:
                yield Found(filled.schedule, prices, filled.step_s)


def _fits(one: Found, limits: Sequence[float]) -> bool:
    return all(most <= limit * (1 + 1e-9) for most, limit in zip(_held(one), limits, strict=True))


def _held(one: Found) -> tuple[float, ...]:
    return peaks(one.schedule, held_activations(one.schedule, one.prices.saved, one.prices.kept))


def _check_limits(rank_prices: Prices, limits: Sequence[float]) -> None:
    if len(limits) != rank_prices.num_stages:
        raise RequestError(f"{rank_prices.num_stages} ranks have {len(limits)} memory limits; give one for each")
    for rank, (limit, least) in enumerate(zip(limits, rank_prices.saved, strict=True)):
        if not limit * (1 + 1e-9) >= least:
            raise RequestError(
                f"no order fits rank {rank}: it may hold {limit:g} of activations, but every order holds at least one "
                f"micro-batch, {least:g}, and running one at a time holds no more; raise the memory limit to that"
            )
