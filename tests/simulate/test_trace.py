"""A trace must open in Perfetto and give the same timeline back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.schedule.op import KINDS, Op
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.trace import timeline_to_trace, trace_to_timeline

seconds = st.floats(0, 100, allow_nan=False)
ops = st.builds(Op, st.sampled_from(KINDS), st.integers(0, 63), st.integers(0, 4095))
spans = st.builds(
    lambda rank, op, start_s, length_s: Span(rank, op, start_s, start_s + length_s),
    st.integers(0, 3), ops, seconds, seconds,
)  # fmt: skip


def two_spans(start_s: float = 0.0) -> Timeline:
    forward = Span(0, Op("F", 0, 3), start_s + 0.001, start_s + 0.003)
    backward = Span(1, Op("B", 1, 3), start_s + 0.003, start_s + 0.007)
    return Timeline(2, (forward, backward), start_s, start_s + 0.010)


@given(st.lists(spans, max_size=8))
def test_a_timeline_survives_the_way_to_a_file_and_back(some: list[Span]) -> None:
    timeline = Timeline(4, tuple(some), 0.0, 200.0)
    again = trace_to_timeline(json.loads(json.dumps(timeline_to_trace(timeline))))
    assert (again.num_ranks, again.start_s, again.end_s) == (4, 0.0, 200.0)
    assert [(s.rank, s.op) for s in again.spans] == [(s.rank, s.op) for s in timeline.spans]
    for back, span in zip(again.spans, timeline.spans, strict=True):
        assert (back.start_s, back.end_s) == pytest.approx((span.start_s, span.end_s), abs=1e-9)


def test_events_are_complete_events_in_microseconds_since_the_step_began() -> None:
    events = [e for e in timeline_to_trace(two_spans(1.7e9))["traceEvents"] if e["ph"] == "X"]
    # A clock of 1.7e9 s in float64 has steps of 0.24 us.
    assert [(e["name"], e["pid"], e["ts"], e["dur"]) for e in events] == [
        ("F 3", 0, pytest.approx(1000, abs=0.5), pytest.approx(2000, abs=0.5)),
        ("B 3", 1, pytest.approx(3000, abs=0.5), pytest.approx(4000, abs=0.5)),
    ]
    assert events[1]["args"] == {"kind": "B", "stage": 1, "microbatch": 3}


def test_each_rank_is_a_named_process_idle_ranks_included() -> None:
    idle = Timeline(3, (), 0.0, 1.0)
    names = {e["pid"]: e["args"]["name"] for e in timeline_to_trace(idle)["traceEvents"] if e["name"] == "process_name"}
    assert names == {0: "rank 0", 1: "rank 1", 2: "rank 2"}


@pytest.mark.parametrize(
    "trace",
    [
        {},
        {"traceEvents": []},
        [],
        {"otherData": {"num_ranks": 1, "start_s": 0.0, "end_s": 1.0}, "traceEvents": [{"ph": "X", "name": "other"}]},
        {
            "otherData": {"num_ranks": 1, "start_s": 0.0, "end_s": 1.0},
            "traceEvents": [
                {"ph": "X", "pid": 0, "ts": 0, "dur": 1, "args": {"kind": "Q", "stage": 0, "microbatch": 0}}
            ],
        },
    ],
)
def test_a_foreign_trace_is_refused_in_one_sentence(trace: object) -> None:
    with pytest.raises(RequestError, match="not one that headrace wrote"):
        trace_to_timeline(trace)  # a wrong type is part of what is tested
