"""Evaluation: the loss of plain transformers in eval mode, and a training that does not notice it."""

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.engine import Batch, Engine, EvaluationResult
from headrace.errors import RunError
from headrace.plan import Plan
from tests.engine.jobs import SETTINGS, batches, plan, tiny
from tests.ranks import Ranks

MODELS = {
    "llama": lambda: tiny(),
    "gpt2": lambda: tiny("gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3),
    "gemma2": lambda: tiny("gemma2", tie_word_embeddings=True, head_dim=8, sliding_window=4),
    "mixtral": lambda: tiny("mixtral", num_local_experts=4, num_experts_per_tok=2),
}
CUTS = {1: (0, 9), 2: (0, 3, 9), 3: (0, 1, 6, 9)}
V_CUTS = (0, 2, 4, 7, 9)


def work(config: PretrainedConfig | ModelSource, the_plan: Plan, steps: list[Batch], evaluated: list[Batch]) -> Any:
    """Trains, and evaluates all of ``evaluated`` after each step; answers losses, weights and what came out."""
    source = config if isinstance(config, ModelSource) else ModelSource(config)
    clip_norm = None if the_plan.made_schedule().update_every else SETTINGS.clip_norm
    engine = Engine(source, the_plan, replace(SETTINGS, clip_norm=clip_norm))
    losses, found = [], []
    for batch in steps:
        losses.append(engine.step(batch))
        found = [engine.evaluate(other) for other in evaluated]
    timeline = engine.timeline()
    engine.close()
    weights = {engine.parameters.global_name(n): p.detach().clone() for n, p in engine.parameters.local.items()}
    assert all(stage.part.model.training for stage in engine._stages.values())
    return [(r.loss, r.grad_norm) for r in losses], weights, found, {span.op.kind for span in timeline.spans}


def weights_of(answers: list[Any]) -> dict[str, torch.Tensor]:
    return {name: tensor for answer in answers for name, tensor in answer[1].items()}


def judged(
    config: PretrainedConfig, weights: dict[str, torch.Tensor], batch: Batch, count: int, rel: float = 1e-6
) -> float:
    """Plain transformers: the same micro-batches in turn, in eval mode."""
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(weights, strict=not config.tie_word_embeddings)
    sizes = [len(x) for x in torch.arange(batch.num_rows).tensor_split(min(count, batch.num_rows))]
    valid, total = batch.num_valid_tokens, torch.zeros(())
    with torch.no_grad():
        for ids, labels in zip(batch.input_ids.split(sizes), batch.labels.split(sizes), strict=True):
            total = total + model(input_ids=ids, labels=labels, num_items_in_batch=valid, use_cache=False).loss
        mean = float(model(input_ids=batch.input_ids, labels=batch.labels, use_cache=False).loss)
    assert float(total) == pytest.approx(mean, rel=rel)
    return float(total)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", [1, 2, 3, "v"])
def test_the_loss_is_that_of_plain_transformers_to_the_last_bit(ranks: Ranks, model: str, layout: int | str) -> None:
    config, (batch, few) = MODELS[model](), [*batches(1), *batches(1, rows=3, length=11)]
    for count in {1: (5,), 2: (1, 5), 3: (2,), "v": (1, 5)}[layout]:
        made = plan(V_CUTS, "zb-v", count, 2) if layout == "v" else plan(CUTS[int(layout)], "1f1b", count)
        answers = ranks.run(made.layout.pp, work, config, made, batches(1), [batch, few])
        weights = weights_of(answers)
        for _, _, found, _ in answers:
            for got, rows in zip(found, (batch, few), strict=True):
                assert got == EvaluationResult(judged(config, weights, rows, count), rows.num_valid_tokens)


def test_under_autocast_it_is_that_of_plain_transformers_under_autocast(ranks: Ranks) -> None:
    source, (batch,) = ModelSource(tiny(), autocast=torch.bfloat16), batches(1)
    answers = ranks.run(2, work, source, plan(CUTS[2], "zb-h1", 3), batches(1), [batch])
    with torch.autocast("cpu", torch.bfloat16):
        expected = judged(source.config, weights_of(answers), batch, 3, rel=1e-2)
    assert [a[2][0].loss for a in answers] == [expected] * 2


@pytest.mark.parametrize("schedule", ["pipedream", "pipedream-2bw"])
def test_after_an_asynchronous_step_it_is_that_of_the_newest_weights(ranks: Ranks, schedule: str) -> None:
    config, made, (batch,) = tiny(), plan(CUTS[2], schedule, 5), batches(1)
    plain, watched = (ranks.run(2, work, config, made, batches(3), between) for between in ([], [batch]))
    assert [a[0] for a in plain] == [a[0] for a in watched]
    assert [a[2][0].loss for a in watched] == [judged(config, weights_of(plain), batch, 5)] * 2


class BrokenStageError(Exception):
    """A mistake in somebody's layer."""


def broken(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> str:
    """What each rank says when the last layer raises in an evaluation."""
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    engine.step(batch)

    def fail(*_: Any) -> None:
        raise BrokenStageError("no such thing")

    if engine.rank == 1:
        engine._stages[1].part.model.base_model.layers[6].register_forward_pre_hook(fail)
    try:
        engine.evaluate(batch)
    except RunError as error:
        engine.close()
        return str(error)
    return "nothing"


def test_a_layer_that_raises_is_named_and_ends_every_rank(ranks: Ranks) -> None:
    said = ranks.run(2, broken, tiny(), plan(CUTS[2], "1f1b", 2), batches(1)[0])
    assert said[1] == "rank 1, step 1: F(stage 1, micro-batch 0) failed: BrokenStageError: no such thing"
    assert "rank 0" in said[0]


@pytest.mark.parametrize(("model", "schedule"), [("gpt2", "zb-v"), ("gemma2", "zb-v"), ("gpt2", "interleaved-1f1b")])
def test_training_has_the_same_bits_with_evaluations_in_between(ranks: Ranks, model: str, schedule: str) -> None:
    config, made, held_out = MODELS[model](), plan(V_CUTS, schedule, 3, 2), batches(1, rows=2, length=7)
    plain, watched = (ranks.run(2, work, config, made, batches(3), between) for between in ([], held_out))
    assert [a[0] for a in plain] == [a[0] for a in watched]
    expected, got = weights_of(plain), weights_of(watched)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())
    assert watched[0][3] == plain[0][3] != {"F"}, "the timeline is that of the last training step"


def kept(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> tuple[int, int, bool]:
    """The most outputs of one MLP that live at a time while evaluating, those that are left, and any graph."""
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most, graph = 0, False

    def see(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal most, graph
        alive.add(output)
        most, graph = max(most, len(alive)), graph or output.requires_grad

    layer = next(
        m for stage in engine._stages.values() for n, m in stage.part.model.named_modules() if n.endswith("mlp")
    )
    layer.register_forward_hook(see)
    engine.evaluate(batch)
    engine.close()
    return most, len(alive), graph


def test_activations_are_let_go_at_once_and_no_graph_is_kept(ranks: Ranks) -> None:
    assert ranks.run(2, kept, tiny(), plan(CUTS[2], "gpipe", 8), batches(1)[0]) == [(1, 0, False)] * 2
