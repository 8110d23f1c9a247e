"""The backward in two halves: I makes the gradient of the input, W later makes those of the linear layers' weights.

What W defers is the weight-gradient product of each linear layer, which is nearly all of it: in I the layer keeps its
input and its output's gradient, in W it multiplies them. The same products in the same order as autograd makes, so the
result is the same to the last bit (Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241, section 2).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class WeightGradients:
    """The products that I left for W, by micro-batch and in the order in which I met them."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Callable[[], None]]] = {}
        self._microbatch = 0

    def collect(self, microbatch: int) -> None:
        """From now on products are left for the W of ``microbatch``."""
        self._microbatch = microbatch
        self._waiting[microbatch] = deque()

    def leave(self, product: Callable[[], None]) -> None:
        """Keeps one product for later."""
        self._waiting[self._microbatch].append(product)

    @torch.no_grad()
    def run(self, microbatch: int) -> None:
        """Does the products of ``microbatch``, letting each one's tensors go as soon as it is done."""
        products = self._waiting.pop(microbatch)
        while products:
            products.popleft()()


class _DeferredLinear(torch.autograd.Function):
    """``x @ weight.T + bias`` whose weight and bias gradients are left for later.

    ``x``: ``[..., in]``; ``weight``: ``[out, in]``, or ``[in, out]`` where ``transposed`` (GPT-2's Conv1D).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, later: WeightGradients
    ) -> Tensor:
        ctx.save_for_backward(x)
        # Not saved: under recomputation a saved parameter comes back as another tensor, whose gradient nobody sees.
        ctx.weight, ctx.bias, ctx.transposed, ctx.later = weight, bias, transposed, later
        return _product(x, weight, bias, transposed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        grad_rows = grad.reshape(-1, grad.shape[-1])  # [rows, out]
        weight, bias, transposed = ctx.weight, ctx.bias, ctx.transposed

        def product() -> None:
            rows = x.reshape(-1, x.shape[-1])  # [rows, in]
            if weight.requires_grad:
                _add_gradient(weight, rows.t() @ grad_rows if transposed else grad_rows.t() @ rows)
            if bias is not None and bias.requires_grad:
                _add_gradient(bias, grad_rows.sum(0))

        ctx.later.leave(product)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_rows @ (weight.t() if transposed else weight)).view(x.shape)
        return grad_x, None, None, None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    if not transposed:
        return nn.functional.linear(x, weight, bias)
    assert bias is not None
    return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])


def _add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def defer_weight_gradients(model: nn.Module) -> WeightGradients:
    """Makes every linear layer of ``model`` leave its weight gradient to W; everything else finishes inside I.

    A module of another kind may do the same by a method ``defer_weight_gradient(later)``, which is called once.
    """
    later = WeightGradients()
    for module in model.modules():
        if callable(defer := getattr(module, "defer_weight_gradient", None)):
            defer(later)
        elif isinstance(module, (nn.Linear, Conv1D)):
            setattr(module, "forward", _deferred_forward(module, later))  # noqa: B010 (mypy knows it as a method)
    return later


def _deferred_forward(module: nn.Linear | Conv1D, later: WeightGradients) -> Callable[[Tensor], Tensor]:
    transposed = isinstance(module, Conv1D)
    apply: Callable[..., Tensor] = _DeferredLinear.apply

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return _product(x, module.weight, module.bias, transposed)
        # A detached alias shares the memory but not the graph: only x keeps this op alive in the backward.
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        return apply(x, module.weight, module.bias, transposed, later)

    return forward
