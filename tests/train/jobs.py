"""Tiny jobs, run through the command line as a person runs them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
}
GPT2 = {
    "model_type": "gpt2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
}
STEPS, BATCH = 6, 8
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
HEADRACE = [sys.executable, "-m", "headrace"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
PATIENCE_S = 240
"""Ends a test that hangs; no outcome depends on it."""


@dataclass(frozen=True)
class Whole:
    """A run that never stopped, and what the terminal showed."""

    job: Path
    run_dir: Path
    out: str
    err: str


def write_job(folder: Path, model: dict[str, Any] = LLAMA, **train: Any) -> Path:
    """A folder of text, and ``job.yaml`` that learns it with two stages, saving after steps 2, 4 and 6."""
    text = folder / "text"
    text.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        words = (f"{number * 1000 + i * i} is the square of {i} plus {number} thousand.\n" for i in range(80))
        (text / f"{number}.txt").write_text("".join(words))
    config = {
        "model": {"config": model},
        "data": {"text": str(text), "sequence_length": 16, "vocab_size": 300},
        "parallel": {"pp": 2, "microbatches": 3},
        "train": {"steps": STEPS, "batch": BATCH, "learning_rate": 1e-2, "warmup_steps": 2, **train},
        "checkpoint": {"every": 2},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(command: list[Any], cwd: Path, hook: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end, in a process group of its own."""
    paths = [*([] if hook is None else [str(hook)]), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=PATIENCE_S,
    )


def train(job: Path, run_dir: str, *arguments: str, hook: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """``headrace train`` in the job's folder."""
    return run([*HEADRACE, "train", job, "--run-dir", run_dir, *arguments], job.parent, hook)


def write_hook(folder: Path, rank: int, step: int, action: str) -> Path:
    """A folder for PYTHONPATH: ``rank`` does ``action`` when it begins ``step``, counted from 1.

    Every rank also leaves its process id there. So signals and faults come at one known moment, and no test waits.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""
import os, signal, time
from pathlib import Path
if "RANK" in os.environ:
    Path({str(folder)!r}, "pid" + os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "{rank}":
        from headrace.train.data import TokenData
        plain = TokenData.batch
        def batch(self, offset, rows):
            if offset == {step - 1} * rows:
{indent(action, " " * 16)}
            return plain(self, offset, rows)
        TokenData.batch = batch
"""
    )
    return folder


def processes_left(hook: Path) -> list[int]:
    """Ranks of a hooked run that still run; one that has ended and that nobody has asked about is a zombie."""
    stats = [Path("/proc", file.read_text(), "stat") for file in hook.glob("pid*")]
    return [int(stat.parent.name) for stat in stats if stat.exists() and ") Z " not in stat.read_text()]


def wait_for_end(hook: Path) -> None:
    """Waits until no rank of a hooked run is left.

    Raises:
        TimeoutError: They live on.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while processes_left(hook):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{processes_left(hook)} are still alive")


def outcome(run_dir: Path) -> tuple[list[Any], bytes]:
    """What must be equal to the last bit: loss, norm and learning rate of each step, and the exported weights."""
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [[line[name] for name in names] for line in lines], (run_dir / "export/model.safetensors").read_bytes()
