"""Before a job begins under torchrun: all ranks were started alike and see one run folder, or the odd one is named."""

import hashlib
import socket
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.distributed as dist

from headrace.errors import RequestError
from headrace.train.config import Config
from headrace.train.files import RunFiles

SHARED_FOLDER_S = 60
"""A network file system may show a new folder to the other machines only after so long."""


def start_of(config: Config) -> dict[str, Any]:
    """What must be equal on all ranks: every key of the configuration, and versions."""
    versions = {f"version of {name}": version(name).partition("+")[0] for name in ("headrace", "torch", "transformers")}
    return _flat(config.model_dump()) | versions


def require_same_start(start: dict[str, Any]) -> None:
    """Compares what `start_of` says; every rank calls it.

    Raises:
        RequestError: On every rank the same sentence; names the first rank that differs from most, and the key.
    """
    everyone = _gather((socket.gethostname(), start))
    for key in sorted({key for _, facts in everyone for key in facts}):
        values = [facts.get(key) for _, facts in everyone]
        usual = Counter(map(repr, values)).most_common(1)[0][0]
        odd = next((rank for rank, value in enumerate(values) if repr(value) != usual), None)
        if odd is not None:
            raise RequestError(
                f"rank {odd} on {everyone[odd][0]} was started with {key} = {values[odd]!r}, and the others "
                f"with {usual}; give all ranks the same config and the same versions"
            )


def require_one_folder(run_dir: Path, patience_s: float = SHARED_FOLDER_S) -> None:
    """Checks that each rank finds in the run folder what rank 0 has written there; every rank calls it.

    Raises:
        RequestError: On every rank the same sentence; names the first rank that does not.
    """
    wanted = [_digest(run_dir)]
    dist.broadcast_object_list(wanted)
    deadline_s = time.monotonic() + patience_s
    while (found := _digest(run_dir)) != wanted[0] and time.monotonic() < deadline_s:
        time.sleep(0.5)
    for rank, (host, same) in enumerate(_gather((socket.gethostname(), found == wanted[0]))):
        if not same:
            raise RequestError(
                f"rank {rank} on {host} does not find in {run_dir} what rank 0 has written there; "
                "set --run-dir to a folder that all machines share"
            )


def _digest(run_dir: Path) -> str | None:
    """Of the configuration, the plan and the rest of the job; None where one of them is not there."""
    files = RunFiles(run_dir)
    try:
        return hashlib.sha256(b"".join(file.read_bytes() for file in (files.config, files.plan, files.job))).hexdigest()
    except OSError:
        return None


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    """Keys as a person writes them: ``train.steps``."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): found for name, found in inner.items()}
    return flat


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
