"""Logits are alive for one micro-batch, or one chunk of its tokens, at a time; chunks follow a plain loop of chunks."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import PretrainedConfig

from headrace.chain.build import ModelSource
from headrace.costs import LinkCosts
from headrace.engine import Batch, Engine
from headrace.engine.profile import Profiler
from headrace.plan import Plan
from tests.engine.alive import Alive
from tests.engine.jobs import SETTINGS, batches, plain, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}
MODELS: dict[str, tuple[PretrainedConfig, Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "llama": (tiny(num_hidden_layers=4), lambda m, h: m.lm_head(h)),
    "gpt2": (tiny("gpt2", num_hidden_layers=4, **DROPOUT), lambda m, h: m.lm_head(h)),
    "granite": (tiny("granite", num_hidden_layers=4, logits_scaling=8.0), lambda m, h: m.lm_head(h) / 8.0),
    "cohere": (tiny("cohere", num_hidden_layers=4, logit_scale=0.25), lambda m, h: m.lm_head(h) * 0.25),
    "gemma2": (tiny("gemma2", num_hidden_layers=4, **GEMMA), lambda m, h: torch.tanh(m.lm_head(h) / 3.0) * 3.0),
}
CUTS = {1: (0, 6), 2: (0, 3, 6), 3: (0, 2, 5, 6)}
CHUNKS = 3  # Of 32 or 16 tokens.


def chunked_loss(logits_of: Any, model: Any, ids: torch.Tensor, labels: torch.Tensor, valid: int) -> torch.Tensor:
    """Plain torch: chunks of 11, 11 and 10 tokens (6, 5 and 5), each with its backward."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    leaf = hidden.detach().reshape(-1, hidden.shape[-1]).requires_grad_()
    targets = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], 1).flatten()
    sizes = [len(piece) for piece in torch.arange(len(targets)).tensor_split(CHUNKS)]
    total = torch.zeros(())
    for rows, wanted in zip(leaf.split(sizes), targets.split(sizes), strict=True):
        share = F.cross_entropy(logits_of(model, rows).float(), wanted, reduction="sum") / valid
        share.backward()
        total = total + share.detach()
    hidden.backward(leaf.grad.view_as(hidden))
    return total


@cache
def judged(name: str, whole: bool = False) -> Any:
    """What plain loops make of the start weights that the seed draws; those are the same in every layout."""
    config, logits_of = MODELS[name]
    start = {n: p.detach().clone() for n, p in ModelSource(config).build(0, 6).named_parameters()}
    return plain(config, start, batches(2), 5, **({} if whole else {"loss_of": partial(chunked_loss, logits_of)}))


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_a_loss_in_chunks_has_the_bits_of_a_plain_loop_of_the_same_chunks(
    ranks: Ranks, name: str, stages: int, schedule: str
) -> None:
    the_plan = plan(CUTS[stages], schedule, 5, loss_chunks=CHUNKS)
    got = merged(ranks.run(stages, train, MODELS[name][0], the_plan, batches(2)))
    assert_same_bits(got, judged(name))
    assert got[0] == pytest.approx(judged(name, whole=True)[0], rel=1e-6)


