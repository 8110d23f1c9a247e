"""What each recompute mode costs and saves: seconds of a step and bytes of a micro-batch in flight, beside none.

Run ``python -m benchmarks.recompute [--rounds 7] [--json]``. One process and one thread train a Llama of eight layers;
the modes take turns step by step, so that whatever else runs here slows them all alike.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoConfig

from headrace.chain import RecomputeMode
from headrace.chain.build import ModelSource
from headrace.engine import AdamWSettings, Batch, Engine
from headrace.engine.born import Born
from headrace.engine.stage import Stage
from headrace.plan import Layout, Plan

LAYERS, ROWS, LENGTH, MICROBATCHES, VOCABULARY = 8, 4, 256, 2, 1024
MODES: dict[str, tuple[RecomputeMode, ...]] = {
    "none": ("none",) * LAYERS,
    "selective": ("selective",) * LAYERS,
    "half full": ("full", "none") * (LAYERS // 2),
    "full": ("full",) * LAYERS,
}


def source(attention: str) -> ModelSource:
    """The model, with that implementation of attention."""
    config = AutoConfig.for_model(
        "llama",
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=LAYERS,
        num_attention_heads=5,
        num_key_value_heads=5,
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
    )
    config._attn_implementation = attention
    return ModelSource(config)


def kept_bytes(model: ModelSource, modes: tuple[RecomputeMode, ...], batch: Batch) -> int:
    """What one micro-batch keeps of all layers from F until B."""
    part = model.build(0, LAYERS + 1)
    part.recompute = modes
    stage, born = Stage(part, split_backward=False), Born()
    with born:
        stage.forward(0, None, batch.split(MICROBATCHES, 0, 0)[0])
    return born.alive_bytes()


def compared(attention: str, rounds: int) -> dict[str, dict[str, float]]:
    """For each mode the median seconds of a step, its ratio to none's in the same round, and the bytes."""
    model = source(attention)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    batch, layout = Batch(ids, ids), Layout(1, 1, 1, 1, (0, LAYERS + 2), (0,))
    engines = {
        name: Engine(model, Plan(layout, "1f1b", MICROBATCHES, ROWS // MICROBATCHES, modes), AdamWSettings())
        for name, modes in MODES.items()
    }
    steps = [{name: engine.step(batch).step_s for name, engine in engines.items()} for _ in range(rounds + 1)][1:]
    return {
        name: {
            "step_s": statistics.median(step[name] for step in steps),
            "ratio": statistics.median(step[name] / step["none"] for step in steps),
            "kept_bytes": kept_bytes(model, modes, batch),
        }
        for name, modes in MODES.items()
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(str(Path(folder) / "store"), 1), rank=0, world_size=1)
        figures = {attention: compared(attention, chosen.rounds) for attention in ("eager", "sdpa")}
        dist.destroy_process_group()
    if chosen.json:
        print(json.dumps(figures))
        return
    for attention, modes in figures.items():
        for name, one in modes.items():
            bytes_share = one["kept_bytes"] / modes["none"]["kept_bytes"]
            print(
                f"{attention:6} {name:10} {one['step_s'] * 1e3:7.0f} ms a step, {one['ratio']:.2f} x; "
                f"{one['kept_bytes'] / 1e6:6.1f} MB a micro-batch, {bytes_share:.0%}"
            )


if __name__ == "__main__":
    main()
