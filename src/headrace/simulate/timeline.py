"""The timeline: what ran where and when. The simulator makes one, the engine makes one."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace.schedule.op import Op


class Span(NamedTuple):
    """One op on one rank, with its start and end in seconds on a clock that all ranks share."""

    rank: int
    op: Op
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timeline:
    """The spans of one step.

    Attributes:
        num_ranks: Ranks of the pipeline, idle ones included.
        spans: All spans, in any order.
        start_s: When the step began.
        end_s: When its last rank was done (optimizer included where it was recorded).
    """

    num_ranks: int
    spans: tuple[Span, ...] = field(repr=False)
    start_s: float
    end_s: float

    @property
    def step_s(self) -> float:
        """Seconds that the step took."""
        return self.end_s - self.start_s

    def busy_s(self, rank: int) -> float:
        """Seconds in which ``rank`` computed."""
        return sum(span.end_s - span.start_s for span in self.spans if span.rank == rank)

    @property
    def idle_share(self) -> float:
        """Share of all ranks' time in which they did not compute, 0 to 1."""
        if self.step_s <= 0:
            return 0.0
        busy_s = sum(span.end_s - span.start_s for span in self.spans)
        return 1.0 - busy_s / (self.num_ranks * self.step_s)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; ``spans`` are rows ``[rank, kind, stage, microbatch, start_s, end_s]``."""
        rows = [[s.rank, s.op.kind, s.op.stage, s.op.microbatch, s.start_s, s.end_s] for s in self.spans]
        return {"num_ranks": self.num_ranks, "start_s": self.start_s, "end_s": self.end_s, "spans": rows}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Timeline":
        """The inverse of `to_json`."""
        spans = tuple(Span(rank, Op(kind, stage, mb), t0, t1) for rank, kind, stage, mb, t0, t1 in data["spans"])
        return cls(data["num_ranks"], spans, data["start_s"], data["end_s"])
