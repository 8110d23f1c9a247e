"""Chimera: two pipelines in opposite directions over two copies of the weights (Li, Hoefler 2021, 2107.06925)."""

from dataclasses import replace

from headrace.errors import RequestError
from headrace.schedule.greedy import Preference, greedy
from headrace.schedule.prices import unit_prices
from headrace.schedule.schedule import Schedule


def chimera(num_ranks: int, num_microbatches: int) -> Schedule:
    """Copy 0 runs down the ranks, copy 1 up; half of the micro-batches through each. Needs an even number of ranks.

    With ``p`` micro-batches, and B as long as F, the bubble is ``p - 2`` slots: ``(p / 2 - 1)(F + B)``.
    Gradients of the two copies are added at the end of the step, so in another order than one process would.
    """
    p, m = num_ranks, num_microbatches
    if p % 2:
        raise RequestError(
            f"schedule 'chimera' needs an even number of ranks, got {p}; take {p + 1} or {max(p - 1, 2)}"
        )
    down, up = tuple(range(p)), tuple(range(p))[::-1]
    copy_of = tuple(mb % p // (p // 2) if p > 1 else 0 for mb in range(m))
    slots = replace(unit_prices(p), i_s=(0.5,) * p, w_s=(0.5,) * p)
    oldest = Preference(forward=lambda stage, mb: (mb // p, -stage), backward=lambda stage, mb: (mb // p, -stage))
    orders = greedy([down, up], copy_of, slots, [float(p)] * p, oldest)
    assert orders is not None, "p micro-batches are room for one"
    return Schedule("chimera", p, m, down, orders, copies=(up,), copy_of=copy_of)
