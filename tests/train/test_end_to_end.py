"""The whole circle through the command line: train, look, export, on one machine and under torchrun."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from headrace import cli
from tests.train.jobs import ENVIRONMENT, HEADRACE, PATIENCE_S, STEPS, TORCHRUN, Whole, outcome, run, train


def _verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """Standard output of a verb that succeeds."""
    monkeypatch.setattr(sys, "argv", ["headrace", *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    return said.out


def test_a_run_leaves_everything_and_says_nothing_but_its_own_lines(llama: Whole) -> None:
    assert {path.name for path in llama.run_dir.iterdir()} == {
        *("config.yaml", "job.json", "plan.json", "predicted_timeline.json"),
        *("metrics.jsonl", "timeline.json", "summary.json", "checkpoints", "export"),
    }
    assert [folder.name for folder in sorted((llama.run_dir / "checkpoints").iterdir())] == [
        "step-000004",
        "step-000006",
    ]
    summary = json.loads((llama.run_dir / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("done", STEPS)
    assert summary["last_loss"] < summary["first_loss"]
    assert llama.out == ""
    for foreign in ("warn", "[transformers]", "torch.", "site-packages", "gloo", "Traceback"):
        assert foreign not in llama.err, llama.err


def test_the_terminal_says_rows_of_a_micro_batch_and_tokens_of_a_step(llama: Whole) -> None:
    assert "3 micro-batches of 3 or 2 rows, 128 tokens a step" in llama.err


def test_the_timeline_is_a_chrome_trace_of_every_op(llama: Whole) -> None:
    for name in ("timeline.json", "predicted_timeline.json"):
        events = json.loads((llama.run_dir / name).read_text())["traceEvents"]
        ops = [event for event in events if event["ph"] == "X"]
        assert len(ops) == 2 * 2 * 3  # Forward and backward, two stages, three micro-batches.
        assert all(event["dur"] > 0 for event in ops)


def test_plain_transformers_loads_the_export(llama: Whole) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama.run_dir / "export")
    assert sum(p.numel() for p in model.parameters()) == 56_352
    with torch.no_grad():
        assert bool(model(torch.arange(16)[None]).logits.isfinite().all())


def test_three_stages_give_the_same_bits_one_json_object_and_a_bar_on_a_narrow_terminal(
    llama: Whole, tmp_path: Path
) -> None:
    terminal, program_side = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(terminal, 65536))
            except OSError:  # The program has closed its side.
                return

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        [*HEADRACE, "train", llama.job, "parallel.pp=3", "--run-dir", tmp_path / "run", "--json"],
        env={**ENVIRONMENT, "NO_COLOR": "1", "COLUMNS": "40", "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=program_side,
        timeout=PATIENCE_S,
    )
    os.close(program_side)
    reader.join()
    os.close(terminal)
    text = b"".join(shown).decode()
    assert done.returncode == 0, text
    assert json.loads(done.stdout) == json.loads((tmp_path / "run/summary.json").read_text())
    assert f"{STEPS}/{STEPS}" in text
    assert "\x1b[3" not in text  # No colour.
    assert outcome(tmp_path / "run") == outcome(llama.run_dir)


def test_torchrun_gives_the_same_bits(llama: Whole, tmp_path: Path) -> None:
    command = [*TORCHRUN, "--nproc-per-node", 2, "-m", "headrace", "train", llama.job, "parallel.pp=null"]
    done = run([*command, "--run-dir", "run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Predicted and measured") == 1
    assert outcome(tmp_path / "run") == outcome(llama.run_dir)


def test_an_exported_model_is_trained_further_and_tensorboard_sees_it(llama: Whole, tmp_path: Path) -> None:
    settings = [f"model={{path: {llama.run_dir / 'export'}}}", "data.vocab_size=null", "track.tensorboard=true"]
    done = train(llama.job, str(tmp_path / "run"), *settings, "--json")
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("step ") for line in done.stderr.splitlines()), done.stderr
    last, first = outcome(llama.run_dir)[0][-1], outcome(tmp_path / "run")[0][0]
    assert abs(first[1] - last[1]) < 0.3  # It goes on where the other has come to, and that began above 5.7.
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, STEPS + 1))


def test_the_verbs_that_look(
    llama: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verb(*words: object) -> str:
        return _verb(capsys, monkeypatch, *words)

    page = tmp_path / "page.html"
    assert verb("view", llama.run_dir, "--out", page).strip() == str(page)
    assert page.read_text().startswith("<!doctype html>")
    assert isinstance(json.loads(verb("view", llama.run_dir, "--json")), dict)
    assert verb("export", llama.run_dir, tmp_path / "out").strip() == str(tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == outcome(llama.run_dir)[1]
    assert json.loads(verb("plan", llama.job, "--json"))["microbatches"] == 3
    assert "3 micro-batches of 3 or 2 rows" in verb("plan", llama.job)
    assert json.loads(verb("profile", llama.job, "--json"))["layers"][0]["name"] == "embedding"
    assert "layers.0" in verb("profile", llama.job)
    assert len(json.loads(verb("cluster", "--json"))["devices"]) >= 1
    assert "GB" in verb("cluster")
    assert json.loads(verb("check", "llama", "--json"))["exact"] is True


def test_help_of_every_verb_imports_no_torch() -> None:
    script = """
import sys
from typer.testing import CliRunner
from headrace.cli import app
for verb in ("", "train", "launch", "check", "plan", "profile", "cluster", "view", "export", "sample"):
    said = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert said.exit_code == 0 and "Usage" in said.output, said.output
assert not {"torch", "transformers", "matplotlib"} & sys.modules.keys()
"""
    done = run([sys.executable, "-c", script], Path.cwd())
    assert done.returncode == 0, done.stderr
