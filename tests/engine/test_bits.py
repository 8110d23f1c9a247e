"""The same bits in every layout: the promise that a pipeline changes nothing."""

import pytest
import torch

from tests.engine.jobs import batches, plain, plan, tiny, train
from tests.ranks import Ranks

CUTS = {1: (0, 9), 2: (0, 3, 9), 3: (0, 1, 6, 9), 4: (0, 4, 5, 8, 9)}


def merged(answers: list) -> tuple:
    """One answer of all ranks: what every rank says must agree, what each holds is put together."""
    losses, norms = answers[0][:2]
    assert all(a[0] == losses and a[1] == norms for a in answers)
    joined: list[dict[str, torch.Tensor]] = []
    for index in (2, 3, 4):
        tensors: dict[str, torch.Tensor] = {}
        for answer in answers:
            for name, tensor in answer[index].items():
                assert name not in tensors or torch.equal(tensors[name], tensor), name
                tensors[name] = tensor
        joined.append(tensors)
    return losses, norms, *joined


def assert_same_bits(got: tuple, expected: tuple) -> None:
    assert got[0] == expected[0]
    assert got[1] == expected[1]
    for mine, judge in zip(got[2:4], expected[2:4], strict=True):
        assert mine.keys() == judge.keys()
        for name in judge:
            assert torch.equal(mine[name], judge[name]), name


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_loss_gradients_norm_and_weights_equal_plain_transformers_to_the_last_bit(
    ranks: Ranks, stages: int, schedule: str
) -> None:
    config, steps = tiny(), batches(3)
    got = merged(ranks.run(stages, train, config, plan(CUTS[stages], schedule, 5), steps))
    assert_same_bits(got, plain(config, got[4], steps, 5))


def test_tied_embeddings_have_the_same_bits_in_every_layout_and_follow_plain_transformers(ranks: Ranks) -> None:
    config, steps = tiny(tie_word_embeddings=True), batches(3)
    got = {s: merged(ranks.run(s, train, config, plan(CUTS[s], "1f1b", 5), steps)) for s in CUTS}
    for stages in (2, 3, 4):
        assert_same_bits(got[stages], got[1])
    losses, norms, gradients, weights = plain(config, got[1][4], steps, 5)
    assert got[1][0] == pytest.approx(losses, rel=1e-6)
    assert got[1][1] == pytest.approx(norms, rel=1e-6)
    for mine, judge in ((got[1][2], gradients), (got[1][3], weights)):
        for name in judge:
            # The owner's two sums are added in another order than in one graph, and AdamW divides by small numbers.
            torch.testing.assert_close(mine[name], judge[name], rtol=1e-5, atol=1e-6)
