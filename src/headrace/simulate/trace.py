"""Timelines as Chrome trace events, the file format that Perfetto and chrome://tracing open."""

from typing import Any

from headrace.errors import RequestError
from headrace.schedule.op import KINDS, Kind, Op
from headrace.simulate.timeline import Span, Timeline

# Names from chrome://tracing's fixed palette; Perfetto picks its own colour for each letter.
_COLOURS: dict[Kind, str] = {"F": "rail_response", "B": "rail_animation", "I": "rail_idle", "W": "rail_load"}


def timeline_to_trace(timeline: Timeline) -> dict[str, Any]:
    """One process a rank, one complete event a span, in microseconds since the step began.

    The step's own start and end are kept in ``otherData``, so `trace_to_timeline` gives the same timeline again
    (times to within a nanosecond). Format: Chromium's "Trace Event Format", JSON object form.
    """
    return {
        "displayTimeUnit": "ms",
        "otherData": {"num_ranks": timeline.num_ranks, "start_s": timeline.start_s, "end_s": timeline.end_s},
        "traceEvents": [
            *(event for rank in range(timeline.num_ranks) for event in _rank_names(rank)),
            *(_span_event(span, timeline.start_s) for span in timeline.spans),
        ],
    }


def trace_to_timeline(trace: dict[str, Any]) -> Timeline:
    """The inverse of `timeline_to_trace`.

    Raises:
        RequestError: The trace is not one that headrace wrote.
    """
    try:
        about = trace["otherData"]
        spans = [_event_span(event, about["start_s"]) for event in trace["traceEvents"] if event["ph"] == "X"]
        return Timeline(about["num_ranks"], tuple(spans), about["start_s"], about["end_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"the trace is not one that headrace wrote ({type(error).__name__}: {error}); "
            "give a timeline.json from a run folder"
        ) from error


def _rank_names(rank: int) -> list[dict[str, Any]]:
    event = {"ph": "M", "pid": rank, "tid": 0}
    return [
        event | {"name": "process_name", "args": {"name": f"rank {rank}"}},
        event | {"name": "process_sort_index", "args": {"sort_index": rank}},
        event | {"name": "thread_name", "args": {"name": "ops"}},
    ]


def _span_event(span: Span, step_start_s: float) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": f"{span.op.kind} {span.op.microbatch}",
        "cat": "op",
        "pid": span.rank,
        "tid": 0,
        "ts": (span.start_s - step_start_s) * 1e6,
        "dur": (span.end_s - span.start_s) * 1e6,
        "cname": _COLOURS[span.op.kind],
        "args": span.op._asdict(),
    }


def _event_span(event: dict[str, Any], step_start_s: float) -> Span:
    op = Op(**event["args"])
    if op.kind not in KINDS:
        raise ValueError(f"op kind {op.kind!r} is none of {', '.join(KINDS)}")
    start_s = step_start_s + event["ts"] / 1e6
    return Span(event["pid"], op, start_s, start_s + event["dur"] / 1e6)
