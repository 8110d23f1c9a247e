"""A linear layer whose weight gradient waits for op W."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headrace.engine.weight_gradients import WeightGradients, may_wait


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
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        if not transposed:
            return nn.functional.linear(x, weight, bias)
        assert bias is not None
        return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        grad_rows = grad.reshape(-1, grad.shape[-1])  # [rows, out]
        rows = x.detach().reshape(-1, x.shape[-1])  # [rows, in]
        weight, bias = ctx.weight, ctx.bias
        ctx.later.leave_gradient(weight, _inner if ctx.transposed else _outer, grad_rows, rows)
        if bias is not None and bias.requires_grad:
            ctx.later.leave_gradient(bias, _sum_rows, grad_rows)
        grad_x = None
        if ctx.needs_input_grad[0]:
            weight = weight.detach().to(x.dtype)
            grad_x = (grad_rows @ (weight.t() if ctx.transposed else weight)).view(x.shape)
        return grad_x, None, None, None, None


def _outer(grad_rows: Tensor, rows: Tensor) -> Tensor:
    return grad_rows.t() @ rows


def _inner(grad_rows: Tensor, rows: Tensor) -> Tensor:
    return rows.t() @ grad_rows


def _sum_rows(grad_rows: Tensor) -> Tensor:
    return grad_rows.sum(0)


def deferred_linear(module: nn.Linear | Conv1D, later: WeightGradients) -> Callable[..., Tensor]:
    """A forward in place of that of ``module``; where the gradient cannot wait, it is the same."""
    plain: Callable[..., Tensor] = module.forward
    transposed = isinstance(module, Conv1D)
    apply: Callable[..., Tensor] = _DeferredLinear.apply

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        (x,) = (*args, *kwargs.values())
        weight, bias = module.weight, module.bias
        if not (torch.is_grad_enabled() and may_wait(weight)):
            return plain(x)
        if bias is not None and bias.requires_grad and not may_wait(bias):
            return plain(x)
        if not torch.is_autocast_enabled(x.device.type):
            return apply(x, weight, bias, transposed, later)
        x = x.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            return apply(x, weight, bias, transposed, later)

    return forward
