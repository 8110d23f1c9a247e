"""Run folders as a training loop would leave them: simulated predictions, and measurements that stray from them."""

import json
import math
import random
from pathlib import Path
from typing import Any

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.plan.plan import Layout, Plan, Prediction
from headrace.schedule import Op, Schedule, make_schedule
from headrace.simulate.simulator import Simulation, simulate
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.trace import timeline_to_trace

MIB = 2**20
CONFIG = """\
model:
  config: {{model_type: llama, hidden_size: 256, num_hidden_layers: {layers}, vocab_size: 4096}}
  path: null
  dtype: float32
data:
  text: stdlib
  sequence_length: 256
  seed: 0
parallel:
  pp: {ranks}
  schedule: {schedule}
  microbatches: {microbatches}
train:
  steps: {steps}
  batch: 16
  optimizer: adamw
  learning_rate: 0.001
  warmup_steps: 20
  clip_norm: 1.0
"""


def write_sample_run(
    folder: Path, num_ranks: int = 2, num_microbatches: int = 8, steps: int = 300, split_backward: bool = False
) -> Path:
    """A finished run of a Llama with two layers a rank; its last rank, with the head, is the slowest."""
    draw = random.Random(0)
    schedule = make_schedule("1f1b", num_ranks, num_microbatches)
    schedule = _split(schedule) if split_backward else schedule
    simulation = simulate(schedule, _costs(num_ranks), LinkCosts(0.0008, 1e9))
    plan = _plan(simulation)
    measured = _measure(simulation, draw)
    folder.mkdir(parents=True)
    config = CONFIG.format(
        layers=2 * num_ranks, ranks=num_ranks, schedule="1f1b", microbatches=num_microbatches, steps=steps
    )
    (folder / "config.yaml").write_text(config)
    write_json(folder / "plan.json", plan.to_json())
    write_json(folder / "predicted_timeline.json", timeline_to_trace(simulation.timeline))
    write_json(folder / "timeline.json", timeline_to_trace(measured))
    rows = [metrics_row(step, steps, measured, plan, draw) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"step_s": measured.step_s, "idle_share": measured.idle_share, "tokens_per_s": 4096 / measured.step_s}
    write_json(folder / "summary.json", {"status": "done", "error": None, "predicted": {}, "measured": figures})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def metrics_row(step: int, steps: int, measured: Timeline, plan: Plan, draw: random.Random) -> dict[str, Any]:
    step_s = measured.step_s * draw.lognormvariate(0.0, 0.02) * (1.8 if step == 1 else 1.0)
    assert plan.prediction is not None
    return {
        "step": step,
        "loss": 3.9 + 4.43 * math.exp(-4.0 * step / steps) + draw.gauss(0.0, 0.06),
        "grad_norm": 0.8 + draw.random(),
        "learning_rate": 1e-3 * min(1.0, step / 20),
        "tokens": 4096,
        "step_s": step_s,
        "tokens_per_s": 4096 / step_s,
        "idle_share": measured.idle_share + draw.gauss(0.0, 0.004),
        "peak_memory_bytes": [
            plan.prediction.memory_bytes(rank) * 115 // 100 + 310 * MIB for rank in range(plan.layout.pp)
        ],
    }


def _costs(num_stages: int) -> StageCosts:
    """18 ms of forward and twice that of backward on each stage, and a head that costs a fifth more."""
    weights = [1.0] * (num_stages - 1) + [1.2]
    return StageCosts(
        f_s=tuple(0.018 * w for w in weights),
        i_s=tuple(0.019 * w for w in weights),
        w_s=tuple(0.017 * w for w in weights),
        parameter_bytes=tuple(int(20 * MIB * w) for w in weights),
        saved_bytes=(24 * MIB,) * num_stages,
        weight_saved_bytes=(14 * MIB,) * num_stages,
        output_bytes=(MIB // 2,) * num_stages,
    )


def _plan(simulation: Simulation) -> Plan:
    ranks = simulation.schedule.num_ranks
    parameters = _costs(ranks).parameter_bytes
    prediction = Prediction(
        step_s=simulation.step_s,
        idle_share=simulation.idle_share,
        tokens_per_s=4096 / simulation.step_s,
        parameter_bytes=parameters,
        gradient_bytes=parameters,
        optimizer_bytes=tuple(2 * size for size in parameters),
        activation_bytes=simulation.peak_activation_bytes,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
    )
    bounds = (0, *(1 + 2 * (stage + 1) for stage in range(ranks - 1)), 2 * ranks + 2)
    reasons = (
        f"Rank {ranks - 1} is the slowest: it holds the head, which costs as much as 0.4 layers.",
        "1f1b over gpipe: the same step time, and each rank keeps at most as many micro-batches as stages follow it.",
        f"{simulation.schedule.num_microbatches} micro-batches: half as many would idle 6 points more.",
    )
    layout = Layout(1, ranks, 1, 1, bounds, simulation.schedule.placement)
    return Plan(layout, "1f1b", simulation.schedule.num_microbatches, 2, "none", prediction, reasons, "measured")


def _split(schedule: Schedule) -> Schedule:
    """Every full backward as its two halves."""
    halves = {"B": "IW"}
    orders = tuple(
        tuple(op._replace(kind=kind) for op in order for kind in halves.get(op.kind, op.kind))
        for order in schedule.orders
    )
    return Schedule(schedule.name, schedule.num_stages, schedule.num_microbatches, schedule.placement, orders)


def _measure(simulation: Simulation, draw: random.Random, start_s: float = 1000.0) -> Timeline:
    """The same schedule with op times that stray by some percent, and an optimizer step behind it."""
    ends: dict[Op, float] = {}
    free = [start_s] * simulation.schedule.num_ranks
    spans = []
    for span in sorted(simulation.timeline.spans, key=lambda s: s.start_s):
        op, rank = span.op, span.rank
        before = ends.get(op._replace(stage=op.stage + (-1 if op.kind == "F" else 1)), 0.0) + 0.0011
        begin = max(free[rank], before if op.kind != "W" else 0.0)
        free[rank] = ends[op] = begin + (span.end_s - span.start_s) * draw.lognormvariate(0.03, 0.06)
        spans.append(Span(rank, op, begin, free[rank]))
    return Timeline(simulation.schedule.num_ranks, tuple(spans), start_s, max(free) + 0.006)
