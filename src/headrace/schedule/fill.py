"""Weight gradients in the gaps: the order of `F` and `I` stays as it is, each `W` runs where its rank would idle."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from headrace.schedule.op import Op
from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule


@dataclass(frozen=True)
class Filled:
    """A schedule with every ``W`` in its place, and when its ranks start and end.

    Attributes:
        schedule: With ``I`` and ``W`` throughout.
        starts_s, ends_s: Per rank, of its first and last op.
    """

    schedule: Schedule
    starts_s: tuple[float, ...]
    ends_s: tuple[float, ...]

    @property
    def step_s(self) -> float:
        """Seconds from the first op of all to the last."""
        return max(self.ends_s)

    @property
    def span_s(self) -> float:
        """The longest time between a rank's own first and last op: a step, when ranks need not start together."""
        return max(end - start for start, end in zip(self.starts_s, self.ends_s, strict=True))


def fill(schedule: Schedule, prices: Prices, limits: Sequence[float], eagerness: float = 0.0) -> Filled | None:
    """Places every ``W``, each stage's in ascending order, knowing when the other ops run. Linear in the ops.

    A ``W`` runs when the next op's input comes so late that the ``W`` delays that op by at most ``eagerness`` of the
    ``W``'s own time, when the next forward finds no memory, and at the end.

    Args:
        schedule: Its ``B`` are taken as ``I``; its ``W`` are left out and placed anew.
        prices: In any one unit of time and of memory.
        limits: The most activations that each rank may hold, in the unit of ``prices.saved``.
        eagerness: 0 to 1.

    Returns:
        None where this order of ``F`` and ``I`` does not fit into memory, or never ends.
    """
    ranks = [_Rank(order, limit) for order, limit in zip(schedule.orders, limits, strict=True)]
    copy_of = schedule.copy_of or (0,) * schedule.num_microbatches
    edges_s = [_edges_s(placement, prices) for placement in schedule.placements]
    ends: dict[tuple[bool, int, int], float] = {}
    waiters: dict[tuple[bool, int, int], _Rank] = {}
    last = prices.num_stages - 1
    ready = ranks[::-1]
    while ready:
        rank = ready.pop()
        while rank.position < len(rank.todo):
            is_forward, stage, mb = rank.todo[rank.position]
            if stage == (0 if is_forward else last):
                arrival_s = 0.0
            else:
                source = stage - 1 if is_forward else stage + 1
                end_s = ends.get((is_forward, source, mb))
                if end_s is None:
                    waiters[is_forward, source, mb] = rank
                    break
                arrival_s = end_s + edges_s[copy_of[mb]][min(source, stage)]
            rank.use_gap(arrival_s, prices, eagerness)
            if is_forward and not rank.make_room(prices.saved[stage], prices):
                return None
            rank.run(is_forward, stage, mb, arrival_s, prices)
            ends[is_forward, stage, mb] = rank.now_s
            woken = waiters.pop((is_forward, stage, mb), None)
            if woken is not None:
                ready.append(woken)
    if any(rank.position < len(rank.todo) for rank in ranks):
        return None
    for rank in ranks:
        rank.finish(prices)
    return Filled(
        replace(schedule, orders=tuple(tuple(map(Op._make, rank.done)) for rank in ranks)),
        tuple(rank.start_s for rank in ranks),
        tuple(rank.now_s for rank in ranks),
    )


def _edges_s(placement: Sequence[int], prices: Prices) -> list[float]:
    """Seconds between each stage and the next: none where one rank holds both."""
    return [0.0 if a == b else s for a, b, s in zip(placement, placement[1:], prices.edge_s, strict=False)]


class _Rank:
    """Where one rank stands: its clock, its memory and its ``W`` that wait."""

    __slots__ = ("done", "held", "limit", "now_s", "position", "start_s", "todo", "waiting")

    def __init__(self, order: Iterable[Op], limit: float) -> None:
        self.todo = [(kind == "F", stage, mb) for kind, stage, mb in order if kind != "W"]
        self.limit = limit * (1 + 1e-9)
        self.done: list[tuple[str, int, int]] = []
        self.waiting: deque[tuple[int, int]] = deque()
        self.position = 0
        self.held = self.now_s = 0.0
        self.start_s = -1.0

    def use_gap(self, arrival_s: float, prices: Prices, eagerness: float) -> None:
        """Runs each ``W`` that fits before ``arrival_s``."""
        while self.waiting and arrival_s > self.now_s:
            w_s = prices.w_s[self.waiting[0][0]]
            if arrival_s - self.now_s < w_s * (1 - eagerness) - 1e-12 * arrival_s:
                return
            self.weight(prices)

    def make_room(self, size: float, prices: Prices) -> bool:
        """Runs ``W`` until ``size`` more fits; False if it does not."""
        while self.held + size > self.limit and self.waiting:
            self.weight(prices)
        return self.held + size <= self.limit

    def run(self, is_forward: bool, stage: int, mb: int, arrival_s: float, prices: Prices) -> None:
        """Runs the next ``F`` or ``I``."""
        start_s = arrival_s if arrival_s > self.now_s else self.now_s
        if self.position == 0:
            self.start_s = start_s
        self.position += 1
        if is_forward:
            self.now_s = start_s + prices.f_s[stage]
            self.held += prices.saved[stage]
            self.done.append(("F", stage, mb))
        else:
            self.now_s = start_s + prices.i_s[stage]
            self.held -= prices.saved[stage] - prices.kept[stage]
            self.waiting.append((stage, mb))
            self.done.append(("I", stage, mb))

    def weight(self, prices: Prices) -> None:
        """Runs the oldest ``W``."""
        stage, mb = self.waiting.popleft()
        self.now_s += prices.w_s[stage]
        self.held -= prices.kept[stage]
        self.done.append(("W", stage, mb))

    def finish(self, prices: Prices) -> None:
        """Runs what is left."""
        while self.waiting:
            self.weight(prices)
