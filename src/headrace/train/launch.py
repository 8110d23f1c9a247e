"""Starting a job's processes on this machine through torch's elastic launcher, and saying what became of them."""

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from headrace.cluster import num_cores
from headrace.errors import RunError
from headrace.plan import Plan
from headrace.train.files import RunFiles

END_PEERS_S = 10
"""When a rank has failed, the others are asked to end, and after so many seconds made to."""


def launch(files: RunFiles, plan: Plan, resume: bool) -> None:
    """Runs all ranks of a prepared job here and waits for them.

    Ctrl-C and SIGTERM ask them to finish the step, save and stop.

    Raises:
        RunError: A rank failed; names it and its error.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(max(1, num_cores() // plan.layout.num_ranks))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.layout.num_ranks,
        run_id=files.run_dir.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="SIGQUIT",
        shutdown_timeout=END_PEERS_S,
    )
    arguments = ["-m", "headrace.train.worker", str(files.run_dir), *(["--resume"] if resume else [])]
    previous = {number: signal.signal(number, _ask_to_stop(files.stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        raise _explain(error, plan) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        files.stop.unlink(missing_ok=True)


def _ask_to_stop(stop_file: Path) -> "signal._HANDLER":
    def handle(_: int, __: FrameType | None) -> None:
        stop_file.touch()

    return handle


def _explain(error: ChildFailedError, plan: Plan) -> RunError:
    """The sentence for the rank that failed first of itself; ranks that only lost a peer are not the cause."""
    failures = sorted(error.failures.items(), key=lambda item: (_lost_a_peer(item[1]), item[1].timestamp))
    rank, failure = failures[0]
    stages = [stage for stage, owner in enumerate(plan.layout.placement) if owner == rank]
    where = f"rank {rank} (stage {', '.join(map(str, stages))})"
    if failure.exitcode < 0:
        return RunError(f"{where} was ended by {failure.signal_name()}, such as when memory runs out")
    text = _message(failure)
    return RunError(text if text.startswith(f"rank {rank}") else f"{where} failed: {text}")


def _lost_a_peer(failure: ProcessFailure) -> bool:
    return _kind(failure) == "PeerLostError"


def _kind(failure: ProcessFailure) -> str:
    return failure.message.partition(":")[0] if failure.exitcode > 0 else ""


def _message(failure: ProcessFailure) -> str:
    """The error file says ``Class: text``."""
    kind, _, text = failure.message.partition(": ")
    return text if kind.endswith("Error") and text else failure.message
