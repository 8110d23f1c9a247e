"""Frozen parameters: the bits of plain transformers with the same ones frozen, and no work for them."""

from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.engine import Engine
from headrace.engine.batch import Batch
from headrace.plan import Plan
from headrace.plan.memory import state_bytes
from tests.engine.jobs import SETTINGS, batches, plain, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

FOUR = tiny(num_hidden_layers=4)
BOUNDS = {2: (0, 3, 6), 3: (0, 2, 4, 6)}
SETS = {
    "embedding": ("model.embed_tokens",),
    "some": ("*norm.weight", "*.up_proj", "model.layers.1.self_attn.q_proj.weight"),
    "all but the head": ("model",),
    "the middle": ("model.layers.1", "model.layers.2"),
    "all but the embedding": ("lm_head", "model.layers", "model.norm"),
    "the beginning": ("model.embed_tokens", "model.layers.0", "model.layers.1"),
}


def check(ranks: Ranks, config: PretrainedConfig, freeze: tuple[str, ...], the_plan: Plan) -> None:
    source = ModelSource(config, freeze=freeze)
    got = merged(ranks.run(the_plan.layout.pp, train, source, the_plan, batches(3)))
    frozen = source.frozen
    expected = plain(config, got[4], batches(3), the_plan.microbatches, frozen=frozen)
    assert_same_bits(got, expected)
    assert all(torch.equal(got[3][name], got[4][name]) for name in frozen)


@pytest.mark.parametrize(("stages", "schedule"), [(2, "1f1b"), (3, "zb-h1")])
@pytest.mark.parametrize("name", SETS)
def test_loss_gradients_norm_and_weights_equal_plain_transformers_with_the_same_set_frozen(
    ranks: Ranks, name: str, stages: int, schedule: str
) -> None:
    check(ranks, FOUR, SETS[name], plan(BOUNDS[stages], schedule, 4))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_v_shape_and_recomputation_go_with_frozen_layers(ranks: Ranks, recompute: str) -> None:
    check(ranks, FOUR, SETS["the beginning"], plan((0, 2, 3, 5, 6), "zb-v", 4, 2, recompute=recompute))


@pytest.mark.parametrize("bounds", [(0, 3, 6), (0, 6)])
def test_a_frozen_tied_embedding_stays_as_it_is_at_both_ends(ranks: Ranks, bounds: tuple[int, ...]) -> None:
    """To the last bit, since there is no gradient of two sums."""
    check(ranks, tiny(num_hidden_layers=4, tie_word_embeddings=True), ("model.embed_tokens",), plan(bounds, "1f1b", 4))


def test_nothing_is_kept_computed_or_stepped_for_what_is_frozen(ranks: Ranks) -> None:
    the_plan = plan((0, 3, 6), "zb-h1", 4)
    source = ModelSource(FOUR, freeze=("model",))
    chain = source.chain()
    for rank, seen in enumerate(ranks.run(2, counts, source, the_plan, batches(1)[0])):
        expected = state_bytes(chain, range(the_plan.layout.bounds[rank], the_plan.layout.bounds[rank + 1]))
        assert seen == {
            "gradient": expected.gradient_bytes,
            "optimizer": expected.optimizer_bytes,
            "nodes": rank,  # The frozen stage builds no graph at all.
            "products": 4 * rank,  # The head's, one a micro-batch.
        }


def counts(source: ModelSource, the_plan: Plan, batch: Batch) -> dict[str, int]:
    engine = Engine(source, the_plan, SETTINGS)
    (stage,) = engine._stages.values()
    real, seen = stage.input_backward, {"gradient": 0, "optimizer": 0, "nodes": 0, "products": 0}

    def input_backward(microbatch: int, gradient: torch.Tensor | None) -> Any:
        seen["nodes"] = int(stage._saved[microbatch][1] is not None)
        answer = real(microbatch, gradient)
        seen["products"] += len(stage._weight_gradients._waiting[microbatch])
        return answer

    norms = engine.parameters.norms

    def count_gradients() -> list[float]:
        gradients = [p.grad for p in engine.parameters.local.values() if p.grad is not None]
        seen["gradient"] = sum(g.numel() * g.element_size() for g in gradients)
        return norms()

    stage.input_backward, engine.parameters.norms = input_backward, count_gradients
    engine.step(batch)
    engine.close()
    moments = [t for state in engine.optimizer.state.values() for t in state.values() if t.ndim]
    seen["optimizer"] = sum(t.numel() * t.element_size() for t in moments)
    return seen
