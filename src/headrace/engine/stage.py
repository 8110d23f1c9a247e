"""One stage: the ops F, B, I and W on a part of the chain, and what must be kept between them."""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.engine.offload import Offload
from headrace.engine.split_backward import WeightGradients, defer_weight_gradients


class Stage:
    """A part of the chain with its activations in flight.

    Attributes:
        part: The layers.
        losses: Where the head is here: each micro-batch's share of the step's loss, in the order of their forwards.
    """

    def __init__(self, part: Part, split_backward: bool, loss_chunks: int = 1) -> None:
        """Prepares the layers.

        Args:
            part: The layers, with weights, and with what they compute again.
            split_backward: Whether I and W will be asked for (else only B).
            loss_chunks: Where the head is here, chunks of tokens in which the loss is computed.
        """
        self.part = part
        self.losses: dict[int, Tensor] = {}
        self._saved: dict[int, tuple[Tensor | None, GradientEdge | None]] = {}
        self._weight_gradients: WeightGradients | None = None
        self._offload: Offload | None = None
        if loss_chunks > 1:
            part.loss_chunks = loss_chunks
        if split_backward:
            # A chunk's gradient of logits must not wait for W, so the head multiplies it at once, chunk after chunk.
            model = part.model if loss_chunks == 1 else part.body
            self._weight_gradients = defer_weight_gradients(model, part.compiled_layers)

    def offload_to_host(self, offload: Offload) -> None:
        """From now on what F saves waits where ``offload`` puts it."""
        self._offload = offload

    def forward(self, microbatch: int, hidden: Tensor | None, batch: MicroBatch) -> Tensor | None:
        """Op F. Takes the hidden state of the stage before; answers that for the next, None behind the head."""
        if hidden is not None and self.part.passes_gradient:
            hidden.requires_grad_()
        with self._offload.saving(microbatch, hidden) if self._offload else nullcontext():
            output = self.part.forward(hidden, batch)
        # The edge keeps the graph alive but not the output, whose memory is free as soon as it has been sent.
        self._saved[microbatch] = (hidden, get_gradient_edge(output) if output.requires_grad else None)
        if self.part.has_head:
            self.losses[microbatch] = output.detach()
            return None
        return output.detach()

    def backward(self, microbatch: int, gradient: Tensor | None) -> Tensor | None:
        """Op B. Takes the gradient of the output (None behind the head) and answers that of the input."""
        input_gradient = self.input_backward(microbatch, gradient)
        if self._weight_gradients is not None:
            self._weight_gradients.run(microbatch)
        return input_gradient

    def input_backward(self, microbatch: int, gradient: Tensor | None) -> Tensor | None:
        """Op I: like B, but the linear layers' weight gradients are left for `weight_backward`."""
        hidden, edge = self._saved.pop(microbatch)
        if self._offload is not None:
            self._offload.begin_backward(microbatch)
        if self._weight_gradients is not None:
            self._weight_gradients.collect(microbatch)
        if edge is not None:
            torch.autograd.backward([edge], None if gradient is None else [gradient])
        if hidden is None:
            return None
        # A part that lets nothing through (bypassed, or all before it is frozen) sends a gradient all the same: zero.
        return torch.zeros_like(hidden) if hidden.grad is None else hidden.grad

    def weight_backward(self, microbatch: int) -> None:
        """Op W: the weight gradients that op I of the same micro-batch left."""
        assert self._weight_gradients is not None
        self._weight_gradients.run(microbatch)

    def clear(self) -> None:
        """Forgets a step that has not come to its end."""
        self.losses.clear()
        self._saved.clear()
        if self._offload is not None:
            self._offload.clear()
        self.part.model.zero_grad(set_to_none=True)
