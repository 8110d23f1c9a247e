"""After the last step: the model as an ordinary Hugging Face folder, and a sample by plain transformers."""

from pathlib import Path

import torch

from headrace.checkpoint import export_checkpoint, latest_checkpoint
from headrace.errors import RequestError
from headrace.train.files import RunFiles
from headrace.train.job import Job

PROMPT_TOKENS, NEW_TOKENS = 24, 48


def export_run(run_dir: Path, out: Path, tokenizer_dir: Path | None) -> Path:
    """Exports the newest checkpoint of a run.

    Raises:
        RequestError: There is none.
    """
    checkpoint = latest_checkpoint(run_dir)
    if checkpoint is None:
        raise RequestError(f"{run_dir} holds no checkpoint; train first, or name another run")
    return export_checkpoint(checkpoint, out, tokenizer_dir)


def sample(job: Job, files: RunFiles) -> tuple[str, str] | None:
    """A prompt from the data and how the exported model goes on, by transformers alone; None without a tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if job.prepared.tokenizer_folder is None:
        return None
    model = AutoModelForCausalLM.from_pretrained(files.export).eval()
    tokenizer = AutoTokenizer.from_pretrained(files.export)
    length = job.config.data.sequence_length
    ids = torch.from_numpy(job.data().batch(0, 1)[:, : min(PROMPT_TOKENS, length // 2)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(NEW_TOKENS, length - ids.shape[1]),  # No further than it has learnt.
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(ids[0])), str(tokenizer.decode(out[0, ids.shape[1] :]))
