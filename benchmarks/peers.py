"""What each rank runs in the runtime benchmark: headrace, torch's own pipelining, or one plain process."""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, get_schedule_class
from transformers import AutoModelForCausalLM

from benchmarks.paced import Pace, PacedModule, PacedSource
from headrace.chain.build import ModelSource, named_config
from headrace.chain.part import Part
from headrace.engine import AdamWSettings, Batch, Engine
from headrace.engine.memory import peak_memory_bytes
from headrace.plan import Layout, Plan
from headrace.schedule import Schedule, make_schedule
from headrace.schedule.files import schedule_to_json

Seconds = list[float]
LENGTH, VOCAB = 256, 4096


def timed(step: Callable[[], Any], steps: int) -> Seconds:
    """Seconds of each step, from when all ranks are ready until the last one has ended."""
    laps = []
    for _ in range(steps):
        dist.barrier()
        start_s = time.perf_counter()
        step()
        laps.append(time.perf_counter() - start_s)
    longest = torch.tensor(laps, dtype=torch.float64)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    return [float(lap) for lap in longest]


def paced_headrace(made: Schedule, pace_s: float, numbers: int, steps: int) -> Seconds:
    """Equal stages of ``pace_s`` for F, I and W of a rank's whole share, under any order."""
    stages, chunks = made.num_stages, made.num_stages // made.num_ranks
    pace = Pace(pace_s / chunks, pace_s / chunks, pace_s / chunks, numbers)
    layout = Layout(1, made.num_ranks, 1, chunks, tuple(range(stages + 1)), made.placement)
    orders = tuple(map(tuple, schedule_to_json(made)["orders"]))
    plan = Plan(layout, made.name, made.num_microbatches, 1, orders=orders)
    engine = Engine(cast(ModelSource, PacedSource(pace, stages)), plan, AdamWSettings())
    ids = torch.zeros(made.num_microbatches, 1, dtype=torch.long)
    return timed(lambda: engine.step(Batch(ids, ids)), steps)


def paced_torch(schedule: str, microbatches: int, pace_s: float, numbers: int, steps: int) -> Seconds:
    """The same on torch's runtime."""
    rank, size = dist.get_rank(), dist.get_world_size()
    mine, stages, chunks = torch_placement(schedule, rank, size)
    pace = Pace(pace_s / chunks, pace_s / chunks, pace_s / chunks, numbers)
    shape = torch.zeros(1, 1, numbers)

    def stage(index: int) -> PipelineStage:
        inside = shape.clone().requires_grad_(index > 0)
        return PipelineStage(
            PacedModule(pace), index, stages, torch.device("cpu"), inside, shape.clone().requires_grad_()
        )

    def loss(output: Tensor, _: Tensor) -> Tensor:
        return output[0, 0, 0] * 1.0  # Not a view, which its split backward refuses.

    stages_here = [stage(i) for i in mine]
    step = torch_step(schedule, stages_here, microbatches, loss)
    optimizer = torch.optim.AdamW([p for one in stages_here for p in one.submod.parameters()])
    rows = torch.zeros(microbatches, 1, numbers)

    def whole() -> None:
        step(rows, torch.zeros(microbatches, 1))
        optimizer.step()
        optimizer.zero_grad()

    return timed(whole, steps)


def torch_placement(schedule: str, rank: int, size: int) -> tuple[list[int], int, int]:
    """Stages of this rank, all stages, and stages on a rank."""
    if not issubclass(get_schedule_class(schedule), PipelineScheduleMulti):
        return [rank], size, 1
    second = 2 * size - 1 - rank if schedule in ("ZBVZeroBubble", "DualPipeV") else rank + size
    return [rank, second], 2 * size, 2


