"""Weight versions: which weights each forward reads when updates do not wait for the pipeline to drain."""

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    seen: tuple[int, ...]
    held: int
    staleness: int


def weight_versions(schedule: Schedule) -> tuple[WeightVersions, ...]:
    """Of each stage. A backward always uses the version of its forward.

    Raises:
        RequestError: When a forward reads a version that is not there yet (``delayed_update``).
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
    flying: set[int] = set()
    held = num_done = staleness = 0
    for op in _ops(schedule, stage):
        latest = num_done // schedule.update_every
        if op.kind == "F":
            seen[op.microbatch] = _version(schedule, op, latest)
            flying.add(op.microbatch)
        else:
            flying.remove(op.microbatch)
            staleness = max(staleness, latest - seen[op.microbatch])
            num_done += 1
        latest = num_done // schedule.update_every
        held = max(held, len({latest, *(seen[mb] for mb in flying)}))
    return WeightVersions(tuple(seen[mb] for mb in range(schedule.num_microbatches)), held, staleness)


def _ops(schedule: Schedule, stage: int) -> Iterator[Op]:
    """The stage's forwards and the ops that complete a gradient, in order."""
    order = schedule.orders[schedule.placement[stage]]
    return (op for op in order if op.stage == stage and op.kind != "I")


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
