"""In how many chunks the loss is computed: in one, unless memory asks for more."""

from collections.abc import Callable

from headrace.plan.candidate import Candidate

MOST_CHUNKS = 64
CLEARLY = 1.01
"""Steps that differ by less do not count as faster, so chunks are not chosen for them."""


def choose_loss_chunks(wanted: int | None, make: Callable[[int], Candidate]) -> Candidate:
    """The candidate with the fewest chunks, a power of two, that gives what the most chunks would give.

    Chunks take no time, and what they free may save recomputing layers; but they leave no weight gradient of the head
    to W, and small products are slow ones.

    Args:
        wanted: The number that the user has fixed; None leaves it open.
        make: Prices the other choices, all fixed, with a loss in so many chunks.
    """
    if wanted is not None:
        return make(wanted)
    whole = make(1)
    if whole.fits and not whole.plan.recompute:
        return whole
    finest = make(MOST_CHUNKS)
    if not _better(finest, whole):
        return whole
    num = 2
    while num < MOST_CHUNKS:
        if _as_good(coarser := make(num), finest):
            return coarser
        num *= 2
    return finest


def _better(one: Candidate, other: Candidate) -> bool:
    """Whether it fits where the other does not, or is clearly faster, or at least nearer to fitting."""
    if one.fits and other.fits:
        return other.prediction.step_s > CLEARLY * one.prediction.step_s
    if one.fits or other.fits:
        return one.fits
    return one.memory_share(one.heaviest_rank) < other.memory_share(other.heaviest_rank)


def _as_good(one: Candidate, best: Candidate) -> bool:
    return one.fits and best.fits and not _better(best, one)
