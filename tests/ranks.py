"""Processes that tests run jobs on: started once, since importing torch is slow, and used again by every test."""

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class RankFailed(Exception):
    """A job raised on some rank; the text is its traceback."""


def _serve(connection: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            job, rank, size, store, args = connection.recv()
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo", store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=timedelta(seconds=60)
            )
            connection.send((True, job(*args)))
        except BaseException:
            connection.send((False, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


class Ranks:
    """A pool of processes; `run` uses as many as a job asks for."""

    def __init__(self) -> None:
        self._workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self._folder = tempfile.TemporaryDirectory()
        self._jobs = 0

    def run(self, size: int, job: Callable[..., Any], *args: Any) -> list[Any]:
        """Runs ``job(*args)`` as ``size`` ranks over gloo and answers what each returned."""
        context = multiprocessing.get_context("spawn")
        while len(self._workers) < size:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._workers.append((process, ours))
        self._jobs += 1
        store = str(Path(self._folder.name) / f"store{self._jobs}")
        used = self._workers[:size]
        for rank, (_, connection) in enumerate(used):
            connection.send((job, rank, size, store, args))
        answers = [connection.recv() for _, connection in used]
        errors = [f"rank {rank}:\n{value}" for rank, (good, value) in enumerate(answers) if not good]
        if errors:
            raise RankFailed("\n".join(errors))
        return [value for _, value in answers]

    def close(self) -> None:
        """Ends the processes."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
            process.join()
        self._folder.cleanup()
