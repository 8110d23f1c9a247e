"""Cut models have the bits of plain transformers; public bug reports of other trainers are named in the docstrings."""

import pytest
import torch

from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.errors import RequestError
from tests.chain import models


@pytest.mark.parametrize("name", models.VARIANTS)
def test_loss_and_gradients_are_those_of_plain_transformers_at_every_cut(name: str) -> None:
    """torchtitan#1723, Megatron#752, #1583, pytorch#162898: masks, packing and layer numbers survive any cut."""
    config = models.variant(name)
    whole, rows, source = models.moved(config), models.batches(config), ModelSource(config)
    expected = models.plain_losses(whole, rows)
    weights = dict(whole.named_parameters())
    for bounds in models.every_bounds(3):
        parts = models.cut(source, bounds, weights)
        assert models.cut_losses(parts, rows) == expected, bounds
        models.assert_gradients(source, whole, models.gradients(parts))


@pytest.mark.parametrize("name", models.SETTINGS)
def test_bfloat16_has_the_same_bits_too(name: str) -> None:
    config = models.variant(name)
    whole, rows = models.moved(config, torch.bfloat16), models.batches(config)
    source = ModelSource(config, dtype=torch.bfloat16)
    parts = models.cut(source, [0, 2, 3, 5], dict(whole.named_parameters()))
    assert models.cut_losses(parts, rows) == models.plain_losses(whole, rows)
    got = models.gradients(parts)
    tied = {name for pair in source.anatomy.tied for name in pair}
    for parameter_name, parameter in whole.named_parameters():
        if parameter_name not in tied and parameter.grad is not None:
            assert torch.equal(got[parameter_name], parameter.grad), parameter_name


def test_positions_are_refused_by_a_type_that_would_not_see_them() -> None:
    source = ModelSource(models.variant("bloom"))
    ids = torch.ones(1, 4, dtype=torch.long)
    row = MicroBatch(ids, ids, 3, position_ids=torch.tensor([[0, 1, 0, 1]]))
    with pytest.raises(RequestError, match="bloom takes no position_ids"):
        source.build(0, 2).forward(None, row)


@pytest.mark.parametrize("shape", ["transposed", "expanded"])
def test_hidden_states_that_are_not_contiguous_cross_a_cut(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch#62283, #192920, ChatLearn#132: a block that ends in a transposed or an expanded view."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    real = LlamaDecoderLayer.forward

    def forward(self: LlamaDecoderLayer, *args: object, **kwargs: object) -> torch.Tensor:
        hidden = real(self, *args, **kwargs)
        if shape == "transposed":
            return hidden.transpose(0, 1).contiguous().transpose(0, 1)
        return hidden[:, :1].expand_as(hidden)

    config = models.variant("llama")
    rows = [MicroBatch(r.input_ids.repeat(2, 1), r.labels.repeat(2, 1), 22) for r in models.batches(config)[2:3]]
    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    whole, source = models.moved(config), ModelSource(config)
    expected = models.plain_losses(whole, rows)
    parts = models.cut(source, [0, 2, 3, 5], dict(whole.named_parameters()))
    assert parts[0].forward(None, rows[0]).is_contiguous()
    assert models.cut_losses(parts, rows) == expected
    models.assert_gradients(source, whole, models.gradients(parts))
