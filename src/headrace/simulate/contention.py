"""The clock of the simulator when messages wait for each other and slow the ranks that they touch."""

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from headrace.schedule.checker import Checked
from headrace.simulate.traffic import Traffic

OpEnd, MessageEnd = 0, 1


@dataclass
class _Rank:
    """One rank's clockwork: the op that runs, how much of it is left, and how many messages touch the rank."""

    position: int
    end: int
    running: int = -1
    left_s: float = 0.0
    since_s: float = 0.0
    moving: int = 0
    ticket: int = 0


@dataclass
class _Link:
    """Messages from one rank to another; ``queue`` holds those that wait, as ``(receiving op, seconds)``."""

    queue: deque[tuple[int, float]] = field(default_factory=deque)
    busy: bool = False


class Contention:
    """Runs a schedule event by event; time and memory are linear in the ops but for the heap's logarithm."""

    def __init__(self, checked: Checked, durations_s: list[float], transfers_s: list[float], traffic: Traffic) -> None:
        table, needs = checked.schedule.table, checked.sweep.needs
        self.owner: list[int] = table.rank.tolist()
        self.needs, self.durations_s, self.transfers_s, self.traffic = needs, durations_s, transfers_s, traffic
        self.consumer = [-1] * len(needs)
        for op, source in enumerate(needs):
            if source >= 0:
                self.consumer[source] = op
        first: list[int] = table.first.tolist()
        self.ranks = [_Rank(a, b) for a, b in pairwise(first)]
        self.links: dict[tuple[int, int], _Link] = {}
        self.arrived = bytearray(source < 0 for source in needs)
        self.starts_s, self.ends_s = [0.0] * len(needs), [0.0] * len(needs)
        self.events: list[tuple[float, int, int, int]] = []

    def times(self) -> tuple[list[float], list[float]]:
        """Start and end of each op in seconds."""
        for rank in self.ranks:
            self._start(rank, 0.0)
        while self.events:
            now_s, what, which, ticket = heappop(self.events)
            if what == MessageEnd:
                self._end_message(which, now_s)
            elif self.ranks[which].ticket == ticket:
                self._end_op(which, now_s)
        return self.starts_s, self.ends_s

    def _start(self, rank: _Rank, now_s: float) -> None:
        if rank.running >= 0 or rank.position == rank.end or not self.arrived[rank.position]:
            return
        rank.running, rank.since_s = rank.position, now_s
        rank.left_s = self.durations_s[rank.running]
        rank.position += 1
        self.starts_s[rank.running] = now_s
        self._announce(rank, now_s)

    def _pace(self, rank: _Rank) -> float:
        return 1.0 + self.traffic.slowdown if rank.moving else 1.0

    def _announce(self, rank: _Rank, now_s: float) -> None:
        """Puts the end of the running op into the heap; what was there before is void."""
        rank.ticket += 1
        number = self.owner[rank.running]
        heappush(self.events, (now_s + rank.left_s * self._pace(rank), OpEnd, number, rank.ticket))

    def _touch(self, number: int, change: int, now_s: float) -> None:
        """One message more or less moves from or to the rank."""
        rank = self.ranks[number]
        if rank.running >= 0:
            rank.left_s -= (now_s - rank.since_s) / self._pace(rank)
            rank.since_s = now_s
        rank.moving += change
        if rank.running >= 0 and self.traffic.slowdown:
            self._announce(rank, now_s)

    def _end_op(self, number: int, now_s: float) -> None:
        rank = self.ranks[number]
        op, rank.running = rank.running, -1
        self.ends_s[op] = now_s
        consumer = self.consumer[op]
        if consumer >= 0:
            link = self.links.setdefault((number, self.owner[consumer]), _Link())
            link.queue.append((consumer, self.transfers_s[consumer]))
            self._send(link, now_s)
        self._start(rank, now_s)

    def _send(self, link: _Link, now_s: float) -> None:
        if not link.queue or (link.busy and self.traffic.serial):
            return
        consumer, seconds = link.queue.popleft()
        link.busy = True
        for number in (self.owner[self.needs[consumer]], self.owner[consumer]):
            self._touch(number, 1, now_s)
        heappush(self.events, (now_s + seconds, MessageEnd, consumer, 0))

    def _end_message(self, consumer: int, now_s: float) -> None:
        source, target = self.owner[self.needs[consumer]], self.owner[consumer]
        self.arrived[consumer] = 1
        for number in (source, target):
            self._touch(number, -1, now_s)
        link = self.links[source, target]
        link.busy = False
        self._send(link, now_s)
        self._start(self.ranks[target], now_s)
