"""A step that nobody waited for has the bits of one that all ranks waited for, also where it clips or skips."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.engine import AdamWSettings, Batch, Engine, channels
from headrace.engine.transport import Outbox
from headrace.errors import RunError
from headrace.plan import Plan
from tests.engine.jobs import batches, moments_of, plain_with_moments, poison, tiny
from tests.engine.test_schedules import MODELS, plan_of
from tests.ranks import Ranks

STEPS = 7
POISONED = 3
"""The step, counted from 0, whose gradients are infinite where a test says so."""


def settings(clip_norm: float | None) -> AdamWSettings:
    return AdamWSettings(learning_rate=1e-2, clip_norm=clip_norm)


def early(family: str, num_ranks: int) -> Plan:
    return replace(plan_of(family, num_ranks, 5), post_validation=True)


def follow(config: PretrainedConfig, the_plan: Plan, of: AdamWSettings, poisoned_step: int = -1) -> dict[str, Any]:
    """All that can be seen of a few steps; ``void`` are the steps whose first attempt was in vain."""
    engine = Engine(ModelSource(config), the_plan, of)
    start = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    poison(engine.parameters.local.items(), lambda: engine.steps_done == poisoned_step)
    void, run = [], engine._interpreter.run

    def watched(*args: Any) -> bool:
        good = run(*args)
        if not good:
            void.append(engine.steps_done)
            for stage in engine._stages.values():
                assert not stage._saved
                assert not stage.losses
                assert stage._offload is None or not stage._offload._moved
        return good

    engine._interpreter.run = watched
    told = [engine.advance(batch) for batch in batches(STEPS)]
    results = [result for some in (*told, engine.settle()) for result in some]
    rename = engine.parameters.global_name
    named = [(rename(n), p) for n, p in engine.parameters.local.items()]
    return {
        "steps": [r.step for r in results],
        "losses": [r.loss for r in results],
        "norms": [r.grad_norm for r in results],
        "skipped": [r.skipped for r in results],
        "told": [len(some) for some in told],
        "void": void,
        "weights": {n: p.detach().clone() for n, p in named},
        "moments": moments_of(named, engine.optimizer),
        "start": {rename(n): t for n, t in start.items()},
    }


def merged(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What every rank says must agree, what each holds is put together."""
    whole = dict(answers[0])
    for answer in answers[1:]:
        for key, value in answer.items():
            if isinstance(value, dict):
                for name in value.keys() & whole[key].keys():  # A tied one is on both ends.
                    assert torch.equal(value[name], whole[key][name]), name
                whole[key] = whole[key] | value
            else:
                assert str(value) == str(whole[key]), key  # Of nan only the text is equal.
    return whole


def assert_same_tensors(mine: dict[str, torch.Tensor], judge: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == judge.keys()
    for name in judge:
        assert torch.equal(mine[name], judge[name]), name


@cache
def judged(model: str, clip_norm: float | None, poisoned_step: int, start: tuple[tuple[str, torch.Tensor], ...]) -> Any:
    of = settings(clip_norm)
    return plain_with_moments(MODELS[model](), dict(start), batches(STEPS), 5, settings=of, poisoned_step=poisoned_step)


_start: dict[str, dict[str, torch.Tensor]] = {}


def assert_follows_plain_transformers(got: dict[str, Any], model: str, clip: float | None, poisoned: int) -> None:
    start = _start.setdefault(model, got["start"])
    assert_same_tensors(got["start"], start)
    losses, norms, _, weights, moments = judged(model, clip, poisoned, tuple(start.items()))
    assert got["steps"] == list(range(1, STEPS + 1))
    assert got["losses"] == losses
    assert str(got["norms"]) == str(norms)
    assert got["skipped"] == [step == poisoned for step in range(STEPS)]
    assert_same_tensors(got["weights"], weights)
    assert_same_tensors(got["moments"], moments)


def assert_steps_were_early(got: dict[str, Any], clip_norm: float | None) -> None:
    """Each step is early unless the one before was wrong, and where an early one is wrong the next runs twice."""
    wrong = [not norm <= (clip_norm or float("inf")) or norm == float("inf") for norm in got["norms"]]
    early_ones = [step == 0 or not wrong[step - 1] for step in range(STEPS)]
    assert got["void"] == [k + 1 for k in range(STEPS - 1) if early_ones[k] and wrong[k]]
    assert got["told"] == [int(k > 0 and early_ones[k - 1]) + int(not early_ones[k]) for k in range(STEPS)]


@pytest.mark.parametrize("family", ["1f1b", "zb-h1", "zb-h2", "zb-v"])
@pytest.mark.parametrize(
    ("num_ranks", "clip_norm", "poisoned"),
    [(3, None, -1), (2, 1.75, -1), (3, 1.75, -1), (3, 0.1, -1), (2, 1.75, POISONED), (3, 1.75, POISONED)],
    ids=["3-no", "2-some", "3-some", "3-all", "2-skip", "3-skip"],
)
def test_early_steps_have_the_bits_of_plain_transformers(
    ranks: Ranks, family: str, num_ranks: int, clip_norm: float | None, poisoned: int
) -> None:
    """zero-bubble#16, #26: an optimistic step must be undone when clipping or an infinite gradient shows up later."""
    got = merged(
        ranks.run(num_ranks, follow, MODELS["llama"](), early(family, num_ranks), settings(clip_norm), poisoned)
    )
    assert_follows_plain_transformers(got, "llama", clip_norm, poisoned)
    assert_steps_were_early(got, clip_norm)
    clipped = [norm > (clip_norm or float("inf")) for norm in got["norms"]]
    assert (any(clipped), all(clipped)) == {None: (False, False), 1.75: (True, False), 0.1: (True, True)}[clip_norm]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("family", "num_ranks"), [("zb-h2", 3), ("zb-v", 2)])
