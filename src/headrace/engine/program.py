"""One rank's share of a schedule, with its messages worked out: what the engine's loop runs."""

from dataclasses import dataclass

from headrace.schedule import Checked, Op, Transfer, WeightVersions, input_of, output_of

Line = tuple[Op, Transfer | None, Transfer | None]
"""An op, the transfer that it needs first, and the one that it makes."""


@dataclass(frozen=True)
class Program:
    """What one rank does in a step.

    Attributes:
        lines: What the rank does, in order.
        splits_backward: Whether any rank of the schedule runs I and W apart.
        update_every: Micro-batches between two updates of the weights; 0: one update, at the end of the step.
        versions: Of each stage's weights, this rank's or not.
        updates: The ops after which their stage's weights change; none where that waits for the end of the step.
    """

    lines: tuple[Line, ...]
    splits_backward: bool
    update_every: int
    versions: tuple[WeightVersions, ...]
    updates: frozenset[Op]

    @property
    def is_asynchronous(self) -> bool:
        """Whether weights change within the step."""
        return self.update_every > 0

    @classmethod
    def of(cls, checked: Checked, rank: int) -> "Program":
        """The program of ``rank`` in a schedule that the checker has accepted."""
        schedule = checked.schedule
        lines = tuple((op, input_of(schedule, op), output_of(schedule, op)) for op in schedule.orders[rank])
        splits_backward = any(op.kind == "W" for order in schedule.orders for op in order)
        updates = frozenset(op for stage in checked.weight_versions for op in stage.updates)
        return cls(lines, splits_backward, schedule.update_every, checked.weight_versions, updates)

    def expected(self) -> dict[tuple[int, int], list[int]]:
        """Micro-batches that come from other ranks, by edge ``(source stage, target stage)``, in their order."""
        edges: dict[tuple[int, int], list[int]] = {}
        for _, needed, _ in self.lines:
            if needed is not None and not needed.is_local:
                edges.setdefault((needed.source_stage, needed.target_stage), []).append(needed.microbatch)
        return edges
