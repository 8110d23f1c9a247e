"""Compiled layers: right under every schedule, a split backward too; or one sentence.

The backend runs what was traced by torch's own kernels, so the judge can be held to its bits and no compiler is needed.
"""

import re
from typing import Any

import pytest
import torch

from headrace.chain.build import ModelSource
from headrace.chain.compiled import compiled
from headrace.errors import RequestError
from tests.engine.jobs import batches, plain, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks


@pytest.mark.parametrize(
    ("schedule", "bounds", "chunks", "extra"),
    [("zb-h1", (0, 2, 4), 1, {}), ("1f1b", (0, 1, 4), 1, {"recompute": "full"})],
)
def test_compiled_layers_have_the_bits_of_what_was_traced(
    ranks: Ranks, schedule: str, bounds: tuple[int, ...], chunks: int, extra: dict[str, Any]
) -> None:
    """pytorch#161904: zero-bubble fails on a compiled stage."""
    source = ModelSource(tiny(num_hidden_layers=2), compile_backend="aot_eager")
    the_plan = plan(bounds, schedule, 4, chunks, **extra)
    ranks.run(2, count_graphs)
    got = merged(ranks.run(2, train, source, the_plan, batches(2)))
    assert_same_bits(got, plain(source.config, got[4], batches(2), 4))
    graphs = ranks.run(2, count_graphs)
    assert max(graphs) == 1  # Two layers on one rank share it.


def count_graphs() -> int:
    """Of the jobs before in this process, forgotten afterwards."""
    from torch._dynamo.utils import counters

    num_graphs: int = counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    counters.clear()
    torch.distributed.barrier()  # A rank that leaves at once does so while another still connects to it.
    return num_graphs


def test_a_layer_that_cannot_be_compiled_is_refused_and_runs_without_gradients_all_the_same() -> None:
    def depends_on_values(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.detach().sum()) > 0 else x

    run = compiled(depends_on_values, "aot_eager", "model.layers.3 of this llama")
    with pytest.raises(RequestError, match=re.escape("model.layers.3 of this llama cannot be compiled: ")) as refused:
        run(torch.ones(2, requires_grad=True))
    assert str(refused.value).endswith("; set train.compile=false")
    assert "\n" not in str(refused.value)
    with torch.no_grad():
        assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
