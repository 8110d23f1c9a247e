"""The steps of a job on one rank."""

from collections.abc import Callable

import torch

from headrace.engine import Batch, Engine
from headrace.simulate.trace import timeline_to_trace
from headrace.train import state
from headrace.train.data import TokenData
from headrace.train.files import write_json
from headrace.train.job import Job
from headrace.train.live import Live
from headrace.train.metrics import MetricsWriter, StepMetrics
from headrace.train.rate import learning_rate
from headrace.train.summary import Summary


def run_steps(engine: Engine, job: Job, stop: Callable[[], bool]) -> None:
    """Runs from where the engine stands to the last step, or until a rank wishes to stop; saves at the end.

    Rank 0 also writes metrics, timelines and the summary, and shows progress.
    """
    if engine.rank == 0:
        first = engine.steps_done
        with MetricsWriter(job.files, first, job.config.track.tensorboard) as writer, Live(job, first) as live:

            def tell(metrics: StepMetrics) -> None:
                writer.write(metrics)
                live.show(metrics)

            stopped = _steps(engine, job, stop, tell)
        Summary.of(job, "stopped" if stopped else "done", first_step=first).save(job.files)
    else:
        _steps(engine, job, stop, lambda metrics: None)


def _steps(engine: Engine, job: Job, stop: Callable[[], bool], tell: Callable[[StepMetrics], None]) -> bool:
    """Answers whether it was stopped before the last step."""
    train, every = job.config.train, job.config.checkpoint.every
    data = job.data()
    stopped = False
    while engine.steps_done < train.steps and not stopped:
        rate = learning_rate(train, engine.steps_done)
        results = engine.advance(_batch(data, engine.steps_done, train.batch), rate, stop())
        saves = engine.steps_done == train.steps or (every and engine.steps_done % every == 0)
        if saves or _evaluates(job, data, engine.steps_done) or any(result.stop for result in results):
            results += engine.settle()
        for result in results:
            validation_loss = _validation_loss(engine, job, data) if result.step == engine.steps_done else None
            tell(StepMetrics.of(result, learning_rate(train, result.step - 1), validation_loss))
        stopped = any(result.stop for result in results)
        if saves or stopped:
            _save(engine, job)
    return stopped and engine.steps_done < train.steps


def _evaluates(job: Job, data: TokenData, step: int) -> bool:
    train = job.config.train
    due = step == train.steps or (train.evaluate_every > 0 and step % train.evaluate_every == 0)
    return due and data.num_held_out > 0


def _validation_loss(engine: Engine, job: Job, data: TokenData) -> float | None:
    """Mean over all tokens that are held out; None where it is not this step's turn."""
    if not _evaluates(job, data, engine.steps_done):
        return None
    train, total, num_tokens = job.config.train, 0.0, 0
    for first in range(0, data.num_held_out, train.batch):
        ids = torch.from_numpy(data.held_out(first, train.batch))
        found = engine.evaluate(Batch(ids, ids))
        total, num_tokens = total + found.loss * found.num_valid_tokens, num_tokens + found.num_valid_tokens
    return total / num_tokens


def _save(engine: Engine, job: Job) -> None:
    with engine.meeting(f"to save step {engine.steps_done}"):
        timeline = engine.timeline()
        if engine.rank == 0:
            write_json(job.files.timeline, timeline_to_trace(timeline))
        state.save(engine, job)


def _batch(data: TokenData, step: int, rows: int) -> Batch:
    ids = torch.from_numpy(data.batch(step * rows, rows))
    return Batch(ids, ids)
