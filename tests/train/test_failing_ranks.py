"""What a person sees when one rank fails or hangs: one sentence about that rank, and no process left."""

import re
import time
from pathlib import Path

import pytest

from tests.train.jobs import Whole, processes_left, train, write_hook


def _sentence(stderr: str) -> str:
    (sentence,) = (line for line in stderr.splitlines() if line.startswith("headrace:"))
    assert "Traceback" not in stderr
    return sentence


@pytest.mark.parametrize(
    ("schedule", "method", "where"),
    [
        ("1f1b", "Stage.backward", "B(stage 1, micro-batch 0)"),
        ("zb-h1", "Stage.input_backward", "I(stage 1, micro-batch 0)"),
        ("zb-h1", "Stage.weight_backward", "W(stage 1, micro-batch 0)"),
        ("1f1b", "Update.step", "the optimizer's step of stage 1"),
    ],
)
def test_an_error_in_each_kind_of_op_names_rank_step_op_and_error_and_ends_every_rank(
    llama: Whole, tmp_path: Path, schedule: str, method: str, where: str
) -> None:
    hook = tmp_path / "hook"
    fail = f"""
from headrace.engine.stage import Stage
from headrace.engine.update import Update
def fail(*_):
    Path({str(hook)!r}, "failed").touch()
    raise ValueError("too good a loss")
{method} = fail"""
    write_hook(hook, 1, 1, fail)
    failed = train(llama.job, str(tmp_path / "run"), f"parallel.schedule={schedule}", hook=hook)
    assert time.time() - (hook / "failed").stat().st_mtime < 15  # The promise; a second is usual.
    assert failed.returncode == 1
    assert _sentence(failed.stderr).startswith(
        f"headrace: rank 1, step 1: {where} failed: ValueError: too good a loss. "
    )
    assert processes_left(hook) == []


def test_a_rank_that_was_stopped_in_an_op_is_named_and_every_rank_ends(llama: Whole, tmp_path: Path) -> None:
    """nccl#1260: it cannot say a word itself; what it was at was noted before."""
    stop = """
from transformers.models.llama.modeling_llama import LlamaMLP
def forward(*_): os.kill(os.getpid(), signal.SIGSTOP)
LlamaMLP.forward = forward"""
    hook = write_hook(tmp_path / "hook", 1, 3, stop)
    failed = train(llama.job, str(tmp_path / "run"), "train.timeout_s=4", hook=hook)
    assert failed.returncode == 1
    sentence = _sentence(failed.stderr)
    assert re.match(
        r"headrace: rank 1 is stuck at F\(stage 1, micro-batch 0\) of step 3: it has been there for [4-9] s, more than "
        r"train.timeout_s=4; rank 0 waits at B\(stage 0, micro-batch 0\) of step 3 for the gradient of micro-batch 0 "
        r"from rank 1\. The last checkpoint, .*step-000002, is whole; go on with --resume",
        sentence,
    ), sentence
    assert processes_left(hook) == []


def test_a_rank_that_cannot_build_its_stage_is_named_and_its_peers_say_nothing(llama: Whole, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        """
import os
if os.environ.get("RANK") == "1":
    from headrace.chain.build import ModelSource
    def build(*_): raise MemoryError
    ModelSource.build = build
"""
    )
    failed = train(llama.job, str(tmp_path / "run"), hook=hook)
    assert failed.returncode == 1
    assert "headrace: rank 1 (stage 1) failed: MemoryError" in failed.stderr
