"""Asynchronous schedules have the bits of delayed updates in one plain process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from tests.engine.delayed import Seen, delayed, double_buffered, stashed, train_asynchronously
from tests.engine.jobs import batches, plan, tiny
from tests.ranks import Ranks

CUTS = {1: (0, 9), 2: (0, 3, 9), 3: (0, 1, 6, 9), 4: (0, 4, 5, 8, 9)}
GPT2 = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}


def stage_of(config: PretrainedConfig, bounds: tuple[int, ...]) -> Callable[[str], int]:
    """Embeddings first, then layers by number, then norm and head."""

    def chain_layer(name: str) -> int:
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        if numbers:
            return numbers[0] + 1
        return 0 if any(word in name for word in ("embed_tokens", "wte", "wpe")) else config.num_hidden_layers + 1

    return lambda name: sum(chain_layer(name) >= bound for bound in bounds[1:-1])


def compare(ranks: Ranks, config: PretrainedConfig, the_plan: Any, update_every: int, seen: Seen) -> None:
    steps, bounds = batches(2), the_plan.layout.bounds
    answers = ranks.run(the_plan.layout.pp, train_asynchronously, config, the_plan, steps)
    losses, norms = answers[0][:2]
    assert all(answer[:2] == (losses, norms) for answer in answers), "every rank tells the same"
    start, weights = ({n: t for a in answers for n, t in a[i].items()} for i in (4, 3))
    expected = delayed(config, start, steps, the_plan.microbatches, update_every, seen, stage_of(config, bounds))
    assert answers[-1][2] == expected[2], "the loss of each micro-batch"
    assert weights.keys() == expected[3].keys()
    for name, tensor in expected[3].items():
        assert torch.equal(weights[name], tensor), name
    assert losses == pytest.approx(expected[0], rel=1e-6)
    assert norms == pytest.approx(expected[1], rel=1e-6)


@pytest.mark.parametrize("recompute", [(), ("selective", "full") * 3 + ("full",)])
@pytest.mark.parametrize(("num_stages", "microbatches"), [(2, 5), (3, 5), (4, 8)])
@pytest.mark.parametrize("family", ["pipedream", "pipedream-2bw"])
def test_llama_has_the_bits_of_delayed_updates(
    ranks: Ranks, family: str, num_stages: int, microbatches: int, recompute: tuple[str, ...]
) -> None:
    every, seen = (1, stashed(num_stages)) if family == "pipedream" else (num_stages, double_buffered(num_stages))
    compare(ranks, tiny(), plan(CUTS[num_stages], family, microbatches, recompute=recompute), every, seen)
