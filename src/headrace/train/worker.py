"""One rank of a job, whoever started it: the launcher, or torchrun."""

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from headrace.checkpoint import latest_checkpoint
from headrace.cluster import num_cores
from headrace.engine import AdamWSettings, Engine
from headrace.engine.watch import slow_timeout
from headrace.errors import HeadraceError, RequestError
from headrace.train import state
from headrace.train.job import Job, load_job
from headrace.train.loop import run_steps

ENVIRONMENT = ("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class StopSignal:
    """Set by Ctrl-C, by SIGTERM, by whoever makes the run folder's file ``stop``, or when the launcher is gone.

    A second Ctrl-C ends at once.
    """

    def __init__(self, stop_file: Path) -> None:
        """Takes over the two signals."""
        self._wanted, self._file, self._launcher = False, stop_file, os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        """Whether this rank wishes to stop."""
        return self._wanted or self._file.exists() or os.getppid() != self._launcher

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._wanted and number == signal.SIGINT:
            os._exit(130)
        self._wanted = True


def run_rank(job: Job, resume: bool) -> None:
    """Trains as the rank that the environment names; the process group exists.

    Raises:
        HeadraceError: With one sentence.
    """
    stop = StopSignal(job.files.stop)
    train = job.config.train
    settings = AdamWSettings(train.learning_rate, train.betas, 1e-8, train.weight_decay, train.clip_norm)
    device = device_of_this_rank()
    engine = Engine(job.source, job.plan, settings, device, train.seed, train.timeout_s, job.files.watch)
    checkpoint = latest_checkpoint(job.files.run_dir) if resume else None
    if checkpoint is not None:
        state.load(engine, job, checkpoint)
    run_steps(engine, job, stop)
    engine.close()


def join_group(timeout_s: float) -> None:
    """Makes the process group from the environment that torchrun or the launcher has set, and shares the cores.

    Args:
        timeout_s: The longest wait within a step; starting and saving may take longer.

    Raises:
        RequestError: The environment is not complete, or the port in it is taken or cannot be reached.
    """
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise RequestError(f"RANK is set, but {missing[0]} is not; start the ranks by torchrun, or unset RANK")
    torch.set_num_threads(max(1, num_cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    backend = "cpu:gloo,cuda:nccl" if device_of_this_rank().type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=slow_timeout(timeout_s))
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RequestError(
            f"the ranks cannot meet at {address}: {str(error).splitlines()[0]}; set MASTER_PORT to a free port"
        ) from None


def device_of_this_rank() -> torch.device:
    """A CUDA device of its own where there are enough, else the CPU."""
    local, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available() and torch.cuda.device_count() >= size:
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device("cpu")


def end_rank(error: Exception) -> NoReturn:
    """Leaves the error where the launcher looks for it, and ends this process, whatever still runs in it."""
    handler = get_error_handler()
    handler.initialize()
    handler.record_exception(error)
    if not isinstance(error, HeadraceError):
        traceback.print_exception(error)
    sys.stderr.flush()
    # Not sys.exit: messages that are still on their way would hold this process back.
    os._exit(error.exit_code if isinstance(error, HeadraceError) else 1)


def main() -> None:
    """``python -m headrace.train.worker RUN_DIR [--resume]``, as the launcher starts it."""
    run_dir, resume = Path(sys.argv[1]), "--resume" in sys.argv[2:]
    try:
        job = load_job(run_dir)
        join_group(job.config.train.timeout_s)
        run_rank(job, resume)
    except Exception as error:
        end_rank(error)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
