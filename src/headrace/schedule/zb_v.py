"""ZB-V: no bubble within the memory of 1F1B, on a V of two chunks (Qi et al. 2023, arXiv 2401.10241, section 6)."""

from headrace.schedule.fill import fill
from headrace.schedule.op import Op
from headrace.schedule.padded import keep_first
from headrace.schedule.placement import waves
from headrace.schedule.prices import Prices, counted, unit_prices
from headrace.schedule.schedule import Schedule


def zb_v(num_ranks: int, num_microbatches: int, prices: Prices | None = None) -> Schedule:
    """Stages ``r`` and ``2p - 1 - r`` on rank ``r``; ``2p`` half activations in flight, as many as 1F1B.

    With F = I = W no rank idles between its first and its last op. ``W`` is placed under ``prices``.
    """
    p, m = num_ranks, max(num_microbatches, 2 * num_ranks)
    placement, prices = waves(p, 2), prices or unit_prices(2 * p)
    whole = Schedule("zb-v", 2 * p, m, placement, tuple(_order(rank, p, m) for rank in range(p)))
    cut = keep_first(whole, num_microbatches)
    filled = fill(cut, counted(prices), [2.0 * p] * p)
    assert filled is not None, "2p activations are enough for this order of F and I"
    return filled.schedule


def _order(rank: int, p: int, m: int) -> tuple[Op, ...]:
    """``F`` and ``I`` of both chunks; chunk 1 is the second half of the V."""
    turns = m - (2 * p - 1 - rank)
    letters = (
        ["F0"] * (2 * (p - rank) - 1) + ["F1", "F0"] * rank + ["F1", "I1"] * (p - rank)
        + ["F0", "I0", "F1", "I1"] * turns
        + ["I0", "F1", "I1"] * (p - 1 - rank) + ["I0", "I1"] * rank + ["I0"] * (p - rank)
    )  # fmt: skip
    counts = dict.fromkeys(("F0", "F1", "I0", "I1"), -1)
    order = []
    for letter in letters:
        counts[letter] += 1
        order.append(Op("F" if letter[0] == "F" else "I", (rank, 2 * p - 1 - rank)[int(letter[1])], counts[letter]))
    return tuple(order)
