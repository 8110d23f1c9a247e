"""A lower bound on the step: no order of these ops on these ranks is faster."""

from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule


def lower_bound_s(schedule: Schedule, prices: Prices, limits: tuple[float, ...] | None = None) -> float:
    """The greatest of what must pass before, in and after each rank's work, and of one micro-batch's way.

    - Way: one micro-batch goes forward through all stages, back through all, and ends with a ``W``.
    - Rank: its first ``F`` waits for the stages before it; then all its work.
    - Rank, backwards: after its last ``I`` the stages before it still have theirs, and the first a ``W``. Only what
      is not ``W`` must come before that.
    - Forward only: the same without the way back.
    - Memory (with ``limits``): each micro-batch holds a stage's activations at least for its way from there to the
      end and back, and a rank holds no more than its limit at a time.

    Args:
        schedule: Its placement and micro-batches; its order does not matter.
        prices: Of the stages.
        limits: The most activations that each rank may hold, in the unit of ``prices.saved``.

    Returns:
        Seconds from the first op to the end of the last.
    """
    bounds = [0.0]
    if schedule.forward_only:
        return _forward_bound_s(schedule, prices)
    for copy, placement in enumerate(schedule.placements):
        if not schedule.copy_of or copy in schedule.copy_of:
            bounds.append(_Way(placement, prices).whole_s)
    bounds += [_rank_bound_s(schedule, prices, rank) for rank in range(schedule.num_ranks)]
    if limits is not None:
        bounds += [_memory_bound_s(schedule, prices, rank, limit) for rank, limit in enumerate(limits)]
    return max(bounds)


def _forward_bound_s(schedule: Schedule, prices: Prices) -> float:
    """Without backwards: what passes before a rank's first stage, the work of its stages, and what is left then."""
    bounds = []
    for copy, placement in enumerate(schedule.placements):
        count = schedule.copy_of.count(copy) if schedule.copy_of else schedule.num_microbatches
        before_s = _Way(placement, prices).before_s
        after_s = [before_s[-1] - s - f_s + prices.f_s[-1] for s, f_s in zip(before_s, prices.f_s, strict=True)]
        for rank in set(placement) if count else ():
            held = [stage for stage, owner in enumerate(placement) if owner == rank]
            work_s = count * sum(prices.f_s[stage] for stage in held)
            through_s = before_s[-1] + prices.f_s[-1]
            bounds.append(max(through_s, before_s[held[0]] + work_s + after_s[held[-1]]))
    return max(bounds)


class _Way:
    """A micro-batch's way through one copy: what lies before each stage's ``F`` and after its ``I``."""

    def __init__(self, placement: tuple[int, ...], prices: Prices) -> None:
        n = prices.num_stages
        hop_s = [s if placement[k] != placement[k + 1] else 0.0 for k, s in enumerate(prices.edge_s)]
        self.before_s, self.after_s = [0.0] * n, [prices.w_s[0]] * n
        for k in range(1, n):
            self.before_s[k] = self.before_s[k - 1] + prices.f_s[k - 1] + hop_s[k - 1]
            self.after_s[k] = self.after_s[k - 1] + prices.i_s[k - 1] + hop_s[k - 1]
        top_s = self.before_s[-1] + prices.f_s[-1] + prices.i_s[-1] + self.after_s[-1]
        self.whole_s = max(top_s, *(top_s - self.after_s[k] + prices.w_s[k] for k in range(n)))
        self.stay_s = [top_s - self.before_s[k] - self.after_s[k] for k in range(n)]


def _rank_bound_s(schedule: Schedule, prices: Prices, rank: int) -> float:
    """Of the work on one rank, over all copies."""
    befores, afters, work_s, weight_s = [], [], 0.0, 0.0
    for copy, placement in enumerate(schedule.placements):
        count = schedule.copy_of.count(copy) if schedule.copy_of else schedule.num_microbatches
        way = _Way(placement, prices)
        for stage in (s for s, owner in enumerate(placement) if owner == rank and count):
            befores.append(way.before_s[stage])
            afters.append(way.after_s[stage])
            work_s += count * (prices.f_s[stage] + prices.i_s[stage])
            weight_s += count * prices.w_s[stage]
    if not befores:
        return 0.0
    return min(befores) + work_s + max(weight_s, min(afters))


def _memory_bound_s(schedule: Schedule, prices: Prices, rank: int, limit: float) -> float:
    """Activations times the seconds for which they stay, through a memory of ``limit``."""
    area, befores = 0.0, []
    for copy, placement in enumerate(schedule.placements):
        count = schedule.copy_of.count(copy) if schedule.copy_of else schedule.num_microbatches
        way = _Way(placement, prices)
        for stage in (s for s, owner in enumerate(placement) if owner == rank and count):
            befores.append(way.before_s[stage])
            stay = way.stay_s[stage] * prices.saved[stage] + prices.w_s[stage] * prices.kept[stage]
            area += count * stay
    return min(befores) + area / limit if befores and limit > 0 else 0.0
