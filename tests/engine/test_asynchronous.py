"""Asynchronous schedules have the bits of delayed updates in one plain process."""

import gc
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.cluster import Cluster, Device, Link
from headrace.costs import analytic_costs
from headrace.engine import AdamWSettings, Batch, Engine
from headrace.plan import Plan, Wanted, make_plan
from headrace.schedule import make_schedule, schedule_to_json, split_backward
from headrace.schedule.schedule import Schedule
from tests.engine.delayed import SETTINGS, Seen, delayed, double_buffered, stashed, train_asynchronously
from tests.engine.jobs import batches, plan, tiny
from tests.ranks import RankFailed, Ranks

CUTS = {1: (0, 9), 2: (0, 3, 9), 3: (0, 1, 6, 9), 4: (0, 4, 5, 8, 9)}
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}


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


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("family", ["pipedream", "pipedream-2bw"])
def test_dropout_has_the_bits_of_delayed_updates(ranks: Ranks, family: str, recompute: str) -> None:
    every, seen = (1, stashed(3)) if family == "pipedream" else (3, double_buffered(3))
    compare(ranks, tiny("gpt2", **DROPOUT), plan(CUTS[3], family, 7, recompute=(recompute,) * 7), every, seen)


def handmade(schedule: Schedule) -> Plan:
    written = schedule_to_json(schedule)
    orders = tuple(map(tuple, written["orders"]))
    updates = {"update_every": schedule.update_every, "delayed_update": schedule.delayed_update}
    return replace(plan(CUTS[schedule.num_ranks], "1f1b", schedule.num_microbatches), orders=orders, **updates)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("num_stages", "every"), [(2, 2), (3, 3), (3, 4)])
def test_gradients_of_several_versions_are_gathered_into_one_update(
    ranks: Ranks, num_stages: int, every: int, split: bool
) -> None:
    """With stashing and an update after several micro-batches; the last one takes what is left."""
    schedule = replace(make_schedule("1f1b", num_stages, 8 if every == 3 else 7), update_every=every)
    the_plan = handmade(split_backward(schedule) if split else schedule)
    compare(ranks, tiny(), the_plan, every, stashed(num_stages, every))


def test_steps_of_fewer_rows_have_fewer_updates(ranks: Ranks) -> None:
    steps = [batches(1, rows)[0] for rows in (8, 3, 8)]
    answers = ranks.run(2, train_asynchronously, tiny(), plan(CUTS[2], "pipedream", 8), steps)
    assert [len(step) for step in answers[1][2]] == [8, 3, 8]


def evaluate_between(config: PretrainedConfig, the_plan: Plan, steps: list[Batch], looks: bool) -> Any:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    told = []
    for batch in steps:
        told.append(engine.step(batch).loss)
        if looks:
            evaluated = engine.evaluate(batch).loss
            assert evaluated < told[-1], "of the weights after the step"
    return told, {name: p.detach().clone() for name, p in engine.parameters.local.items()}


def test_an_evaluation_sees_the_newest_weights_and_changes_nothing(ranks: Ranks) -> None:
    job = (tiny(), plan(CUTS[2], "pipedream-2bw", 6), batches(3))
    looked, did_not = ranks.run(2, evaluate_between, *job, True), ranks.run(2, evaluate_between, *job, False)
    for mine, other in zip(looked, did_not, strict=True):
        assert mine[0] == other[0]
        assert all(torch.equal(mine[1][name], tensor) for name, tensor in other[1].items())


def priced_plan(config: PretrainedConfig, family: str, num_stages: int) -> Plan:
    source = ModelSource(config)
    chain = source.chain()
    machine = (Device("made up", "cpu", 10**12, 1e11, 1e10), Link(0.0, 1e9))
    cluster = Cluster((machine[0],) * num_stages, machine[1])
    wanted = Wanted(pp=num_stages, schedule=family, microbatches=8)
    return make_plan(chain, lambda rows: analytic_costs(chain, *machine, rows, 16), cluster, 8, 16, wanted)[0]


def count_bytes(config: PretrainedConfig, the_plan: Plan, steps: list[Batch]) -> tuple[int, int]:
    """Of all parameters that are alive at the end, and of the gradients before an update."""
    gc.collect()
    before = {id(one) for one in gc.get_objects() if type(one) is torch.nn.Parameter}
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    gradient_bytes, real_norms = 0, engine.parameters.norms

    def norms() -> list[float]:
        nonlocal gradient_bytes
        if engine.steps_done and not gradient_bytes:
            gradient_bytes = sum(one.grad.nbytes for one in parameters() if one.grad is not None)
        return real_norms()

    def parameters() -> list[torch.nn.Parameter]:
        return [one for one in gc.get_objects() if type(one) is torch.nn.Parameter and id(one) not in before]

    engine.parameters.norms = norms
    for batch in steps:
        engine.step(batch)
    gc.collect()
    memories = {one.data_ptr(): one.nbytes for one in parameters()}
    return sum(memories.values()), gradient_bytes


