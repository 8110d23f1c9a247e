"""The checker: what it refuses is never run, what it accepts ends and has known peaks."""

from dataclasses import dataclass, field

import numpy as np

from headrace.schedule.rules import check_channels, check_counts, check_local_order, check_ops
from headrace.schedule.schedule import Schedule
from headrace.schedule.sweep import Sweep, sweep
from headrace.schedule.table import B, F, I, Ints, W
from headrace.schedule.versions import WeightVersions, weight_versions


@dataclass(frozen=True)
class Checked:
    """A schedule that holds all rules, and what they give.

    Attributes:
        schedule: The schedule.
        peak_in_flight: Per rank: the most micro-batches, counted once for each stage, whose activations it holds at
            a time. ``F`` adds one; ``B``, or ``W`` after ``I``, frees it. Where the schedule is forward only, ``F``
            frees it itself.
        stage_peak_in_flight: The same per stage (of two copies the greater).
        unordered_stages: Stages whose gradients are not added in ascending order of micro-batches.
        weight_versions: Of each stage; synchronous schedules have one.
        sweep: The ops in an order in which they can run.
    """

    schedule: Schedule
    peak_in_flight: tuple[int, ...]
    stage_peak_in_flight: tuple[int, ...]
    unordered_stages: tuple[int, ...]
    weight_versions: tuple[WeightVersions, ...] = field(repr=False)
    sweep: Sweep = field(repr=False)

    @property
    def ascending(self) -> bool:
        """Whether every gradient is added in ascending order of micro-batches: the promise of the same bits."""
        return not self.unordered_stages


def check(schedule: Schedule) -> Checked:
    """Proves that ``schedule`` can run. Linear in the number of ops.

    The rules: counts are sound and every rank holds a stage; each stage runs each micro-batch once, as ``F`` and
    ``B`` or as ``F``, ``I`` and ``W`` (or as ``F``, where the schedule says that it is forward only), on the rank that
    holds it; a backward comes after its forward and ``W`` after its ``I``; both ends of a channel list the same order;
    with receives that block, it ends; no forward reads a weight version that is not there yet.

    Raises:
        RequestError: Says which op, which rank and which rule.
    """
    check_counts(schedule)
    check_ops(schedule)
    check_local_order(schedule)
    check_channels(schedule)
    swept = sweep(schedule)
    by_rank, by_stage = _peaks(schedule)
    return Checked(schedule, by_rank, by_stage, _unordered_stages(schedule), weight_versions(schedule), swept)


def _peaks(schedule: Schedule) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if schedule.forward_only:
        return (1,) * schedule.num_ranks, (1,) * schedule.num_stages
    table = schedule.table
    change = (table.kind == F).astype(np.int64) - (table.kind == B) - (table.kind == W)
    by_rank = np.zeros(schedule.num_ranks, dtype=np.int64)
    np.maximum.at(by_rank, table.rank, np.cumsum(change))
    sort = np.lexsort((table.rank, table.stage))
    group = table.stage[sort] * schedule.num_ranks + table.rank[sort]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    by_group = np.maximum.reduceat(np.cumsum(change[sort]), starts)
    by_stage = np.zeros(schedule.num_stages, dtype=np.int64)
    np.maximum.at(by_stage, table.stage[sort][starts], by_group)
    return tuple(by_rank.tolist()), tuple(by_stage.tolist())


def _unordered_stages(schedule: Schedule) -> tuple[int, ...]:
    """Parameters of linear layers are added in B or W, the others in B or I; a second copy is added at the end."""
    if schedule.copies:
        return tuple(range(schedule.num_stages))
    table, shape = schedule.table, (schedule.num_stages, schedule.num_microbatches)
    full = table.positions(B, *shape)
    bad: Ints = np.zeros(schedule.num_stages, dtype=np.int64)
    for kind in (I, W):
        at = np.maximum(full, table.positions(kind, *shape))
        bad |= (np.diff(at, axis=1) < 0).any(axis=1)
    return tuple(np.flatnonzero(bad).tolist())
