"""Random draws depend on seed, step, micro-batch and layer alone: not on the cut, nor on what is recomputed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from headrace.chain import RECOMPUTE_MODES, RecomputeMode
from headrace.chain.build import ModelSource
from headrace.chain.part import draw_seed
from tests.chain import models


def dropping(model_type: str) -> PretrainedConfig:
    rates = {
        "gpt2": dict.fromkeys(models.NO_DROPOUT, 0.1),
        "gpt_neox": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
        "opt": {"dropout": 0.1, "attention_dropout": 0.1},
        "llama": {"attention_dropout": 0.1},
        "phi3": {"resid_pdrop": 0.1, "attention_dropout": 0.1},
    }[model_type]
    return AutoConfig.for_model(model_type, **{**models.SETTINGS[model_type], **rates})


def trained(config: PretrainedConfig, bounds: list[int], mode: RecomputeMode = "none") -> tuple[list[Tensor], dict]:
    parts = models.cut(ModelSource(config), bounds, dict(models.moved(config).named_parameters()))
    for part in parts:
        part.recompute = (mode,) * 3
    torch.manual_seed(len(bounds))  # Whatever was drawn before must not matter.
    return models.cut_losses(parts, models.batches(config)), models.gradients(parts)


def assert_same(one: tuple[list[Tensor], dict], other: tuple[list[Tensor], dict]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert torch.equal(gradient, other[1][name]), name


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "opt", "llama", "phi3"])
def test_dropout_draws_the_same_masks_in_every_layout(model_type: str) -> None:
    config = dropping(model_type)
    whole = trained(config, [0, 5])
    assert trained(models.variant(model_type), [0, 5])[0] != whole[0], "dropout is off"
    for bounds in models.every_bounds(3):
        assert_same(trained(config, bounds), whole)


@pytest.mark.parametrize("bounds", [[0, 5], [0, 3, 5], [0, 1, 5], [0, 4, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_recomputed_layers_draw_the_same_masks_again(model_type: str, mode: RecomputeMode, bounds: list[int]) -> None:
    """OLMo-core#828, DeepSpeed#1522: also behind a cut right after the embedding, and right before the head."""
    config = dropping(model_type)
    assert_same(trained(config, bounds, mode), trained(config, bounds))


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("name", models.VARIANTS)
def test_every_type_has_the_same_bits_however_much_of_it_is_computed_again(name: str, mode: RecomputeMode) -> None:
    config = models.variant(name)
    assert_same(trained(config, [0, 2, 5], mode), trained(config, [0, 2, 5]))


def test_recompute_of_micro_batches_that_are_in_flight_together() -> None:
    config = dropping("gpt2")
    rows = models.batches(config)
    answers = []
    for mode in RECOMPUTE_MODES:
        first, last = models.cut(ModelSource(config), [0, 1, 5], dict(models.moved(config).named_parameters()))
        last.recompute = (mode,) * 3
        hidden = [first.forward(None, row).detach().requires_grad_() for row in rows]
        losses = [last.forward(h, row) for h, row in zip(hidden, rows, strict=True)]
        for loss in losses:
            loss.backward()
        answers.append(([loss.detach() for loss in losses], models.gradients([last]), [h.grad for h in hidden]))
    for answer in answers[1:]:
        assert_same(answer[:2], answers[0][:2])
        assert all(torch.equal(a, b) for a, b in zip(answer[2], answers[0][2], strict=True))


def test_every_key_has_a_seed_of_its_own() -> None:
    keys = [(s, t, m, n) for s in range(3) for t in range(5) for m in range(5) for n in range(9)]
    assert len({draw_seed(*key) for key in keys}) == len(keys)


def test_two_layers_and_two_micro_batches_drop_different_places() -> None:
    """With all layers equal, equal masks would give equal outputs."""
    config = dropping("gpt2")
    whole = models.moved(config)
    weights = {n.replace(".1.", ".0.").replace(".2.", ".0."): p for n, p in whole.named_parameters()}
    same = {n: weights[n.replace(".1.", ".0.").replace(".2.", ".0.")] for n, _ in whole.named_parameters()}
    row = models.batches(config)[2]
    parts = models.cut(ModelSource(config), [0, 1, 2, 3, 4, 5], same)
    hidden = parts[0].forward(None, row).detach()
    outputs = [part.forward(hidden, row) for part in parts[1:4]]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])
    other = models.batches(config)[1].key
    assert not torch.equal(outputs[0], parts[1].forward(hidden, replace(row, key=other)))
