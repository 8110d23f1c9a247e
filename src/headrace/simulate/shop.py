"""A schedule whose order is being changed: its clock, its critical path and its memory, op by op."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from headrace.schedule.memory import activation_changes
from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule
from headrace.schedule.sweep import sources_of, sweep
from headrace.schedule.table import F, I, W
from headrace.simulate.seconds import op_seconds, transfer_seconds


class Shop:
    """Ops are numbers, as in ``schedule.table``; ``orders[rank]`` is what may change.

    Micro-batches of one line (a kind on a stage) stay in their order, and so stay channels and sums of gradients.
    """

    def __init__(self, schedule: Schedule, prices: Prices, limits: Sequence[float]) -> None:
        table = schedule.table
        self.source, self.limits = schedule, limits
        self.rank: list[int] = table.rank.tolist()
        self.kind: list[int] = table.kind.tolist()
        self.line: list[int] = (table.kind * schedule.num_stages + table.stage).tolist()
        self.needs: list[int] = sources_of(schedule).tolist()
        far = np.array(sweep(schedule).needs) >= 0
        self.lag: list[float] = np.where(far, transfer_seconds(table, prices), 0.0).tolist()
        self.seconds = op_seconds(table, prices)
        self.change: list[float] = activation_changes(schedule, prices.saved, prices.kept).tolist()
        self.own = self._own()
        self.orders = [list(range(a, b)) for a, b in pairwise(table.first.tolist())]
        self.starts, self.ends = [0.0] * len(table), [0.0] * len(table)

    def _own(self) -> list[int]:
        """What each op needs of its own stage: ``I`` its ``F``, ``W`` its ``I``; or -1."""
        table, shape = self.source.table, (self.source.num_stages, self.source.num_microbatches)
        own = np.full(len(table), -1, dtype=np.int64)
        for kind, before in ((I, F), (W, I)):
            at = np.flatnonzero(table.kind == kind)
            own[at] = table.positions(before, *shape)[table.stage[at], table.microbatch[at]]
        numbers: list[int] = own.tolist()
        return numbers

    def run(self) -> tuple[float, float] | None:
        """Prices the orders: seconds of the step, and the sum of all starts, which tells equal steps apart.

        None when the orders never end.
        """
        needs, lag, seconds = self.needs, self.lag, self.seconds
        starts, ends = [0.0] * len(needs), [0.0] * len(needs)
        done, waiters = bytearray(len(ends)), dict[int, int]()
        positions, clocks = [0] * len(self.orders), [0.0] * len(self.orders)
        ready, num_done = list(range(len(self.orders))), 0
        while ready:
            rank = ready.pop()
            order, position, now_s = self.orders[rank], positions[rank], clocks[rank]
            while position < len(order):
                op = order[position]
                source = needs[op]
                if source >= 0:
                    if not done[source]:
                        waiters[source] = rank
                        break
                    now_s = max(now_s, ends[source] + lag[op])
                starts[op] = now_s
                ends[op] = now_s = now_s + seconds[op]
                done[op] = 1
                num_done += 1
                position += 1
                if op in waiters:
                    ready.append(waiters.pop(op))
            positions[rank], clocks[rank] = position, now_s
        self.starts, self.ends = starts, ends
        return (round(max(clocks), 9), round(sum(starts), 6)) if num_done == len(ends) else None

    def move(self, rank: int, order: list[int], best: tuple[float, float]) -> tuple[float, float] | None:
        """Gives the rank another order if that is better than ``best``; None if it is not."""
        before = self.orders[rank], self.starts, self.ends
        self.orders[rank] = order
        found = self.run() if self.fits(rank) else None
        if found is None or found >= best:
            self.orders[rank], self.starts, self.ends = before
            return None
        return found

    def fits(self, rank: int) -> bool:
        """Whether the rank's order stays within its memory."""
        held, limit = 0.0, self.limits[rank] * (1 + 1e-9)
        for op in self.orders[rank]:
            held += self.change[op]
            if held > limit:
                return False
        return True

    def critical_pairs(self) -> Iterator[tuple[int, int]]:
        """Neighbours ``(a, b)`` of one rank on the critical path, where ``b`` waits for nothing but ``a``."""
        before = {b: a for order in self.orders for a, b in pairwise(order)}
        op = max((order[-1] for order in self.orders), key=lambda last: self.ends[last])
        while op >= 0:
            previous = before.get(op, -1)
            if previous >= 0 and self.ends[previous] >= self.starts[op] - 1e-12:
                if self.arrival_s(op) < self.starts[op] - 1e-12:
                    yield previous, op
                op = previous
            else:
                op = self.needs[op]

    def arrival_s(self, op: int) -> float:
        """When what the op needs of another stage is there."""
        source = self.needs[op]
        return self.ends[source] + self.lag[op] if source >= 0 else 0.0

    def may_swap(self, first: int, second: int) -> bool:
        """Whether the second of two neighbours may come first."""
        return self.line[first] != self.line[second] and first not in (self.own[second], self.needs[second])

    def schedule(self) -> Schedule:
        """The schedule with the orders as they are now."""
        ops = [op for order in self.source.orders for op in order]
        return replace(self.source, orders=tuple(tuple(ops[number] for number in order) for order in self.orders))
