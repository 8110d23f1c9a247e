"""The plan computes the loss in chunks only where memory asks for it, in the fewest that do, and says why."""

from dataclasses import replace

import pytest
from handmade_chains import make_chain, make_costs

from headrace.cluster import Cluster, Device, Link
from headrace.errors import RequestError
from headrace.plan import Plan, Wanted, make_plan

CHAIN = make_chain(4)
LOGITS_BYTES = 64_000  # And their gradients, of a row.


def costs_of(rows):
    costs = make_costs(CHAIN, rows=rows)
    head = replace(costs.layers[-1], working_bytes=rows * LOGITS_BYTES)
    return replace(costs, layers=(*costs.layers[:-1], head))


def planned(memory_bytes, kind="cpu", rows=4, pp=2, **wanted):
    devices = (Device("made up", kind, memory_bytes, 1e11, 1e10),) * pp
    wanted = Wanted(**{"pp": pp, "schedule": "1f1b", "microbatches": 4, **wanted})
    return make_plan(CHAIN, costs_of, Cluster(devices, Link(0.0, 1e9)), rows, 16, wanted)[0]


FREE = 10**9
WHOLE = planned(FREE, cuts=(2, 2))


def test_where_memory_allows_the_loss_is_in_one_piece_and_nothing_is_said():
    assert WHOLE.loss_chunks == 1
    assert not any("chunks" in reason for reason in WHOLE.reasons)


@pytest.mark.parametrize(
    ("missing_bytes", "chunks"), [(1, 2), (32_000, 2), (32_001, 4), (48_000, 4), (56_001, 16), (60_001, 32)]
)
def test_the_fewest_chunks_are_taken_that_fit_and_the_plan_says_why(missing_bytes, chunks):
    plan = planned(WHOLE.prediction.memory_bytes(1) - missing_bytes, cuts=(2, 2))
    assert (plan.loss_chunks, plan.recompute) == (chunks, ())
    assert plan.prediction.memory_bytes(1) == WHOLE.prediction.memory_bytes(1) - LOGITS_BYTES + LOGITS_BYTES // chunks
    assert plan.prediction.step_s == pytest.approx(WHOLE.prediction.step_s)
    (said,) = [reason for reason in plan.reasons if "chunks" in reason]
    assert said.startswith(f"Memory asks for the loss in {chunks} chunks of tokens: of a micro-batch's 64 kB of logits")
    assert "in one piece rank 1 would need 509 kB of " in said


def test_where_chunks_alone_do_not_do_layers_are_recomputed_too():
    smallest = planned(FREE, cuts=(2, 2), loss_chunks=64).prediction.memory_bytes(1)
    plan = planned(smallest - 500, cuts=(2, 2))
    assert plan.loss_chunks > 1
    assert "full" in plan.recompute


def test_where_nothing_fits_the_chunks_that_were_tried_are_named():
    with pytest.raises(
        RequestError, match="even pp=2 with 4 micro-batches, 1f1b, a loss in 64 chunks and recompute=full"
    ):
        planned(100_000, cuts=(2, 2))


def test_a_memory_that_logits_do_not_fill_asks_for_no_chunks():
    """Rank 0 has no head; its layers are what is too large."""
    limit = WHOLE.prediction.memory_bytes(1) - LOGITS_BYTES
    devices = (Device("small", "cpu", limit, 1e11, 1e10), Device("large", "cpu", FREE, 1e11, 1e10))
    wanted = Wanted(pp=2, schedule="1f1b", microbatches=4, cuts=(2, 2))
    plan, _ = make_plan(CHAIN, costs_of, Cluster(devices, Link(0.0, 1e9)), 4, 16, wanted)
    assert plan.recompute
    assert plan.loss_chunks == 1


def test_a_number_of_chunks_that_was_asked_for_is_taken():
    plan = planned(FREE, loss_chunks=3)
    assert plan.loss_chunks == 3
    assert "loss_chunks=3 as asked." in plan.reasons
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(RequestError, match="A loss in 0 chunks was asked for; loss_chunks is at least 1"):
        planned(FREE, loss_chunks=0)


# Two micro-batches in flight fewer than 3 need no host; gpipe has all 8.
def test_offload_leaves_three_microbatches_of_a_stage_on_a_cuda_device():
    def stage_bytes(**extra):
        plan = planned(FREE, "cuda", rows=8, schedule="gpipe", microbatches=8, cuts=(2, 2), **extra)
        return plan, plan.prediction.activation_bytes[0]

    (kept, all_bytes), (moved, few_bytes) = stage_bytes(), stage_bytes(offload=True)
    assert (all_bytes, few_bytes) == (8 * 2000, 3 * 2000)
    assert (kept.offload, moved.offload) == (False, True)
    assert any(reason.startswith("offload=true as asked: of a stage's micro-batches") for reason in moved.reasons)


def test_offload_lets_a_device_do_without_recomputation():
    wide = planned(FREE, "cuda", rows=8, schedule="gpipe", microbatches=8, cuts=(2, 2), loss_chunks=64)
    limit = wide.prediction.memory_bytes(0) - 5000
    choices = {"rows": 8, "schedule": "gpipe", "microbatches": 8, "cuts": (2, 2), "loss_chunks": 64}
    assert planned(limit, "cuda", **choices).recompute
    assert not planned(limit, "cuda", **choices, offload=True).recompute


def test_offload_on_cpus_is_ignored_with_a_sentence():
    plan = planned(FREE, offload=True)
    assert not plan.offload
    assert "offload=true changes nothing here: these devices are CPUs, whose memory is the host's own." in plan.reasons
    assert plan.prediction == planned(FREE).prediction
