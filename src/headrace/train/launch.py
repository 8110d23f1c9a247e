"""Starting a job's processes on this machine through torch's elastic launcher, and saying what became of them."""

import logging
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from headrace.cluster import num_cores
from headrace.errors import HeadraceError, RequestError, RunError
from headrace.plan import Plan
from headrace.train.files import RunFiles

END_PEERS_S = 5
"""When a rank has failed, the others are asked to end, and after so many seconds made to."""


def launch(files: RunFiles, plan: Plan, resume: bool) -> None:
    """Runs all ranks of a prepared job here and waits for them.

    Ctrl-C and SIGTERM ask them to finish the step, save and stop; a second Ctrl-C does not wait for that.

    Raises:
        RequestError: The ranks refused the request.
        RunError: A rank failed; names it and its error. Or there was a second Ctrl-C.
    """
    arguments = ["-m", "headrace.train.worker", str(files.run_dir), *(["--resume"] if resume else [])]
    previous = {number: signal.signal(number, _ask_to_stop(files.stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run_ranks(plan, files.run_dir.name, arguments)
    except KeyboardInterrupt:
        raise RunError("interrupted for the second time, before the step was done") from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        files.stop.unlink(missing_ok=True)


def run_ranks(plan: Plan, name: str, arguments: list[str]) -> None:
    """Runs ``python ARGUMENTS`` as each rank of a plan and waits for them.

    Raises:
        RequestError: The ranks refused the request.
        RunError: A rank failed; names it and its error.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = str(max(1, num_cores() // plan.layout.num_ranks))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=plan.layout.num_ranks,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        signals_to_handle="SIGQUIT",
        shutdown_timeout=END_PEERS_S,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        raise _explain(error, plan) from None


def _ask_to_stop(stop_file: Path) -> "signal._HANDLER":
    def handle(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and stop_file.exists():
            raise KeyboardInterrupt
        stop_file.touch()

    return handle


def _explain(error: ChildFailedError, plan: Plan) -> HeadraceError:
    """The sentence for the rank that failed first of itself.

    One that knows its own error, or which other one is stuck, is the cause; then one that was killed, which may also
    have been done here because it did not end; one that only lost a peer comes last.
    """

    def place(failure: ProcessFailure) -> tuple[int, int]:
        known = ("RunError", "RequestError", "StuckError")
        by_itself = (_kind(failure) in known, failure.exitcode < 0, _kind(failure) != "PeerLostError", True)
        return by_itself.index(True), failure.timestamp

    rank, failure = min(error.failures.items(), key=lambda item: place(item[1]))
    text = re.sub(r"^(Request|Run|PeerLost|Stuck)Error: ", "", _said(failure))
    if _kind(failure) == "RequestError":
        return RequestError(text)
    stages = [stage for stage, owner in enumerate(plan.layout.placement) if owner == rank]
    where = f"rank {rank} (stage {', '.join(map(str, stages))})"
    if failure.exitcode < 0:
        return RunError(f"{where} was ended by {failure.signal_name()}, such as when memory runs out")
    return RunError(text if text.startswith("rank ") else f"{where} failed: {text}")


def _kind(failure: ProcessFailure) -> str:
    return _said(failure).partition(":")[0]


def _said(failure: ProcessFailure) -> str:
    """What the rank wrote before it ended: ``Class: text``."""
    said = failure.error_file_data["message"]
    return str(said["message"] if isinstance(said, dict) else failure.message)
