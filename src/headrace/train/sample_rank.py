"""One rank of a sample, as the launcher starts it."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from headrace.checkpoint import load_state
from headrace.engine import AdamWSettings, Engine
from headrace.engine.watch import DEFAULT_TIMEOUT_S
from headrace.train.files import write_json
from headrace.train.job import load_job
from headrace.train.state import weights_of
from headrace.train.worker import device_of_this_rank, end_rank, join_group


def sample_rank(folder: Path) -> None:
    """Generates what ``request.json`` in ``folder`` asks for; rank 0 leaves the token ids in ``ids.json``.

    Raises:
        HeadraceError: With one sentence.
    """
    request = json.loads((folder / "request.json").read_text())
    job = load_job(Path(request["run_dir"]))
    engine = Engine(job.source, job.plan, AdamWSettings(), device_of_this_rank())
    load_state(Path(request["checkpoint"]), weights_of(engine))
    ids = engine.generate(
        torch.tensor([request["prompt_ids"]]),
        request["num_tokens"],
        request["temperature"],
        request["seed"],
        request["end_token"],
    )
    if engine.rank == 0:
        write_json(folder / "ids.json", ids[0].tolist())
    engine.close()


def main() -> None:
    """``python -m headrace.train.sample_rank FOLDER``."""
    try:
        join_group(DEFAULT_TIMEOUT_S)
        sample_rank(Path(sys.argv[1]))
    except Exception as error:
        end_rank(error)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
