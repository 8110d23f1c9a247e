"""I and W together make autograd's gradients to the last bit, whatever stands around or in place of a linear layer."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from headrace.engine.split_backward import defer_weight_gradients
from tests.engine.jobs import tiny

MICROBATCHES = 3


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(self.inner(x).tanh()))


class Shared(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.outer.weight = self.inner.weight


class Halved(nn.Linear):
    """A forward of its own, as quantised and adapted layers have."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight / 2, self.bias)


class Lora(nn.Module):
    """What adapters do: the frozen layer as it is, and two small ones beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.a, self.b = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.b(self.a(x)) * 2


class Watched(nn.Module):
    """One call is not differentiated, one is by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.inner(x).abs().amax()
        return self.inner(input=x) / scale


class OutOfReach(nn.Module):
    """The input needs no gradient, as behind a frozen embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.detach()) * x


class Again(Twice):
    def forward(self, x: Tensor) -> Tensor:
        run: Callable[[Tensor], Tensor] = super().forward
        return checkpoint(run, x, use_reentrant=False)


def hooked() -> nn.Module:
    model = Twice()
    model.inner.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model.inner.register_forward_hook(lambda _, __, output: output + 1)
    model.outer.register_full_backward_hook(lambda _, grads, __: (grads[0] * 3,))
    model.outer.weight.register_hook(lambda grad: grad * 5)
    return model


def frozen(part: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    model.get_parameter(part).requires_grad_(False)
    return model


def normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def parametrized() -> nn.Module:
    linear = nn.Linear(8, 8)
    parametrize.register_parametrization(linear, "weight", Doubled())
    return nn.Sequential(linear, nn.Linear(8, 8))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False)),
    "conv1d": lambda: nn.Sequential(Conv1D(8, 8), nn.GELU(), Conv1D(8, 8)),
    "called twice": Twice,
    "shared weight": Shared,
    "own forward": lambda: nn.Sequential(Halved(8, 8), nn.Linear(8, 8)),
    "adapter": lambda: nn.Sequential(Lora(nn.Linear(8, 8)), nn.Linear(8, 8)),
    "no_grad inside": Watched,
    "input without gradient": OutOfReach,
    "recomputed": Again,
    "hooks": hooked,
    "frozen weight": lambda: frozen("0.weight"),
    "frozen bias": lambda: frozen("2.bias"),
    "weight_norm": normed,
    "parametrization": parametrized,
}


def gradients(model: nn.Module, autocast: bool, split: bool) -> tuple[dict[str, Tensor | None], list[Tensor]]:
    """Of all parameters after some micro-batches, and of the inputs; I of the next before W of the last, as ZB does."""
    later = defer_weight_gradients(model) if split else None
    generator = torch.Generator().manual_seed(3)
    inputs = []
    for microbatch in range(MICROBATCHES):
        x = torch.randn(2, 5, 8, generator=generator).requires_grad_()
        inputs.append(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(x.view_as(x))  # Autocast treats a leaf otherwise: it casts it once for all its uses.
        if later is not None:
            later.collect(microbatch)
        output.float().square().sum().backward()
        if later is not None and microbatch:
            later.run(microbatch - 1)
    if later is not None:
        later.run(MICROBATCHES - 1)
    return {n: p.grad for n, p in model.named_parameters()}, [x.grad for x in inputs if x.grad is not None]


def assert_equal(got: Any, expected: Any) -> None:
    assert got[0].keys() == expected[0].keys()
    for name, gradient in expected[0].items():
        if gradient is None:
            assert got[0][name] is None, name
        else:
            assert torch.equal(got[0][name], gradient), name
            assert got[0][name].dtype == gradient.dtype, name
            assert got[0][name].stride() == gradient.stride(), name  # A norm adds in the order of memory.
    for mine, judge in zip(got[1], expected[1], strict=True):
        assert torch.equal(mine, judge)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_i_and_w_equal_autograd_to_the_last_bit(name: str, autocast: bool) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    twin = MODELS[name]()
    twin.load_state_dict(model.state_dict())
    assert_equal(gradients(twin, autocast, split=True), gradients(model, autocast, split=False))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "gpt_oss"])
def test_fused_experts_leave_their_weight_gradients_to_w(model_type: str, autocast: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny(model_type, num_hidden_layers=1)).train()
    twin = copy.deepcopy(model)
    later = defer_weight_gradients(twin)
    ids = torch.randint(3, 97, (MICROBATCHES, 2, 16))
    for microbatch in range(MICROBATCHES):
        later.collect(microbatch)
        for each in (model, twin):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = each(input_ids=ids[microbatch], labels=ids[microbatch], use_cache=False).loss
            loss.backward()
        if microbatch == 0:
            made = {n for n, p in twin.named_parameters() if p.grad is not None}
            assert not any("experts" in n and not n.endswith("bias") for n in made)
        later.run(microbatch)
    expected, got = ({n: p.grad for n, p in each.named_parameters()} for each in (model, twin))
    assert_equal((got, []), (expected, []))


def test_the_products_of_frozen_weights_are_never_made_nor_their_inputs_kept() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    later = defer_weight_gradients(model)
    kept: list[Tensor] = []
    x = torch.randn(4, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = model(x)
    later.collect(0)
    output.sum().backward()
    assert not later._waiting[0]
    assert {t.data_ptr() for t in kept} <= {p.data_ptr() for p in model.parameters()}
