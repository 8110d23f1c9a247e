"""The proof that cutting a model changes nothing: small random weights, every cut, against the unsplit model."""

import inspect
import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from headrace.chain.anatomy import small_model
from headrace.chain.build import ModelSource, config_of, refuse_settings
from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part
from headrace.chain.small import small_config
from headrace.errors import RequestError


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


def check(config: PretrainedConfig, any_size: bool = False) -> Verdict:
    """Cuts a small model of this type at every place and compares it with the unsplit one.

    Never raises for a model that cannot be cut: the verdict then holds the reason.

    Args:
        config: Its settings; the small model has them all but the sizes.
        any_size: Whether ``config`` stands for its type alone, so that it does not matter whether a model of just
            these sizes can be built. The default sizes of some types cannot.
    """
    name = config.model_type
    try:
        refuse_settings(config)
        if not any_size:
            ModelSource(config).anatomy  # noqa: B018 (refuses settings that the small form would lose)
        source = ModelSource(small_config(config))
        anatomy = source.anatomy
        whole = _random_whole(source)
        batches = _batches(whole)
        reason = _not_trainable(whole, batches) or _not_exact(source, whole, batches)
    except RequestError as error:
        return Verdict(name, False, 0, reason=str(error))
    except Exception as error:  # Foreign model code may fail in any way; each is a reason to refuse.
        text = " ".join(str(error.__cause__ or error).split())[:200]
        return Verdict(name, False, 0, reason=f"transformers cannot build or run it: {type(error).__name__}: {text}")
    layers = anatomy.num_layers
    return Verdict(name, reason is None, layers + 1, layers, bool(anatomy.tied), reason)


def check_named(model: str) -> Verdict:
    """The verdict on what a person means by ``model``: a type, a ``config.json``, or a Hugging Face folder.

    Raises:
        RequestError: It is none of them, or transformers refuses its configuration.
    """
    verdict = check(config_of(model), any_size=not Path(model).exists())
    return verdict if Path(model).exists() else replace(verdict, type=model)


def require_exact(config: PretrainedConfig) -> None:
    """Raises `RequestError`, with the reason, where cutting this model is impossible or would change it."""
    if not (verdict := check(config)).exact:
        raise RequestError(f"{config.model_type} cannot be trained in stages: {verdict.reason}")


def _random_whole(source: ModelSource) -> PreTrainedModel:
    """The unsplit model; start weights are often ones and zeros, which would hide a lost one, so all are moved."""
    whole = small_model(source.config, source.dtype)
    whole.train()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return whole


def _batches(whole: PreTrainedModel) -> list[MicroBatch]:
    """Rows padded at the right and at the left, a full one, and one packed from two documents."""
    generator = torch.Generator().manual_seed(1)
    vocab_size = whole.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(3, vocab_size - 1, (4, 12), generator=generator)
    labels, mask = ids.clone(), torch.ones_like(ids)
    mask[0, 9:], mask[1, :2] = 0, 0
    labels[0, 5:] = -100
    labels[1, :3] = -100
    valid = int((labels[:, 1:] != -100).sum())
    rows = [MicroBatch(ids[:2], labels[:2], valid, mask[:2]), MicroBatch(ids[2:3], labels[2:3], valid)]
    if "position_ids" in inspect.signature(whole.base_model.forward).parameters:
        rows.append(MicroBatch(ids[3:], labels[3:], valid, None, torch.tensor([[*range(5), *range(7)]])))
    return rows


def _not_trainable(whole: PreTrainedModel, batches: list[MicroBatch]) -> str | None:
    """What speaks against training this model at all, cut or not."""
    with torch.no_grad():
        padded, full = (_outputs(whole, batch) for batch in batches[:2])
        if not torch.equal(full.logits, _outputs(whole, batches[1]).logits):
            return "two runs of the unsplit model differ: it draws at random where no setting says so"
        changed = batches[1].input_ids.clone()
        changed[0, -1] = 3 + (changed[0, -1] - 2) % 90
        ahead = _outputs(whole, replace(batches[1], input_ids=changed)).logits[:, :-1]
    if not torch.allclose(ahead, full.logits[:, :-1], rtol=1e-4, atol=1e-5):  # Experts may group tokens otherwise.
        hint = "; set is_decoder=true" if getattr(whole.config, "is_decoder", None) is False else ""
        return f"its answers depend on later tokens, so it is not causal{hint}"
    for output, batch in zip((padded, full), batches, strict=False):
        logits, labels = output.logits[:, :-1].float(), batch.labels[:, 1:]
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        wanted, got = float(total / batch.num_valid_tokens), float(output.loss)
        if not math.isclose(wanted, got, rel_tol=1e-4):
            return (
                f"its loss is {got:.4g} where the sum over tokens divided by num_items_in_batch is {wanted:.4g}, "
                "so micro-batches would not add up to the step's mean"
            )
    return None


