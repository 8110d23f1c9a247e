"""What op I leaves for op W: products that make weight gradients, in the order in which I met them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[..., Tensor]


class WeightGradients:
    """The products that I left for W, by micro-batch and in the order in which I met them."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Callable[[], None]]] = {}
        self._uses: dict[Tensor, _Gradient] = {}
        self._microbatch = 0

    def collect(self, microbatch: int) -> None:
        """From now on products are left for the W of ``microbatch``."""
        self._microbatch, self._uses = microbatch, {}
        self._waiting[microbatch] = deque()

    def leave(self, work: Callable[[], None]) -> None:
        """Keeps any work for later."""
        self._waiting[self._microbatch].append(work)

    def leave_gradient(self, parameter: Tensor, product: Product, *factors: Tensor) -> None:
        """Keeps a product of ``factors`` for later, which will be added to the gradient of ``parameter``.

        Where a parameter is used more than once, the products of one micro-batch are summed before, as autograd does.
        """
        gradient = self._uses.get(parameter)
        if gradient is None:
            gradient = self._uses[parameter] = _Gradient(parameter, [])
            self.leave(gradient)
        gradient.uses.append((product, factors))

    @torch.no_grad()
    def run(self, microbatch: int) -> None:
        """Does the products of ``microbatch``, letting each one's tensors go as soon as it is done."""
        self._uses = {}
        waiting = self._waiting.pop(microbatch)
        while waiting:
            waiting.popleft()()


@dataclass(frozen=True, slots=True)
class _Gradient:
    """The products that make one parameter's gradient of one micro-batch: one for each use."""

    parameter: Tensor
    uses: list[tuple[Product, tuple[Tensor, ...]]]

    def __call__(self) -> None:
        product, factors = self.uses.pop(0)
        total = product(*factors)
        while self.uses:
            product, factors = self.uses.pop(0)
            total = total + product(*factors)
        parameter = self.parameter
        total = total.to(parameter.dtype)  # Autocast's products have fewer bits, and are summed so.
        if parameter.grad is not None:
            parameter.grad += total
        elif total.stride() == parameter.stride():
            parameter.grad = total
        else:  # A norm adds in the order of memory.
            parameter.grad = torch.empty_like(parameter).copy_(total)


def may_wait(parameter: Tensor) -> bool:
    """Whether nobody but the optimizer looks at the gradient: hooks want to see it when autograd has made it."""
    if not (parameter.is_leaf and parameter.requires_grad):
        return False
    return not (parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None))
