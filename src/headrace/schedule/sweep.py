"""One order in which all ops of all ranks can run, found by running them with receives that block."""

from dataclasses import dataclass

import numpy as np

from headrace.errors import RequestError
from headrace.schedule.schedule import Schedule
from headrace.schedule.table import B, F, I, Ints, W


@dataclass(frozen=True)
class Sweep:
    """The ops in an order in which everything that an op needs lies before it.

    Attributes:
        order: Indices into ``schedule.table``.
        needs: ``needs[i]`` is the op on another rank whose message op ``i`` waits for, or -1.
    """

    order: list[int]
    needs: list[int]


def sweep(schedule: Schedule) -> Sweep:
    """Runs the schedule without a clock. Linear in the number of ops.

    Expects every op to be there exactly once, on its rank.

    Raises:
        RequestError: When ranks wait for each other in a circle; names the ops.
    """
    sources = sources_of(schedule)
    table = schedule.table
    same_rank = (sources >= 0) & (table.rank[sources] == table.rank)
    late = np.flatnonzero(same_rank & (sources > np.arange(len(table))))
    if late.size:
        _refuse(schedule, int(late[0]), int(sources[late[0]]))
    needs: list[int] = np.where(same_rank, -1, sources).tolist()
    return Sweep(_run(schedule, needs), needs)


def sources_of(schedule: Schedule) -> Ints:
    """Index of the op of a neighbouring stage that each op needs, or -1."""
    table, shape = schedule.table, (schedule.num_stages, schedule.num_microbatches)
    forward = table.positions(F, *shape)
    backward = np.maximum(table.positions(B, *shape), table.positions(I, *shape))
    sources = np.full(len(table), -1, dtype=np.int64)
    later = np.flatnonzero((table.kind == F) & (table.stage > 0))
    sources[later] = forward[table.stage[later] - 1, table.microbatch[later]]
    earlier = np.flatnonzero((table.kind != F) & (table.kind != W) & (table.stage < schedule.num_stages - 1))
    sources[earlier] = backward[table.stage[earlier] + 1, table.microbatch[earlier]]
    return sources


def _run(schedule: Schedule, needs: list[int]) -> list[int]:
    owner: list[int] = schedule.table.rank.tolist()
    position: list[int] = schedule.table.first[:-1].tolist()
    end: list[int] = schedule.table.first[1:].tolist()
    done, waiter = bytearray(len(needs)), [-1] * len(needs)
    order: list[int] = []
    ready = list(range(schedule.num_ranks))
    while ready:
        rank = ready.pop()
        i = position[rank]
        while i < end[rank]:
            source = needs[i]
            if source >= 0 and not done[source]:
                waiter[source] = rank
                break
            done[i] = 1
            order.append(i)
            if waiter[i] >= 0:
                ready.append(waiter[i])
            i += 1
        position[rank] = i
    if len(order) < len(needs):
        _explain_circle(schedule, needs, owner, position, end)
    return order


def _explain_circle(
    schedule: Schedule, needs: list[int], owner: list[int], position: list[int], end: list[int]
) -> None:
    """Follows from one stuck rank to the rank it waits for until one comes twice."""
    rank = next(r for r in range(schedule.num_ranks) if position[r] < end[r])
    seen: set[int] = set()
    while rank not in seen:
        seen.add(rank)
        rank = owner[needs[position[rank]]]
    _refuse(schedule, position[rank], needs[position[rank]])


def _refuse(schedule: Schedule, waiting: int, source: int) -> None:
    table = schedule.table
    raise RequestError(
        f"schedule '{schedule.name}' never ends (rule: no deadlock): rank {table.rank[waiting]} waits at "
        f"{table.op(waiting)} for {table.op(source)}, which rank {table.rank[source]} can only run later; "
        f"move one of the two"
    )