@pytest.mark.parametrize("family", ["pipedream", "pipedream-2bw"])
def test_versions_take_the_memory_that_the_plan_predicts(ranks: Ranks, family: str) -> None:
    config = tiny()
    the_plan = priced_plan(config, family, 3)
    got, predicted = ranks.run(3, count_bytes, config, the_plan, batches(2)), the_plan.prediction
    assert predicted is not None
    assert [one[0] for one in got] == list(predicted.parameter_bytes)
    assert [one[1] for one in got] == list(predicted.gradient_bytes)


def spoil_one_gradient(config: PretrainedConfig, the_plan: Plan, steps: list[Batch]) -> Any:
    """Stage 1 finds an infinite gradient of its own in the second update."""
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    real_norms, calls = engine.parameters.norms, [0]
    kept: list[dict[str, torch.Tensor]] = []

    def norms() -> list[float]:
        kept.append({name: p.detach().clone() for name, p in engine.parameters.local.items()})
        calls[0] += 1
        if engine.rank == 1 and calls[0] == 2:
            next(p for p in engine.parameters.local.values() if p.grad is not None).grad.fill_(math.inf)
        return real_norms()

    engine.parameters.norms = norms
    result = engine.step(steps[0])
    return result.skipped, result.loss, kept, engine.step(steps[1]).skipped


def test_a_stage_leaves_out_an_update_that_is_not_finite_and_goes_on(ranks: Ranks) -> None:
    answers = ranks.run(2, spoil_one_gradient, tiny(), plan(CUTS[2], "pipedream", 4), batches(2))
    for rank, (skipped, loss, kept, skipped_later) in enumerate(answers):
        assert skipped
        assert math.isfinite(loss)
        assert not skipped_later
        changed = [
            any(not torch.equal(before[name], after[name]) for name in before) for before, after in pairwise(kept[:4])
        ]
        assert changed == [True, rank == 0, True]


def test_micro_batches_without_a_label_change_nothing_and_count_nothing(ranks: Ranks) -> None:
    (batch,) = batches(1, rows=4)
    batch.labels[1] = -100
    answers = ranks.run(2, train_asynchronously, tiny(), plan(CUTS[2], "pipedream", 4), [batch])
    each = answers[1][2][0]
    assert math.isnan(each[1])
    counted = [int((row[1:] != -100).sum()) for row in batch.labels]
    expected = sum(each[mb] * counted[mb] for mb in (0, 2, 3)) / sum(counted)
    assert answers[0][0] == pytest.approx([expected], rel=1e-6)


def start(config: PretrainedConfig, the_plan: Plan, settings: AdamWSettings) -> None:
    Engine(ModelSource(config), the_plan, settings)


def test_what_no_local_update_can_give_is_refused_before_the_first_step(ranks: Ranks) -> None:
    the_plan = plan(CUTS[2], "pipedream", 4)
    clips = replace(SETTINGS, clip_norm=1.0)
    words = "RequestError: train.clip_norm is 1, but schedule pipedream updates .*set train.clip_norm=null"
    with pytest.raises(RankFailed, match=words):
        ranks.run(2, start, tiny(), the_plan, clips)
    words = "lm_head.weight is tied to model.embed_tokens.weight, but schedule pipedream updates stage 0 and stage 1"
    with pytest.raises(RankFailed, match=words):
        ranks.run(2, start, tiny(tie_word_embeddings=True), the_plan, SETTINGS)
    with pytest.raises(RankFailed, match=r"set parallel\.post_validation=false"):
        ranks.run(2, start, tiny(), replace(the_plan, post_validation=True), SETTINGS)


def test_ends_that_are_tied_on_one_stage_share_every_version(ranks: Ranks) -> None:
    config, steps = tiny(tie_word_embeddings=True, num_hidden_layers=2), batches(2)
    (got,) = ranks.run(1, train_asynchronously, config, plan((0, 4), "pipedream-2bw", 4), steps)
    expected = delayed(config, got[4], steps, 4, 1, double_buffered(1), lambda _: 0)
    assert got[0] == pytest.approx(expected[0], rel=1e-6)
    for name, tensor in expected[3].items():
        # The owner's two sums are added in another order than in one graph, and AdamW divides by small numbers.
        torch.testing.assert_close(got[3][name], tensor, rtol=1e-4, atol=1e-4)


def test_compiled_layers_see_their_versions(ranks: Ranks) -> None:
    """The backend runs what was traced by torch's own kernels, so the same judge holds."""
    config, steps, the_plan = tiny(num_hidden_layers=2), batches(2), plan((0, 2, 4), "pipedream", 5)
    source = ModelSource(config, compile_backend="aot_eager")
    plainly = ranks.run(2, train_asynchronously, config, the_plan, steps)
    compiled = ranks.run(2, train_asynchronously, source, the_plan, steps)
    for mine, other in zip(compiled, plainly, strict=True):
        assert mine[2] == other[2]
        assert all(torch.equal(mine[3][name], tensor) for name, tensor in other[3].items())
