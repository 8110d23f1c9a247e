"""What a run folder may lack, and what a broken one says."""

import json
from pathlib import Path

import pytest
from sample_run import write_sample_run

from headrace.errors import RequestError
from headrace.view import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "run", steps=5)


def test_a_whole_folder_gives_plan_metrics_and_both_timelines(run: Path) -> None:
    folder = RunFolder.read(run)
    assert folder.plan.layout.pp == 2
    assert [row["step"] for row in folder.metrics] == [1, 2, 3, 4, 5]
    assert folder.predicted is not None
    assert folder.measured is not None
    assert len(folder.predicted.spans) == len(folder.measured.spans) == 2 * 2 * 8
    assert folder.measured.start_s == 1000.0
    assert folder.summary["status"] == "done"


@pytest.mark.parametrize("name", ["metrics.jsonl", "predicted_timeline.json", "timeline.json", "summary.json"])
def test_a_run_that_is_alive_may_lack_files(run: Path, name: str) -> None:
    (run / name).unlink()
    RunFolder.read(run)


@pytest.mark.parametrize("name", ["plan.json", "config.yaml"])
def test_what_every_run_has_is_named_when_it_is_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RequestError, match=rf"{run} is not a run folder, {name} missing; give the folder"):
        RunFolder.read(run)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"there is no run folder .*nowhere"):
        RunFolder.read(tmp_path / "nowhere")


@pytest.mark.parametrize("tail", ['{"step": 6, "lo', '{"step": 6', "{", '{"step": 6, "loss": 1.0, "tokens": 4'])
def test_a_last_line_that_is_still_being_written_is_left_out(run: Path, tail: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(tail)
    assert [row["step"] for row in RunFolder.read(run).metrics] == [1, 2, 3, 4, 5]


def test_a_whole_last_line_without_newline_counts(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}')
    assert RunFolder.read(run).metrics[-1] == {"step": 6, "loss": 1.0}


def test_a_broken_line_in_the_middle_is_named_by_its_number(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
    with pytest.raises(RequestError, match=r"metrics\.jsonl line 2 is not JSON"):
        RunFolder.read(run)


def test_a_step_that_ran_again_after_a_resume_counts_once_and_the_later_row_wins(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 7.0}\n{"step": 5, "loss": 8.0}\n{"step": 6, "loss": 9.0}\n')
    metrics = RunFolder.read(run).metrics
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in metrics[3:]] == [7.0, 8.0, 9.0]


def test_numbers_that_are_not_finite_are_none(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": NaN, "grad_norm": Infinity, "step_s": 1e999}\n')
    assert RunFolder.read(run).metrics == ({"step": 1, "loss": None, "grad_norm": None, "step_s": None},)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("plan.json", "{", "plan.json is not JSON"),
        ("plan.json", "{}", "plan.json is not a plan of this version"),
        ("plan.json", "[]", "plan.json holds a list"),
        ("config.yaml", "a: [", "config.yaml is not YAML"),
        ("config.yaml", "text", "config.yaml has no section 'model'"),
        ("config.yaml", "model: {}", "config.yaml has no section 'train'"),
        ("timeline.json", '{"traceEvents": []}', "timeline.json: the trace is not one that headrace wrote"),
        ("metrics.jsonl", '{"loss": 1}\n', "metrics.jsonl has a line without a step"),
        ("summary.json", "3", "summary.json holds a int"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(run: Path, name: str, text: str, says: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(RequestError, match=says) as caught:
        RunFolder.read(run)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_named(run: Path) -> None:
    (run / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"plan\.json cannot be read"):
        RunFolder.read(run)


def test_the_sample_is_what_a_training_loop_writes(run: Path) -> None:
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert set(row) == {
        "step", "loss", "grad_norm", "learning_rate", "tokens", "step_s", "tokens_per_s", "idle_share",
        "peak_memory_bytes",
    }  # fmt: skip
