"""Real processes of a gloo group, for tests; what each returns comes back in the order of ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(tmp_path: Path, num_ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    tmp_path.mkdir(exist_ok=True)
    mp.spawn(_one_rank, (num_ranks, tmp_path, function, args), nprocs=num_ranks)
    return [torch.load(tmp_path / f"result-{rank}", weights_only=False) for rank in range(num_ranks)]


def _one_rank(rank: int, num_ranks: int, tmp_path: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=rank, world_size=num_ranks)
    result = function(rank, *args)
    dist.barrier()
    dist.destroy_process_group()
    torch.save(result, tmp_path / f"result-{rank}")
