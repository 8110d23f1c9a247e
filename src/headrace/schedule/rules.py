"""The rules that one rank, or one channel, can break on its own."""

import numpy as np

from headrace.errors import RequestError
from headrace.schedule.op import KINDS
from headrace.schedule.schedule import Schedule
from headrace.schedule.table import B, F, I, Ints, W


def check_counts(schedule: Schedule) -> None:
    """Counts are positive, and placements name existing ranks of which each holds a stage."""
    s = schedule
    if min(s.num_stages, s.num_microbatches, s.num_ranks) < 1:
        _refuse(
            s, f"it has {s.num_stages} stages, {s.num_microbatches} micro-batches and {s.num_ranks} ranks", "counts"
        )
    if s.update_every < 0 or (s.forward_only and s.update_every):
        only = ", but it is forward only" if s.forward_only else ""
        _refuse(s, f"update_every is {s.update_every}{only}", "counts")
    for placement in s.placements:
        if len(placement) != s.num_stages or not all(0 <= r < s.num_ranks for r in placement):
            _refuse(
                s,
                f"placement {placement} is not one rank below {s.num_ranks} for each of {s.num_stages} stages",
                "placement",
            )
    idle = set(range(s.num_ranks)) - {r for placement in s.placements for r in placement}
    if idle:
        _refuse(s, f"rank {min(idle)} holds no stage", "placement")
    if s.copy_of and (len(s.copy_of) != s.num_microbatches or not set(s.copy_of) <= set(range(len(s.placements)))):
        _refuse(s, f"copy_of {s.copy_of} is not one of {len(s.placements)} copies for each micro-batch", "placement")


def check_ops(schedule: Schedule) -> None:
    """Each stage and micro-batch has ``F`` and ``B``, or ``F``, ``I`` and ``W``, once, on the rank that holds it.

    In a schedule that is forward only it has ``F`` alone.
    """
    table, shape = schedule.table, (schedule.num_stages, schedule.num_microbatches)
    inside = (table.stage >= 0) & (table.stage < shape[0])
    inside &= (table.microbatch >= 0) & (table.microbatch < shape[1]) & (table.kind >= 0)
    _refuse_first(
        schedule,
        ~inside,
        f"is not one of {', '.join(KINDS)} of {shape[0]} stages and {shape[1]} micro-batches",
        "known ops",
    )
    copy_of = np.array(schedule.copy_of or (0,) * shape[1])
    expected = np.array(schedule.placements)[copy_of[table.microbatch], table.stage]
    _refuse_first(schedule, expected != table.rank, "is not on the rank that holds its stage", "placement")
    backward = schedule.forward_only & (table.kind != F)
    _refuse_first(schedule, backward, "is a backward in a schedule that is forward only", "forward only")
    counts = _counts(schedule)
    twice = counts[table.kind, table.stage, table.microbatch] > 1
    _refuse_first(schedule, twice, "is there more than once", "every op once")
    both = counts[B] + np.maximum(counts[I], counts[W]) > 1
    _refuse_first(
        schedule,
        (table.kind == B) & both[table.stage, table.microbatch],
        "is a full backward beside an I or W of the same micro-batch",
        "every op once",
    )
    _refuse_missing(schedule, "F", counts[F] < 1)
    if not schedule.forward_only:
        _refuse_missing(schedule, "I", counts[B] + counts[I] < 1)
        _refuse_missing(schedule, "W", counts[B] + counts[W] < 1)


def check_local_order(schedule: Schedule) -> None:
    """On its rank, a backward comes after its forward, and ``W`` after its ``I``."""
    table, shape = schedule.table, (schedule.num_stages, schedule.num_microbatches)
    if schedule.forward_only:
        return
    forward, backward = table.positions(F, *shape), np.maximum(table.positions(B, *shape), table.positions(I, *shape))
    weights = table.positions(W, *shape)
    _refuse_pair(schedule, backward, forward, backward < forward)
    _refuse_pair(schedule, weights, backward, (weights >= 0) & (weights < backward))


def check_channels(schedule: Schedule) -> None:
    """The two ends of each channel list the same micro-batches in the same order: channels are first in, first out."""
    copy_of = np.array(schedule.copy_of or (0,) * schedule.num_microbatches)
    table = schedule.table
    for copy, placement in enumerate(schedule.placements):
        mine = copy_of[table.microbatch] == copy
        for kinds, step in (((F,), 1), ((B, I), -1)):
            at = np.flatnonzero(mine & np.isin(table.kind, kinds))
            by_stage = at[np.argsort(table.stage[at], kind="stable")].reshape(schedule.num_stages, -1)
            _check_edges(schedule, np.array(placement), by_stage, step)


def _check_edges(schedule: Schedule, placement: Ints, at: Ints, step: int) -> None:
    """Compares neighbouring rows of ``at``, which holds the op indices of each stage, ``[num_stages, any]``."""
    order = schedule.table.microbatch[at]
    differ = (order[1:] != order[:-1]) & (placement[1:] != placement[:-1])[:, None]
    if not differ.any():
        return
    edge, place = (int(x[0]) for x in np.nonzero(differ))
    source, target = (edge, edge + 1) if step > 0 else (edge + 1, edge)
    made, taken = schedule.table.op(at[source, place]), schedule.table.op(at[target, place])
    _refuse(
        schedule,
        f"rank {placement[target]} takes {taken} where rank {placement[source]} makes {made} "
        f"as number {place} of the channel from stage {source} to stage {target}",
        "same order at both ends",
    )


def _counts(schedule: Schedule) -> Ints:
    """How often each op is there, ``[4 kinds, num_stages, num_microbatches]``."""
    table, shape = schedule.table, (4, schedule.num_stages, schedule.num_microbatches)
    flat = np.ravel_multi_index((table.kind, table.stage, table.microbatch), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)


def _refuse_first(schedule: Schedule, bad: np.ndarray, what: str, rule: str) -> None:
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        rank = int(schedule.table.rank[i])
        op = schedule.orders[rank][i - int(schedule.table.first[rank])]
        _refuse(schedule, f"{op} on rank {rank} {what}", rule)


def _refuse_missing(schedule: Schedule, kind: str, missing: np.ndarray) -> None:
    if missing.any():
        stage, mb = (int(x[0]) for x in np.nonzero(missing))
        rank = schedule.rank_of(stage, mb)
        _refuse(schedule, f"{kind}(stage {stage}, micro-batch {mb}) is missing on rank {rank}", "every op once")


def _refuse_pair(schedule: Schedule, late: Ints, early: Ints, bad: np.ndarray) -> None:
    if bad.any():
        stage, mb = (int(x[0]) for x in np.nonzero(bad))
        first, second = schedule.table.op(late[stage, mb]), schedule.table.op(early[stage, mb])
        _refuse(schedule, f"rank {schedule.rank_of(stage, mb)} runs {first} before {second}", "dependencies")


def _refuse(schedule: Schedule, what: str, rule: str) -> None:
    raise RequestError(f"schedule '{schedule.name}' is refused (rule: {rule}): {what}")
