"""Scenarios of public bug reports of other trainers; the identifiers are those threads'."""

import weakref
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.engine import AdamWSettings, Batch, Engine
from headrace.plan import Plan
from tests.engine.jobs import SETTINGS, batches, plain, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

FOUR = tiny(num_hidden_layers=4)


def whole_batch_loss(config: PretrainedConfig, start: dict[str, torch.Tensor], batch: Batch) -> tuple[float, Any]:
    """Loss and gradients of all rows at once, by transformers and a cross-entropy of our own."""
    model = AutoModelForCausalLM.from_config(config).train()
    model.load_state_dict(start)
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False
    ).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 97), batch.labels[:, 1:].reshape(-1))
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in model.named_parameters()}


def assert_follows_one_big_batch(got: tuple, batch: Batch, config: PretrainedConfig = FOUR) -> None:
    """Within 1e-6 relative: one big batch adds its rows in another order than micro-batches do."""
    loss, gradients = whole_batch_loss(config, got[4], batch)
    assert got[0][0] == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(got[2][name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("microbatches", [1, 3, 4, 8])
def test_uneven_valid_tokens_give_the_loss_and_gradients_of_one_big_batch(ranks: Ranks, microbatches: int) -> None:
    """torchtitan#2972, LlamaFactory#7443, pytorch#126600: 16, 9, 3 and 1 labels a row, micro-batches of 3, 3 and 2."""
    got = merged(ranks.run(2, train, FOUR, plan((0, 3, 6), "1f1b", microbatches), batches(1)))
    assert_follows_one_big_batch(got, batches(1)[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_microbatch_gets_its_own_padding_mask(ranks: Ranks, side: str) -> None:
    """torchtitan#1723, Megatron#752: every row padded differently, the mask also on middle stages."""
    ids = batches(1)[0].input_ids
    mask = torch.ones_like(ids)
    for row in range(8):
        mask[row, : row + 1 if side == "left" else 16] = 0 if side == "left" else 1
        if side == "right":
            mask[row, 15 - row :] = 0
    batch = Batch(ids, ids.masked_fill(mask == 0, -100), mask)
    answers = {p: merged(ranks.run(p, train, FOUR, plan(b, "1f1b", 4), [batch])) for p, b in BOUNDS.items()}
    for stages in (2, 4):
        assert_same_bits(answers[stages], answers[1])
    assert_follows_one_big_batch(answers[1], batch)


BOUNDS = {1: (0, 6), 2: (0, 2, 6), 4: (0, 2, 3, 4, 6)}


def test_packed_documents_do_not_see_each_other(ranks: Ranks) -> None:
    """torchtitan#1723: rows of two documents, their positions restart."""
    ids = batches(1)[0].input_ids
    positions = torch.stack([torch.cat([torch.arange(k), torch.arange(16 - k)]) for k in (3, 9, 8, 5, 12, 7, 1, 6)])
    batch = Batch(ids, ids, None, positions)
    got = merged(ranks.run(2, train, FOUR, plan(BOUNDS[2], "1f1b", 4), [batch]))
    assert_follows_one_big_batch(got, batch)


def test_steps_may_differ_in_length_and_rows(ranks: Ranks) -> None:
    """ColossalAI#5940, DeepSpeed#3195: lengths 16, 17, 5, 16, and a last batch of 3 rows for 4 micro-batches."""
    steps = [batches(1, length=n)[0] for n in (16, 17, 5, 16)] + batches(1, rows=3)
    got = merged(ranks.run(2, train, FOUR, plan((0, 3, 6), "1f1b", 4), steps))
    whole = plain(FOUR, got[4], steps[:4], 4)
    assert got[0][:4] == whole[0]
    assert got[1][:4] == whole[1]


def test_a_tied_model_whose_ends_share_a_rank_keeps_one_copy(ranks: Ranks) -> None:
    """piper#13: a V-shaped placement has embedding and head on one rank."""
    config = tiny(num_hidden_layers=4, tie_word_embeddings=True)
    v_shaped = merged(ranks.run(2, train, config, plan((0, 1, 3, 5, 6), "zb-v", 5, 2), batches(2)))
    alone = merged(ranks.run(1, train, config, plan((0, 6), "1f1b", 5), batches(2)))
    assert_same_bits(v_shaped, alone)
    assert count_shared(ranks.run(2, tied_storages, config, plan((0, 1, 3, 5, 6), "zb-v", 5, 2))) == 1


def tied_storages(config: PretrainedConfig, the_plan: Plan) -> set[int]:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    parts = [stage.part for stage in engine._stages.values()]
    named = {n: p for part in parts for n, p in part.named_parameters()}
    return {named[n].data_ptr() for n in ("model.embed_tokens.weight", "lm_head.weight") if n in named}


def count_shared(answers: list[set[int]]) -> int:
    return sum(len(found) for found in answers)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_a_stage_of_only_the_embedding_works(ranks: Ranks, schedule: str) -> None:
    """DeepSpeed#1522: the cut lies right behind the embedding, clipping on."""
    got = merged(ranks.run(2, train, FOUR, plan((0, 1, 6), schedule, 5), batches(3)))
    assert_same_bits(got, plain(FOUR, got[4], batches(3), 5))


@pytest.mark.parametrize(("schedule", "bounds", "chunks"), [("1f1b", (0, 1, 6), 1), ("zb-v", (0, 1, 3, 5, 6), 2)])
def test_recomputation_changes_no_bit_with_dropout_on(
    ranks: Ranks, schedule: str, bounds: tuple[int, ...], chunks: int
) -> None:
    """OLMo-core#828: recompute draws new masks. The cuts include one right behind the embedding."""
    config = tiny("gpt2", num_hidden_layers=4, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    modes = [(), ("full",) * 4, ("selective",) * 4, ("full", "none", "selective", "full")]
    plans = [plan(bounds, schedule, 5, chunks, recompute=mode) for mode in modes]
    kept, *others = [merged(ranks.run(2, train, config, one, batches(2))) for one in plans]
    for other in others:
        assert_same_bits(other, kept)


def test_messages_far_above_any_eager_buffer_do_not_deadlock(ranks: Ranks) -> None:
    """pytorch#172668: two chunks on each of two ranks, boundary of 8 MiB."""
    config = tiny(num_hidden_layers=4, hidden_size=2048, intermediate_size=32, num_attention_heads=2, head_dim=8)
    steps = batches(1, rows=4, length=1024)
    for schedule in ("interleaved-1f1b", "zb-v"):
        losses = ranks.run(2, train_losses, config, plan((0, 2, 3, 4, 6), schedule, 4, 2), steps)
        assert losses[0] == losses[1]


def train_losses(config: PretrainedConfig, the_plan: Plan, steps: list[Batch]) -> list[float]:
    config.max_position_embeddings = 2048
    engine = Engine(ModelSource(config), the_plan, AdamWSettings())
    return [engine.step(batch).loss for batch in steps]


def test_activations_in_flight_never_exceed_what_the_checker_says(ranks: Ranks) -> None:
    """pytorch#128910: stage 0 of 2 under 1F1B holds 2 micro-batches, whatever their number, and nothing over steps."""
    peaks = ranks.run(2, peak_in_flight, FOUR, plan((0, 3, 6), "1f1b", 16), batches(1, rows=16)[0])
    assert peaks == [2, 1]


def peak_in_flight(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> int:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    stage = next(iter(engine._stages.values()))
    peak, forward = 0, stage.forward

    def watched(*args: Any) -> Any:
        nonlocal peak
        output = forward(*args)
        peak = max(peak, len(stage._saved))
        return output

    stage.forward = watched
    for _ in range(5):
        engine.step(batch)
    assert not stage._saved
    return peak


def test_a_hook_on_the_boundary_fires_once_a_microbatch(ranks: Ranks) -> None:
    """pytorch#185331: receive buffers that are used again pile up hooks."""
    assert ranks.run(2, hook_calls, FOUR, plan((0, 3, 6), "1f1b", 2), batches(1)[0]) == [0, 10]


def hook_calls(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> int:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    stage, calls = next(iter(engine._stages.values())), 0
    forward = stage.forward

    def watched(microbatch: int, hidden: torch.Tensor | None, of: Any) -> Any:
        def hook(gradient: torch.Tensor) -> None:
            nonlocal calls
            calls += 1

        if hidden is not None:
            hidden.requires_grad_().register_hook(hook)
        return forward(microbatch, hidden, of)

    stage.forward = watched
    for _ in range(5):
        engine.step(batch)
    return calls


def test_a_norm_that_is_not_finite_skips_the_step_on_every_rank(ranks: Ranks) -> None:
    """fairseq2#1374: an infinite gradient on stage 1 only."""
    for skipped, changed, recovered in ranks.run(2, poisoned, FOUR, plan((0, 3, 6), "1f1b", 4), batches(1)[0]):
        assert skipped
        assert not changed
        assert recovered


def poisoned(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> tuple[bool, bool, bool]:
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    before = {n: p.detach().clone() for n, p in engine.parameters.local.items()}
    hooks = [p.register_hook(lambda g: g * float("inf")) for n, p in engine.parameters.local.items() if "norm" in n]
    for hook in hooks if engine.rank == 0 else ():
        hook.remove()
    skipped = engine.step(batch).skipped
    changed = any(not torch.equal(before[n], p) for n, p in engine.parameters.local.items())
    for hook in hooks:
        hook.remove()
    return skipped, changed, not engine.step(batch).skipped


def test_an_error_in_an_op_names_rank_stage_op_and_microbatch(ranks: Ranks) -> None:
    texts = ranks.run(2, failing, FOUR, plan((0, 3, 6), "zb-h1", 4), batches(1)[0])
    assert texts[1] == "rank 1, step 1: I(stage 1, micro-batch 2) failed: ValueError: out of luck"
    assert texts[0].startswith("rank 0 (stage 0)")
    assert "micro-batch" in texts[0]
    assert "rank 1" in texts[0]


def failing(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> str:
    from headrace.errors import RunError

    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    if engine.rank == 1:
        stage = engine._stages[1]
        real = stage.input_backward

        def bad(microbatch: int, gradient: torch.Tensor | None) -> Any:
            if microbatch == 2:
                raise ValueError("out of luck")
            return real(microbatch, gradient)

        stage.input_backward = bad
    try:
        engine.step(batch)
    except RunError as error:
        return str(error)
    return "no error"


def test_an_output_that_was_sent_is_let_go_though_its_graph_is_kept(ranks: Ranks) -> None:
    assert ranks.run(2, outputs_alive, FOUR, plan((0, 3, 6), "gpipe", 4), batches(1)[0]) == [0, 0]


def outputs_alive(config: PretrainedConfig, the_plan: Plan, batch: Batch) -> int:
    """How many outputs of F are still in memory before the first backward."""
    engine = Engine(ModelSource(config), the_plan, SETTINGS)
    stage, outputs, alive = next(iter(engine._stages.values())), [], []
    real_forward, real_backward = stage.part.forward, stage.input_backward

    def forward(*args: Any) -> torch.Tensor:
        output = real_forward(*args)
        outputs.append(weakref.ref(output))
        return output

    def input_backward(*args: Any) -> Any:
        alive.append(sum(ref() is not None for ref in outputs))
        return real_backward(*args)

    stage.part.forward, stage.input_backward = forward, input_backward
    engine.step(batch)
    return alive[0]
