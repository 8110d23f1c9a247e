"""Sends and receives, derived from the schedule: nobody writes them by hand."""

from typing import Literal, NamedTuple

from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


class Transfer(NamedTuple):
    """What one op makes and another one needs: an activation (stage ``a`` to ``a + 1``) or its gradient (back).

    Transfers between two ranks are messages, in one channel for each ``(source_stage, target_stage)``, first in,
    first out; those with ``is_local`` are handed over in memory.
    """

    what: Literal["activation", "gradient"]
    source_stage: int
    target_stage: int
    source_rank: int
    target_rank: int
    microbatch: int

    @property
    def is_local(self) -> bool:
        """Whether both stages are on one rank."""
        return self.source_rank == self.target_rank


def input_of(schedule: Schedule, op: Op) -> Transfer | None:
    """What must have come from another stage before ``op`` runs; None at the ends of the chain and for ``W``."""
    if op.kind == "F" and op.stage > 0:
        return _transfer(schedule, "activation", op.stage - 1, op.stage, op.microbatch)
    if op.kind in ("B", "I") and op.stage < schedule.num_stages - 1:
        return _transfer(schedule, "gradient", op.stage + 1, op.stage, op.microbatch)
    return None


def output_of(schedule: Schedule, op: Op) -> Transfer | None:
    """What ``op`` makes for another stage; None at the ends of the chain and for ``W``."""
    if op.kind == "F" and op.stage < schedule.num_stages - 1:
        return _transfer(schedule, "activation", op.stage, op.stage + 1, op.microbatch)
    if op.kind in ("B", "I") and op.stage > 0:
        return _transfer(schedule, "gradient", op.stage, op.stage - 1, op.microbatch)
    return None


def receives(schedule: Schedule, rank: int) -> tuple[Transfer, ...]:
    """Messages that come to ``rank``, in the order in which it needs them."""
    found = (input_of(schedule, op) for op in schedule.orders[rank])
    return tuple(t for t in found if t and not t.is_local)


def sends(schedule: Schedule, rank: int) -> tuple[Transfer, ...]:
    """Messages that leave ``rank``, in the order in which it makes them."""
    found = (output_of(schedule, op) for op in schedule.orders[rank])
    return tuple(t for t in found if t and not t.is_local)


def _transfer(
    schedule: Schedule, what: Literal["activation", "gradient"], source: int, target: int, microbatch: int
) -> Transfer:
    ranks = schedule.rank_of(source, microbatch), schedule.rank_of(target, microbatch)
    return Transfer(what, source, target, *ranks, microbatch)