def test_a_step_that_runs_twice_draws_the_same_dropout(
    ranks: Ranks, family: str, num_ranks: int, offload: bool
) -> None:
    the_plan = replace(early(family, num_ranks), offload=offload)
    got = merged(ranks.run(num_ranks, follow, MODELS["gpt2"](), the_plan, settings(1.9)))
    assert_follows_plain_transformers(got, "gpt2", 1.9, -1)
    assert got["void"]


@pytest.mark.parametrize("family", ["1f1b", "zb-h2", "zb-v"])
def test_tied_ends_have_the_bits_of_steps_that_were_waited_for(ranks: Ranks, family: str) -> None:
    config, the_plan = tiny(num_hidden_layers=8, tie_word_embeddings=True), early(family, 2)
    waited = replace(the_plan, post_validation=False)
    got, judge = (merged(ranks.run(2, follow, config, one, settings(1.75))) for one in (the_plan, waited))
    for key in ("steps", "losses", "norms", "skipped"):
        assert got[key] == judge[key]
    assert_same_tensors(got["weights"], judge["weights"])
    assert_same_tensors(got["moments"], judge["moments"])
    assert got["void"]
    assert judge["void"] == []
    assert judge["told"] == [1] * STEPS


def test_a_rank_is_in_its_next_step_while_another_has_not_ended_this_one(ranks: Ranks, tmp_path: Path) -> None:
    """Rank 1's last op waits until rank 0 has begun the next step: with a wait for all in between, for ever."""
    losses = ranks.run(2, held_back, MODELS["llama"](), early("zb-h2", 2), str(tmp_path / "begun"))
    assert losses[0] == losses[1]


def held_back(config: PretrainedConfig, the_plan: Plan, file: str) -> list[float]:
    engine, begun, steps = Engine(ModelSource(config), the_plan, settings(None)), Path(file), batches(2)
    stage = engine._stages[engine.rank]
    forward, weight_backward = stage.forward, stage.weight_backward

    def telling_forward(*args: Any) -> Any:
        if engine.steps_done == 1:
            begun.touch()
        return forward(*args)

    def waiting_weight_backward(microbatch: int) -> None:
        weight_backward(microbatch)
        deadline_s = time.monotonic() + 60  # Ends a test that hangs.
        while engine.steps_done == 0 and microbatch == 4 and not begun.exists():
            assert time.monotonic() < deadline_s, "rank 0 waits for rank 1"
            time.sleep(0.001)

    if engine.rank == 0:
        stage.forward = telling_forward
    else:
        stage.weight_backward = waiting_weight_backward
    results = [result for batch in steps for result in engine.advance(batch)] + engine.settle()
    return [result.loss for result in results]


def test_step_answers_its_own_result_and_the_wish_to_stop_comes_with_its_step(ranks: Ranks) -> None:
    for own, told in ranks.run(2, step_then_advance, MODELS["llama"](), early("zb-h2", 2), batches(4)):
        assert own == (1, False)
        assert told == [[], [(2, True)], [(3, False)], [(4, False)], []]


def step_then_advance(config: PretrainedConfig, the_plan: Plan, steps: list[Batch]) -> Any:
    engine = Engine(ModelSource(config), the_plan, settings(None))
    first = engine.step(steps[0])
    told = [engine.advance(batch, stop=engine.rank == step == 1) for step, batch in enumerate(steps[1:], 1)]
    told += [engine.settle(), engine.settle()]
    return (first.step, first.stop), [[(result.step, result.stop) for result in some] for some in told]


@pytest.mark.parametrize(("kind", "step"), [("forward", 1), ("input_backward", 1), ("weight_backward", 0)])
def test_an_error_in_an_op_ends_every_rank(ranks: Ranks, kind: str, step: int) -> None:
    texts = ranks.run(3, failing, MODELS["llama"](), early("zb-h2", 3), kind, step)
    letter = {"forward": "F", "input_backward": "I", "weight_backward": "W"}[kind]
    assert texts[1] == f"rank 1, step {step + 1}: {letter}(stage 1, micro-batch 2) failed: ValueError: out of luck"
    assert all(text.startswith(f"rank {rank} ") for rank, text in enumerate(texts) if rank != 1), texts