def test_a_tied_model_has_the_same_bits_in_every_layout_and_follows_the_plain_loop(ranks: Ranks) -> None:
    config, logits_of = tiny("gemma2", num_hidden_layers=4, tie_word_embeddings=True, **GEMMA), MODELS["gemma2"][1]
    plans = [plan(CUTS[s], "1f1b", 5, loss_chunks=CHUNKS) for s in CUTS]
    plans.append(plan((0, 1, 3, 5, 6), "zb-v", 5, 2, loss_chunks=CHUNKS))
    got = [merged(ranks.run(p.layout.pp, train, config, p, batches(2))) for p in plans]
    for other in got[1:]:
        assert_same_bits(other, got[0])
    losses, norms, gradients, _ = plain(config, got[0][4], batches(2), 5, loss_of=partial(chunked_loss, logits_of))
    assert got[0][0] == pytest.approx(losses, rel=1e-6)
    assert got[0][1] == pytest.approx(norms, rel=1e-6)
    for name, gradient in gradients.items():
        # The owner's two sums are added in another order than in one graph.
        torch.testing.assert_close(got[0][2][name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("loss_chunks", [16, 1000])
def test_there_may_be_more_chunks_than_tokens_and_chunks_without_a_label(ranks: Ranks, loss_chunks: int) -> None:
    config, the_plan = MODELS["llama"][0], plan(CUTS[1], "1f1b", 5, loss_chunks=loss_chunks)
    got = merged(ranks.run(1, train, config, the_plan, batches(2)))
    assert got[0] == pytest.approx(judged("llama", whole=True)[0], rel=1e-6)


ROWS, LENGTH, VOCAB = 8, 48, 3001
MICROBATCH_BYTES = ROWS // 4 * LENGTH * VOCAB * 4
WIDE = tiny(num_hidden_layers=4, vocab_size=VOCAB)


def is_logits(tensor: torch.Tensor) -> bool:
    """As wide as the vocabulary, ``[tokens, vocab]``; the head's weight and its gradient are not."""
    wide = tensor.ndim > 0 and tensor.shape[-1] == VOCAB
    return wide and tensor.untyped_storage().nbytes() != WIDE.hidden_size * VOCAB * 4


def logits_alive(the_plan: Plan, batch: Batch) -> tuple[int, int]:
    """The peak within a step, and the most between two ops."""
    engine = Engine(ModelSource(WIDE), the_plan, SETTINGS)
    alive, between = Alive(is_logits), 0

    def watched(op: Any) -> Any:
        def run(*args: Any) -> Any:
            nonlocal between
            output = op(*args)
            between = max(between, alive.now)
            return output

        return run

    for stage in engine._stages.values():
        for kind in ("forward", "backward", "input_backward", "weight_backward"):
            setattr(stage, kind, watched(getattr(stage, kind)))
    with alive:
        engine.step(batch)
    engine.close()
    return alive.peak, between


@pytest.fixture(scope="module")
def batch() -> Batch:
    ids = torch.randint(3, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
    return Batch(ids, ids)


@pytest.mark.parametrize(("name", "tensors"), [("llama", 3), ("granite", 3), ("gemma2", 4)])
def test_the_measured_price_of_the_head_is_its_logits_and_their_gradients(name: str, tensors: int) -> None:
    """gemma2 keeps the capped logits too, for the gradient of their tanh."""
    config = tiny(name, num_hidden_layers=2, vocab_size=VOCAB, **(GEMMA if name == "gemma2" else {}))
    profiler = Profiler(ModelSource(config), LENGTH, torch.device("cpu"), LinkCosts(0.0, 1e9), lambda *_: None)
    head = profiler(2).layers[-1]
    assert head.working_bytes == pytest.approx(tensors * 2 * LENGTH * VOCAB * 4, rel=1e-4)
    assert head.saved_bytes < 0.1 * head.working_bytes


CASES = {"gpipe": (0, 3, 6), "1f1b": (0, 3, 6), "zb-h1": (0, 3, 6), "zb-v": (0, 1, 3, 5, 6)}


@pytest.mark.parametrize("loss_chunks", [1, 4])
@pytest.mark.parametrize("schedule", CASES)
def test_logits_of_one_microbatch_or_one_chunk_are_alive_at_a_time(
    ranks: Ranks, batch: Batch, schedule: str, loss_chunks: int
) -> None:
    """Three tensors: the logarithms of the probabilities, their gradient and that of the logits."""
    bounds = CASES[schedule]
    the_plan = plan(bounds, schedule, 4, (len(bounds) - 1) // 2, loss_chunks=loss_chunks)
    answers = ranks.run(2, logits_alive, the_plan, batch)
    peak, between = (max(numbers) for numbers in zip(*answers, strict=True))
    waiting = most_waiting(the_plan) if loss_chunks == 1 else 0
    assert between == waiting * MICROBATCH_BYTES
    assert peak == (max(waiting - 1, 0) + 3 / loss_chunks) * MICROBATCH_BYTES


def most_waiting(the_plan: Plan) -> int:
    """Micro-batches whose gradient of the logits waits for W on the last stage, at most."""
    now, most = 0, 0
    for op in the_plan.made_schedule().orders[the_plan.layout.placement[-1]]:
        if op.stage == the_plan.layout.num_stages - 1:
            now += {"I": 1, "W": -1}.get(op.kind, 0)
            most = max(most, now)
    return most
