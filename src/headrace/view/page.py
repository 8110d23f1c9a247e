"""The report page: one self-contained HTML file of a run, and its figures as plain JSON values."""

import html
import json
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from headrace.chain import RecomputeMode
from headrace.errors import RequestError
from headrace.plan.plan import Layout
from headrace.plan.words import stage_recompute_text
from headrace.simulate.timeline import Timeline
from headrace.view.run_folder import RunFolder

MAX_POINTS = 2000
SCRIPTS = ("format.js", "summary.js", "curve.js", "memory.js", "timeline.js", "pointing.js", "page.js")


def write_page(run_dir: Path, out: Path | None = None) -> Path:
    """Writes the report of a run, by default as ``report.html`` in its folder, and returns where it lies.

    Raises:
        RequestError: The folder is not a whole run folder, or ``out`` cannot be written.
    """
    data = page_data(run_dir)
    out = out or run_dir / "report.html"
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(fill_template(data), encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise RequestError(f"the report cannot be written to {out} ({error.strerror}); give another file") from error
    return out


def fill_template(data: dict[str, Any]) -> str:
    """The page with style, scripts and figures inside, so that it needs nothing else."""
    assets = files("headrace.view") / "assets"
    parts = {
        "title": html.escape(f"{data['run']} · headrace"),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS),
        # "<" cannot end the script element when it is spelled as an escape.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def page_data(run_dir: Path) -> dict[str, Any]:
    """All figures that the page shows.

    Raises:
        RequestError: The folder is not a whole run folder.
    """
    run = RunFolder.read(run_dir)
    return {
        "run": run.path.resolve().name,
        "model": model_name(run.config),
        "status": run.summary.get("status"),
        "error": run.summary.get("error"),
        "planned_steps": run.config["train"].get("steps"),
        "plan": run.plan.to_json(),
        "stages": describe_stages(run.plan.layout, run.plan.recompute),
        "measured": measured_figures(run),
        "curves": {name: curve(run.metrics, name) for name in ("loss", "validation_loss", "tokens_per_s")},
        "timelines": {"predicted": _from_zero(run.predicted), "measured": _from_zero(run.measured)},
        "config": run.config_text,
    }


def model_name(config: dict[str, Any]) -> str:
    """The folder or hub name of the model, or the type of its configuration."""
    model = config["model"]
    return str(model.get("path") or (model.get("config") or {}).get("model_type", "model"))


def describe_stages(layout: Layout, recompute: Sequence[RecomputeMode] = ()) -> list[dict[str, Any]]:
    """For each stage its pipeline rank, its layers in words, such as ``embedding, layers 0–2``, and what runs again."""
    last = layout.bounds[-1] - 1
    return [
        {
            "stage": stage,
            "rank": layout.placement[stage],
            "layers": _layers_in_words(first, end, last),
            "recompute": stage_recompute_text(recompute, first, end),
        }
        for stage, (first, end) in enumerate(zip(layout.bounds[:-1], layout.bounds[1:], strict=True))
    ]


def _layers_in_words(first: int, end: int, last: int) -> str:
    """Links ``first … end - 1`` of a chain whose link 0 is the embedding and ``last`` the head."""
    low, high = max(first, 1) - 1, min(end, last) - 2
    layers = [f"layers {low}–{high}" if high > low else f"layer {low}"] if high >= low else []
    return ", ".join(["embedding"] * (first == 0) + layers + ["head"] * (end == last + 1)) or "nothing"


def measured_figures(run: RunFolder) -> dict[str, Any]:
    """The run's own summary, or, while it is alive, the medians of its steps; and the peak memory."""
    names = ("step_s", "idle_share", "tokens_per_s")
    figures = run.summary.get("measured") or {name: _median(row.get(name) for row in run.metrics) for name in names}
    peaks = [row["peak_memory_bytes"] for row in run.metrics if row.get("peak_memory_bytes")]
    return {name: figures.get(name) for name in names} | {"peak_memory_bytes": peak_by_rank(peaks, run.plan.layout)}


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def peak_by_rank(peaks: Sequence[Sequence[int]], layout: Layout) -> list[int] | None:
    """Highest peak of each pipeline rank over all steps since the number of ranks last changed.

    ``peaks[step]`` has one entry a pipeline rank, or one a process: processes count tp fastest, then pp, then dp,
    and of the processes that share a pipeline rank the fullest counts. None where the run measured nothing.
    """
    if not peaks:
        return None
    num_ranks = len(peaks[-1])
    top = [max(ranks) for ranks in zip(*(peak for peak in peaks if len(peak) == num_ranks), strict=True)]
    if num_ranks == layout.pp:
        return top
    if num_ranks != layout.num_ranks:
        raise RequestError(
            f"metrics.jsonl has peak_memory_bytes of {num_ranks} ranks but plan.json has {layout.num_ranks}; "
            "give a run folder whose files are of one run"
        )
    return [max(peak for i, peak in enumerate(top) if i // layout.tp % layout.pp == rank) for rank in range(layout.pp)]


def curve(metrics: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float | None]]:
    """Points ``(step, value)``, thinned to about `MAX_POINTS` by keeping each bucket's ends, lowest and highest."""
    points = [(int(row["step"]), row[name]) for row in metrics if name in row]
    size = -(-len(points) // (MAX_POINTS // 4)) if len(points) > MAX_POINTS else 1
    return [point for i in range(0, len(points), size) for point in _extremes(points[i : i + size])]


def _extremes(bucket: list[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    finite = sorted((value, step) for step, value in bucket if value is not None)
    gaps = [(step, value) for step, value in bucket if value is None]
    kept = {bucket[0], bucket[-1], *gaps[:1], *((step, value) for value, step in finite[:1] + finite[-1:])}
    return sorted(kept, key=lambda point: point[0])


def _from_zero(timeline: Timeline | None) -> dict[str, Any] | None:
    """As JSON, with the step's start at 0 and times rounded to 10 ns; ``spans`` as in `Timeline.to_json`."""
    if timeline is None:
        return None
    zero_s = timeline.start_s
    rows = [(s.rank, *s.op, round(s.start_s - zero_s, 8), round(s.end_s - zero_s, 8)) for s in timeline.spans]
    return {
        "num_ranks": timeline.num_ranks,
        "step_s": timeline.step_s,
        "idle_share": timeline.idle_share,
        "spans": rows,
    }
