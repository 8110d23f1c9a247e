from pathlib import Path

import pytest

from headrace.errors import RequestError
from headrace.schedule import FAMILIES, make_schedule, write_schedule
from headrace.simulate.report import TABLE_COLUMNS, Question, answer, answer_all, table_rows

KEYS = {"schedule", "stages", "chunks", "microbatches", "step_ms", "bubble_rate", "lower_bound_ms", "peak_in_flight",
        "messages", "ops"}  # fmt: skip


def test_the_first_row_of_the_papers_table_comes_out() -> None:
    row, simulation = answer("zb-h1", Question(8, 24, 18.522, 18.086, 9.337, 0.601))
    assert row.keys() >= KEYS
    assert round(row["bubble_rate"], 4) == 0.1585
    assert row["step_ms"] == pytest.approx(1e3 * simulation.step_s)
    assert row["peak_in_flight"] == [8 - rank / 2 for rank in range(8)], "(p - r) whole ones and r halves for W"
    assert (row["messages"], row["ops"]) == (2 * 7 * 24, 3 * 8 * 24)


def test_in_flight_is_in_micro_batches_through_a_ranks_layers_whatever_the_chunks() -> None:
    row, _ = answer("interleaved-1f1b", Question(4, 8, 1, 1, 1, chunks=4))
    assert row["peak_in_flight"][0] == 4 + 3 / 4
    assert (row["chunks"], row["memory"]) == (4, (4 + 3 / 4) / 4)


def test_all_is_sorted_and_says_what_it_leaves_out() -> None:
    table = answer_all(Question(4, 8, 10, 10, 10, memory_limit=1.0))
    steps = [row["step_ms"] for row in table["schedules"]]
    assert steps == sorted(steps)
    assert table["schedules"][0]["schedule"] == "auto"
    assert all(row["memory"] <= 1.0 for row in table["schedules"])
    shown = {row["schedule"] for row in table["schedules"]} | {row["schedule"] for row in table["left_out"]}
    assert shown == {*FAMILIES, "auto"}
    assert next(row["reason"] for row in table["left_out"] if row["schedule"] == "gpipe").startswith(
        "schedule 'gpipe' needs 2 of 1F1B's activation memory and may have 1"
    )
    assert len(table_rows(table["schedules"])[0]) == len(TABLE_COLUMNS)


def test_a_file_is_answered_like_a_family(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    write_schedule(make_schedule("dualpipe-v", 4, 8), path)
    question = Question(4, 8, 3, 2, 1)
    mine, family = answer(str(path), question)[0], answer("dualpipe-v", question)[0]
    assert mine == {**family, "schedule": "mine"}
    with pytest.raises(RequestError, match="'mine' has 8 micro-batches, but 9 were asked for"):
        answer(str(path), Question(4, 9, 3, 2, 1))


def test_eight_stages_idle_seven_eighths_without_micro_batches_and_under_a_tenth_with_enough() -> None:
    assert answer("gpipe", Question(8, 1, 1, 1, 1))[0]["idle_share"] == pytest.approx(0.875)
    assert answer("1f1b", Question(8, 64, 1, 1, 1))[0]["idle_share"] < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": 0}, "stages is 0; give a number that is 1 or more"),
        ({"microbatches": -1}, "microbatches is -1"),
        ({"f_ms": float("nan")}, "f_ms is nan; give a number above 0"),
        ({"i_ms": 0.0}, "i_ms is 0.0"),
        ({"w_ms": float("inf")}, "w_ms is inf"),
        ({"comm_ms": -0.1}, "comm_ms is -0.1; give a number that is 0 or more"),
        ({"memory_limit": 0.0}, "memory_limit is 0.0"),
        ({"w_memory": 1.1}, "w_memory is 1.1; give a share from 0 to 1"),
    ],
)
def test_counts_and_times_that_are_none_are_refused(change: dict[str, float], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Question(**{"stages": 2, "microbatches": 2, "f_ms": 1.0, "i_ms": 1.0, "w_ms": 1.0, **change})


def test_a_memory_limit_that_is_too_low_is_answered_with_the_least() -> None:
    with pytest.raises(RequestError, match=r"'zb-h1' needs 1 of 1F1B's activation memory and may have 0\.5"):
        answer("zb-h1", Question(4, 8, 1, 1, 1, memory_limit=0.5))
    with pytest.raises(RequestError, match=r"no order of 4 stages fits 0.1 .* the least is 0.25"):
        answer_all(Question(4, 8, 1, 1, 1, memory_limit=0.1))
    assert answer("auto", Question(4, 8, 1, 1, 1, memory_limit=0.25))[0]["peak_in_flight"] == [1.0] * 4


@pytest.mark.parametrize(("name", "hint"), [("zbh1", "'zb-h1'"), ("al", "'all'"), ("auot", "'auto'")])
def test_an_unknown_schedule_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(RequestError, match=f"did you mean {hint}"):
        answer(name, Question(2, 2, 1, 1, 1))
