"""The schedule: for each rank an ordered tuple of ops. Nothing else decides order."""

from dataclasses import dataclass, field

from headrace.schedule.op import Op


@dataclass(frozen=True)
class Schedule:
    """Who runs what, in which order, in one optimizer step.

    Attributes:
        name: The family that made it, such as ``1f1b``.
        num_stages: Stages that the model is cut into (chunks included).
        num_microbatches: Micro-batches of one step.
        placement: ``placement[stage]`` is the rank that holds the stage.
        orders: ``orders[rank]`` is that rank's ops in the order in which it runs them.
    """

    name: str
    num_stages: int
    num_microbatches: int
    placement: tuple[int, ...]
    orders: tuple[tuple[Op, ...], ...] = field(repr=False)

    @property
    def num_ranks(self) -> int:
        """Ranks of one pipeline."""
        return len(self.orders)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages that ``rank`` holds, ascending."""
        return tuple(stage for stage, owner in enumerate(self.placement) if owner == rank)
