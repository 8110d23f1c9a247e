"""The bubble rates that the Zero Bubble paper prints, from the times that it prints beside them."""

import json
from pathlib import Path

import pytest

from headrace.simulate.report import Question, answer

PAPER = json.loads((Path(__file__).parents[1] / "data" / "zero_bubble.json").read_text())
ROWS = [pytest.param(row, id=f"{row['model']}-{row['m']}") for row in PAPER["main_rows"]]


def bubble_rate(name: str, row: dict, p: int, m: int, chunks: int | None = None, share: float = 1.0) -> float:
    """What ``headrace simulate`` says, with ``share`` of the row's times on each rank."""
    times = (row[key] * share for key in ("f_ms", "i_ms", "w_ms"))
    return answer(name, Question(p, m, *times, row["comm_ms"], chunks))[0]["bubble_rate"]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("name", "column"), [("1f1b", "1F1B"), ("zb-h1", "ZB-H1"), ("zb-h2", "ZB-H2")])
def test_handmade_schedules_come_out_to_four_decimals(row: dict, name: str, column: str) -> None:
    assert round(bubble_rate(name, row, row["p"], row["m"]), 4) == row["bubble_rate"][column]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("name", "column"), [("zb-1p", "ZB-1p"), ("zb-2p", "ZB-2p")])
def test_the_automatic_scheduler_is_as_good_as_the_papers(row: dict, name: str, column: str) -> None:
    assert bubble_rate(name, row, row["p"], row["m"]) <= row["bubble_rate"][column] + 0.005


@pytest.mark.parametrize("row", ROWS)
def test_interleaved_1f1b_is_within_a_hundredth(row: dict) -> None:
    """Each layer a chunk; the end stages, which hold one layer less, are priced like the others."""
    chunks = (row["layers"] + 2) // row["p"]
    assert bubble_rate("interleaved-1f1b", row, row["p"], row["m"], chunks) <= row["bubble_rate"]["1F1B-I"] + 0.01


@pytest.mark.parametrize("table_row", [row for row in PAPER["table_8"]["rows"] if row[0] == "6.2B"])
def test_zb_v_is_within_two_hundredths(table_row: list) -> None:
    """16 ranks hold half of what 8 ranks hold in the main rows, so half of the times; messages cost the same."""
    expected = dict(zip(PAPER["table_8"]["columns"], table_row, strict=True))
    for row in PAPER["main_rows"]:
        if row["model"] == "6.2B":
            rate = bubble_rate("zb-v", row, expected["p"], expected["m"], share=0.5)
            assert rate <= expected["ZB-V"] + 0.02