def torch_step(
    schedule: str, stages: list[PipelineStage], microbatches: int, loss: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], None]:
    """One step of torch's schedule: inputs go to the first stage, targets to the last."""
    multi = issubclass(get_schedule_class(schedule), PipelineScheduleMulti)
    made = get_schedule_class(schedule)(
        cast(Any, stages if multi else stages[0]), microbatches, loss_fn=loss, scale_grads=False
    )
    first, last = any(s.is_first for s in stages), any(s.is_last for s in stages)

    def step(rows: Tensor, targets: Tensor) -> None:
        made.step(*([rows] if first else []), **({"target": targets} if last else {}))

    return step


def real_source() -> ModelSource:
    """The Llama of the comparison."""
    return ModelSource(
        named_config(
            "llama",
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            vocab_size=VOCAB,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=False,
        )
    )


def real_rows(microbatches: int) -> Tensor:
    return torch.randint(0, VOCAB, (microbatches, LENGTH), generator=torch.Generator().manual_seed(0))


def real_headrace(
    schedule: str, bounds: tuple[int, ...], microbatches: int, steps: int, start: int = 0
) -> tuple[Seconds, int]:
    """Seconds of each step and the peak memory of this process."""
    made = make_schedule(schedule, dist.get_world_size(), microbatches)
    layout = Layout(1, made.num_ranks, 1, made.num_stages // made.num_ranks, bounds, made.placement)
    engine = Engine(real_source(), Plan(layout, schedule, microbatches, 1), AdamWSettings())
    rows = real_rows(microbatches)
    return timed(lambda: engine.step(Batch(rows, rows)), steps), peak_memory_bytes(torch.device("cpu"))


class _TorchPart(nn.Module):
    """The same layers as a headrace stage, called as torch's pipelining calls its stages."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.model, self._part = part.model, part

    def forward(self, x: Tensor) -> Tensor:
        where = {"input_ids": x} if self._part.has_embedding else {"inputs_embeds": x}
        self._part._received = None if self._part.has_embedding else x
        if self._part.has_head:
            return cast(Tensor, self.model(**where, use_cache=False).logits)
        return cast(Tensor, self.model.base_model(**where, use_cache=False).last_hidden_state)


def real_torch(schedule: str, bounds: tuple[int, ...], microbatches: int, steps: int) -> tuple[Seconds, int]:
    """The same layers, cut and optimizer on torch's runtime."""
    mine, stages, _ = torch_placement(schedule, dist.get_rank(), dist.get_world_size())
    parts = [real_source().build(bounds[i], bounds[i + 1]) for i in mine]
    hidden = torch.zeros(1, LENGTH, 512)
    made = []
    for index, part in zip(mine, parts, strict=True):
        inside = real_rows(1) if part.has_embedding else hidden.clone().requires_grad_()
        out = torch.zeros(1, LENGTH, VOCAB) if part.has_head else hidden.clone()
        made.append(PipelineStage(_TorchPart(part), index, stages, torch.device("cpu"), inside, out.requires_grad_()))
    valid = microbatches * (LENGTH - 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        flat = logits[:, :-1].reshape(-1, VOCAB)
        return nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="sum") / valid

    step = torch_step(schedule, made, microbatches, loss)
    optimizer = torch.optim.AdamW([p for part in parts for _, p in part.named_parameters()])
    rows = real_rows(microbatches)

    def whole() -> None:
        step(rows, rows)
        optimizer.step()
        optimizer.zero_grad()

    return timed(whole, steps), peak_memory_bytes(torch.device("cpu"))


def real_alone(microbatches: int, steps: int) -> tuple[Seconds, int]:
    """Plain transformers in one process with one thread."""
    model = AutoModelForCausalLM.from_config(real_source().config).train()
    optimizer = torch.optim.AdamW(model.parameters())
    rows, valid = real_rows(microbatches), microbatches * (LENGTH - 1)

    def whole() -> None:
        for row in rows.split(1):
            model(input_ids=row, labels=row, num_items_in_batch=valid, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(whole, steps), peak_memory_bytes(torch.device("cpu"))
