"""What each layer and each link costs, measured or analytic: the one price list of simulator, planner and reports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from headrace.chain.chain import RecomputeMode


@dataclass(frozen=True)
class LayerCosts:
    """Price of one layer for one micro-batch.

    Attributes:
        f_s: Seconds of the forward.
        i_s: Seconds of the gradient of the input.
        w_s: Seconds of the gradient of the weights. A full backward costs ``i_s + w_s``.
        parameter_bytes: Bytes of its parameters.
        saved_bytes: Activations kept from F until I (or B) has run.
        weight_saved_bytes: What is kept from I until W has run.
        output_bytes: The hidden state behind it, which crosses a cut there.
        selective_s: Seconds that the backward takes longer when what selective recomputation frees is made again.
        selective_freed_bytes: What of ``saved_bytes`` selective recomputation does not keep.
        working_bytes: What is alive on top of ``saved_bytes`` while its backward runs: logits and their gradients, and
            what is computed again.
    """

    f_s: float
    i_s: float
    w_s: float
    parameter_bytes: int
    saved_bytes: int
    weight_saved_bytes: int
    output_bytes: int
    selective_s: float = 0.0
    selective_freed_bytes: int = 0
    working_bytes: int = 0

    def under(self, mode: RecomputeMode, input_bytes: int) -> "LayerCosts":
        """The prices under a recompute mode, from those without any.

        ``full`` keeps the layer's input alone, of ``input_bytes``, and runs its forward again (Korthikanti et al.,
        arXiv 2205.05198, section 5).
        """
        freed_bytes = {
            "none": 0,
            "selective": self.selective_freed_bytes,
            "full": max(self.saved_bytes - input_bytes, 0),
        }[mode]
        return replace(
            self,
            i_s=self.i_s + {"none": 0.0, "selective": self.selective_s, "full": self.f_s}[mode],
            saved_bytes=self.saved_bytes - freed_bytes,
            working_bytes=self.working_bytes + freed_bytes,
        )


@dataclass(frozen=True)
class LinkCosts:
    """Price of a message: ``latency_s + bytes / bytes_per_s``."""

    latency_s: float
    bytes_per_s: float

    def message_s(self, num_bytes: float) -> float:
        """Seconds from the end of the producing op until the consumer may begin."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Costs:
    """All that a plan needs to know of a model on a device at one micro-batch size.

    Attributes:
        layers: One price for each layer of the chain, in its order.
        link: Between neighbouring stages.
        stage_f_s: Seconds that a forward costs on top of its layers (masks, rotary tables, bookkeeping).
        stage_i_s: The same for a backward.
        optimizer_s_per_byte: Seconds of the optimizer step per byte of parameters.
        source: ``measured`` or ``analytic``.
        stage_saved_bytes: Activations that a stage keeps on top of its layers' (masks, rotary tables).
    """

    layers: tuple[LayerCosts, ...]
    link: LinkCosts
    stage_f_s: float
    stage_i_s: float
    optimizer_s_per_byte: float
    source: str
    stage_saved_bytes: int = 0


@dataclass(frozen=True)
class StageCosts:
    """Prices by stage, each a tuple with one entry a stage: what the simulator reads.

    Attributes:
        f_s, i_s, w_s: Seconds of the three ops (B = I + W).
        parameter_bytes: Bytes of the stage's parameters.
        saved_bytes: Activations of one micro-batch, kept from F until I (or B).
        weight_saved_bytes: What of them W still needs once I has run.
        output_bytes: The message to the next stage; its gradient has the same size.
        working_bytes: What is alive on top of them while I (or B) runs; empty where nothing is.
    """

    f_s: tuple[float, ...]
    i_s: tuple[float, ...]
    w_s: tuple[float, ...]
    parameter_bytes: tuple[int, ...]
    saved_bytes: tuple[int, ...]
    weight_saved_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    working_bytes: tuple[int, ...] = ()

    @property
    def num_stages(self) -> int:
        """Stages that are priced."""
        return len(self.f_s)


def stage_costs(costs: Costs, bounds: Sequence[int], speeds: Sequence[float] | None = None) -> StageCosts:
    """Adds layers up to stages.

    Args:
        costs: Of each layer.
        bounds: Stage ``s`` holds layers ``bounds[s] … bounds[s + 1] - 1``.
        speeds: How fast each stage's device is, as a multiple of the device that was priced. All 1 by default.
    """
    groups = [costs.layers[a:b] for a, b in pairwise(bounds)]
    pace = list(zip(groups, speeds or [1.0] * len(groups), strict=True))
    return StageCosts(
        f_s=tuple((costs.stage_f_s + sum(layer.f_s for layer in group)) / speed for group, speed in pace),
        i_s=tuple((costs.stage_i_s + sum(layer.i_s for layer in group)) / speed for group, speed in pace),
        w_s=tuple(sum(layer.w_s for layer in group) / speed for group, speed in pace),
        parameter_bytes=tuple(sum(layer.parameter_bytes for layer in group) for group in groups),
        saved_bytes=tuple(costs.stage_saved_bytes + sum(layer.saved_bytes for layer in group) for group in groups),
        weight_saved_bytes=tuple(sum(layer.weight_saved_bytes for layer in group) for group in groups),
        output_bytes=tuple(group[-1].output_bytes for group in groups),
        working_bytes=tuple(max(layer.working_bytes for layer in group) for group in groups),
    )


def slowed(costs: Costs, factor: float) -> Costs:
    """Prices where each op takes ``factor`` times as long, as when so many ranks share a core; messages as before."""
    layers = (
        replace(
            one,
            f_s=factor * one.f_s,
            i_s=factor * one.i_s,
            w_s=factor * one.w_s,
            selective_s=factor * one.selective_s,
        )
        for one in costs.layers
    )
    return replace(
        costs,
        layers=tuple(layers),
        stage_f_s=factor * costs.stage_f_s,
        stage_i_s=factor * costs.stage_i_s,
        optimizer_s_per_byte=factor * costs.optimizer_s_per_byte,
    )


def loss_in_chunks(costs: Costs, num_chunks: int) -> Costs:
    """Prices when the loss is computed in so many chunks of tokens, of which one is alive at a time.

    A chunk's gradient of the logits does not wait for W: the product with it moves into I.
    """
    if num_chunks == 1:
        return costs
    head = costs.layers[-1]
    working_bytes = -(-head.working_bytes // num_chunks)
    head = replace(head, i_s=head.i_s + head.w_s, w_s=0.0, weight_saved_bytes=0, working_bytes=working_bytes)
    return replace(costs, layers=(*costs.layers[:-1], head))


def recomputed(costs: Costs, modes: Sequence[RecomputeMode]) -> Costs:
    """Prices when each transformer layer has the recompute mode that ``modes`` says; empty: none has any.

    Embedding and head are always kept whole. Of a stage's layers one at a time runs again.
    """
    if not modes:
        return costs
    pairs = zip(modes, pairwise(costs.layers[:-1]), strict=True)
    inner = [layer.under(mode, before.output_bytes) for mode, (before, layer) in pairs]
    return replace(costs, layers=(costs.layers[0], *inner, costs.layers[-1]))
