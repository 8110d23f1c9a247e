"""Autocast: the bits of plain transformers with its forward under ``torch.autocast``, in every layout."""

from typing import Any

import pytest
import torch

from headrace.chain.build import ModelSource
from tests.engine.jobs import batches, plain, plan, tiny, train, whole_loss
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks


def plain_loss(model: Any, ids: torch.Tensor, labels: torch.Tensor, valid: int) -> torch.Tensor:
    """The backward stays outside, as torch recommends."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=valid, use_cache=False).loss
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize(
    ("model_type", "bounds", "schedule", "chunks", "extra"),
    [
        ("llama", (0, 3, 6), "1f1b", 1, {}),
        ("llama", (0, 2, 3, 5, 6), "zb-v", 2, {}),
        ("llama", (0, 2, 6), "zb-h1", 1, {"recompute": "full"}),
        ("olmo2", (0, 3, 6), "1f1b", 1, {}),  # Its projections read the received state itself, not a norm of it.
        ("olmo2", (0, 2, 4, 6), "zb-h1", 1, {}),
        ("mixtral", (0, 3, 6), "zb-h1", 1, {}),
        ("gpt2", (0, 3, 6), "zb-h1", 1, {}),
    ],
)
def test_autocast_changes_no_bit_by_the_layout(
    ranks: Ranks, model_type: str, bounds: tuple[int, ...], schedule: str, chunks: int, extra: dict[str, Any]
) -> None:
    source = ModelSource(tiny(model_type, num_hidden_layers=4), autocast=torch.bfloat16)
    the_plan = plan(bounds, schedule, 4, chunks, **extra)
    got = merged(ranks.run(the_plan.layout.pp, train, source, the_plan, batches(2)))
    assert_same_bits(got, plain(source.config, got[4], batches(2), 4, loss_of=plain_loss))
    assert all(t.dtype == torch.float32 for tensors in got[2:4] for t in tensors.values())
    assert got[0] != plain(source.config, got[4], batches(2), 4, loss_of=whole_loss)[0]
