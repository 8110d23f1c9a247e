"""The proof that cutting a model changes nothing: small random weights, every cut, against the unsplit model."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.chain.small import small_config
from headrace.errors import RequestError

PROVEN_TYPES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_neox", "opt", "olmo2"}
    | {"granite", "starcoder2", "falcon", "bloom", "mixtral"}
)
"""Types that the tests prove; a model of any other type is proven before it is trained."""


@dataclass(frozen=True)
class Verdict:
    """What the check found.

    Attributes:
        type: The model type.
        exact: Loss and every gradient equal the unsplit model's to the last bit, at every cut (gradients of a tied
            weight, whose two sums are added in another order, within 1e-6).
        cuts: Cuts that were tried.
        layers: Transformer layers of the small model.
        tied: Whether embedding and head share a weight in it.
        reason: Why it is refused; None where it is exact.
    """

    type: str
    exact: bool
    cuts: int
    layers: int = 0
    tied: bool = False
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def check(config: PretrainedConfig) -> Verdict:
    """Cuts a small model of this type at every place and compares it with the unsplit one.

    Never raises for a model that cannot be cut: the verdict then holds the reason.
    """
    name = config.model_type
    try:
        source = ModelSource(small_config(config))
        layers, tied = source.anatomy.num_layers, bool(source.anatomy.tied)
        cuts = layers + 1
        reason = next(filter(None, (_compare(source, cut) for cut in range(1, cuts + 1))), None)
    except RequestError as error:
        return Verdict(name, False, 0, reason=str(error))
    except Exception as error:  # Foreign model code may fail in any way; each is a reason to refuse.
        return Verdict(name, False, 0, reason=f"{type(error).__name__}: {error}".splitlines()[0])
    return Verdict(name, reason is None, cuts, layers, tied, reason)


def require_exact(config: PretrainedConfig) -> None:
    """Raises `RequestError`, with the reason, where cutting this model is impossible or would change it."""
    ModelSource(config).anatomy  # noqa: B018 (refuses by itself)
    if config.model_type not in PROVEN_TYPES and not (verdict := check(config)).exact:
        raise RequestError(f"{config.model_type} is not supported: {verdict.reason}; choose another type of model")


def _batches(vocab_size: int) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocab_size, (3, 12), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[1, 5:] = -100
    mask[1, 9:] = 0
    labels[1, 9:] = -100
    valid = int((labels[:, 1:] != -100).sum())
    return [
        MicroBatch(ids[:2], labels[:2], valid, mask[:2], key=(0, 0, 0)),
        MicroBatch(ids[2:], labels[2:], valid, key=(0, 0, 1)),
    ]


def _compare(source: ModelSource, cut: int) -> str | None:
    """Runs the model cut before chain layer ``cut``; answers what differs, or None."""
    anatomy = source.anatomy
    parts = [source.build(0, cut), source.build(cut, anatomy.num_layers + 2)]
    whole = AutoModelForCausalLM.from_config(source.config, dtype=source.dtype).train()
    state = {n: p for part in parts for n, p in part.named_parameters()}
    with torch.no_grad():
        for parameter in state.values():  # Start weights are often ones and zeros, which would hide a lost one.
            parameter.add_(0.02 * torch.randn_like(parameter))
        for copy, owner in anatomy.tied:
            state[copy].copy_(state[owner])
        for name, parameter in whole.named_parameters():
            parameter.copy_(state[name])
    for batch in _batches(source.config.get_text_config(decoder=True).vocab_size):
        expected, loss = _whole_loss(whole, batch), _cut_loss(parts, batch)
        if not torch.equal(expected, loss):
            return f"cut before layer {cut}: the loss differs by {abs(float(expected - loss)):.3g}"
    return _compare_gradients(dict(whole.named_parameters()), state, anatomy.tied, cut)


def _whole_loss(whole: torch.nn.Module, batch: MicroBatch) -> Tensor:
    torch.manual_seed(0)
    loss: Tensor = whole(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        num_items_in_batch=batch.num_valid_tokens,
        use_cache=False,
    ).loss
    loss.backward()
    return loss.detach()


def _cut_loss(parts: list[Part], batch: MicroBatch) -> Tensor:
    out = parts[0].forward(None, batch)
    hidden = out.detach().requires_grad_()
    loss = parts[1].forward(hidden, batch)
    loss.backward()
    out.backward(hidden.grad)
    return loss.detach()


def _compare_gradients(
    whole: dict[str, torch.nn.Parameter],
    state: dict[str, torch.nn.Parameter],
    tied: tuple[tuple[str, str], ...],
    cut: int,
) -> str | None:
    owners = {owner: copy for copy, owner in tied}
    for name, parameter in whole.items():
        expected, got = parameter.grad, state[name].grad
        if name in owners and got is not None:
            copy_grad = state[owners[name]].grad
            got = got if copy_grad is None else got + copy_grad
        if expected is None or got is None:
            one = got if expected is None else expected
            if one is not None and bool(one.any()):
                return f"cut before layer {cut}: only one side has a gradient of {name}"
        elif name in owners:
            if not torch.allclose(expected, got, rtol=1e-6, atol=1e-6 * float(expected.abs().max())):
                return f"cut before layer {cut}: the gradient of the tied {name} differs by more than 1e-6"
        elif not torch.equal(expected, got):
            return (
                f"cut before layer {cut}: the gradient of {name} differs by {float((expected - got).abs().max()):.3g}"
            )
    return None
