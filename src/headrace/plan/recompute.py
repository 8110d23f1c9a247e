"""What is computed again: only where memory asks for it, only as much as it asks for, and in the cheapest way."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.chain.chain import RECOMPUTE_MODES, RecomputeMode
from headrace.costs.costs import Costs, LayerCosts, recomputed, stage_costs
from headrace.schedule.memory import Level
from headrace.schedule.schedule import Schedule
from headrace.simulate.memory import peak_activation_bytes


class Chosen(NamedTuple):
    """Modes of a run of layers, embedding and head among them, and the seconds that they add to its backward."""

    added_s: float
    modes: tuple[RecomputeMode, ...]


class _Option(NamedTuple):
    """One mode of one layer."""

    saved_bytes: int
    added_s: float
    working_bytes: int
    mode: RecomputeMode


@dataclass(frozen=True)
class _Front:
    """The ways to keep a run of layers that no other way beats in both bytes and seconds, bytes ascending.

    Attributes:
        saved_bytes, added_s: Of each way.
        option: Which of its options the last layer takes.
        before: Which way of the shorter run, without the last layer, it goes on from.
    """

    saved_bytes: npt.NDArray[np.int64]
    added_s: npt.NDArray[np.float64]
    option: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]


_NOTHING = _Front(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))

_Run = tuple[int, ...]


class Recomputation:
    """Finds the modes of any run of layers that add the fewest seconds within a stage's memory, exactly.

    It is a knapsack with up to three sizes of each layer. Layers of equal price are exchangeable, so its solutions for
    all numbers of bytes at once (the front) are shared by all runs with as many layers of each price.
    """

    def __init__(self, costs: Costs, mode: RecomputeMode | None) -> None:
        """Lists what each layer may do.

        Args:
            costs: Without recomputation.
            mode: Of all transformer layers; None leaves it open.
        """
        modes = RECOMPUTE_MODES if mode is None else (mode,)
        last, layers = len(costs.layers) - 1, costs.layers
        self._layers, self._stage_saved_bytes = layers, costs.stage_saved_bytes
        self._open = mode is None
        kinds: dict[tuple[_Option, ...], int] = {}
        self._kind = []
        for i, layer in enumerate(layers):
            inner = 0 < i < last
            own = _options(layer, layers[i - 1].output_bytes, modes) if inner else _options(layer, 0, ("none",))
            self._kind.append(kinds.setdefault(own, len(kinds)))
        self._options = list(kinds)
        self._caps = sorted({option.working_bytes for options in kinds for option in options})
        self._fronts: dict[tuple[_Run, int], _Front] = {}

    def cheapest(self, first: int, end: int, levels: Sequence[Level], free_bytes: float) -> Chosen | None:
        """The modes of layers ``first … end - 1`` that add the fewest seconds; None where no modes fit.

        Args:
            first: Of the chain.
            end: Of the chain.
            levels: The moments at which a stage of these layers may hold most.
            free_bytes: What it may hold.
        """
        if self._open and peak_bytes(self._layers[first:end], levels, self._stage_saved_bytes) <= free_bytes:
            return Chosen(0.0, RECOMPUTE_MODES[:1] * (end - first))
        kept_bytes = sum(layer.weight_saved_bytes for layer in self._layers[first:end])
        run = tuple(sorted(self._kind[first:end]))
        best: tuple[float, int, int] | None = None
        for cap in self._caps:
            front = self._front(run, cap)
            most_bytes = _most_saved(levels, kept_bytes, cap, free_bytes) - self._stage_saved_bytes
            way = int(np.searchsorted(front.saved_bytes, most_bytes, side="right")) - 1
            if way >= 0 and (best is None or front.added_s[way] < best[0]):
                best = float(front.added_s[way]), cap, way
        return None if best is None else Chosen(best[0], self._modes(first, end, *best[1:]))

    def smallest(self, first: int, end: int) -> Chosen:
        """The modes of layers ``first … end - 1`` that keep the fewest bytes."""
        run, cap = tuple(sorted(self._kind[first:end])), self._caps[-1]
        return Chosen(float(self._front(run, cap).added_s[0]), self._modes(first, end, cap, 0))

    def _front(self, run: _Run, cap: int) -> _Front:
        """Of layers of the kinds ``run`` whose working bytes stay within ``cap``; empty where that cannot be."""
        front = _NOTHING
        for length in range(1, len(run) + 1):
            key = run[:length], cap
            if key not in self._fronts:
                self._fronts[key] = _longer(front, self._options[run[length - 1]], cap)
            front = self._fronts[key]
        return front

    def _modes(self, first: int, end: int, cap: int, way: int) -> tuple[RecomputeMode, ...]:
        """The modes of the layers by going back through the fronts; of equal layers the first recompute most."""
        order = sorted(range(first, end), key=lambda layer: self._kind[layer])
        run = tuple(self._kind[layer] for layer in order)
        options: dict[int, list[_Option]] = {}
        for length in range(len(run), 0, -1):
            front = self._fronts[run[:length], cap]
            options.setdefault(run[length - 1], []).append(self._options[run[length - 1]][front.option[way]])
            way = int(front.before[way])
        for found in options.values():
            found.sort(key=lambda option: option.saved_bytes, reverse=True)
        return tuple(options[self._kind[layer]].pop().mode for layer in range(first, end))


def peak_bytes(layers: Sequence[LayerCosts], levels: Sequence[Level], stage_saved_bytes: int) -> int:
    """What a stage of ``layers`` holds at most when everything is kept."""
    saved_bytes = stage_saved_bytes + sum(layer.saved_bytes for layer in layers)
    kept_bytes = sum(layer.weight_saved_bytes for layer in layers)
    working_bytes = max(layer.working_bytes for layer in layers)
    return max(level.saved * saved_bytes + level.kept * kept_bytes + level.working * working_bytes for level in levels)


def _options(layer: LayerCosts, input_bytes: int, modes: Sequence[RecomputeMode]) -> tuple[_Option, ...]:
    under = [(mode, layer.under(mode, input_bytes)) for mode in modes]
    return tuple(_Option(one.saved_bytes, one.i_s - layer.i_s, one.working_bytes, mode) for mode, one in under)


def _longer(front: _Front, options: Sequence[_Option], cap: int) -> _Front:
    """The front of one layer more."""
    allowed = [index for index, option in enumerate(options) if option.working_bytes <= cap]
    if not allowed or not front.saved_bytes.size:
        return _Front(front.saved_bytes[:0], front.added_s[:0], front.option[:0], front.before[:0])
    saved = np.concatenate([front.saved_bytes + options[index].saved_bytes for index in allowed])
    added = np.concatenate([front.added_s + options[index].added_s for index in allowed])
    option = np.repeat(allowed, front.saved_bytes.size)
    before = np.tile(np.arange(front.saved_bytes.size), len(allowed))
    order = np.lexsort((added, saved))
    cheaper = np.concatenate(([inf], np.minimum.accumulate(added[order])[:-1]))
    kept = order[added[order] < cheaper]
    return _Front(saved[kept], added[kept], option[kept], before[kept])


def _most_saved(levels: Sequence[Level], kept_bytes: int, working_bytes: int, free_bytes: float) -> float:
    """The most bytes of one micro-batch's activations that fit at every moment; negative where nothing does."""
    most = inf
    for level in levels:
        left = free_bytes - level.kept * kept_bytes - level.working * working_bytes
        if left < 0:
            return -1.0
        if level.saved:
            most = min(most, left / level.saved)
    return most


