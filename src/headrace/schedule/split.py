"""Split backwards: ``B`` as ``I`` then ``W``, and the orders that keep a fixed distance between the two."""

from dataclasses import replace

from headrace.schedule.op import Op
from headrace.schedule.schedule import Schedule


def split_backward(schedule: Schedule) -> Schedule:
    """The same with each ``B`` as ``I`` and ``W`` next to each other."""
    return replace(schedule, orders=tuple(tuple(_halves(order)) for order in schedule.orders))


def _halves(order: tuple[Op, ...]) -> list[Op]:
    halves = []
    for op in order:
        if op.kind == "B":
            halves += [Op("I", op.stage, op.microbatch), Op("W", op.stage, op.microbatch)]
        else:
            halves.append(op)
    return halves


def lagged_order(stage: int, num_microbatches: int, warm_up: int, lag: int) -> tuple[Op, ...]:
    """Forwards first, then ``F`` and ``I`` in turn, each ``I`` followed by the ``W`` of ``lag`` micro-batches ago.

    So ``warm_up + 1 + lag`` micro-batches are in flight, of which ``lag`` wait for their ``W`` alone.

    Args:
        stage: Whose ops.
        num_microbatches: Micro-batches of the step.
        warm_up: Forwards before the first ``F`` and ``I`` in turn.
        lag: Micro-batches between an ``I`` and the ``W`` that follows it.
    """
    order = [Op("F", stage, mb) for mb in range(min(warm_up, num_microbatches))]
    for mb in range(num_microbatches):
        if mb + warm_up < num_microbatches:
            order.append(Op("F", stage, mb + warm_up))
        order.append(Op("I", stage, mb))
        if mb >= lag:
            order.append(Op("W", stage, mb - lag))
    first_left = max(num_microbatches - lag, 0)
    return (*order, *(Op("W", stage, mb) for mb in range(first_left, num_microbatches)))
