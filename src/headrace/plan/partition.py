"""The partition: which layers each stage holds, so that the slowest stage is as fast as it can be."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import fsum, inf
from typing import Literal

from headrace.chain.chain import Chain
from headrace.errors import RequestError

# Seconds of the stages, slowest first, and the bounds (negative for a light back): smaller is better, in that order.
_Cut = tuple[tuple[float, ...], tuple[int, ...]]


def partition(
    layer_s: Sequence[float],
    num_stages: int,
    speeds: Sequence[float] | None = None,
    stage_s: float = 0.0,
    added_s: Callable[[int, int, int], float] | None = None,
    light: Literal["front", "back"] = "front",
) -> tuple[int, ...] | None:
    """Cuts a row of layers into stages, exactly: no other cut has a faster slowest stage.

    Equally good cuts are told apart by the second slowest stage, then the third, and so on; cuts that are still equal
    by the count of layers on stage 0, then on stage 1, and so on.
    Dynamic programming over (stage, end): the order is kept when a stage is added to two cuts of the same beginning.

    Args:
        layer_s: Seconds of each layer for one micro-batch, none negative.
        num_stages: Stages, each of at least one layer.
        speeds: One factor a stage; a stage of speed 0.5 needs twice the seconds. All 1 by default.
        stage_s: Seconds that each stage costs on top of its layers.
        added_s: ``added_s(stage, first, end)`` are the seconds on top that a stage needs to hold layers
            ``first … end - 1`` in its memory, infinite where it cannot; never fewer for more layers.
        light: Of equal cuts, ``front`` takes fewest layers on the early stages, which hold more micro-batches in
            flight; ``back`` takes most there, so fewest on the late ones.

    Returns:
        Bounds: stage ``s`` holds layers ``bounds[s] … bounds[s + 1] - 1``. None where no cut fits.

    Raises:
        RequestError: There are more stages than layers, or none.
    """
    num_layers = len(layer_s)
    if not 1 <= num_stages <= num_layers:
        raise RequestError(f"{num_stages} stages cannot share {num_layers} layers; take 1 to {num_layers} stages.")
    # fsum rounds once, so equal layers give equal sums wherever they stand, and ties stay ties.
    work_s = [[fsum(layer_s[first:end]) for end in range(num_layers + 1)] for first in range(num_layers)]

    def seconds(stage: int, first: int, end: int) -> float:
        total_s = stage_s + work_s[first][end] + (added_s(stage, first, end) if added_s else 0.0)
        return total_s / speeds[stage] if speeds else total_s

    sign = 1 if light == "front" else -1
    best: dict[int, _Cut] = {0: ((), (0,))}
    for stage in range(num_stages):
        last_end = num_layers - (num_stages - 1 - stage)
        found = {end: _best_cut(best, stage, end, sign, seconds) for end in range(stage + 1, last_end + 1)}
        best = {end: cut for end, cut in found.items() if cut}
    return tuple(sign * bound for bound in best[num_layers][1]) if num_layers in best else None


def _best_cut(
    shorter: dict[int, _Cut],
    stage: int,
    end: int,
    sign: int,
    seconds: Callable[[int, int, int], float],
) -> _Cut | None:
    """The best cut of layers ``0 … end - 1`` whose last stage is ``stage``, from the best cuts of one stage less."""
    best: _Cut | None = None
    for first in range(end - 1, stage - 1, -1):
        if first not in shorter:
            continue
        slowest_first, bounds = shorter[first]
        own_s = seconds(stage, first, end)
        if own_s == inf or (best and own_s > best[0][0]):
            break  # The stage only grows from here.
        if not best or not slowest_first or slowest_first[0] <= best[0][0]:
            cut = tuple(sorted((*slowest_first, own_s), reverse=True)), (*bounds, sign * end)
            best = min(best, cut) if best else cut
    return best


def check_num_stages(chain: Chain, num_ranks: int, chunks: int = 1) -> None:
    """Raises `RequestError` unless the chain can be cut into ``chunks`` stages on each of ``num_ranks`` ranks."""
    num_layers, num_stages = chain.num_transformer_layers, num_ranks * chunks
    if num_stages < 1:
        raise RequestError(f"{num_stages} stages were asked for; a pipeline has at least 1.")
    if num_stages > num_layers:
        each = "" if chunks == 1 else f" ({chunks} on each of {num_ranks} ranks)"
        most = f"at most pp={num_layers // chunks}" if num_layers >= chunks else "choose a schedule of fewer chunks"
        raise RequestError(f"{num_stages} stages{each} but only {num_layers} layers; {most}.")


def bounds_from_cuts(chain: Chain, cuts: Sequence[int]) -> tuple[int, ...]:
    """Bounds of a cut by hand.

    Args:
        chain: The model.
        cuts: Transformer layers of each stage. The embedding comes on top with the first stage and the head with
            the last, so these two may be 0.

    Raises:
        RequestError: The counts do not add up to the model's layers, or leave a stage empty.
    """
    check_num_stages(chain, len(cuts))
    if min(cuts) < 0:
        raise RequestError(f"Cuts {list(cuts)} give a stage {min(cuts)} layers; a count is 0 or more.")
    if sum(cuts) != chain.num_transformer_layers:
        raise RequestError(
            f"Cuts {list(cuts)} hold {sum(cuts)} layers but the model has {chain.num_transformer_layers}; "
            "give each stage its count of layers so that they add up."
        )
    empty = [stage for stage in range(1, len(cuts) - 1) if cuts[stage] == 0]
    if empty:
        raise RequestError(
            f"Cuts {list(cuts)} leave stage {empty[0]} with 0 layers; every stage needs at least 1, save the first, "
            "which may hold the embedding alone, and the last, which may hold the head alone."
        )
    inner = [1 + end for end in accumulate(cuts[:-1])]
    return (0, *inner, len(chain.layers))
