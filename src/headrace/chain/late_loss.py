"""The loss comes late: in the backward, together with its gradient, so that logits never wait.

Logits ``[rows, length, vocab]`` are by far the largest tensor of a model with a large vocabulary. Between the forward
and the backward of a micro-batch only the last hidden state is kept. When the backward begins, the head runs on one
chunk of tokens after the other, each with its loss and its gradient, and a chunk's logits are gone before the next's.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from headrace.chain.microbatch import MicroBatch

_IGNORED = -100
_Shares = Callable[[Tensor], Iterable[Tensor]]


def late_loss(
    model: PreTrainedModel,
    body: nn.Module,
    output: Any,
    batch: MicroBatch,
    num_chunks: int = 1,
    seed: Callable[[], None] = lambda: None,
) -> Tensor:
    """A micro-batch's share of the step's mean loss.

    Args:
        model: The ``*ForCausalLM``. Whatever it does to logits (scales, caps) is done, since it does it.
        body: Its module that answers the last hidden state.
        output: That answer, for the whole micro-batch.
        batch: The micro-batch.
        num_chunks: Chunks of tokens, the larger ones first; their sizes differ by at most one.
        seed: Called before the head runs, for its draws.

    Returns:
        A scalar. Where gradients are wanted it is NaN until its backward has run, which fills it in.
    """
    hidden: Tensor = output[0]  # [rows, length, hidden]
    answer = _answering(output)
    shifted = F.pad(batch.labels, (0, 1), value=_IGNORED)[:, 1:].reshape(-1)  # [tokens]
    num_chunks = max(1, min(num_chunks, len(shifted)))
    kind = hidden.device.type
    autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def shares(tokens: Tensor) -> Iterator[Tensor]:
        """Takes ``[tokens, hidden]``."""
        seed()
        for chunk, labels in zip(tokens.tensor_split(num_chunks), shifted.tensor_split(num_chunks), strict=True):
            with autocast:
                share = _share(model, body, answer(chunk[None]), labels[None], batch.num_valid_tokens)
            yield share

    if not torch.is_grad_enabled():
        return sum(shares(hidden.flatten(0, 1)), torch.zeros((), device=hidden.device))
    if not hidden.requires_grad:  # Frozen below the head, whose own gradients are wanted all the same.
        hidden = hidden.detach().requires_grad_()
    late: Callable[[Tensor, _Shares], Tensor] = _Late.apply
    return late(hidden, shares)


def _answering(output: Any) -> Callable[[Tensor], Any]:
    """Makes answers like ``output`` with another last hidden state; ``output``'s own is not kept."""
    if isinstance(output, tuple):
        rest = output[1:]
        return lambda hidden: (hidden, *rest)
    made, fields = type(output), {**output, "last_hidden_state": None}
    return lambda hidden: made(**{**fields, "last_hidden_state": hidden})


def _share(model: PreTrainedModel, body: nn.Module, answer: Any, labels: Tensor, num_valid_tokens: int) -> Tensor:
    """The model's own forward, in which the body only gives ``answer``; ``labels`` are ``[1, tokens]``."""
    setattr(body, "forward", lambda *_, **__: answer)  # noqa: B010 (mypy knows it as a method)
    try:
        wanted = {"labels": labels, "shift_labels": labels, "num_items_in_batch": num_valid_tokens}
        loss: Tensor = model(inputs_embeds=answer[0], use_cache=False, **wanted).loss
    finally:
        del body.forward
    return loss


class _Late(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, shares: _Shares) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.shares = shares
        loss = torch.full((), math.nan, device=hidden.device)
        ctx.loss = loss.detach()  # The same memory, but no reference from the loss to itself.
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        total = torch.zeros_like(ctx.loss)
        with torch.enable_grad():
            tokens = hidden.detach().flatten(0, 1).requires_grad_()
            for share in ctx.shares(tokens):
                share.backward(grads[0])
                total += share.detach()
        ctx.loss.copy_(total)
        assert tokens.grad is not None
        return tokens.grad.view_as(hidden), None
