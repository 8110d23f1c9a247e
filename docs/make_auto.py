"""Makes the table of the search against the families: ``python -m docs.make_auto`` (some minutes)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product

from docs.made import note, save, table
from headrace.schedule.prices import Prices
from headrace.simulate.auto import auto, families_within
from headrace.simulate.bound import lower_bound_s

RATIOS = {"1:1:1": (1.0, 1.0, 1.0), "1:2:1": (1.0, 2.0, 1.0), "2:1:1": (2.0, 1.0, 1.0),
          "measured": (18.522, 18.086, 9.337)}  # fmt: skip
"""F:I:W; the measured ones are those of the 1.5B model of the Zero Bubble paper (arXiv 2401.10241, table 9)."""
HEAD = ("ranks", "micro-batches", "F:I:W", "latency / F", "memory / 1F1B", "heaviest stage", "best family", "its step",
        "auto's step", "gain", "auto above bound")  # fmt: skip
TEXT = """# The search against the families

`headrace simulate auto` looks for the fastest order under the real prices and a memory limit. It starts from the
families: it prices all of them as they are; then it takes the orders of `F` and `I` of all of them, and of blocks,
warm-ups and list schedules of many shapes (straight, looped, a V, two directions), and places every `W` anew under the
prices and the limit; does so again, readier to delay an op for a `W`, with the best of these; and last it moves single
ops of the critical path of the fastest few. So it is never slower than the fastest family that holds within the limit.

Each row is a point of a grid: ranks, micro-batches, the ratio of `F`, `I` and `W` of a rank, a message's time as a
share of `F`, the memory for activations as a multiple of 1F1B's (`p` micro-batches a rank), and one stage in the middle
that is so many times heavier than the others. Steps are in the unit of the ratio's numbers. Both sides may take two
copies of the weights, as `dualpipe` and `chimera` do. The last column compares with a lower bound that no order of
these ops on these ranks beats; where memory is scarce the bound is loose.

"""


@dataclass(frozen=True)
class Point:
    """One row's question; see ``TEXT``."""

    ranks: int
    microbatches: int
    ratio: str
    latency: float
    memory: float
    heaviest: float

    @property
    def prices(self) -> Prices:
        """One entry a rank."""
        times = [self.heaviest if rank == self.ranks // 2 else 1.0 for rank in range(self.ranks)]
        f_s, i_s, w_s = (tuple(seconds * time for time in times) for seconds in RATIOS[self.ratio])
        ones = (1.0,) * self.ranks
        return Prices(f_s, i_s, w_s, (self.latency * RATIOS[self.ratio][0],) * (self.ranks - 1), ones, ones)

    @property
    def limits(self) -> tuple[float, ...]:
        """Micro-batches that each rank may hold."""
        return (max(1.0, self.memory * self.ranks),) * self.ranks


def points() -> Iterator[Point]:
    """The grid: all of ranks, micro-batches, ratios and limits, with latency and the heaviest stage in turn."""
    latencies, heaviest = cycle((0.0, 0.1, 0.3)), cycle((1.0, 1.0, 2.0, 1.5, 3.0))
    for corner in product((2, 4, 8, 16), (1, 4, 16, 64), RATIOS, (0.5, 1.0, 1.5, 2.0)):
        ranks, microbatches, ratio, memory = corner
        yield Point(ranks, microbatches, ratio, next(latencies), memory, next(heaviest))


@dataclass(frozen=True)
class Answer:
    """Best family (empty where none holds within the limit), its step, auto's, and the bound."""

    family: str
    family_s: float
    auto_s: float
    bound_s: float


def solve(point: Point) -> Answer:
    """Runs the search and the families."""
    families = families_within(point.microbatches, point.prices, point.limits)
    best = min(families, key=lambda one: one.step_s, default=None)
    found = auto(point.microbatches, point.prices, point.limits)
    bound_s = lower_bound_s(found.schedule, found.prices, point.limits)
    name, family_s = (best.schedule.name, best.step_s) if best else ("", float("inf"))
    return Answer(name, family_s, found.step_s, bound_s)


def row(point: Point, answer: Answer) -> tuple[str, ...]:
    """The point's row."""
    known = (f"{point.ranks}", f"{point.microbatches}", point.ratio, f"{point.latency:g}", f"{point.memory:g}",
             f"{point.heaviest:g}x")  # fmt: skip
    gain = f"{1 - answer.auto_s / answer.family_s:.1%}" if answer.family else ""
    family_s = f"{answer.family_s:.2f}" if answer.family else ""
    above = f"{max(0.0, answer.auto_s / answer.bound_s - 1):.1%}"
    return (*known, answer.family or "none fits", family_s, f"{answer.auto_s:.2f}", gain, above)


def pages() -> dict[str, str]:
    """The page, with a count above the table."""
    answers = [(point, solve(point)) for point in points()]
    some = [answer for _, answer in answers if answer.family]
    faster = sum(answer.auto_s < answer.family_s * (1 - 1e-9) for answer in some)
    slower = sum(answer.auto_s > answer.family_s * (1 + 1e-9) for answer in some)
    count = (
        f"Of {len(answers)} points, a family fits in {len(some)}. There auto is faster than the best of them at "
        f"{faster} ({faster / len(some):.0%}) and slower at {slower}. At the other {len(answers) - len(some)} only "
        "auto finds an order.\n\n"
    )
    return {"auto.md": note("docs.make_auto") + TEXT + count + table(HEAD, (row(*answer) for answer in answers))}


if __name__ == "__main__":
    save(pages())