def failing(config: PretrainedConfig, the_plan: Plan, kind: str, step: int) -> str:
    engine = Engine(ModelSource(config), the_plan, settings(None))
    if engine.rank == 1:
        break_op(engine, kind, lambda microbatch: engine.steps_done == step and microbatch == 2)
    try:
        for batch in batches(3):
            engine.advance(batch)
        engine.settle()
    except RunError as error:
        return str(error)
    return "no error"


def break_op(engine: Engine, kind: str, now: Any) -> None:
    stage = engine._stages[engine.rank]
    real = getattr(stage, kind)

    def bad(microbatch: int, *args: Any) -> Any:
        if now(microbatch):
            raise ValueError("out of luck")
        return real(microbatch, *args)

    setattr(stage, kind, bad)


def test_an_op_that_fails_on_weights_that_are_taken_back_is_no_error(ranks: Ranks) -> None:
    answers = ranks.run(2, failing_on_wrong_weights, MODELS["llama"](), early("zb-h2", 2))
    assert [failures for _, failures in answers] == [0, 1]
    assert answers[0][0] == answers[1][0] == [1, 2]


def failing_on_wrong_weights(config: PretrainedConfig, the_plan: Plan) -> tuple[list[int], int]:
    """The first step is clipped, so the first attempt at the second has wrong weights; there micro-batch 0 fails."""
    engine, failures = Engine(ModelSource(config), the_plan, settings(0.1)), []

    def first_time(microbatch: int) -> bool:
        if engine.steps_done == 1 and not failures:
            failures.append(microbatch)
            return True
        return False

    if engine.rank == 1:
        break_op(engine, "forward", first_time)
    results = [result for batch in batches(2) for result in engine.advance(batch)] + engine.settle()
    return [result.step for result in results], len(failures)


def test_the_copies_are_those_that_the_plan_counts(ranks: Ranks) -> None:
    """Parameters and two moments in float32: 12 bytes each, and one number of 4 bytes for each tensor's steps."""
    for copied, parameters, tensors in ranks.run(2, copied_bytes, MODELS["llama"](), early("1f1b", 2)):
        assert copied == 12 * parameters + 4 * tensors


def copied_bytes(config: PretrainedConfig, the_plan: Plan) -> tuple[int, int, int]:
    engine = Engine(ModelSource(config), the_plan, settings(None))
    for batch in batches(3):
        engine.advance(batch)
    engine.settle()
    local = engine.parameters.local.values()
    return sum(copy.nbytes for copy in engine._early._copies), sum(p.numel() for p in local), len(local)


def test_an_evaluation_between_early_steps_sees_final_weights_and_loses_no_result(ranks: Ranks) -> None:
    """Clipped at each step: without the settling the weights would be those of the early step."""
    the_plan = early("zb-h2", 2)
    got, judge = (
        ranks.run(2, evaluating, MODELS["llama"](), one) for one in (the_plan, replace(the_plan, post_validation=False))
    )
    assert got == judge
    assert got[0][1] == [1, 2, 3]


def evaluating(config: PretrainedConfig, the_plan: Plan) -> tuple[list[float], list[int]]:
    engine, losses, told = Engine(ModelSource(config), the_plan, settings(0.1)), [], []
    for batch in batches(3):
        told += engine.advance(batch)
        losses.append(engine.evaluate(batch).loss)
    told += engine.settle()
    return losses, [result.step for result in told]


def test_generation_waits_for_final_weights(ranks: Ranks) -> None:
    assert ranks.run(2, still_open_after_generating, MODELS["llama"](), early("zb-h2", 2)) == [(True, False)] * 2


def still_open_after_generating(config: PretrainedConfig, the_plan: Plan) -> tuple[bool, bool]:
    """Whether the last step was open before, and whether it is after."""
    engine = Engine(ModelSource(config), the_plan, settings(None))
    for batch in batches(2):
        engine.advance(batch)
    before = engine._made is not None
    engine.generate(batches(1)[0].input_ids[:1], 2)
    return before, engine._made is not None


def test_messages_over_sockets_are_let_go_and_have_the_same_bits(ranks: Ranks) -> None:
    (waiting, losses), (_, others) = ranks.run(2, over_sockets, MODELS["llama"](), early("zb-h2", 2))
    assert waiting == [5, 5, 5, 5, 0]  # Of 5 micro-batches, those of the last step, till it is settled.
    assert losses == others
    got = merged(ranks.run(2, follow, MODELS["llama"](), early("zb-h2", 2), settings(None)))
    assert losses == got["losses"][:4]


def over_sockets(config: PretrainedConfig, the_plan: Plan) -> tuple[list[int], list[float]]:
    """How many messages to rank 1 are kept after each step, as between two machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels, "machine_identity", lambda: "")
        engine = Engine(ModelSource(config), the_plan, settings(None))
    waiting, results = [], []
    box = next(box for box in engine._channels._outboxes.values() if isinstance(box, Outbox))
    for batch in [*batches(4), None]:
        results += engine.settle() if batch is None else engine.advance(batch)
        waiting.append(len(box._left) + len(box._leaving))
    return waiting, [result.loss for result in results]
