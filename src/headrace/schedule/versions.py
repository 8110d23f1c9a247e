"""Weight versions: which weights each forward reads when updates do not wait for the pipeline to drain.

PipeDream (Narayanan et al. 2019, arXiv 1806.03377, section 3.3) stashes weights: a forward reads the newest that its
stage has. PipeDream-2BW (Narayanan et al. 2021, arXiv 2006.09503, section 3.1) reads those of one update before, so
that two versions are enough. In both a backward reads what its forward has read.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from headrace.errors import RequestError
from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


@dataclass(frozen=True)
class WeightVersions:
    """One stage's weights over the step; version 0 is there at its start, each update makes the next.

    Attributes:
        seen: ``seen[microbatch]`` is the version that its forward and its backward use.
        held: The most versions that must be in memory at a time.
        staleness: The most updates that lie between the version a gradient was taken at and the one it changes.
        updates: The ops after which the weights change; none where that waits for the end of the step.
        slots: ``slots[version]`` is the copy, of the ``held`` ones, that the version lies in: that of the version
            before where nobody reads it any more, so that the update is made in place.
    """

    seen: tuple[int, ...]
    held: int
    staleness: int
    updates: tuple[Op, ...] = ()
    slots: tuple[int, ...] = (0,)


def weight_versions(schedule: Schedule) -> tuple[WeightVersions, ...]:
    """Of each stage. A backward always uses the version of its forward.

    An update takes the gradients of ``update_every`` micro-batches that follow each other, the last of a step those
    that are left.

    Raises:
        RequestError: When a forward reads a version that is not there yet (``delayed_update``), or a gradient comes
            before the update that it does not belong to.
    """
    if not schedule.update_every:
        return (WeightVersions((0,) * schedule.num_microbatches, 1, 0),) * schedule.num_stages
    if schedule.copies:
        raise RequestError(
            f"schedule '{schedule.name}' is refused (rule: weight versions): it has {len(schedule.placements)} copies "
            f"of the weights and updates them every {schedule.update_every} micro-batches; update_every must be 0"
        )
    return tuple(_of_stage(schedule, stage) for stage in range(schedule.num_stages))


def _of_stage(schedule: Schedule, stage: int) -> WeightVersions:
    seen: dict[int, int] = {}
    done: list[Op] = []
    updates: list[Op] = []
    staleness = 0
    for op in schedule.orders[schedule.placement[stage]]:
        if op.stage != stage:
            continue
        if op.kind == "F":
            seen[op.microbatch] = _version(schedule, op, len(updates))
            continue
        _check_group(schedule, op, len(updates))
        if op.kind == "I":
            continue
        staleness = max(staleness, len(updates) - seen[op.microbatch])
        done.append(op)
        if len(done) % schedule.update_every == 0 or len(done) == schedule.num_microbatches:
            updates.append(op)
    slots = _slots(seen, done, set(updates))
    ordered = tuple(seen[mb] for mb in range(schedule.num_microbatches))
    return WeightVersions(ordered, max(slots) + 1, staleness, tuple(updates), slots)


def _slots(seen: dict[int, int], done: Iterable[Op], updates: set[Op]) -> tuple[int, ...]:
    """A copy for each version, as few as can be: one is free when its last reader is done and a newer one is there."""
    readers = Counter(seen.values())
    slots, free, num_slots = [0], list[int](), 1
    for op in done:
        version, latest = seen[op.microbatch], len(slots) - 1
        readers[version] -= 1
        if version != latest and not readers[version]:
            heappush(free, slots[version])
        if op not in updates:
            continue
        if not readers[latest]:
            slots.append(slots[latest])
        elif free:
            slots.append(heappop(free))
        else:
            slots.append(num_slots)
            num_slots += 1
    return tuple(slots)


def _version(schedule: Schedule, op: Op, latest: int) -> int:
    if not schedule.delayed_update:
        return latest
    wanted = max(op.microbatch // schedule.update_every - 1, 0)
    if wanted > latest:
        raise RequestError(
            f"schedule '{schedule.name}' is refused (rule: weight versions): {op} reads version {wanted}, "
            f"but rank {schedule.placement[op.stage]} has made only {latest} by then; move it behind the update"
        )
    return wanted


def _check_group(schedule: Schedule, op: Op, num_updates: int) -> None:
    group = op.microbatch // schedule.update_every
    if group != num_updates:
        raise RequestError(
            f"schedule '{schedule.name}' is refused (rule: weight versions): {op} is of update {group}, but rank "
            f"{schedule.placement[op.stage]} has made {num_updates} by then; complete the {schedule.update_every} "
            "micro-batches of an update before those of the next"
        )
