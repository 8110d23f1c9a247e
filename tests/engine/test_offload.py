"""Activations on the host: the same bits, few on the device, and nothing that is no activation ever moves."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from headrace.chain.build import ModelSource
from headrace.engine import Batch, Engine, offload
from headrace.engine.offload import Offload
from headrace.plan import Plan
from tests.engine.alive import Alive
from tests.engine.jobs import SETTINGS, batches, plan, tiny, train
from tests.engine.test_bits import assert_same_bits, merged
from tests.ranks import Ranks

DEVICES = ["cpu"] + [pytest.param("cuda", marks=pytest.mark.gpu)] * torch.cuda.is_available()
"""On a CPU "host" and "device" are one memory: bits and bookkeeping show there, speed and streams only on a GPU."""

WIDE = tiny(num_hidden_layers=3, hidden_size=64, max_position_embeddings=256)
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}


@pytest.mark.parametrize(("schedule", "bounds", "chunks"), [("gpipe", (0, 2, 5), 1), ("zb-v", (0, 1, 2, 4, 5), 2)])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_offload_changes_no_bit(
    ranks: Ranks, model_type: str, schedule: str, bounds: tuple[int, ...], chunks: int
) -> None:
    sizes = {"num_hidden_layers": 3, "hidden_size": 64, "max_position_embeddings": 256}
    config = tiny(model_type, **sizes, **(DROPOUT if model_type == "gpt2" else {}))
    kept, steps = plan(bounds, schedule, 4, chunks), batches(2, length=256)
    here, moved = (merged(ranks.run(2, train, config, replace(kept, offload=on), steps)) for on in (False, True))
    assert_same_bits(moved, here)


def watched_step(the_plan: Plan, batch: Batch, device: str) -> list[tuple[str, int, int]]:
    """Op, bytes of activations (floats) on the device behind it, and on the host, where they are plain bytes."""
    engine = Engine(ModelSource(WIDE), the_plan, SETTINGS, torch.device(device))
    engine.step(batch)
    alive, seen = Alive(torch.Tensor.is_floating_point), []
    (stage,) = engine._stages.values()

    def watched(kind: str) -> Any:
        op = getattr(stage, kind)

        def run(microbatch: int, *args: Any) -> Any:
            output = op(microbatch, *args)
            seen.append((f"{kind} {microbatch}", alive.now, stage._offload.host_bytes if stage._offload else 0))
            return output

        return run

    stage.forward, stage.backward = watched("forward"), watched("backward")
    with alive:
        engine.step(batch)
    engine.close()
    return seen


def parameters_moved(the_plan: Plan, batch: Batch) -> int:
    """How many memories that were asked to move are a parameter's, a buffer's or the stage's input."""
    engine = Engine(ModelSource(WIDE), the_plan, SETTINGS)
    (stage,) = engine._stages.values()
    stage.offload_to_host(Offload(stage.part.model, torch.device("cpu"), smallest_bytes=0))
    moved, forward, count, received = offload._Moved, stage.forward, 0, []

    def watched(microbatch: int, hidden: torch.Tensor | None, *args: Any) -> Any:
        received.extend([] if hidden is None else [hidden])
        return forward(microbatch, hidden, *args)

    def counted(storage: torch.UntypedStorage, stream: None) -> Any:
        nonlocal count
        fixed = [*stage.part.model.parameters(), *stage.part.model.buffers(), *received]
        count += storage.data_ptr() in {tensor.untyped_storage().data_ptr() for tensor in fixed}
        return moved(storage, stream)

    offload._Moved, stage.forward = counted, watched
    engine.step(batch)
    offload._Moved = moved
    engine.close()
    assert len(received) == (4 if engine.rank else 0)
    return count


def test_parameters_buffers_and_what_was_received_never_move(ranks: Ranks) -> None:
    assert ranks.run(2, parameters_moved, plan((0, 2, 5), "gpipe", 4, offload=True), batches(1)[0]) == [0, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_the_next_to_go_backward_is_on_the_device_and_the_others_are_on_the_host(ranks: Ranks, device: str) -> None:
    batch, gpipe = batches(1, length=256)[0], plan((0, 5), "gpipe", 4)
    (kept,) = ranks.run(1, watched_step, gpipe, batch, device)
    (moved,) = ranks.run(1, watched_step, replace(gpipe, offload=True), batch, device)
    each = kept[1][1] - kept[0][1]  # Of one micro-batch.
    assert [there - kept[0][1] for _, there, _ in kept[:4]] == [0, each, 2 * each, 3 * each]
    on_host = each - (moved[1][1] - moved[0][1])
    assert on_host > 0.98 * each  # Small tensors stay.
    assert [there - kept[0][1] for _, there, _ in moved[:4]] == [n * (each - on_host) for n in range(4)]
    # While one goes backward the next is on its way back.
    assert [host // on_host for _, _, host in moved] == [0, 1, 2, 3, 2, 1, 0, 0]
    assert all(host % on_host == 0 for _, _, host in moved)
