"""An engine's state by global names, as checkpoints hold it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.checkpoint import load_state, read_meta, save_checkpoint
from headrace.engine import Engine
from headrace.errors import RequestError
from headrace.train.job import Job

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(engine: Engine, job: Job) -> Path:
    """Saves parameters, moments and the data cursor; every rank calls it."""
    meta = {
        "step": engine.steps_done,
        "samples": engine.steps_done * job.config.train.batch,
        "identity": job.identity(),
        "model_config": job.source.config.to_dict(),
        "layout": job.plan.to_json()["layout"],
    }
    folder = job.files.run_dir
    return save_checkpoint(folder, engine.steps_done, state_of(engine), meta, job.config.checkpoint.keep)


def load(engine: Engine, job: Job, checkpoint: Path) -> None:
    """Fills an engine from a checkpoint of any layout.

    Raises:
        RequestError: It is damaged, or another job's; names the first thing that differs.
    """
    meta = read_meta(checkpoint)
    check_identity(meta, job, checkpoint)
    load_state(checkpoint, state_of(engine))
    engine.steps_done = int(meta["step"])


def check_identity(meta: dict[str, Any], job: Job, checkpoint: Path) -> None:
    """Raises `RequestError` where a checkpoint is of another model, data, batch or seed."""
    mine, theirs = _flat(job.identity()), _flat(meta["identity"])
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            raise RequestError(
                f"checkpoint {checkpoint} is of another job: {key} was {theirs.get(key)!r} and is now "
                f"{mine.get(key)!r}; set it back, or start anew in another --run-dir"
            )
    samples, batch = int(meta["samples"]), job.config.train.batch
    if samples != int(meta["step"]) * batch:
        raise RequestError(
            f"checkpoint {checkpoint} has seen {samples} sequences in {meta['step']} steps, but train.batch is now "
            f"{batch}; set train.batch={samples // int(meta['step'])}"
        )


def state_of(engine: Engine) -> dict[str, Tensor]:
    """The living tensors of this rank; an optimizer that has not stepped yet gets its zero moments."""
    state: dict[str, Tensor] = {}
    for name, parameter in engine.parameters.local.items():
        name = engine.parameters.global_name(name)
        state[name] = parameter.detach()
        if not parameter.requires_grad:
            continue
        moments = engine.optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32)
            moments.update({key: torch.zeros_like(parameter) for key in MOMENTS})
        state |= {f"optimizer.{key}.{name}": moments[key] for key in ("step", *MOMENTS)}
    return state | engine.persistent_buffers()


def weights_of(engine: Engine) -> dict[str, Tensor]:
    """What of `state_of` is the model alone."""
    named = {engine.parameters.global_name(name): p.detach() for name, p in engine.parameters.local.items()}
    return named | engine.persistent_buffers()


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix: list(data) if isinstance(data, tuple) else data}
    pairs = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in data.items()]
    return {key: value for pair in pairs for key, value in pair.items()}
