"""The backward in two halves: I makes the gradient of the input, W later makes those of the weights of products.

What W defers is the weight-gradient product of each linear layer and of fused experts, which is nearly all of it: in I
the layer keeps its input and its output's gradient, in W it multiplies them. The same products in the same order as
autograd makes, so the result is the same to the last bit (Qi et al., Zero Bubble Pipeline Parallelism, arXiv
2401.10241, section 2). Whatever is not exactly such a product is left to autograd, which finishes it inside I: frozen
weights, weights that are computed or shared, layers with a forward of their own.
"""

from collections import Counter
from collections.abc import Iterable

from torch import nn
from transformers.pytorch_utils import Conv1D

from headrace.engine.deferred_experts import deferred_experts
from headrace.engine.deferred_linear import deferred_linear
from headrace.engine.weight_gradients import WeightGradients

__all__ = ["WeightGradients", "defer_weight_gradients"]


def defer_weight_gradients(model: nn.Module, whole: Iterable[nn.Module] = ()) -> WeightGradients:
    """Makes plain linear layers and experts of ``model`` leave their weight gradients to W; the rest ends inside I.

    Modules inside of ``whole`` are left alone: what is compiled has its backward in one piece.
    A module of another kind may do the same by a method ``defer_weight_gradient(later)``, which is called once.
    """
    later = WeightGradients()
    apart = {module for each in whole for module in each.modules()}
    modules = [module for module in model.modules() if module not in apart]
    holders = Counter(p for module in modules for p in module.parameters(recurse=False))
    for module in modules:
        own = list(module.parameters(recurse=False))
        if callable(defer := getattr(module, "defer_weight_gradient", None)):
            defer(later)
        elif any(holders[p] > 1 for p in own):
            continue  # Autograd adds the uses of a shared weight in its own order.
        elif isinstance(module, nn.Linear | Conv1D) and _has_plain_forward(module):
            setattr(module, "forward", deferred_linear(module, later))  # noqa: B010 (mypy knows it as a method)
        elif any(p.ndim == 3 for p in own):
            setattr(module, "forward", deferred_experts(module, later))  # noqa: B010
    return later


def _has_plain_forward(module: nn.Module) -> bool:
    return type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in vars(module)
