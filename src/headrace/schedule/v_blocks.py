"""V-Half and V-Min: one block, repeated, whose delays decide the memory.

Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", arXiv 2405.15362, section 3. A micro-batch walks down
the ranks, up again, and back the same way; it stays in memory for as long as the walk from a stage's ``F`` to its ``W``
takes, so slow steps cost memory and quick ones cost bubble.
"""

from dataclasses import dataclass

from headrace.schedule.fill import fill
from headrace.schedule.op import Kind, Op
from headrace.schedule.placement import waves
from headrace.schedule.prices import Prices, counted, unit_prices
from headrace.schedule.schedule import Schedule

PERIOD = 6
"""Slots between two micro-batches: F, I and W of two chunks, one slot each."""


@dataclass(frozen=True)
class Block:
    """The walk of micro-batch 0, in slots.

    Attributes:
        steps: From rank to rank: ``F`` down, ``F`` up, ``I`` down, ``I`` up.
        turns: At the three turning points between them.
    """

    steps: tuple[int, int, int, int]
    turns: tuple[int, int, int]

    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        """When ``rank`` runs ``F`` of chunk 0, ``F`` of chunk 1, ``I`` of chunk 1, ``I`` of chunk 0."""
        way = num_ranks - 1
        forward_up = way * self.steps[0] + self.turns[0]
        back_down = forward_up + way * self.steps[1] + self.turns[1]
        back_up = back_down + way * self.steps[2] + self.turns[2]
        return (
            rank * self.steps[0],
            forward_up + (way - rank) * self.steps[1],
            back_down + rank * self.steps[2],
            back_up + (way - rank) * self.steps[3],
        )


def v_half(num_ranks: int, num_microbatches: int, prices: Prices | None = None) -> Schedule:
    """Half of 1F1B's memory (``floor(p / 2) + 1`` micro-batches on each rank) and half of its bubble at F = I = W."""
    turns = (1, 1, 1) if num_ranks % 2 else (3, 1, 4)
    return _v_block("v-half", Block((1, 2, 1, 2), turns), num_ranks // 2 + 1, num_ranks, num_microbatches, prices)


def v_min(num_ranks: int, num_microbatches: int, prices: Prices | None = None) -> Schedule:
    """A third of 1F1B's memory (``ceil((p + 2) / 3)`` micro-batches on each rank), 2/3 of its bubble at F = I = W."""
    turns = (1, 1, 1) if num_ranks % 3 else (2, 1, 4)
    limit = -(-(num_ranks + 2) // 3)
    return _v_block("v-min", Block((1, 1, 1, 1), turns), limit, num_ranks, num_microbatches, prices)


def _v_block(
    name: str, block: Block, limit: int, num_ranks: int, num_microbatches: int, prices: Prices | None
) -> Schedule:
    """Repeats the block, orders each rank's ``F`` and ``I`` by their slots, and fills in ``W`` within the limit."""
    prices = prices or unit_prices(2 * num_ranks)
    bare = v_block_order(name, block, num_ranks, num_microbatches)
    filled = fill(bare, counted(prices), [2.0 * limit] * num_ranks)
    assert filled is not None, "the block's own memory is enough for it"
    return filled.schedule


def v_block_order(name: str, block: Block, num_ranks: int, num_microbatches: int) -> Schedule:
    """``F`` and ``I`` of the repeated block; ``W`` are still to be filled in."""
    orders = tuple(_order(block, rank, num_ranks, num_microbatches) for rank in range(num_ranks))
    return Schedule(name, 2 * num_ranks, num_microbatches, waves(num_ranks, 2), orders)


def _order(block: Block, rank: int, num_ranks: int, num_microbatches: int) -> tuple[Op, ...]:
    up = 2 * num_ranks - 1 - rank
    kinds: tuple[Kind, ...] = ("F", "F", "I", "I")
    ops = zip(kinds, (rank, up, up, rank), block.slots(rank, num_ranks), strict=True)
    timed = [
        (slot + PERIOD * mb, kind == "F", Op(kind, stage, mb))
        for kind, stage, slot in ops
        for mb in range(num_microbatches)
    ]
    return tuple(op for _, _, op in sorted(timed))
