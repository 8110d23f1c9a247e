"""Every schedule of one copy and one version of the weights gives the same bits as one plain process."""

import pytest
import torch

from headrace.schedule import check, make_schedule
from tests.engine.grid import MODELS, SYNCHRONOUS, differences, judged, judged_tensors, plan_of, run_each
from tests.engine.jobs import batches, plan, train
from tests.engine.test_bits import merged
from tests.ranks import Ranks

FAMILIES = [*SYNCHRONOUS, "auto"]
MICROBATCHES = (1, 2, 5, 8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_llama_has_the_bits_of_plain_transformers_in_every_schedule(ranks: Ranks, num_ranks: int, family: str) -> None:
    plans = [plan_of(family, num_ranks, microbatches) for microbatches in MICROBATCHES]
    for microbatches, got in zip(MICROBATCHES, run_each(ranks, "llama", num_ranks, plans), strict=True):
        assert differences(got, judged("llama", microbatches)) == [], f"{microbatches} micro-batches"


@pytest.mark.parametrize("model", ["gpt2", "mixtral"])
@pytest.mark.parametrize(("num_ranks", "microbatches"), [(2, 5), (3, 2)])
def test_dropout_and_experts_have_the_bits_of_plain_transformers_in_every_schedule(
    ranks: Ranks, num_ranks: int, microbatches: int, model: str
) -> None:
    plans = [plan_of(family, num_ranks, microbatches) for family in FAMILIES]
    for family, got in zip(FAMILIES, run_each(ranks, model, num_ranks, plans), strict=True):
        assert differences(got, judged(model, microbatches)) == [], family


@pytest.mark.parametrize(("num_ranks", "microbatches"), [(2, 5), (3, 2)])
def test_a_tied_model_has_the_bits_of_one_stage_in_every_schedule(
    ranks: Ranks, num_ranks: int, microbatches: int
) -> None:
    (alone,) = run_each(ranks, "gemma2", 1, [plan_of("gpipe", 1, microbatches)])
    plans = [plan_of(family, num_ranks, microbatches) for family in FAMILIES]
    for family, got in zip(FAMILIES, run_each(ranks, "gemma2", num_ranks, plans), strict=True):
        assert differences(got, alone) == [], family


@pytest.mark.parametrize("microbatches", [2, 5])
def test_a_tied_model_follows_plain_transformers(ranks: Ranks, microbatches: int) -> None:
    """Within 1e-6: the embedding's two sums are added in another order than in one graph."""
    losses, norms, gradients, weights = judged_tensors("gemma2", microbatches)
    got = merged(ranks.run(1, train, MODELS["gemma2"](), plan((0, 10), "gpipe", microbatches), batches(3)))
    assert got[0] == pytest.approx(losses, rel=1e-6)
    assert got[1] == pytest.approx(norms, rel=1e-6)
    for mine, judge in ((got[2], gradients), (got[3], weights)):
        for name in judge:
            torch.testing.assert_close(mine[name], judge[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_ranks", "microbatches"), [(2, 5), (3, 2)])
def test_bfloat16_has_the_bits_of_plain_transformers(ranks: Ranks, num_ranks: int, microbatches: int) -> None:
    families = ["gpipe", "1f1b", "interleaved-1f1b", "zb-2p", "zb-v", "dualpipe-v", "auto"]
    plans = [plan_of(family, num_ranks, microbatches) for family in families]
    got = run_each(ranks, "llama", num_ranks, plans, torch.bfloat16)
    for family, one in zip(families, got, strict=True):
        assert differences(one, judged("llama", microbatches, torch.bfloat16)) == [], family


def test_every_family_of_the_grid_adds_gradients_in_ascending_order() -> None:
    assert len(SYNCHRONOUS) == 13
    for name in SYNCHRONOUS:
        assert check(make_schedule(name, 4, 8)).ascending, name
