"""A plan or a stage that cannot work is one sentence on the rank that met it, and no rank waits for ever."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.chain.build import ModelSource
from headrace.chain.part import Part
from headrace.engine import Batch, Engine
from headrace.errors import RequestError
from headrace.plan import Plan
from tests.engine.failing import FOUR, Said, said
from tests.engine.grid import differences, plan_of, run_each
from tests.engine.jobs import SETTINGS, batches, plan
from tests.ranks import Ranks

TWO = plan((0, 3, 6), "1f1b", 3)


def refused(the_plan: Plan) -> str:
    with pytest.raises(RequestError) as error:
        Engine(ModelSource(FOUR), the_plan, SETTINGS)
    return str(error.value)


def test_another_number_of_processes_than_the_plan_has_ranks_is_refused_on_each(ranks: Ranks) -> None:
    for text in ranks.run(3, refused, TWO):
        assert text == (
            "the plan is for 2 ranks (dp=1 x pp=2 x tp=1), but 3 processes were started; start 2, or plan for 3"
        )


def test_a_schedule_that_is_not_that_of_the_layout_is_refused(ranks: Ranks) -> None:
    turned = replace(TWO, layout=replace(TWO.layout, placement=(1, 0)))
    assert set(ranks.run(2, refused, turned)) == {
        "schedule '1f1b' places its stages on ranks [0, 1], but the plan on [1, 0]; take the schedule's"
    }
    more = replace(TWO, layout=replace(TWO.layout, bounds=(0, 2, 3, 6)))
    assert set(ranks.run(2, refused, more)) == {
        "schedule '1f1b' has 2 stages, but the plan cuts the model into 3; give layout.bounds 3 entries"
    }


class Spoilt(ModelSource):
    """A source whose first stage passes on what was not promised, from some step on."""

    def __init__(self, spoil: str, step: int) -> None:
        super().__init__(FOUR)
        object.__setattr__(self, "spoil", (spoil, step))

    def build(self, first: int, stop: int, device: Any = "cpu") -> Part:
        part = super().build(first, stop, device)
        spoil, step = self.spoil
        if first == 0:
            layer = part.model.model.layers[part.local_layers()[-1]]
            real = layer.forward

            def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
                hidden = real(*args, **kwargs)
                if part._key[1] < step:
                    return hidden
                return hidden.double() if spoil == "dtype" else hidden[..., :-1]

            layer.forward = forward
        return part


def spoilt(the_plan: Plan, batch: Batch, spoil: str, step: int) -> Said:
    return said(Engine(Spoilt(spoil, step), the_plan, SETTINGS), batch, steps=3)


@pytest.mark.parametrize(("spoil", "step"), [("dtype", 0), ("dtype", 1), ("shape", 0), ("shape", 2)])
def test_another_shape_or_type_than_promised_is_named_with_its_place_also_in_the_middle_of_a_run(
    ranks: Ranks, spoil: str, step: int
) -> None:
    answers = ranks.run(2, spoilt, TWO, batches(1)[0], spoil, step)
    kind, text = answers[0]
    assert kind == "RequestError"
    assert text.startswith(f"rank 0, step {step + 1}: F(stage 0, micro-batch 0): llama passes [3, 16, ")
    assert text.endswith("where [3, 16, 32] torch.float32 can cross a cut")
    assert answers[1][0] == "PeerLostError"


class Bare(torch.nn.Module):
    """A layer without a single parameter."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.sin(hidden_states)


class WithBareLayers(ModelSource):
    """Layers 1 and 2 have no parameters; every stage must do with what it holds."""

    def build(self, first: int, stop: int, device: Any = "cpu") -> Part:
        part = super().build(first, stop, device)
        for index in {1, 2} & set(part.local_layers()):
            part.model.model.layers[index] = Bare()
        return part


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_a_stage_without_parameters_passes_gradients_through(ranks: Ranks, schedule: str) -> None:
    answers = ranks.run(3, trained, plan((0, 2, 4, 6), schedule, 3))
    (alone,) = ranks.run(1, trained, plan((0, 6), schedule, 3))
    assert answers[1][2] == {}
    for losses, norms, weights in answers:
        assert (losses, norms) == alone[:2]
        assert weights.items() <= alone[2].items()


def trained(the_plan: Plan) -> tuple[list[float], list[float], dict[str, list[float]]]:
    engine = Engine(WithBareLayers(FOUR), the_plan, SETTINGS)
    results = [engine.step(batch) for batch in batches(3)]
    bare = {n: p for n, p in engine.parameters.local.items() if ".layers.1." not in n and ".layers.2." not in n}
    weights = {n: p.detach().flatten().tolist() for n, p in bare.items()}
    return [r.loss for r in results], [r.grad_norm for r in results], weights


@pytest.mark.parametrize("family", ["interleaved-1f1b", "zb-v", "hanayo"])
def test_fewer_rows_than_microbatches_run_as_that_many_microbatches(ranks: Ranks, family: str) -> None:
    """M 6 and 10 at four ranks of two chunks too: pytorch#129597, PiPPy#1129."""
    got = run_each(ranks, "llama", 4, [plan_of(family, 4, m) for m in (8, 10, 16)])
    for one in got[1:]:  # Eight rows: all of them are eight micro-batches.
        assert differences(one, got[0]) == []
