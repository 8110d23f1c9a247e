"""The check of every type that transformers has, each in a process of its own, bounded in time and memory."""

import resource
import signal
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import psutil
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from headrace.chain.check import Verdict, check_named
from headrace.cluster import num_cores
from headrace.errors import RequestError

Progress = Callable[[int, int, str], None]

LONGEST_S = 120.0
MOST_BYTES = 4 << 30


def check_all(
    types: Iterable[str] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)),
    progress: Progress = lambda done, total, what: None,
) -> list[Verdict]:
    """Checks each type with its default options, as many at a time as there are cores.

    No type can hang or end the caller: one that takes longer than `LONGEST_S`, wants more than `MOST_BYTES` or ends
    its process is refused with that reason.

    Args:
        types: Model types; all causal ones that transformers has, where none are given.
        progress: Told after each type.

    Returns:
        Verdicts in the order of ``types``.
    """
    names = list(types)
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # Importing torch and transformers once is most of the work.
    verdicts = []
    with ThreadPoolExecutor(num_cores()) as pool:
        for verdict in pool.map(lambda name: _guarded(context, name, verdict_of), names):
            verdicts.append(verdict)
            progress(len(verdicts), len(names), f"checking {verdict.type}")
    return verdicts


def verdict_of(name: str) -> Verdict:
    """The verdict on a type with its default options; on one that transformers itself refuses, a refusal."""
    try:
        return check_named(name)
    except RequestError as error:
        return Verdict(name, False, 0, reason=str(error))


def _guarded(context: ForkServerContext, name: str, answer: Callable[[str], Verdict]) -> Verdict:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(name, answer, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(LONGEST_S):
            return Verdict(name, False, 0, reason=f"its check took longer than {LONGEST_S:g} s")
        verdict: Verdict = ours.recv()
        return verdict
    except EOFError:
        process.join()
        return Verdict(name, False, 0, reason=f"its check ended the process ({_ending(process.exitcode)})")
    finally:
        process.kill()
        process.join()
        ours.close()


def _ending(exit_code: int | None) -> str:
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit {exit_code}"


def _work(name: str, answer: Callable[[str], Verdict], out: Connection) -> None:
    limit = psutil.Process().memory_info().vms + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    out.send(answer(name))
