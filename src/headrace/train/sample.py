"""A sample of a run: its newest checkpoint goes on from a prompt, through the pipeline of the run's own plan."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headrace.checkpoint import latest_checkpoint
from headrace.engine.generation import check_request
from headrace.errors import RequestError
from headrace.train.data.tokenizer import encode, load_tokenizer
from headrace.train.files import write_json
from headrace.train.job import Job, load_job
from headrace.train.launch import run_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOKENS = 48
"""New tokens where nobody says, or as many as the model has room for."""


@dataclass(frozen=True)
class Sample:
    """What a model made of a prompt.

    Attributes:
        checkpoint: What was sampled.
        text: The prompt and what follows; token ids with blanks between them where there is no tokenizer.
        prompt_ids: The prompt's tokens.
        ids: Those that follow; the end of text, where it came, is the last of them, and not in ``text``.
    """

    checkpoint: str
    text: str
    prompt_ids: list[int]
    ids: list[int]


def sample_run(run_dir: Path, prompt: str, num_tokens: int | None, temperature: float, seed: int) -> Sample:
    """Starts the plan's ranks on this machine, and generates with the weights of the newest checkpoint.

    Args:
        run_dir: The run folder, which is only read.
        prompt: Text; token ids with blanks between them where the run was trained on ready tokens.
        num_tokens: The most new ones; None: `NUM_TOKENS`.
        temperature: 0 takes the likeliest token each time.
        seed: Of the draws.

    Raises:
        RequestError: There is no such run, checkpoint or tokenizer, or the model has no room for that.
        RunError: A rank failed.
    """
    job = load_job(run_dir)
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        raise RequestError(f"{run_dir} holds no checkpoint; let it train to its first one, or name another run")
    folder = job.prepared.tokenizer_folder
    tokenizer = None if folder is None else load_tokenizer(str(folder))
    prompt_ids = _ids_of(prompt, tokenizer, run_dir)
    config = job.source.config
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or NUM_TOKENS + len(
        prompt_ids
    )
    wanted = max(1, min(NUM_TOKENS, limit - len(prompt_ids))) if num_tokens is None else num_tokens
    check_request(config, torch.tensor([prompt_ids]), wanted, temperature)
    request = {
        "run_dir": str(run_dir),
        "checkpoint": str(checkpoint),
        "prompt_ids": prompt_ids,
        "num_tokens": wanted,
        "temperature": temperature,
        "seed": seed,
        "end_token": None if tokenizer is None else tokenizer.eos_token_id,
    }
    ids = _generate(job, request)[len(prompt_ids) :]
    return Sample(checkpoint.name, _text_of(prompt_ids + ids, tokenizer), prompt_ids, ids)


def _generate(job: Job, request: dict[str, Any]) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="headrace-sample-") as folder:
        write_json(Path(folder, "request.json"), request)
        run_ranks(job.plan, "sample", ["-m", "headrace.train.sample_rank", folder])
        ids: list[int] = json.loads(Path(folder, "ids.json").read_text())
        return ids


def _ids_of(prompt: str, tokenizer: "PreTrainedTokenizerBase | None", run_dir: Path) -> list[int]:
    if tokenizer is not None:
        ids = encode(tokenizer, [prompt])[0]
    else:
        try:
            ids = [int(word) for word in prompt.split()]
        except ValueError:
            raise RequestError(
                f"{run_dir} was trained on ready tokens and has no tokenizer; give the prompt as token ids, "
                "such as '12 7 300'"
            ) from None
    if not ids:
        raise RequestError("the prompt is empty; give at least one word to go on from")
    return ids


def _text_of(ids: list[int], tokenizer: "PreTrainedTokenizerBase | None") -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    return str(tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids))
