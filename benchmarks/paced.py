"""Stages whose compute is a sleep of known length, so that many ranks overlap on few cores: order and runtime alone."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from headrace.chain import RecomputeMode
from headrace.chain.anatomy import Anatomy
from headrace.chain.microbatch import MicroBatch
from headrace.engine.split_backward import WeightGradients


@dataclass(frozen=True)
class Pace:
    """Seconds of one stage's ops, and the numbers in its boundary tensor (float32)."""

    f_s: float
    i_s: float
    w_s: float
    boundary_numbers: int


class Sleeper:
    """Sleeps for just the seconds it is told, in the mean: learns by how much the machine wakes it late.

    Otherwise each op of each runtime would last about 0.1 ms longer than stated, which is a property of timers.
    """

    def __init__(self) -> None:
        self._late_s = 0.0

    def sleep(self, seconds: float) -> None:
        begin_s = time.perf_counter()
        time.sleep(max(0.0, seconds - self._late_s))
        missed_s = time.perf_counter() - begin_s - seconds
        self._late_s += max(-1e-4, min(missed_s, 1e-4)) / 8  # One long interruption must not shorten what follows.


class _SleepInput(torch.autograd.Function):
    """Sleeps in the backward, as the gradient of the input would take; then leaves W, or sleeps for it too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "PacedLayer") -> Tensor:
        ctx.layer = layer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        layer.sleeper.sleep(layer.pace.i_s)
        if layer.later is None:
            layer.sleeper.sleep(layer.pace.w_s)
        else:
            layer.later.leave(lambda: layer.sleeper.sleep(layer.pace.w_s))
        return grads[0], None


class PacedLayer(nn.Module):
    """One layer of a headrace stage."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace, self.sleeper = pace, Sleeper()
        self.weight = nn.Parameter(torch.zeros(1))
        self.later: WeightGradients | None = None

    def defer_weight_gradient(self, later: WeightGradients) -> None:
        self.later = later

    def forward(self, x: Tensor) -> Tensor:
        self.sleeper.sleep(self.pace.f_s)
        output: Tensor = _SleepInput.apply(x, self)
        return output


class PacedPart:
    """Stands for a part of a chain."""

    def __init__(self, pace: Pace, first: int, num_stages: int) -> None:
        self.model = nn.ModuleList([PacedLayer(pace)])
        self.name = f"stages.{first}.weight"
        self.has_embedding, self.has_head = first == 0, first == num_stages - 1
        self.recompute: tuple[RecomputeMode, ...] = ()
        self.compiled_layers: list[nn.Module] = []
        self.passes_gradient = first > 0
        self._pace = pace

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(self.name, self.model[0].weight)]

    def local_layers(self) -> range:
        return range(0)

    def forward(self, hidden: Tensor | None, batch: MicroBatch) -> Tensor:
        if hidden is None:
            hidden = torch.zeros(1, 1, self._pace.boundary_numbers, requires_grad=True)
        output: Tensor = self.model[0](hidden)
        return output[0, 0, 0] if self.has_head else output


class PacedSource:
    """Stands for a model: ``num_stages`` equal stages."""

    def __init__(self, pace: Pace, num_stages: int) -> None:
        self._pace, self._num_stages = pace, num_stages
        self.config = AutoConfig.for_model("llama", hidden_size=pace.boundary_numbers, num_attention_heads=1)
        self.dtype = torch.float32
        names = tuple(f"stages.{stage}.weight" for stage in range(num_stages))
        self.anatomy = Anatomy("stages", num_stages - 2, frozenset(), False, (), (), names)

    def build(self, first: int, stop: int, device: torch.device) -> PacedPart:
        return PacedPart(self._pace, first, self._num_stages)


class _SleepInputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float, sleeper: Sleeper) -> Tensor:
        ctx.seconds, ctx.sleeper = seconds, sleeper
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.sleeper.sleep(ctx.seconds)
        return grads[0], None, None


class _SleepWeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, shape: torch.Size, seconds: float, sleeper: Sleeper) -> Tensor:
        ctx.seconds, ctx.sleeper = seconds, sleeper
        return weight.new_zeros(1).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.sleeper.sleep(ctx.seconds)
        return grads[0].new_zeros(1), None, None, None


class PacedModule(nn.Module):
    """The same for torch's pipelining, whose split backward follows the graph: one path for I and one for W."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace, self.sleeper = pace, Sleeper()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.sleeper.sleep(self.pace.f_s)
        if not torch.is_grad_enabled():
            return x
        through: Tensor = _SleepInputGradient.apply(x, self.pace.i_s, self.sleeper)
        weighed: Tensor = _SleepWeightGradient.apply(self.weight, x.shape, self.pace.w_s, self.sleeper)
        return through + weighed
