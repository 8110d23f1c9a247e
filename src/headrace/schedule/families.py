"""The families by name: the one place where a name becomes a schedule."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from headrace.errors import RequestError
from headrace.schedule.gpipe import gpipe
from headrace.schedule.one_f_one_b import one_f_one_b
from headrace.schedule.schedule import Schedule


@dataclass(frozen=True)
class Family:
    """How a name becomes a schedule.

    Attributes:
        make: From ranks, micro-batches and chunks.
        chunks: Stages on each rank when nobody says; the only number that is possible unless ``any_chunks``.
        any_chunks: Whether the number of chunks is free.
    """

    make: Callable[[int, int, int], Schedule]
    chunks: int = 1
    any_chunks: bool = False


FAMILIES: dict[str, Family] = {
    "gpipe": Family(lambda p, m, v: gpipe(p, m)),
    "1f1b": Family(lambda p, m, v: one_f_one_b(p, m)),
}


def make_schedule(name: str, num_ranks: int, num_microbatches: int, chunks: int | None = None) -> Schedule:
    """The schedule of a family.

    Args:
        name: A key of ``FAMILIES``.
        num_ranks: Ranks of one pipeline.
        num_microbatches: Micro-batches of one step.
        chunks: Stages on each rank; None takes the family's own.

    Raises:
        RequestError: For an unknown name, a count below 1, or chunks that the family does not have.
    """
    family = find_family(name)
    for what, count in (("ranks", num_ranks), ("micro-batches", num_microbatches)):
        if count < 1:
            raise RequestError(f"schedule '{name}' needs at least 1 of {what}, got {count}")
    return family.make(num_ranks, num_microbatches, _chunks(name, family, chunks))


def find_family(name: str) -> Family:
    """Looks a family up.

    Raises:
        RequestError: For an unknown name; says the nearest.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    near = get_close_matches(name, FAMILIES, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'" if near else f"choose one of {', '.join(FAMILIES)}"
    raise RequestError(f"there is no schedule '{name}'; {hint}")


def _chunks(name: str, family: Family, chunks: int | None) -> int:
    if chunks is None:
        return family.chunks
    if chunks < 1:
        raise RequestError(f"schedule '{name}' needs at least 1 chunk a rank, got {chunks}")
    if not family.any_chunks and chunks != family.chunks:
        raise RequestError(f"schedule '{name}' has {family.chunks} chunk(s) on each rank, not {chunks}; leave it out")
    return chunks
