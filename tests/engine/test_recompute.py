"""Recomputation changes no bit, and what it keeps of each micro-batch is what the plan counts with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.chain import RECOMPUTE_MODES, RecomputeMode
from headrace.chain.build import ModelSource
from headrace.costs import Costs, LinkCosts, recomputed, stage_costs
from headrace.engine import Batch, Engine
from headrace.engine.born import Born
from headrace.engine.profile import Profiler
from headrace.engine.stage import Stage
from headrace.plan import Plan
from headrace.schedule import check
from headrace.schedule.memory import activation_changes
from tests.engine.grid import MODELS, NUM_LAYERS, SYNCHRONOUS, differences, judged, plan_of, run_each
from tests.engine.jobs import SETTINGS, batches
from tests.ranks import Ranks

MIXED: tuple[RecomputeMode, ...] = ("selective", "full", "none", "selective", "full", "selective", "none", "full")
MODES = {**{mode: (mode,) * NUM_LAYERS for mode in RECOMPUTE_MODES}, "mixed": MIXED}
LINK = LinkCosts(0.0, 1e9)


def recomputing(the_plan: Plan) -> list[Plan]:
    return [replace(the_plan, recompute=MODES[name]) for name in ("selective", "full", "mixed")]


@pytest.mark.parametrize("family", ["1f1b", "zb-v"])
@pytest.mark.parametrize("model", ["llama", "gpt2", "mixtral"])
def test_every_mode_has_the_bits_of_plain_transformers(ranks: Ranks, model: str, family: str) -> None:
    """OLMo-core#828: with dropout too (gpt2), in attention, residuals and embedding; B whole, and I and W apart."""
    for got in run_each(ranks, model, 2, recomputing(plan_of(family, 2, 5))):
        assert differences(got, judged(model, 5)) == []


def test_every_mode_has_the_bits_of_plain_transformers_with_attention_written_out(ranks: Ranks) -> None:
    """gpt2 with the scores kept in memory and dropped out: what selective recomputation is for."""
    MODELS["gpt2 eager"] = eager_gpt2
    try:
        for got in run_each(ranks, "gpt2 eager", 2, recomputing(plan_of("zb-h1", 2, 5))):
            assert differences(got, judged("gpt2 eager", 5)) == []
    finally:
        del MODELS["gpt2 eager"]


def eager_gpt2() -> Any:
    config = MODELS["gpt2"]()
    config._attn_implementation = "eager"
    return config


def test_every_mode_of_a_tied_model_has_the_bits_of_one_stage_that_keeps_all(ranks: Ranks) -> None:
    (alone,) = run_each(ranks, "gemma2", 1, [plan_of("gpipe", 1, 5)])
    for family in ("1f1b", "zb-v"):
        for got in run_each(ranks, "gemma2", 2, recomputing(plan_of(family, 2, 5))):
            assert differences(got, alone) == []


def priced(model: str, rows: int) -> Costs:
    source = ModelSource(MODELS[model]())
    return Profiler(source, 16, torch.device("cpu"), LINK, lambda *_: None)(rows)


def watched_run(source: ModelSource, plans: list[Plan], batch: Batch) -> list[tuple[list[int], dict[int, int]]]:
    """For each plan the bytes of activations after each op here, and the most micro-batches of each stage."""
    return [_watched(source, one, batch) for one in plans]


def _watched(source: ModelSource, the_plan: Plan, batch: Batch) -> tuple[list[int], dict[int, int]]:
    engine = Engine(source, the_plan, SETTINGS)
    born, held_bytes, most = Born(), [], dict.fromkeys(engine._stages, 0)
    inside: list[str] = []
    for number, stage in engine._stages.items():

        def watch(name: str, number: int = number, stage: Stage = stage) -> None:
            run: Callable[..., Tensor | None] = getattr(stage, name)

            def watched(*args: Any) -> Tensor | None:
                inside.append(name)
                with born:
                    if name != "forward":  # The gradient that came in is held too, where W needs it.
                        args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)
                    output = run(*args)
                output = None if output is None else output.clone()  # What was sent is the next stage's to count.
                del args
                inside.pop()
                most[number] = max(most[number], len(stage._saved))
                if not inside:  # A whole B runs an I inside.
                    held_bytes.append(born.alive_bytes() - _gradient_bytes(engine) + _received_bytes(engine))
                return output

            setattr(stage, name, watched)

        for name in ("forward", "backward", "input_backward", "weight_backward"):
            watch(name)
    engine.step(batch)
    engine.close()
    return held_bytes, most


