"""A whole job from its configuration: on this machine, or as one rank that torchrun has started."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from headrace.checkpoint import check_room, latest_checkpoint, read_meta
from headrace.errors import HeadraceError, RequestError, RunError
from headrace.train.config import Config
from headrace.train.files import RunFiles
from headrace.train.finish import export_run
from headrace.train.job import Job, Progress, load_job, prepare_job, save_job
from headrace.train.launch import launch
from headrace.train.metrics import check_tensorboard
from headrace.train.same_start import require_one_folder, require_same_start, start_of
from headrace.train.state import MOMENTS, check_identity
from headrace.train.summary import Summary
from headrace.train.worker import end_rank, join_group, run_rank
from headrace.train.world import check_world

ShowPlan = Callable[[Job], None]


def choose_run_dir(config: Config, config_path: Path, wanted: Path | None, resume: bool) -> Path:
    """The run folder: as asked for, or ``runs/NAME``, or ``runs/NAME-2`` and so on where that holds a run."""
    if wanted is not None or config.run is not None:
        return wanted or Path(config.run or "")
    parent, name, number = Path("runs"), config_path.stem, 1
    taken = [parent / name]
    while (taken[-1] / "config.yaml").exists():
        number += 1
        taken.append(parent / f"{name}-{number}")
    return taken[-2] if resume and len(taken) > 1 else taken[-1]


def train_here(config: Config, run_dir: Path, resume: bool, show_plan: ShowPlan, progress: Progress) -> Job:
    """Prepares the job, runs its processes on this machine, exports the model where it came to the end.

    Raises:
        RequestError: The request cannot be met; nothing was started.
        RunError: The run failed; its last checkpoint is whole.
    """
    job = _prepare(config, run_dir, resume, None, progress)
    show_plan(job)
    try:
        launch(job.files, job.plan, resume)
    except RunError as error:
        Summary.of(job, "failed", str(error)).save(job.files)
        raise RunError(f"{str(error).rstrip('.')}. {_way_on(run_dir)}") from None
    _export(job)
    return job


def train_as_rank(config: Config, run_dir: Path, resume: bool, show_plan: ShowPlan, progress: Progress) -> Job:
    """The same as one of the ranks that torchrun has started; rank 0 prepares for all.

    Raises:
        HeadraceError: On every rank the same sentence where the job cannot begin.
    """
    world_size = os.environ["WORLD_SIZE"]
    check_world(config, int(world_size), f"{world_size} processes were started")
    join_group(config.train.timeout_s)
    require_same_start(start_of(config))
    answer: list[Path | HeadraceError] = [run_dir]
    if dist.get_rank() == 0:
        try:
            answer[0] = _prepare(config, run_dir, resume, dist.get_world_size(), progress).files.run_dir.resolve()
        except HeadraceError as error:
            answer[0] = error
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], HeadraceError):
        raise answer[0]
    require_one_folder(answer[0])
    job = load_job(answer[0])
    if dist.get_rank() == 0:
        show_plan(job)
    try:
        run_rank(job, resume)
    except Exception as error:
        if isinstance(error, HeadraceError):
            sys.stderr.write(f"headrace: {error}\n")
        end_rank(error)
    if dist.get_rank() == 0:
        _export(job)
    dist.barrier()
    dist.destroy_process_group()
    return job


def _prepare(config: Config, run_dir: Path, resume: bool, num_ranks: int | None, progress: Progress) -> Job:
    if config.track.tensorboard:
        check_tensorboard()
    files = RunFiles(run_dir)
    if not resume:
        files.open_new()
    elif not files.config.exists():
        raise RequestError(f"{run_dir} holds no run to resume; leave --resume out, or name the run's folder")
    checkpoint = latest_checkpoint(run_dir) if resume else None
    meta = None if checkpoint is None else read_meta(checkpoint)
    try:
        job, simulation = prepare_job(config, run_dir, num_ranks, progress)
        if checkpoint is not None and meta is not None:
            check_identity(meta, job, checkpoint)
            _check_unfinished(meta["step"], job)
        check_room(run_dir, _bytes_to_write(job, 0 if meta is None else meta["step"]))
        save_job(job, simulation)
    finally:
        files.drop_empty()
    files.stop.unlink(missing_ok=True)
    return job


def _check_unfinished(step: int, job: Job) -> None:
    steps = job.config.train.steps
    if step >= steps:
        raise RequestError(f"{job.files.run_dir} has done step {step} of train.steps={steps}; set train.steps higher")


def _bytes_to_write(job: Job, steps_done: int) -> int:
    """The run's checkpoints, as many as lie on the disk at a time beside those that are there, and the export."""
    every, left = job.config.checkpoint.every, job.config.train.steps - steps_done
    saves = -(-left // every) if every else 1
    copies = min(saves, 1 if steps_done else job.config.checkpoint.keep + 1)
    chain = job.source.chain()
    state = chain.num_parameters + len(MOMENTS) * chain.num_learning
    return (copies * state + chain.num_parameters) * chain.dtype_bytes


def _export(job: Job) -> None:
    """Of a run that came to its end; one that was stopped goes on later. Takes the place of an earlier end's."""
    if Summary.of(job, "done").steps >= job.config.train.steps:
        shutil.rmtree(job.files.export, ignore_errors=True)
        export_run(job.files.run_dir, job.files.export, job.prepared.tokenizer_folder)


def _way_on(run_dir: Path) -> str:
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        return "There is no checkpoint yet."
    return f"The last checkpoint, {checkpoint}, is whole; go on with --resume --run-dir {run_dir}."
