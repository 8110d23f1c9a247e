"""Interleaved 1F1B: several stages a rank, less bubble for more messages.

Narayanan et al. 2021, arXiv 2104.04473, section 2.2.2. The paper moves groups of ``p`` micro-batches through the
chunks and so asks for a multiple of ``p``; here groups of ``p`` to ``2p - 1``, as even as can be, take any number.
"""

from itertools import chain, pairwise

from headrace.schedule.op import Op
from headrace.schedule.placement import looped
from headrace.schedule.schedule import Schedule


def interleaved(num_ranks: int, num_microbatches: int, chunks: int) -> Schedule:
    """Stage ``s`` on rank ``s mod p``.

    Bubble ``(p - 1)(F + B) / v`` from ``p`` micro-batches on. On rank 0 ``p + (p - 1) / v`` micro-batches are in flight
    when ``p`` divides their number, and up to ``p - 1`` more when not.
    """
    p, groups = num_ranks, _groups(num_ranks, num_microbatches)
    orders = tuple(_order(rank, p, groups, chunks) for rank in range(p))
    return Schedule("interleaved-1f1b", p * chunks, num_microbatches, looped(p, chunks), orders)


def _groups(num_ranks: int, num_microbatches: int) -> list[range]:
    """Cuts the micro-batches into groups of at least ``num_ranks`` (or one group), greater ones first."""
    num_groups = max(1, num_microbatches // num_ranks)
    size, rest = divmod(num_microbatches, num_groups)
    starts = [g * size + min(g, rest) for g in range(num_groups + 1)]
    return [range(a, b) for a, b in pairwise(starts)]


def _order(rank: int, p: int, groups: list[range], chunks: int) -> tuple[Op, ...]:
    """Each group goes through one chunk after another, backwards through the chunks in reverse."""
    stages = [chunk * p + rank for chunk in range(chunks)]
    forwards = [Op("F", stage, mb) for group in groups for stage in stages for mb in group]
    backwards = [Op("B", stage, mb) for group in groups for stage in reversed(stages) for mb in group]
    warm_up = p - 1 - rank if chunks == 1 else 2 * (p - 1 - rank) + (chunks - 1) * len(groups[0])
    warm_up = min(warm_up, len(forwards))
    turns = chain.from_iterable(zip(forwards[warm_up:], backwards, strict=False))
    return (*forwards[:warm_up], *turns, *backwards[len(backwards) - warm_up :])
