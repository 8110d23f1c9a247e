"""The schedule: for each rank an ordered tuple of ops. Nothing else decides order."""

from dataclasses import dataclass, field
from functools import cached_property

from headrace.schedule.op import Op
from headrace.schedule.table import OpTable


@dataclass(frozen=True)
class Schedule:
    """Who runs what, in which order, in one optimizer step.

    Attributes:
        name: The family that made it, such as ``1f1b``.
        num_stages: Stages that the model is cut into (chunks included).
        num_microbatches: Micro-batches of one step.
        placement: ``placement[stage]`` is the rank that holds the stage.
        orders: ``orders[rank]`` is that rank's ops in the order in which it runs them.
        copies: Placements of further copies of the weights (two-directional schedules); copy 0 is ``placement``.
        copy_of: ``copy_of[microbatch]`` is the copy that the micro-batch runs through; empty: all through copy 0.
        update_every: Micro-batches between two updates of the weights; 0: one update, after the last of them.
        delayed_update: Group ``t`` of ``update_every`` micro-batches reads the weights that group ``t - 2`` has
            updated, so that two versions are enough (PipeDream-2BW).
        forward_only: There are forwards and nothing else; each one's activations are let go when it ends.
    """

    name: str
    num_stages: int
    num_microbatches: int
    placement: tuple[int, ...]
    orders: tuple[tuple[Op, ...], ...] = field(repr=False)
    copies: tuple[tuple[int, ...], ...] = ()
    copy_of: tuple[int, ...] = ()
    update_every: int = 0
    delayed_update: bool = False
    forward_only: bool = False

    @property
    def num_ranks(self) -> int:
        """Ranks of one pipeline."""
        return len(self.orders)

    @property
    def placements(self) -> tuple[tuple[int, ...], ...]:
        """Placement of each copy of the weights."""
        return (self.placement, *self.copies)

    @property
    def num_ops(self) -> int:
        """Ops of all ranks."""
        return sum(map(len, self.orders))

    @cached_property
    def table(self) -> OpTable:
        """The ops as arrays, for the checker and the simulator."""
        return OpTable.of(self.orders)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages that ``rank`` holds, ascending; of all copies."""
        held = {s for placement in self.placements for s, owner in enumerate(placement) if owner == rank}
        return tuple(sorted(held))

    def rank_of(self, stage: int, microbatch: int) -> int:
        """The rank that runs ``stage`` for ``microbatch``."""
        copy = self.copy_of[microbatch] if self.copy_of else 0
        return self.placements[copy][stage]
