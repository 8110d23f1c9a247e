"""What is said of a run that went on in another layout."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headrace.train.files import RunFiles
from headrace.train.summary import Summary


def test_a_prediction_stands_beside_the_steps_that_followed_its_plan(tmp_path: Path) -> None:
    steps = [
        {"loss": 8.0 - i, "step_s": 2.0 if i < 4 else 1.0, "idle_share": 0.1, "tokens_per_s": 5.0} for i in range(8)
    ]
    lines = [json.dumps({"step": i + 1, **row}) for i, row in enumerate(steps)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    job: Any = SimpleNamespace(files=RunFiles(tmp_path), plan=SimpleNamespace(prediction=None))
    summary = Summary.of(job, "done", first_step=4)
    assert summary.measured["step_s"] == 1.0
    assert (summary.steps, summary.train_s, summary.first_loss) == (8, 12.0, 8.0)
