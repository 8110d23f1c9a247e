"""Whatever ends a run, it goes on from its last checkpoint to the very bits of the run that never stopped."""

import json
import shlex
import shutil
import signal
import time
from pathlib import Path

from headrace.checkpoint import export_checkpoint
from tests.train.jobs import (
    HEADRACE,
    STEPS,
    TORCHRUN,
    Whole,
    outcome,
    processes_left,
    run,
    train,
    wait_for_end,
    write_hook,
)


def _way_on(stderr: str) -> list[str]:
    """The one line that says how to go on, as a shell reads it."""
    (line,) = (line for line in stderr.splitlines() if line.startswith("Stopped after step"))
    program, *words = shlex.split(line.partition("go on with: ")[2])
    assert program == "headrace"
    return [*HEADRACE, *words]


def _steps(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _send_and_see(signal_name: str, run_dir: Path) -> str:
    """Signals the launcher's process group, and goes on with the step when the launcher has passed it on."""
    stop_file = str(run_dir / "stop")
    return f"os.killpg(os.getpgid(os.getppid()), signal.{signal_name})\nwhile not Path({stop_file!r}).exists(): pass"


def test_ctrl_c_finishes_the_step_and_the_printed_line_goes_on(llama: Whole, tmp_path: Path) -> None:
    run_dir = tmp_path / "a run"
    hook = write_hook(tmp_path / "hook", 1, 3, _send_and_see("SIGINT", run_dir))
    stopped = train(llama.job, str(run_dir), "parallel.cuts=[2, 2]", hook=hook)
    assert stopped.returncode == 0, stopped.stderr
    assert _steps(run_dir) == [1, 2, 3]
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "stopped"
    assert not (run_dir / "export").exists()
    assert not (run_dir / "stop").exists()
    assert processes_left(hook) == []
    again = run(_way_on(stopped.stderr), tmp_path)
    assert again.returncode == 0, again.stderr
    assert outcome(run_dir) == outcome(llama.run_dir)


def test_sigterm_stops_and_more_stages_go_on_with_the_same_dropout(gpt2: Whole, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    hook = write_hook(tmp_path / "hook", 0, 3, _send_and_see("SIGTERM", run_dir))
    stopped = train(gpt2.job, str(run_dir), hook=hook)
    assert stopped.returncode == 0, stopped.stderr
    assert _steps(run_dir) == [1, 2, 3]
    again = train(gpt2.job, str(run_dir), "--resume", "parallel.pp=3")
    assert again.returncode == 0, again.stderr
    assert outcome(run_dir) == outcome(gpt2.run_dir)


def test_sigterm_to_torchrun_finishes_the_step_and_saves(llama: Whole, tmp_path: Path) -> None:
    seen = "while not signal.getsignal(signal.SIGTERM).__self__._wanted: pass"
    hook = write_hook(tmp_path / "hook", 1, 3, f"os.kill(os.getppid(), signal.SIGTERM)\n{seen}")
    command = [*TORCHRUN, "--nproc-per-node", 2, "-m", "headrace", "train", llama.job, "--run-dir", "run"]
    stopped = run(command, tmp_path, hook)
    assert _steps(tmp_path / "run") == [1, 2, 3], stopped.stderr
    assert (tmp_path / "run/checkpoints/step-000003/meta.json").exists()
    assert _way_on(stopped.stderr)[3:] == ["train", str(llama.job), "--run-dir", str(tmp_path / "run"), "--resume"]
    assert processes_left(hook) == []


def test_a_killed_rank_is_named_and_one_process_goes_on_from_the_last_checkpoint(llama: Whole, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    hook = tmp_path / "hook"
    write_hook(hook, 1, 6, f"Path({str(hook)!r}, 'killed').touch()\nos.kill(os.getpid(), signal.SIGKILL)")
    failed = train(llama.job, str(run_dir), hook=hook)
    assert time.time() - (hook / "killed").stat().st_mtime < 20  # The promise; a second is usual.
    assert failed.returncode == 1
    assert "headrace: rank 1 (stage 1) was ended by SIGKILL" in failed.stderr
    assert "step-000004, is whole" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "failed"
    assert processes_left(hook) == []
    again = train(llama.job, str(run_dir), "--resume", "parallel.pp=1")
    assert again.returncode == 0, again.stderr
    assert _steps(run_dir) == list(range(1, STEPS + 1))
    assert outcome(run_dir) == outcome(llama.run_dir)


def test_an_error_in_the_model_names_rank_stage_op_and_step_and_ends_every_rank(llama: Whole, tmp_path: Path) -> None:
    fail = """
from transformers.models.llama.modeling_llama import LlamaMLP
def forward(*_): raise ValueError("too good a loss")
LlamaMLP.forward = forward"""
    hook = write_hook(tmp_path / "hook", 1, 3, fail)
    failed = train(llama.job, str(tmp_path / "run"), hook=hook)
    assert failed.returncode == 1
    (sentence,) = (line for line in failed.stderr.splitlines() if line.startswith("headrace:"))
    assert sentence.startswith(
        "headrace: rank 1, step 3: F(stage 1, micro-batch 0) failed: ValueError: too good a loss. "
    )
    assert "step-000002, is whole; go on with --resume" in sentence
    assert "Traceback" not in failed.stderr
    assert processes_left(hook) == []


def test_a_rank_killed_while_it_saves_is_named_and_leaves_the_older_checkpoint(llama: Whole, tmp_path: Path) -> None:
    kill = """
from headrace.train import state
def save(*_): os.kill(os.getpid(), signal.SIGKILL)
state.save = save"""
    hook = write_hook(tmp_path / "hook", 1, 3, kill)
    failed = train(llama.job, str(tmp_path / "run"), hook=hook)
    assert failed.returncode == 1
    assert "headrace: rank 1 (stage 1) was ended by SIGKILL" in failed.stderr
    assert "step-000002, is whole" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert processes_left(hook) == []


def test_ranks_whose_launcher_is_killed_save_and_end(llama: Whole, tmp_path: Path) -> None:
    kill = "launcher = os.getppid()\nos.kill(launcher, signal.SIGKILL)\nwhile os.getppid() == launcher: pass"
    hook = write_hook(tmp_path / "hook", 0, 3, kill)
    killed = train(llama.job, str(tmp_path / "run"), hook=hook)
    assert killed.returncode == -signal.SIGKILL
    wait_for_end(hook)
    assert (tmp_path / "run/checkpoints/step-000003/meta.json").exists()
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"


def test_a_finished_run_goes_on_to_more_steps_and_exports_anew(llama: Whole, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(llama.run_dir, tmp_path / "run"))
    done = train(llama.job, str(run_dir), "--resume", f"train.steps={STEPS + 1}")
    assert done.returncode == 0, done.stderr
    assert _steps(run_dir) == list(range(1, STEPS + 2))
    assert outcome(run_dir)[1] != outcome(llama.run_dir)[1]
    export_checkpoint(run_dir / "checkpoints/step-000007", tmp_path / "out", None)
    assert outcome(run_dir)[1] == (tmp_path / "out/model.safetensors").read_bytes()


def test_early_steps_stop_one_later_and_go_on_to_the_same_bits(llama: Whole, tmp_path: Path) -> None:
    """Post-validation: the wish to stop reaches the others with the norm of its step, when the next one has begun.

    All steps of this job are clipped, so the first after each start is made early and taken back.
    """
    run_dir, early = tmp_path / "run", ("parallel.post_validation=true", "parallel.schedule=zb-h2")
    hook = write_hook(tmp_path / "hook", 1, 1, _send_and_see("SIGINT", run_dir))
    stopped = train(llama.job, str(run_dir), *early, "checkpoint.every=0", hook=hook)
    assert stopped.returncode == 0, stopped.stderr
    assert _steps(run_dir) == [1, 2]
    assert json.loads((run_dir / "plan.json").read_text())["post_validation"]
    again = run(_way_on(stopped.stderr), tmp_path)
    assert again.returncode == 0, again.stderr
    assert outcome(run_dir) == outcome(llama.run_dir)
