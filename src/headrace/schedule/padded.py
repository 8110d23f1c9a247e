"""Any number of micro-batches for families that are drawn for a multiple of something."""

from dataclasses import replace

from headrace.schedule.schedule import Schedule


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of ``multiple`` that is not below ``count``."""
    return -(-count // multiple) * multiple


def keep_first(schedule: Schedule, num_microbatches: int) -> Schedule:
    """Leaves out all micro-batches from ``num_microbatches`` on.

    What is left of a legal schedule is legal, and neither takes longer nor holds more: to leave out a micro-batch
    removes ops and nothing that another op waits for.
    """
    if num_microbatches == schedule.num_microbatches:
        return schedule
    orders = tuple(tuple(op for op in order if op.microbatch < num_microbatches) for order in schedule.orders)
    copy_of = schedule.copy_of[:num_microbatches]
    return replace(schedule, num_microbatches=num_microbatches, orders=orders, copy_of=copy_of)
