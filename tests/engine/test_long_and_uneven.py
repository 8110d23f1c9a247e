"""Scenarios of public bug reports about order, uneven cuts, many steps and layers that are skipped."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from headrace.chain.build import ModelSource
from headrace.chain.part import Part
from headrace.engine import Batch, Engine
from headrace.plan import Plan
from tests.engine.grid import Result, differences, train_each
from tests.engine.jobs import SETTINGS, batches, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

FOUR = tiny(num_hidden_layers=4)


def one_run(ranks: Ranks, the_plan: Plan, steps: list[Batch]) -> Result:
    answers = [one for (one,) in ranks.run(the_plan.layout.pp, train_each, ModelSource(FOUR), [the_plan], steps)]
    gradients = {n: h for answer in answers for n, h in answer.gradients.items()}
    weights = {n: h for answer in answers for n, h in answer.weights.items()}
    return Result(answers[0].losses, answers[0].norms, gradients, weights)


def test_twenty_clipped_steps_end_with_the_same_bits_in_every_layout(ranks: Ranks) -> None:
    """torchtitan#4312, torchtitan#596: the norm is one for all ranks, summed in one order."""
    steps = batches(20)
    alone = one_run(ranks, plan((0, 6), "1f1b", 4), steps)
    assert min(alone.norms) > SETTINGS.clip_norm
    for other in (
        plan((0, 2, 6), "1f1b", 4),
        plan((0, 1, 3, 5, 6), "1f1b", 4),
        plan((0, 2, 3, 5, 6), "interleaved-1f1b", 4, 2),
    ):
        assert differences(one_run(ranks, other, steps), alone) == []


@pytest.mark.parametrize("num_layers", [5, 6, 7])
def test_zb_v_takes_any_number_of_layers(ranks: Ranks, num_layers: int) -> None:
    """zero-bubble#9, torchtitan#774: an even number of layers a rank was asked for."""
    config, steps = tiny(num_hidden_layers=num_layers), batches(2)
    bounds = (0, 2, 4, num_layers, num_layers + 2)
    got = merged(ranks.run(2, train, config, plan(bounds, "zb-v", 6, 2), steps))
    assert_same_bits(got, merged(ranks.run(1, train, config, plan((0, num_layers + 2), "1f1b", 6), steps)))


class Skipping(ModelSource):
    """The later half of the layers is skipped for micro-batch 1."""

    def build(self, first: int, stop: int, device: Any = "cpu") -> Part:
        part = super().build(first, stop, device)
        for index in {2, 3} & set(part.local_layers()):
            layer = part.model.model.layers[index]
            layer.forward = _skipping(part, layer.forward)
        return part


def _skipping(part: Part, forward: Any) -> Any:
    def skipping(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states if part._key[2] == 1 else forward(hidden_states, *args, **kwargs)

    return skipping


@pytest.mark.parametrize(
    ("schedule", "bounds", "chunks"), [("1f1b", (0, 3, 6), 1), ("zb-h1", (0, 3, 6), 1), ("zb-v", (0, 2, 3, 4, 6), 2)]
)
def test_a_microbatch_that_skips_layers_leaves_them_without_a_gradient(
    ranks: Ranks, schedule: str, bounds: tuple[int, ...], chunks: int
) -> None:
    """pytorch#152827, pytorch#182182: no gradient for one micro-batch was an error."""
    steps = batches(2)
    got = merged(ranks.run(2, train, Skipping(FOUR), plan(bounds, schedule, 4, chunks), steps))
    assert_same_bits(got, merged(ranks.run(1, train, Skipping(FOUR), plan((0, 6), "gpipe", 4), steps)))


def test_each_microbatch_meets_its_own_labels(ranks: Ranks) -> None:
    """DeepSpeed#5729: outputs of one met labels of the next. Each has a number of valid labels of its own here."""
    ids = batches(1)[0].input_ids
    labels = torch.full_like(ids, -100)
    for row in range(8):
        labels[row, 1 : 3 + row] = row + 3
    batch = Batch(ids, labels)
    (losses,) = (found for found in ranks.run(2, losses_by_microbatch, plan((0, 3, 6), "1f1b", 4), batch) if found)
    model = AutoModelForCausalLM.from_config(FOUR)
    model.load_state_dict(dict(ModelSource(FOUR).build(0, 6).named_parameters()))
    valid = batch.num_valid_tokens
    for index, (rows, of_rows) in enumerate(zip(ids.split(2), labels.split(2), strict=True)):
        assert losses[index] == float(model(input_ids=rows, labels=of_rows, num_items_in_batch=valid).loss.detach())


def losses_by_microbatch(the_plan: Plan, batch: Batch) -> dict[int, float]:
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS)
    stage, found = next(iter(engine._stages.values())), {}
    real = stage.backward

    def watched(microbatch: int, *rest: Any) -> Any:
        output = real(microbatch, *rest)
        found.update({number: float(loss) for number, loss in stage.losses.items()})
        return output

    stage.backward = watched
    engine.step(batch)
    return found


@pytest.mark.parametrize("microbatches", [6, 10])
def test_interleaving_takes_any_number_of_microbatches(ranks: Ranks, microbatches: int) -> None:
    """pytorch#129597, PiPPy#1129: a multiple of the ranks was asked for."""
    config, steps = tiny(num_hidden_layers=8), batches(1, rows=10)
    eight = plan((0, 2, 3, 4, 5, 6, 7, 8, 10), "interleaved-1f1b", microbatches, 2)
    got = merged(ranks.run(4, train, config, eight, steps))
    assert_same_bits(got, merged(ranks.run(1, train, config, plan((0, 10), "gpipe", microbatches), steps)))