def choose_modes(
    recomputation: Recomputation,
    costs: Costs,
    bounds: Sequence[int],
    schedule: Schedule,
    levels: Sequence[Sequence[Level]],
    free_bytes: Sequence[float],
) -> tuple[RecomputeMode, ...]:
    """The modes of all transformer layers under one cut and one order; empty where nothing is computed again.

    A rank with one stage gets the cheapest modes that fit. The stages of a rank with several share its memory as they
    would use it if all were kept; since they are seldom fullest together they are given as much more than their share,
    in eighths, as still fits. Where nothing fits, the modes that keep the fewest bytes.

    Args:
        recomputation: Of the same costs.
        costs: Without recomputation.
        bounds: Of the stages.
        schedule: A schedule that has been checked.
        levels: Of its stages.
        free_bytes: What activations may take, of each rank.
    """
    spans = list(pairwise(bounds))
    alone = [
        peak_bytes(costs.layers[first:end], levels[stage], costs.stage_saved_bytes)
        for stage, (first, end) in enumerate(spans)
    ]
    shares = [alone[s] / max(sum(alone[t] for t in schedule.stages_of(r)), 1) for s, r in enumerate(schedule.placement)]

    def at(scale: float) -> list[tuple[RecomputeMode, ...]]:
        limits = [free_bytes[r] * min(share * scale, 1.0) for share, r in zip(shares, schedule.placement, strict=True)]
        found = [recomputation.cheapest(*spans[s], levels[s], limit) for s, limit in enumerate(limits)]
        short = {rank for rank, fitting in zip(schedule.placement, found, strict=True) if fitting is None}
        return [
            recomputation.smallest(*spans[stage]).modes if fitting is None or rank in short else fitting.modes
            for stage, (rank, fitting) in enumerate(zip(schedule.placement, found, strict=True))
        ]

    most = max(len(schedule.stages_of(rank)) for rank in range(schedule.num_ranks))
    chosen = at(1.0)
    for eighth in range(1, 9) if most > 1 else ():
        wider = at(1.0 + (most - 1) * eighth / 8)
        held = peak_activation_bytes(schedule, stage_costs(recomputed(costs, _inner(wider)), bounds))
        for stage, rank in enumerate(schedule.placement):
            if held[rank] <= free_bytes[rank]:
                chosen[stage] = wider[stage]
    modes = _inner(chosen)
    return () if set(modes) == {"none"} else modes


def _inner(stages: Sequence[tuple[RecomputeMode, ...]]) -> tuple[RecomputeMode, ...]:
    """The modes of the transformer layers from those of the stages, embedding and head among them."""
    return tuple(chain.from_iterable(stages))[1:-1]
