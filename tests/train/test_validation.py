"""The validation loss of a run: measured when it was asked for, on what was held out, and told everywhere."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from headrace.train.job import load_job
from headrace.view import page_data
from tests.train.jobs import GPT2, Whole, train, write_job


def test_the_validation_loss_is_that_of_plain_transformers_and_is_told_everywhere(tmp_path: Path) -> None:
    job = write_job(tmp_path, GPT2, evaluate_every=4)
    done = train(job, "run", "data.validation_sequences=21", "track.tensorboard=true")
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "run"
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert list(measured) == [4, 6]
    ids = torch.from_numpy(load_job(run_dir).data().held_out(0, 99))
    model = AutoModelForCausalLM.from_pretrained(run_dir / "export").eval()
    with torch.no_grad():
        assert measured[6] == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-6)
    assert ids.shape == (21, 16)
    assert json.loads((run_dir / "summary.json").read_text())["validation_loss"] == measured[6]
    assert page_data(run_dir)["curves"]["validation_loss"] == list(measured.items())
    assert f"{measured[6]:.2f} on what was held out" in done.stderr
    assert f"(held out {measured[6]:.3f})" in done.stderr
    assert any(b"validation_loss" in file.read_bytes() for file in (run_dir / "tensorboard").iterdir())
    again = train(job, "run", "--resume", "data.validation_sequences=20", "train.steps=9")
    assert again.returncode == 2
    assert "validation_sequences was 21 and is now 20" in again.stderr


def test_a_run_that_holds_nothing_out_says_nothing_of_it(llama: Whole) -> None:
    assert "held out" not in llama.err
    assert b"validation" not in (llama.run_dir / "metrics.jsonl").read_bytes()
    assert json.loads((llama.run_dir / "summary.json").read_text())["validation_loss"] is None
