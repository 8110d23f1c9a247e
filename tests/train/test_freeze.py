"""A job with frozen parameters through the command line: run, checkpoint, resume on another layout, export."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from headrace.chain.build import ModelSource
from headrace.checkpoint.load import stored_tensors
from tests.train.jobs import LLAMA, outcome, train, write_job


def test_a_frozen_part_stays_has_no_state_and_resumes_on_another_layout_to_the_same_bits(tmp_path: Path) -> None:
    job = write_job(tmp_path, LLAMA, freeze=["model.embed_tokens", "model.layers.0", "*norm*"])
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    done = train(job, "whole", "parallel.schedule=zb-h1")
    assert done.returncode == 0, done.stderr

    start = ModelSource(AutoConfig.for_model(**LLAMA, vocab_size=300)).build(0, 6).model.state_dict()
    end = load_file(whole / "export/model.safetensors")
    assert start.keys() == end.keys()
    frozen = {name for name in start if "embed" in name or "layers.0." in name or "norm" in name}
    assert {name for name in start if torch.equal(start[name], end[name])} == frozen
    moments = {name for name in stored_tensors(whole / "checkpoints/step-000006") if name.startswith("optimizer.exp")}
    assert {name.split(".", 2)[2] for name in moments} == start.keys() - frozen

    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints/step-000006")
    again = train(job, "resumed", "--resume", "parallel.pp=3")
    assert again.returncode == 0, again.stderr
    assert outcome(resumed) == outcome(whole)
