"""An asynchronous schedule through the command line: from the plan to the export, and on from a checkpoint."""

import json
import shutil
from pathlib import Path

from tests.train.jobs import GPT2, outcome, train, write_job

ASKED = ("parallel.schedule=pipedream-2bw", "parallel.microbatches=5")


def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    job = write_job(tmp_path, {**GPT2, "tie_word_embeddings": False}, clip_norm=None)
    whole = train(job, str(tmp_path / "whole"), *ASKED)
    assert whole.returncode == 0, whole.stderr
    assert "with 3 updates a step by gradients of weights up to 1 update old" in " ".join(whole.stderr.split())
    assert json.loads((tmp_path / "whole/plan.json").read_text())["update_every"] == 2
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/step-000006")
    again = train(job, str(tmp_path / "again"), *ASKED, "--resume")
    assert again.returncode == 0, again.stderr
    assert outcome(tmp_path / "again") == outcome(tmp_path / "whole")


def test_clipping_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    done = train(job, str(tmp_path / "run"), *ASKED, "train.clip_norm=1.0")
    assert done.returncode == 2
    assert "set train.clip_norm=null, or choose a synchronous schedule such as 1f1b" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
