"""Activations that each rank holds: what its own order of ops decides, whatever the clock says."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.errors import RequestError
from headrace.schedule.schedule import Schedule
from headrace.schedule.table import B, I, W


def held_activations(
    schedule: Schedule, saved: Sequence[float], kept: Sequence[float], working: Sequence[float] | None = None
) -> npt.NDArray[np.float64]:
    """What the op's rank holds while each op of ``schedule.table`` runs.

    ``F`` adds the stage's ``saved``; ``B`` frees it; ``I`` frees it but for ``kept``, which ``W`` frees. What an op
    frees it holds until it has ended; where other backwards are split, ``B`` is ``I`` then ``W`` inside too. Where the
    schedule is forward only, ``F`` frees what it has added.

    Args:
        schedule: Whose ops.
        saved: Of one micro-batch on each stage, from ``F`` until ``I`` or ``B``.
        kept: Of these, until ``W``.
        working: What ``B`` and ``I`` hold on top while they run (activations computed again); None: nothing.
    """
    if schedule.forward_only:
        return np.asarray(saved, float)[schedule.table.stage]
    table, change = schedule.table, activation_changes(schedule, saved, kept)
    while_it_runs: npt.NDArray[np.float64] = np.cumsum(change) - np.minimum(change, 0)
    none = np.zeros(schedule.num_stages)
    if W in table.kind:
        between = np.maximum(np.subtract(kept, saved), 0)
        while_it_runs += np.stack([none, between, none, none])[table.kind, table.stage]
    if working is not None:
        extra = np.asarray(working, float)
        while_it_runs += np.stack([none, extra, extra, none])[table.kind, table.stage]
    return while_it_runs


def activation_changes(schedule: Schedule, saved: Sequence[float], kept: Sequence[float]) -> npt.NDArray[np.float64]:
    """What each op of ``schedule.table`` adds to the activations of its rank once it has ended."""
    if schedule.forward_only:
        return np.zeros(len(schedule.table))
    adds, keeps = np.asarray(saved, float), np.asarray(kept, float)
    changes: npt.NDArray[np.float64] = np.stack([adds, -adds, keeps - adds, -keeps])[
        schedule.table.kind, schedule.table.stage
    ]
    return changes


def peaks(schedule: Schedule, held: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The most that each rank holds at a time, from `held_activations`."""
    most = np.zeros(schedule.num_ranks)
    np.maximum.at(most, schedule.table.rank, held)
    return tuple(most.tolist())


class Level(NamedTuple):
    """What a rank holds of one of its stages at some moment.

    Attributes:
        saved: Micro-batches between their ``F`` and the end of their ``I`` or ``B``.
        kept: Micro-batches between ``I`` and the end of their ``W``.
        working: 1 while ``I`` or ``B`` runs, else 0.
    """

    saved: int
    kept: int
    working: int


def stage_levels(schedule: Schedule) -> list[list[Level]]:
    """For each stage the moments at which it may hold most, whatever its bytes: those that no other moment tops."""
    return [_stage_levels(schedule, stage) for stage in range(schedule.num_stages)]


def _stage_levels(schedule: Schedule, stage: int) -> list[Level]:
    table, none = schedule.table, [0.0] * schedule.num_stages
    one = [*none[:stage], 1.0, *none[stage + 1 :]]
    here = (table.rank == schedule.placement[stage]) & (table.stage == stage)
    saved, kept = activation_changes(schedule, one, none)[here], activation_changes(schedule, none, one)[here]
    after = np.stack([np.cumsum(saved), np.cumsum(kept)])
    before = after - np.stack([saved, kept])
    working = np.isin(table.kind[here], (B, I)).astype(float)
    between = before + np.array([[-1], [1]]) * ((table.kind[here] == B) & (W in table.kind))
    moments = np.concatenate([np.stack([*levels, working], 1) for levels in (before, between, after)])
    rows = np.unique(moments.astype(int), axis=0)
    topped = (rows[:, None] <= rows[None]).all(2).sum(1) > 1
    return [Level(*row) for row in rows[~topped].tolist()]


def check_memory(schedule: Schedule, saved: Sequence[float], kept: Sequence[float], limits: Sequence[float]) -> None:
    """Refuses a schedule that holds more than a rank may.

    Args:
        schedule: A schedule that has been checked.
        saved: As in `held_activations`.
        kept: As in `held_activations`.
        limits: The most that each rank may hold, in the unit of ``saved``.

    Raises:
        RequestError: Names the op, the rank and both numbers.
    """
    held = held_activations(schedule, saved, kept)
    over = np.flatnonzero(held > np.asarray(limits, float)[schedule.table.rank] * (1 + 1e-9))
    if over.size:
        i, rank = int(over[0]), int(schedule.table.rank[over[0]])
        raise RequestError(
            f"schedule '{schedule.name}' is refused (rule: memory limit): at {schedule.table.op(i)} rank {rank} holds "
            f"{held[i]:g} of activations and may hold {limits[rank]:g}; it needs {peaks(schedule, held)[rank]:g}"
        )
