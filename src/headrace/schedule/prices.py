"""Prices of ops, messages and activations by stage, checked once: the price list of families and simulator."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import isfinite

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.errors import RequestError


@dataclass(frozen=True)
class Prices:
    """One entry a stage, but for ``edge_s``.

    Attributes:
        f_s, i_s, w_s: Seconds of the three ops; ``B`` costs ``i_s + w_s``.
        edge_s: ``edge_s[s]`` are the seconds of a message between stages ``s`` and ``s + 1`` on two ranks.
        saved: Activations of one micro-batch from ``F`` until ``I`` (or ``B``), in any one unit.
        kept: What of them stays until ``W``.
    """

    f_s: tuple[float, ...]
    i_s: tuple[float, ...]
    w_s: tuple[float, ...]
    edge_s: tuple[float, ...]
    saved: tuple[float, ...]
    kept: tuple[float, ...]

    @property
    def num_stages(self) -> int:
        """Stages that are priced."""
        return len(self.f_s)


def unit_prices(num_stages: int) -> Prices:
    """F, I and W cost one second, messages nothing, and one activation is one until its ``W``."""
    one = (1.0,) * num_stages
    return Prices(one, one, one, (0.0,) * (num_stages - 1), one, one)


def counted(prices: Prices) -> Prices:
    """The same times, but memory in numbers of activations: one of any stage counts one, as families promise it."""
    kept = tuple(kept / saved if saved else 0.0 for saved, kept in zip(prices.saved, prices.kept, strict=True))
    return replace(prices, saved=(1.0,) * prices.num_stages, kept=kept)


def spread(rank_prices: Prices, placement: Sequence[int]) -> Prices:
    """Prices of stages from those of ranks: each of a rank's stages has an equal share of its work and memory.

    Args:
        rank_prices: One entry a rank, ``edge_s`` between neighbouring ranks.
        placement: The rank of each stage. A message between ranks that are no neighbours (a loop's way back) takes the
            longest of ``edge_s``.
    """
    held = [placement.count(rank) for rank in range(rank_prices.num_stages)]

    def share(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[rank] / held[rank] for rank in placement)

    longest_s = max(rank_prices.edge_s, default=0.0)
    edge_s = tuple(rank_prices.edge_s[min(a, b)] if abs(a - b) == 1 else longest_s for a, b in pairwise(placement))
    p = rank_prices
    return Prices(share(p.f_s), share(p.i_s), share(p.w_s), edge_s, share(p.saved), share(p.kept))


def price(costs: StageCosts, link: LinkCosts | Sequence[LinkCosts]) -> Prices:
    """Reads costs; activations in bytes.

    Args:
        costs: Of each stage.
        link: Of all neighbouring stages, or one for each pair ``(stage, stage + 1)``.

    Raises:
        RequestError: For counts that differ, and prices that are negative or not finite.
    """
    _check(costs)
    num_edges = costs.num_stages - 1
    links = [link] * num_edges if isinstance(link, LinkCosts) else list(link)
    if len(links) != num_edges:
        raise RequestError(
            f"{costs.num_stages} stages have {num_edges} links between them, but {len(links)} are priced; "
            "give one price, or one for each"
        )
    edge_s = tuple(one.message_s(size) for one, size in zip(links, costs.output_bytes, strict=False))
    for stage, seconds in enumerate(edge_s):
        if not isfinite(seconds) or seconds < 0:
            raise RequestError(
                f"a message from stage {stage} to stage {stage + 1} takes {seconds} s; give a time that is 0 or more"
            )
    return Prices(costs.f_s, costs.i_s, costs.w_s, edge_s, costs.saved_bytes, costs.weight_saved_bytes)


def _check(costs: StageCosts) -> None:
    for name, values in asdict(costs).items():
        if name == "working_bytes" and not values:
            continue
        if len(values) != costs.num_stages:
            raise RequestError(f"{name} has {len(values)} entries for {costs.num_stages} stages; give one for each")
        for stage, value in enumerate(values):
            if not isfinite(value) or value < 0:
                raise RequestError(f"{name} of stage {stage} is {value}; give a number that is 0 or more")
