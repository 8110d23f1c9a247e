"""An error on one rank, wherever it is raised, ends all of them, and the first text says where it was."""

import pytest
import torch

from headrace.engine.failures import describe, is_of_peer
from headrace.schedule import Op
from tests.engine.failing import failing_message, failing_op, failing_optimizer
from tests.engine.jobs import batches, plan
from tests.ranks import Ranks

BOUNDS = (0, 2, 4, 6)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize(("kind", "schedule"), [("F", "1f1b"), ("B", "1f1b"), ("I", "zb-h1"), ("W", "zb-h1")])
def test_an_error_in_any_op_names_rank_step_op_stage_and_microbatch_and_ends_every_rank(
    ranks: Ranks, kind: str, schedule: str, stage: int
) -> None:
    op = Op(kind, stage, stage)  # The first, a middle and the last of its micro-batches meet different peers.
    answers = ranks.run(3, failing_op, plan(BOUNDS, schedule, 3), batches(1)[0], op, ValueError("no\n luck"))
    cause = (
        "RunError",
        f"rank {stage}, step 1: {kind}(stage {stage}, micro-batch {stage}) failed: ValueError: no luck",
    )
    assert answers[stage] == cause
    for rank, (kind_of_error, text) in enumerate(answers):
        if rank != stage:
            assert kind_of_error == "PeerLostError"
            assert text.startswith(f"rank {rank} ")


@pytest.mark.parametrize("end", ["put", "take"])
def test_an_error_in_a_message_that_is_not_of_its_peer_names_the_op(ranks: Ranks, end: str) -> None:
    error = OSError(28, "No space left on device")
    answers = ranks.run(2, failing_message, plan((0, 3, 6), "1f1b", 3), batches(1)[0], end, 1, error)
    kind = "B" if end == "put" else "F"
    assert answers[1] == (
        "RunError",
        f"rank 1, step 1: {kind}(stage 1, micro-batch 0) failed: OSError: [Errno 28] No space left on device",
    )
    assert answers[0][0] == "PeerLostError"


@pytest.mark.parametrize(("end", "names"), [("put", "could not send the"), ("take", "waited for the")])
def test_a_message_whose_peer_is_gone_names_both_ranks(ranks: Ranks, end: str, names: str) -> None:
    error = ConnectionResetError("the connection was closed")
    answers = ranks.run(2, failing_message, plan((0, 3, 6), "1f1b", 3), batches(1)[0], end, 1, error)
    kind, text = answers[1]
    assert kind == "PeerLostError"
    assert text.startswith(f"rank 1 (stage 1) {names}")
    assert "of micro-batch 0" in text
    assert "rank 0" in text
    assert answers[0][0] == "PeerLostError"


def test_an_error_in_the_optimizer_names_rank_stage_and_step(ranks: Ranks) -> None:
    answers = ranks.run(3, failing_optimizer, plan(BOUNDS, "1f1b", 3), batches(1)[0], 1)
    assert answers[1] == ("RunError", "rank 1, step 1: the optimizer's step of stage 1 failed: ValueError: no state")
    assert [answers[0][0], answers[2][0]] == ["PeerLostError"] * 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_where_memory_runs_out_the_rank_is_named_and_what_to_do(ranks: Ranks, error: Exception) -> None:
    assert not is_of_peer(error)
    said = describe(error)
    assert said.startswith(type(error).__name__)
    assert said.endswith(
        "memory has run out here: set parallel.recompute=full, more parallel.microbatches or more stages"
    )
    if isinstance(error, MemoryError):
        answers = ranks.run(2, failing_op, plan((0, 3, 6), "1f1b", 3), batches(1)[0], Op("F", 1, 1), error)
        assert answers[1][1] == f"rank 1, step 1: F(stage 1, micro-batch 1) failed: {said}"
