"""Thousands of steps of a tiny model: memory stays flat, nothing piles up, and the same run gives the same bits.

    python -m benchmarks.endurance [--steps 2000] [--ranks 4] [--schedule zb-v] [--json]

Prints what it saw and a verdict, and exits with 1 where that is no pass. `growth` compares the resident memory at the
end with that after the first quarter of the steps, when every buffer has been made.
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.counts import Counts

ROWS, LENGTH, MICROBATCHES = 8, 32, 8
MOST_GROWTH, MOST_MORE, MOST_MAPS = 0.01, 2, 8 * MICROBATCHES
"""A rank of two chunks has eight ends of channels, and no channel more messages under way than a step has."""


@dataclass(frozen=True)
class RankReport:
    """What one rank saw.

    Attributes:
        early, late: After the first quarter of the steps and at the end.
        first_loss, last_loss: The same on every rank.
        digest: Of all losses, norms and final weights.
        seconds: Of all steps.
    """

    early: Counts
    late: Counts
    first_loss: float
    last_loss: float
    digest: str
    seconds: float


def run_rank(rank: int, size: int, steps: int, schedule: str, store: str, answer: Connection) -> None:
    """Trains and counts; sends a `RankReport`."""
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig

    from headrace.chain.build import ModelSource
    from headrace.engine import AdamWSettings, Batch, Engine
    from headrace.plan import Layout, Plan
    from headrace.schedule import make_schedule

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=timedelta(minutes=10)
    )
    made = make_schedule(schedule, size, MICROBATCHES)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=max(4, made.num_stages),
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
    )
    num_layers = config.num_hidden_layers + 2
    bounds = tuple(round(stage * num_layers / made.num_stages) for stage in range(made.num_stages + 1))
    layout = Layout(1, size, 1, made.num_stages // size, bounds, made.placement)
    engine = Engine(ModelSource(config), Plan(layout, schedule, MICROBATCHES, 1), AdamWSettings(3e-3, clip_norm=1.0))
    generator, digest, losses = torch.Generator().manual_seed(1), hashlib.blake2b(), []
    early, start_s = None, time.perf_counter()
    for step in range(steps):
        starts = torch.randint(97, (ROWS, 1), generator=generator)
        length = LENGTH - step % 3 * 5  # Of several lengths in turn, as real data has.
        ids = (starts + 7 * torch.arange(length)) % 97  # Something that can be learnt.
        result = engine.step(Batch(ids, ids))
        digest.update(f"{result.loss!r} {result.grad_norm!r}".encode())
        losses.append(result.loss)
        if step + 1 == max(1, steps // 4):
            early = Counts.now()
    seconds, late = time.perf_counter() - start_s, Counts.now()
    for name, parameter in sorted(engine.parameters.local.items()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    assert early is not None
    answer.send(RankReport(early, late, losses[0], losses[-1], digest.hexdigest(), seconds))
    engine.close()
    dist.destroy_process_group()


def run_once(size: int, steps: int, schedule: str) -> list[RankReport]:
    """One training run in processes of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store, pipes, processes = str(Path(folder) / "store"), [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_rank, args=(rank, size, steps, schedule, store, theirs))
            process.start()
            pipes.append(ours)
            processes.append(process)
        reports: list[RankReport] = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join()
    return reports


def verdict(runs: list[list[RankReport]]) -> dict[str, object]:
    """What was seen, and whether all of it is as promised."""
    first = runs[0]
    growth = [report.late.resident_bytes / report.early.resident_bytes - 1 for report in first]
    checks = {
        "memory_flat": max(growth) <= MOST_GROWTH,
        "nothing_piles_up": all(
            r.late.more_than(r.early) <= MOST_MORE and r.late.shared_maps <= MOST_MAPS for r in first
        ),
        "same_bits_twice": [r.digest for r in runs[0]] == [r.digest for r in runs[-1]],
        "it_learns": first[0].last_loss < first[0].first_loss,
    }
    return {
        "passed": all(checks.values()),
        "checks": checks,
        "growth": [round(share, 5) for share in growth],
        "runs": [[asdict(report) for report in run] for run in runs],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--schedule", default="zb-v")
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    asked = parser.parse_args()
    said = verdict([run_once(asked.ranks, asked.steps, asked.schedule) for _ in range(2)])
    said = {"steps": asked.steps, "ranks": asked.ranks, "schedule": asked.schedule, **said}
    if asked.json:
        print(json.dumps(said, indent=1))
    else:
        print(
            f"{asked.steps} steps of {asked.schedule} at P={asked.ranks}, twice: {'PASS' if said['passed'] else 'FAIL'}"
        )
        for name in ("checks", "growth"):
            print(f"  {name}: {said[name]}")
    sys.exit(0 if said["passed"] else 1)


if __name__ == "__main__":
    main()
