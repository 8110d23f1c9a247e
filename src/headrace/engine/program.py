"""One rank's share of a schedule, with its messages worked out: what the engine's loop runs."""

from dataclasses import dataclass

from headrace.schedule import Checked, Op, Transfer, input_of, output_of

Line = tuple[Op, Transfer | None, Transfer | None]
"""An op, the transfer that it needs first, and the one that it makes."""


@dataclass(frozen=True)
class Program:
    """What one rank does in a step.

    Attributes:
        lines: What the rank does, in order.
        splits_backward: Whether any rank of the schedule runs I and W apart.
    """

    lines: tuple[Line, ...]
    splits_backward: bool

    @classmethod
    def of(cls, checked: Checked, rank: int) -> "Program":
        """The program of ``rank`` in a schedule that the checker has accepted."""
        schedule = checked.schedule
        lines = tuple((op, input_of(schedule, op), output_of(schedule, op)) for op in schedule.orders[rank])
        return cls(lines, any(op.kind == "W" for order in schedule.orders for op in order))

    def expected(self) -> dict[tuple[int, int], list[int]]:
        """Micro-batches that come from other ranks, by edge ``(source stage, target stage)``, in their order."""
        edges: dict[tuple[int, int], list[int]] = {}
        for _, needed, _ in self.lines:
            if needed is not None and not needed.is_local:
                edges.setdefault((needed.source_stage, needed.target_stage), []).append(needed.microbatch)
        return edges
