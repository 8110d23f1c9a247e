"""Generation through the pipeline: the tokens of transformers' own `generate`, in every layout."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from headrace.chain.build import ModelSource
from headrace.engine import Engine
from headrace.errors import RequestError
from headrace.plan import Plan
from tests.engine.jobs import SETTINGS, plan, tiny
from tests.ranks import RankFailed, Ranks

LOUD = {"initializer_range": 0.4}
"""Weights so large that what is likeliest changes from token to token."""
MODELS = {
    "llama": lambda: tiny(**LOUD),
    "gpt2": lambda: tiny("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3, **LOUD),
    "gemma2": lambda: tiny("gemma2", tie_word_embeddings=True, head_dim=8, sliding_window=4, initializer_range=0.1),
    "mixtral": lambda: tiny("mixtral", num_local_experts=4, num_experts_per_tok=2, **LOUD),
}
PLANS = {
    1: plan((0, 9), "1f1b", 2),
    2: plan((0, 3, 9), "1f1b", 1),
    3: plan((0, 1, 6, 9), "gpipe", 5),
    "v": plan((0, 2, 4, 7, 9), "zb-v", 2, 2),
}


def prompts(rows: int = 3, length: int = 5) -> Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(1))


def sampled(config: PretrainedConfig, the_plan: Plan, requests: list[dict[str, Any]]) -> Any:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    found = [engine.generate(**request) for request in requests]
    engine.close()
    return {engine.parameters.global_name(n): p.detach() for n, p in engine.parameters.local.items()}, found


def run(ranks: Ranks, config: PretrainedConfig, the_plan: Plan, *requests: dict[str, Any]) -> Any:
    """The model that was sampled, by plain transformers; and what every rank answered."""
    answers = ranks.run(the_plan.layout.pp, sampled, config, the_plan, list(requests))
    model = AutoModelForCausalLM.from_config(config).eval()
    weights = {name: tensor for mine, _ in answers for name, tensor in mine.items()}
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)
    model.generation_config.eos_token_id = None
    for _, found in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, answers[0][1], strict=True))
    return model, answers[0][1]


def judged(model: PreTrainedModel, ids: Tensor, num_tokens: int, **settings: Any) -> Tensor:
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, **settings
    )
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("layout", [1, 3, "v"])
def test_the_likeliest_tokens_are_those_of_transformers(ranks: Ranks, model_type: str, layout: int | str) -> None:
    request = {"prompt_ids": prompts(), "num_tokens": 12}
    model, (got,) = run(ranks, MODELS[model_type](), PLANS[layout], request)
    assert torch.equal(got, judged(model, prompts(), 12))
    assert len({tuple(row) for row in got[:, 5:].tolist()}) == 3
    assert len(set(got[:, 5:].flatten().tolist())) >= 8


def test_a_row_ends_at_the_end_token_and_the_run_with_the_last_row(ranks: Ranks) -> None:
    config, whole = tiny(**LOUD), {"prompt_ids": prompts(), "num_tokens": 12}
    model, (free,) = run(ranks, config, PLANS[2], whole)
    one, two = (int(token) for token in free[0, [7, 9]])
    alone = {**whole, "prompt_ids": prompts()[:1]}
    _, (rows, first, second) = run(
        ranks, config, PLANS[2], {**whole, "end_token": one}, {**alone, "end_token": one}, {**alone, "end_token": two}
    )
    assert torch.equal(rows, judged(model, prompts(), 12, eos_token_id=one, pad_token_id=one))
    for token, got in ((one, first), (two, second)):
        assert torch.equal(got, judged(model, prompts()[:1], 12, eos_token_id=token, pad_token_id=token))
        assert got.shape[1] < 17


def test_draws_are_keyed_by_the_seed_whatever_the_layout(ranks: Ranks) -> None:
    config, drawn = tiny(), {"prompt_ids": prompts(), "num_tokens": 9, "temperature": 1.0}
    _, (first, other, cold) = run(ranks, config, PLANS[1], drawn, {**drawn, "seed": 1}, {**drawn, "temperature": 1e-6})
    assert not torch.equal(first, other)
    for layout in (2, 3, "v"):
        model, (got,) = run(ranks, config, PLANS[layout], drawn)
        assert torch.equal(got, first)
    assert torch.equal(cold, judged(model, prompts(), 9))


def test_tokens_come_as_often_as_the_model_says_they_should(ranks: Ranks) -> None:
    rows = 20_000
    request = {"prompt_ids": prompts(1, 3).repeat(rows, 1), "num_tokens": 1, "temperature": 0.5}
    model, (got,) = run(ranks, tiny(num_hidden_layers=2, **LOUD), plan((0, 2, 4), "1f1b", 2), request)
    with torch.no_grad():
        shares = (model(prompts(1, 3)).logits[0, -1].double() / 0.5).softmax(-1)
    counts = torch.bincount(got[:, -1], minlength=97)
    # Five standard deviations of a binomial count, over 97 tokens.
    assert bool(((counts - rows * shares).abs() <= 5 * (rows * shares * (1 - shares)).sqrt() + 1).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_tokens": 60}, "has 5 tokens and 60 more were asked for, but the model knows 64 positions; ask for 59"),
        ({"num_tokens": 0}, "0 new tokens were asked for; ask for 1 or more"),
        ({"temperature": -1.0}, "the temperature is -1.0; give a number that is 0"),
        (
            {"prompt_ids": torch.tensor([[5, 97]])},
            "the prompt holds token 97, but the model knows 97 tokens, from 0 on",
        ),
        ({"prompt_ids": torch.tensor([[-1, 5]])}, "the prompt holds token -1,"),
        ({"prompt_ids": torch.tensor([[]])}, r"the prompt has shape \[1, 0\]; give at least one row of at least one"),
    ],
)
def test_what_the_model_has_no_room_for_is_refused(ranks: Ranks, change: dict[str, Any], words: str) -> None:
    request = {"prompt_ids": prompts(), "num_tokens": 2} | change
    with pytest.raises(RankFailed, match=f"{RequestError.__name__}: .*{words}"):
        ranks.run(1, sampled, tiny(num_hidden_layers=2), plan((0, 4), "1f1b", 1), [request])