def _outputs(whole: PreTrainedModel, batch: MicroBatch) -> Any:
    optional = {} if batch.position_ids is None else {"position_ids": batch.position_ids}
    return whole(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        num_items_in_batch=batch.num_valid_tokens,
        use_cache=False,
        **optional,
    )


def _not_exact(source: ModelSource, whole: PreTrainedModel, batches: list[MicroBatch]) -> str | None:
    """Cuts in two at every place, then everywhere at once; answers what differs, or None."""
    expected = []
    for batch in batches:
        loss = _outputs(whole, batch).loss
        loss.backward()
        expected.append(loss.detach())
    end = source.anatomy.num_layers + 2
    all_bounds = [[0, cut, end] for cut in range(1, end)] + [[*range(end + 1)]]
    for bounds in all_bounds:
        where = f"cut before layer {bounds[1]}" if len(bounds) == 3 else "cut into single layers"
        if reason := _compare(source, whole, bounds, list(zip(batches, expected, strict=True))):
            return f"{where}: {reason}"
    return None


def _compare(
    source: ModelSource, whole: PreTrainedModel, bounds: list[int], expected: list[tuple[MicroBatch, Tensor]]
) -> str | None:
    parts = [source.build(first, stop) for first, stop in pairwise(bounds)]
    state = [(name, parameter) for part in parts for name, parameter in part.named_parameters()]
    if reason := _copy_weights(whole, state, source.anatomy.tied):
        return reason
    for batch, loss in expected:
        got = _cut_loss(parts, batch)
        if not torch.equal(loss, got):
            return f"the loss differs by {abs(float(loss - got)):.3g}"
    return _compare_gradients(dict(whole.named_parameters()), dict(state), source.anatomy.tied)


def _copy_weights(
    whole: PreTrainedModel, state: list[tuple[str, nn.Parameter]], tied: tuple[tuple[str, str], ...]
) -> str | None:
    """Gives the parts the unsplit model's weights; each must be in one part, a tied one also in the head."""
    weights = dict(whole.named_parameters())
    held = [name for name, _ in state]
    copies = dict(tied)
    for name in {*weights, *held, *copies}:
        wanted = int(name in weights or name in copies)
        if held.count(name) != wanted:
            return f"{name} is in {held.count(name)} parts, which must be {wanted}"
    with torch.no_grad():
        for name, parameter in state:
            parameter.copy_(weights[copies.get(name, name)])
    return None


def _cut_loss(parts: list[Part], batch: MicroBatch) -> Tensor:
    received: list[Tensor | None] = [None]
    outputs: list[Tensor] = []
    for part in parts:
        outputs.append(part.forward(received[-1], batch))
        received.append(outputs[-1].detach().requires_grad_())
    gradient = None
    for output, hidden in zip(reversed(outputs), reversed(received[:-1]), strict=True):
        output.backward(gradient)
        gradient = None
        if hidden is not None:  # A part that lets nothing through hands back zero, as the engine does.
            gradient = torch.zeros_like(hidden) if hidden.grad is None else hidden.grad
    return outputs[-1].detach()


def _compare_gradients(
    whole: dict[str, nn.Parameter], state: dict[str, nn.Parameter], tied: tuple[tuple[str, str], ...]
) -> str | None:
    copies = {owner: copy for copy, owner in tied}
    for name, parameter in whole.items():
        expected, got = parameter.grad, state[name].grad
        if name in copies:
            got = _sum(got, state[copies[name]].grad)
        if expected is None or got is None:
            one = got if expected is None else expected
            if one is not None and bool(one.any()):
                return f"only one side has a gradient of {name}"
        elif name in copies:
            if not torch.allclose(expected, got, rtol=1e-6, atol=1e-6 * float(expected.abs().max())):
                return f"the gradient of the tied {name} differs by more than 1e-6"
        elif not torch.equal(expected, got):
            return f"the gradient of {name} differs by {float((expected - got).abs().max()):.3g}"
    return None


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
