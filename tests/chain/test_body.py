"""The body, which answers the last hidden state, is found by what the model itself calls; its loss comes late."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from headrace.chain.anatomy import find_anatomy, meta_model
from headrace.chain.build import ModelSource
from headrace.errors import RequestError
from tests.chain.models import assert_gradients, batches, cut, moved, variant


@pytest.mark.parametrize(
    ("name", "path"), [("llama", "model"), ("gpt2", "transformer"), ("gpt_neox", "gpt_neox"), ("opt", "model.decoder")]
)
def test_the_body_is_the_outermost_module_around_the_layers_that_the_model_calls(name: str, path: str) -> None:
    assert find_anatomy(meta_model(variant(name), torch.float32)).body_path == path


def test_a_model_that_calls_its_layers_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.lm_head(self.model.embed_tokens(input_ids))

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(RequestError, match="llama is not supported: its head cannot be told from its layers"):
        find_anatomy(meta_model(variant("llama"), torch.float32))


def test_the_loss_is_no_number_until_its_backward_has_run() -> None:
    part, row = ModelSource(variant("llama")).build(0, 5), batches(variant("llama"))[0]
    loss = part.forward(None, row)
    with torch.no_grad():
        at_once = part.forward(None, row)
    assert math.isnan(loss.detach())
    loss.backward()
    assert torch.equal(loss, at_once)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_autocast_reaches_the_head_though_its_backward_runs_outside(name: str) -> None:
    config, row = variant(name), batches(variant(name))[2]
    whole = moved(config)
    source = ModelSource(config)
    (part,) = cut(source, [0, 5], dict(whole.named_parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        labels = {"labels": row.labels, "num_items_in_batch": row.num_valid_tokens}
        expected = whole(input_ids=row.input_ids, use_cache=False, **labels).loss
        loss = part.forward(None, row)
    expected.backward()
    loss.backward()
    assert torch.equal(loss, expected)
    if not source.anatomy.tied:
        assert_gradients(source, whole, {n: p.grad for n, p in part.named_parameters()})


def test_chunks_of_tokens_differ_by_at_most_one_and_the_larger_ones_come_first() -> None:
    config = variant("llama")
    part = ModelSource(config).build(0, 5)
    part.loss_chunks, seen = 5, []
    part.model.lm_head.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape)))
    part.forward(None, batches(config)[2]).backward()
    assert seen == [(1, 3, 32), (1, 3, 32), (1, 2, 32), (1, 2, 32), (1, 2, 32)]
