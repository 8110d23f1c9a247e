"""Fused experts (one 3-D weight for all of them) whose weight gradients wait for op W."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headrace.engine.weight_gradients import WeightGradients, may_wait

_grouped_mm: Callable[..., Tensor] = torch._grouped_mm


class _DeferredExperts(torch.autograd.Function):
    """The product of each expert's rows with its matrix, whose weight gradient is left for later.

    ``rows``: ``[tokens x experts of each, in]``, sorted by expert; ``weight``: ``[experts, in, out]``, or ``[experts,
    out, in]`` where ``transposed``; ``ends``: the row behind each expert's last, ``[experts]``.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, ends: Tensor, transposed: bool, later: WeightGradients
    ) -> Tensor:
        ctx.save_for_backward(rows, ends)
        ctx.weight, ctx.transposed, ctx.later = weight, transposed, later
        return _grouped_mm(rows, weight.mT if transposed else weight, offs=ends)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        rows, ends = ctx.saved_tensors
        (grad,) = grads
        weight = ctx.weight.detach()
        ctx.later.leave_gradient(ctx.weight, _grouped_outer if ctx.transposed else _grouped_inner, grad, rows, ends)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = _grouped_mm(grad, weight if ctx.transposed else weight.mT, offs=ends)
        return grad_rows, None, None, None, None


def _grouped_outer(grad: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
    return _grouped_mm(grad.mT, rows, offs=ends)


def _grouped_inner(grad: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
    return _grouped_mm(rows.mT, grad, offs=ends)


class _ExpertsMode(TorchFunctionMode):
    """Finds the grouped products of a module's forward, whichever way the module comes to them."""

    def __init__(self, later: WeightGradients) -> None:
        super().__init__()
        self._later = later

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        settings = {name for name, value in kwargs.items() if value is not None}
        if func is torch._grouped_mm and len(args) == 2 and settings == {"offs"} and torch.is_grad_enabled():
            rows, matrix = args
            weight = matrix if matrix._base is None else matrix._base
            transposed = matrix is not weight
            whole = matrix.shape == weight.mT.shape and matrix.stride() == weight.mT.stride()
            if may_wait(weight) and (whole or not transposed):
                apply: Callable[..., Tensor] = _DeferredExperts.apply
                return apply(rows, weight, kwargs["offs"], transposed, self._later)
        return func(*args, **kwargs)


def deferred_experts(module: nn.Module, later: WeightGradients) -> Callable[..., Any]:
    """A forward in place of that of ``module``, whose grouped products of a parameter leave its gradient for W."""
    plain: Callable[..., Any] = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _ExpertsMode(later):
            return plain(*args, **kwargs)

    return forward