def _gradient_bytes(engine: Engine) -> int:
    parts = [stage.part for stage in engine._stages.values()]
    gradients = [p.grad for part in parts for _, p in part.named_parameters()]
    return sum(gradient.nbytes for gradient in gradients if gradient is not None)


def _received_bytes(engine: Engine) -> int:
    waiting = [hidden for stage in engine._stages.values() for hidden, _ in stage._saved.values()]
    return sum(hidden.nbytes for hidden in waiting if hidden is not None)


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2", "mixtral"])
def test_the_bytes_kept_in_a_real_run_fall_as_predicted(ranks: Ranks, model: str) -> None:
    """Within 5%, on each rank, in every mode; per-layer modes lie strictly between none and full."""
    plans = [replace(plan_of("1f1b", 2, 4), recompute=modes) for modes in MODES.values()]
    source, costs = ModelSource(MODELS[model]()), priced(model, 2)
    measured = list(zip(*ranks.run(2, watched_run, source, plans, batches(1)[0]), strict=True))
    peaks = {}
    for (name, modes), the_plan, by_rank in zip(MODES.items(), plans, measured, strict=True):
        predicted = predicted_peaks(costs, the_plan, modes)
        peaks[name] = [max(held_bytes) for held_bytes, _ in by_rank]
        assert peaks[name] == pytest.approx(predicted, rel=0.05), name
    for rank in range(2):
        assert peaks["full"][rank] < peaks["mixed"][rank] < peaks["none"][rank]
        assert peaks["full"][rank] < peaks["selective"][rank] < peaks["none"][rank]


def test_activations_of_1f1b_fall_from_stage_to_stage_as_the_plan_says(ranks: Ranks) -> None:
    """DeepSpeed#4477: stages of equal layers hold 4, 3, 2 and 1 micro-batches, so 4 : 3 : 2 : 1 of activations."""
    the_plan, costs = plan_of("1f1b", 4, 8), priced("llama", 1)
    layout = replace(the_plan.layout, bounds=(0, 3, 5, 7, 10))
    the_plan = replace(the_plan, layout=layout)
    answers = ranks.run(4, watched_run, ModelSource(MODELS["llama"]()), [the_plan], batches(1, rows=8)[0])
    peaks = [max(held_bytes) for ((held_bytes, _),) in answers]
    assert peaks == pytest.approx(predicted_peaks(costs, the_plan, ()), rel=0.05)
    assert [peak / peaks[0] for peak in peaks] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4], rel=0.1)


def predicted_peaks(costs: Costs, the_plan: Plan, modes: tuple[RecomputeMode, ...]) -> list[float]:
    """Between ops: what runs again while an op does is gone by then."""
    schedule = the_plan.made_schedule()
    check(schedule)
    stages = stage_costs(recomputed(costs, modes), the_plan.layout.bounds)
    held = np.cumsum(activation_changes(schedule, stages.saved_bytes, stages.weight_saved_bytes))
    return [float(held[schedule.table.rank == rank].max()) for rank in range(schedule.num_ranks)]


@pytest.mark.parametrize(("num_ranks", "families"), [(2, SYNCHRONOUS), (3, ["1f1b", "zb-2p", "zb-v"])])
def test_no_family_holds_more_in_a_real_run_than_the_checker_says(
    ranks: Ranks, num_ranks: int, families: list[str]
) -> None:
    """pytorch#128910: micro-batches of each stage, and bytes of each rank, for whole and split backwards."""
    plans = [replace(plan_of(family, num_ranks, 4), recompute=MIXED) for family in families]
    source, costs = ModelSource(MODELS["llama"]()), priced("llama", 1)
    by_rank = ranks.run(num_ranks, watched_run, source, plans, batches(1, rows=4)[0])
    for index, the_plan in enumerate(plans):
        in_flight = check(the_plan.made_schedule()).stage_peak_in_flight
        predicted = predicted_peaks(costs, the_plan, MIXED)
        for rank in range(num_ranks):
            held_bytes, most = by_rank[rank][index]
            assert all(count <= in_flight[stage] for stage, count in most.items()), the_plan.schedule
            assert max(held_bytes) <= 1.05 * predicted[rank], the_plan.schedule
            assert held_bytes[-1] <= 100, "losses alone are left"
