"""The page's figures, and that nothing in a run can break out of the page's data."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sample_run import write_json, write_sample_run

from headrace.errors import RequestError
from headrace.plan.plan import Layout
from headrace.view import page_data, write_page
from headrace.view.page import MAX_POINTS, curve, describe_stages, measured_figures, model_name, peak_by_rank
from headrace.view.run_folder import RunFolder

MIB = 2**20


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "run", steps=5)


def blob(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_is_report_html_in_the_run_folder_and_holds_the_same_data_as_json_gives(run: Path) -> None:
    out = write_page(run)
    assert out == run / "report.html"
    assert blob(out.read_text()) == json.loads(json.dumps(page_data(run)))
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


def test_the_page_needs_nothing_but_itself(run: Path, tmp_path: Path) -> None:
    page = write_page(run, tmp_path / "elsewhere.html").read_text()
    assert "{{" not in page
    outside = [
        link for link in re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(|@import|https?://", page) if link != "data:,"
    ]
    assert set(outside) <= {""}
    assert re.findall(r"https?://[^\"' ]*", page) == ["http://www.w3.org/2000/svg"]


def test_text_of_a_run_cannot_end_the_script_or_become_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!-- {{data}} & \u2028"
    run = write_sample_run(tmp_path / "<b>&", steps=2)
    write_json(run / "summary.json", {"status": "failed", "error": evil, "measured": None})
    page = write_page(run).read_text()
    assert page.count("</script>") == 2
    assert "<!--" not in page
    assert "<b>" not in page
    assert "<title>&lt;b&gt;&amp; · headrace</title>" in page
    assert blob(page)["error"] == evil


def test_an_unwritable_place_is_refused_in_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be written to .*report\.html \(No such file"):
        write_page(run, tmp_path / "nowhere" / "report.html")


def test_timelines_start_at_zero_and_keep_rank_op_and_length(run: Path) -> None:
    folder, timelines = RunFolder.read(run), page_data(run)["timelines"]
    assert folder.measured is not None
    for row, span in zip(timelines["measured"]["spans"], folder.measured.spans, strict=True):
        assert row[:4] == (span.rank, span.op.kind, span.op.stage, span.op.microbatch)
        assert row[4:] == pytest.approx((span.start_s - 1000.0, span.end_s - 1000.0), abs=1e-8)
    assert timelines["measured"]["spans"][0][4] == 0.0
    assert timelines["measured"]["idle_share"] == folder.measured.idle_share


def test_missing_files_leave_out_their_part(run: Path) -> None:
    for name in ("metrics.jsonl", "timeline.json", "predicted_timeline.json", "summary.json"):
        (run / name).unlink()
    data = page_data(run)
    assert data["curves"] == {"loss": [], "validation_loss": [], "tokens_per_s": []}
    assert data["timelines"] == {"predicted": None, "measured": None}
    assert data["measured"] == dict.fromkeys(("step_s", "idle_share", "tokens_per_s", "peak_memory_bytes"))
    assert data["status"] is None


def test_a_run_without_summary_is_measured_by_the_medians_of_its_steps(run: Path) -> None:
    (run / "summary.json").unlink()
    rows = [{"step": i, "step_s": s, "idle_share": None, "tokens_per_s": 2.0} for i, s in enumerate([9.0, 1.0, 2.0], 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = measured_figures(RunFolder.read(run))
    assert figures == {"step_s": 2.0, "idle_share": None, "tokens_per_s": 2.0, "peak_memory_bytes": None}


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0, 6), ["embedding, layers 0–3, head"]),
        ((0, 3, 6), ["embedding, layers 0–1", "layers 2–3, head"]),
        ((0, 1, 2, 6), ["embedding", "layer 0", "layers 1–3, head"]),
        ((0, 5, 6), ["embedding, layers 0–3", "head"]),
    ],
)
def test_stages_are_described_by_their_layers(bounds: tuple[int, ...], words: list[str]) -> None:
    stages = len(bounds) - 1
    layout = Layout(1, stages, 1, 1, bounds, tuple(range(stages)))
    assert [stage["layers"] for stage in describe_stages(layout)] == words
    assert all(stage["recompute"] == "" for stage in describe_stages(layout))


def test_stages_say_what_they_compute_again() -> None:
    stages = describe_stages(Layout(1, 2, 1, 1, (0, 3, 6), (0, 1)), ("selective", "full", "none", "none"))
    assert [stage["recompute"] for stage in stages] == ["all 2 layers (1 selective and 1 full)", ""]


def test_the_model_is_named_by_its_place_or_its_type() -> None:
    assert model_name({"model": {"config": {"model_type": "llama"}, "path": None}}) == "llama"
    assert model_name({"model": {"config": None, "path": "org/model"}}) == "org/model"


def test_the_peak_of_a_pipeline_rank_is_that_of_its_fullest_process() -> None:
    def layout(dp: int, tp: int) -> Layout:
        return Layout(dp, 2, tp, 1, (0, 3, 6), (0, 1))

    assert peak_by_rank([], layout(1, 1)) is None
    assert peak_by_rank([[1, 5], [2, 4]], layout(1, 1)) == [2, 5]
    # dp 2 x pp 2: processes 0 and 2 are pipeline rank 0.
    assert peak_by_rank([[1, 5, 3, 4]], layout(2, 1)) == [3, 5]
    # pp 2 x tp 2: processes 0 and 1 are pipeline rank 0.
    assert peak_by_rank([[1, 5, 3, 4]], layout(1, 2)) == [5, 4]
    # The run changed from one rank to two.
    assert peak_by_rank([[9], [1, 5], [2, 4]], layout(1, 1)) == [2, 5]
    with pytest.raises(RequestError, match=r"of 3 ranks but plan\.json has 2"):
        peak_by_rank([[1, 2, 3]], layout(1, 1))


def test_a_long_curve_keeps_ends_lowest_highest_and_gaps() -> None:
    metrics: list[dict[str, Any]] = [{"step": step, "loss": 5.0} for step in range(1, 100_001)]
    metrics[40_000]["loss"], metrics[60_000]["loss"], metrics[80_000]["loss"] = 99.0, -1.0, None
    points = curve(metrics, "loss")
    assert len(points) <= 1.1 * MAX_POINTS
    assert {(1, 5.0), (40_001, 99.0), (60_001, -1.0), (80_001, None), (100_000, 5.0)} <= set(points)
    assert [step for step, _ in points] == sorted({step for step, _ in points})


def test_a_short_curve_is_kept_whole() -> None:
    metrics = [{"step": 1, "loss": 5.0}, {"step": 2}, {"step": 3, "loss": None}]
    assert curve(metrics, "loss") == [(1, 5.0), (3, None)]
