"""Every schedule of one copy and one version of the weights gives the same bits as one plain process."""

from functools import cache
from typing import Any

import pytest
import torch

from headrace.schedule import FAMILIES, check, make_schedule
from tests.engine.jobs import batches, plain, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

SYNCHRONOUS = [name for name in FAMILIES if name not in ("dualpipe", "chimera", "pipedream", "pipedream-2bw")]
MODELS = {
    "llama": lambda: tiny(num_hidden_layers=8),
    "gpt2": lambda: tiny("gpt2", num_hidden_layers=8, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1),
    "mixtral": lambda: tiny("mixtral", num_hidden_layers=8, num_local_experts=4, num_experts_per_tok=2),
}


def even_bounds(num_stages: int, num_layers: int = 10) -> tuple[int, ...]:
    """Uneven where it does not divide; the chain of the models above has 10 layers."""
    return tuple(round(stage * num_layers / num_stages) for stage in range(num_stages + 1))


def plan_of(family: str, num_ranks: int, microbatches: int) -> Any:
    schedule = make_schedule(family, num_ranks, microbatches)
    bounds = even_bounds(schedule.num_stages)
    return plan(bounds, family, microbatches, schedule.num_stages // num_ranks)


@cache
def judged(model: str, microbatches: int, start: tuple[tuple[str, torch.Tensor], ...]) -> Any:
    return plain(MODELS[model](), dict(start), batches(2), microbatches)


_start: dict[str, dict[str, torch.Tensor]] = {}


def compare(ranks: Ranks, model: str, family: str, num_ranks: int, microbatches: int) -> None:
    got = merged(ranks.run(num_ranks, train, MODELS[model](), plan_of(family, num_ranks, microbatches), batches(2)))
    start = _start.setdefault(model, got[4])
    assert all(torch.equal(start[name], tensor) for name, tensor in got[4].items())
    assert_same_bits(got, judged(model, microbatches, tuple(start.items())))


@pytest.mark.parametrize("family", SYNCHRONOUS)
@pytest.mark.parametrize(("num_ranks", "microbatches"), [(2, 1), (2, 5), (3, 5), (4, 2), (4, 8)])
def test_llama_has_the_bits_of_plain_transformers_in_every_schedule(
    ranks: Ranks, family: str, num_ranks: int, microbatches: int
) -> None:
    compare(ranks, "llama", family, num_ranks, microbatches)


@pytest.mark.parametrize("model", ["gpt2", "mixtral"])
@pytest.mark.parametrize("family", ["1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "v-min"])
def test_dropout_and_experts_have_the_bits_of_plain_transformers(ranks: Ranks, family: str, model: str) -> None:
    compare(ranks, model, family, 2, 5)


def test_the_list_of_families_that_are_tested_is_complete() -> None:
    ascending = {n for n in SYNCHRONOUS if check(make_schedule(n, 4, 4)).ascending}
    assert ascending == set(SYNCHRONOUS)
