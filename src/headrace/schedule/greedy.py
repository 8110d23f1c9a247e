"""A list scheduler: each free rank takes the best op that is ready. It makes orders where no formula does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from headrace.schedule.op import Op
from headrace.schedule.prices import Prices

Key = Callable[[int, int], tuple[int, ...]]
_LATE = 1e-9


@dataclass(frozen=True)
class Preference:
    """What a free rank takes first; smaller keys come first.

    Attributes:
        forward: Key of a forward, from its stage and micro-batch.
        backward: Key of a backward, from its stage and micro-batch.
        backward_first: Whether a ready backward comes before a ready forward; otherwise they take turns.
    """

    forward: Key
    backward: Key
    backward_first: bool = True


def greedy(
    placements: Sequence[Sequence[int]],
    copy_of: Sequence[int],
    prices: Prices,
    limits: Sequence[float],
    preference: Preference,
) -> tuple[tuple[Op, ...], ...] | None:
    """Orders of ``F`` and full backwards ``B``, each stage's micro-batches ascending.

    Args:
        placements: Of each copy of the weights.
        copy_of: ``copy_of[microbatch]`` is the copy that it runs through.
        prices: Of the stages.
        limits: The most activations that each rank may hold. A rank keeps room for all stages of its oldest
            unfinished micro-batch, so that younger ones cannot lock it out.
        preference: Which op first.

    Returns:
        None when a rank's limit is below one micro-batch.
    """
    ranks = [_Rank(limit, preference) for limit in limits]
    for copy, placement in enumerate(placements):
        todo = [mb for mb, its in enumerate(copy_of) if its == copy]
        for stage, owner in enumerate(placement):
            ranks[owner].lines.append(_Line(copy, stage, todo, prices))
    lines = {(line.copy, line.stage): (line, number) for number, rank in enumerate(ranks) for line in rank.lines}
    for copy in range(len(placements)):
        lines[copy, 0][0].forward_s = dict.fromkeys(lines[copy, 0][0].todo, 0.0)
    clock = [(0.0, number) for number in range(len(ranks))]
    while clock:
        now_s, number = heappop(clock)
        rank = ranks[number]
        if now_s < rank.busy_until_s:
            continue
        choice = rank.choose(now_s)
        if choice is None:
            continue
        line, is_forward = choice
        end_s, mb = rank.run(line, is_forward, now_s)
        heappush(clock, (end_s, number))
        stage = line.stage + (1 if is_forward else -1)
        if is_forward and line.stage == prices.num_stages - 1:
            line.backward_s[mb] = end_s
        elif stage >= 0:
            target, owner = lines[line.copy, stage]
            arrival_s = end_s + (prices.edge_s[min(stage, line.stage)] if owner != number else 0.0)
            (target.forward_s if is_forward else target.backward_s)[mb] = arrival_s
            heappush(clock, (arrival_s, owner))
    if any(line.num_backward < len(line.todo) for rank in ranks for line in rank.lines):
        return None
    return tuple(tuple(rank.done) for rank in ranks)


class _Line:
    """The micro-batches of one stage of one copy, and when each may run."""

    __slots__ = (
        "b_s",
        "backward_s",
        "copy",
        "f_s",
        "forward_s",
        "num_backward",
        "num_forward",
        "saved",
        "stage",
        "todo",
    )

    def __init__(self, copy: int, stage: int, todo: Sequence[int], prices: Prices) -> None:
        self.copy, self.stage, self.todo = copy, stage, todo
        self.f_s, self.b_s = prices.f_s[stage], prices.i_s[stage] + prices.w_s[stage]
        self.saved = prices.saved[stage]
        self.num_forward = self.num_backward = 0
        self.forward_s: dict[int, float] = {}
        self.backward_s: dict[int, float] = {}


class _Rank:
    """Where one rank stands."""

    __slots__ = ("busy_until_s", "done", "held", "last_was_forward", "limit", "lines", "preference")

    def __init__(self, limit: float, preference: Preference) -> None:
        self.limit, self.preference = limit * (1 + 1e-9), preference
        self.lines: list[_Line] = []
        self.done: list[Op] = []
        self.held = self.busy_until_s = 0.0
        self.last_was_forward = False

    def choose(self, now_s: float) -> tuple[_Line, bool] | None:
        """The line to go on with, and whether forward."""
        forward, backward = self._forward(now_s + _LATE), self._backward(now_s + _LATE)
        if backward is None or forward is None:
            line = backward or forward
            return None if line is None else (line, line is forward)
        is_forward = not self.preference.backward_first and not self.last_was_forward
        return (forward, True) if is_forward else (backward, False)

    def _forward(self, now_s: float) -> _Line | None:
        ready = [
            line
            for line in self.lines
            if line.num_forward < len(line.todo)
            and line.forward_s.get(line.todo[line.num_forward], now_s + 1) <= now_s
            and self._fits(line)
        ]
        key = self.preference.forward
        return min(ready, key=lambda line: key(line.stage, line.todo[line.num_forward]), default=None)

    def _backward(self, now_s: float) -> _Line | None:
        ready = [
            line
            for line in self.lines
            if line.num_backward < line.num_forward
            and line.backward_s.get(line.todo[line.num_backward], now_s + 1) <= now_s
        ]
        key = self.preference.backward
        return min(ready, key=lambda line: key(line.stage, line.todo[line.num_backward]), default=None)

    def _fits(self, line: _Line) -> bool:
        """Whether the oldest unfinished micro-batch of the line's copy still finds room after this forward."""
        mates = [mate for mate in self.lines if mate.copy == line.copy]
        oldest = min(mate.num_forward for mate in mates)
        reserve = sum(mate.saved for mate in mates if mate.num_forward == oldest and mate is not line)
        return self.held + line.saved + reserve <= self.limit

    def run(self, line: _Line, is_forward: bool, now_s: float) -> tuple[float, int]:
        """Runs the line's next op; its end and its micro-batch."""
        if is_forward:
            mb, seconds = line.todo[line.num_forward], line.f_s
            line.num_forward += 1
            self.held += line.saved
        else:
            mb, seconds = line.todo[line.num_backward], line.b_s
            line.num_backward += 1
            self.held -= line.saved
        self.done.append(Op("F" if is_forward else "B", line.stage, mb))
        self.last_was_forward = is_forward
        self.busy_until_s = now_s + seconds
        return self.busy_until_s, mb
