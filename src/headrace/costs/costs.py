"""What each layer and each link costs, measured or analytic: the one price list of simulator, planner and reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


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
    """

    f_s: float
    i_s: float
    w_s: float
    parameter_bytes: int
    saved_bytes: int
    weight_saved_bytes: int
    output_bytes: int


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
    """

    layers: tuple[LayerCosts, ...]
    link: LinkCosts
    stage_f_s: float
    stage_i_s: float
    optimizer_s_per_byte: float
    source: str


@dataclass(frozen=True)
class StageCosts:
    """Prices by stage, each a tuple with one entry a stage: what the simulator reads.

    Attributes:
        f_s, i_s, w_s: Seconds of the three ops (B = I + W).
        parameter_bytes: Bytes of the stage's parameters.
        saved_bytes: Activations of one micro-batch, kept from F until I (or B).
        weight_saved_bytes: What of them W still needs once I has run.
        output_bytes: The message to the next stage; its gradient has the same size.
    """

    f_s: tuple[float, ...]
    i_s: tuple[float, ...]
    w_s: tuple[float, ...]
    parameter_bytes: tuple[int, ...]
    saved_bytes: tuple[int, ...]
    weight_saved_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]

    @property
    def num_stages(self) -> int:
        """Stages that are priced."""
        return len(self.f_s)


def stage_costs(costs: Costs, bounds: Sequence[int]) -> StageCosts:
    """Adds layers up to stages. Stage ``s`` holds layers ``bounds[s] … bounds[s + 1] - 1``."""
    groups = [costs.layers[a:b] for a, b in pairwise(bounds)]
    return StageCosts(
        f_s=tuple(costs.stage_f_s + sum(layer.f_s for layer in group) for group in groups),
        i_s=tuple(costs.stage_i_s + sum(layer.i_s for layer in group) for group in groups),
        w_s=tuple(sum(layer.w_s for layer in group) for group in groups),
        parameter_bytes=tuple(sum(layer.parameter_bytes for layer in group) for group in groups),
        saved_bytes=tuple(sum(layer.saved_bytes for layer in group) for group in groups),
        weight_saved_bytes=tuple(sum(layer.weight_saved_bytes for layer in group) for group in groups),
        output_bytes=tuple(group[-1].output_bytes for group in groups),
    )
