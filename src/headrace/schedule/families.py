"""The families by name: the one place where a name becomes a schedule."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from headrace.errors import RequestError
from headrace.schedule.chimera import chimera
from headrace.schedule.dualpipe import dualpipe, dualpipe_v
from headrace.schedule.gpipe import gpipe
from headrace.schedule.hanayo import hanayo
from headrace.schedule.interleaved import interleaved
from headrace.schedule.looped_bfs import looped_bfs
from headrace.schedule.one_f_one_b import one_f_one_b
from headrace.schedule.pipedream import pipedream, pipedream_2bw
from headrace.schedule.prices import Prices
from headrace.schedule.schedule import Schedule
from headrace.schedule.v_blocks import v_half, v_min
from headrace.schedule.zb_auto import zb_1p, zb_2p
from headrace.schedule.zb_h1 import zb_h1
from headrace.schedule.zb_h2 import zb_h2
from headrace.schedule.zb_v import zb_v


@dataclass(frozen=True)
class Family:
    """How a name becomes a schedule.

    Attributes:
        make: From ranks, micro-batches, chunks and prices; most look at the first two only.
        chunks: Stages on each rank when nobody says; the only number that is possible unless ``any_chunks``.
        any_chunks: Whether the number of chunks is free.
        priced: Whether the order depends on prices.
        asynchronous: Whether weights change within the step, so that it is another training than that of one process.
    """

    make: Callable[[int, int, int, Prices | None], Schedule]
    chunks: int = 1
    any_chunks: bool = False
    priced: bool = False
    asynchronous: bool = False


FAMILIES: dict[str, Family] = {
    "gpipe": Family(lambda p, m, v, prices: gpipe(p, m)),
    "1f1b": Family(lambda p, m, v, prices: one_f_one_b(p, m)),
    "interleaved-1f1b": Family(lambda p, m, v, prices: interleaved(p, m, v), chunks=2, any_chunks=True),
    "looped-bfs": Family(lambda p, m, v, prices: looped_bfs(p, m, v), chunks=2, any_chunks=True),
    "zb-h1": Family(lambda p, m, v, prices: zb_h1(p, m)),
    "zb-h2": Family(lambda p, m, v, prices: zb_h2(p, m)),
    "zb-1p": Family(lambda p, m, v, prices: zb_1p(p, m, prices), priced=True),
    "zb-2p": Family(lambda p, m, v, prices: zb_2p(p, m, prices), priced=True),
    "zb-v": Family(lambda p, m, v, prices: zb_v(p, m, prices), chunks=2, priced=True),
    "v-half": Family(lambda p, m, v, prices: v_half(p, m, prices), chunks=2, priced=True),
    "v-min": Family(lambda p, m, v, prices: v_min(p, m, prices), chunks=2, priced=True),
    "dualpipe": Family(lambda p, m, v, prices: dualpipe(p, m)),
    "dualpipe-v": Family(lambda p, m, v, prices: dualpipe_v(p, m), chunks=2),
    "hanayo": Family(lambda p, m, v, prices: hanayo(p, m, v), chunks=2, any_chunks=True),
    "chimera": Family(lambda p, m, v, prices: chimera(p, m)),
    "pipedream": Family(lambda p, m, v, prices: pipedream(p, m), asynchronous=True),
    "pipedream-2bw": Family(lambda p, m, v, prices: pipedream_2bw(p, m), asynchronous=True),
}


def make_schedule(
    name: str, num_ranks: int, num_microbatches: int, chunks: int | None = None, prices: Prices | None = None
) -> Schedule:
    """The schedule of a family.

    Args:
        name: A key of ``FAMILIES``.
        num_ranks: Ranks of one pipeline.
        num_microbatches: Micro-batches of one step.
        chunks: Stages on each rank; None takes the family's own.
        prices: One entry a stage, for the families that place ``W`` by them; None: all equal, messages free.

    Raises:
        RequestError: For an unknown name, a count below 1, or what the family does not have.
    """
    family = find_family(name)
    for what, count in (("rank", num_ranks), ("micro-batch", num_microbatches)):
        if count < 1:
            raise RequestError(f"schedule '{name}' needs at least 1 {what}, got {count}")
    chunks = _chunks(name, family, chunks)
    if prices is not None and prices.num_stages != num_ranks * chunks:
        raise RequestError(
            f"schedule '{name}' has {num_ranks} x {chunks} stages, but {prices.num_stages} are priced; "
            "give one price for each stage"
        )
    return family.make(num_ranks, num_microbatches, chunks, prices)


def find_family(name: str, *others: str) -> Family:
    """Looks a family up.

    Args:
        name: A key of ``FAMILIES``.
        others: What else the caller takes, for the hint.

    Raises:
        RequestError: For an unknown name; says the nearest.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    known = (*FAMILIES, *others)
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'" if near else f"choose one of {', '.join(known)}"
    raise RequestError(f"there is no schedule '{name}'; {hint}")


def _chunks(name: str, family: Family, chunks: int | None) -> int:
    if chunks is None:
        return family.chunks
    if chunks < 1:
        raise RequestError(f"schedule '{name}' needs at least 1 chunk a rank, got {chunks}")
    if not family.any_chunks and chunks != family.chunks:
        raise RequestError(f"schedule '{name}' has {family.chunks} chunk(s) on each rank, not {chunks}; leave it out")
    return chunks
