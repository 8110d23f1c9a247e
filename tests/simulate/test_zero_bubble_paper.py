"""The bubble rates that the Zero Bubble paper prints, from the times that it prints beside them."""

import json
from pathlib import Path

import pytest
from priced import rank_span_s

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.schedule import make_schedule, price
from headrace.simulate import simulate

PAPER = json.loads((Path(__file__).parents[1] / "data" / "zero_bubble.json").read_text())
ROWS = [pytest.param(row, id=f"{row['model']}-{row['m']}") for row in PAPER["main_rows"]]


def kept_share(row: dict) -> float:
    """Share of a layer's activations that W needs: ``32 s b h`` of ``s b (34 h + 5 a s)``."""
    return 32 / (34 + 5 * row["heads"] * row["sequence"] / row["hidden"])


def bubble_rate(name: str, row: dict, p: int, m: int, chunks: int = 1, share: float = 1.0) -> float:
    """Chunks of equal times that add up to ``share`` of the row's; the share of the longest rank that is idle."""
    n, part, saved = p * chunks, share / chunks, 10**6
    f_s, i_s, w_s = (row[key] * part for key in ("f_ms", "i_ms", "w_ms"))
    kept = int(saved * kept_share(row))
    costs = StageCosts((f_s,) * n, (i_s,) * n, (w_s,) * n, (0,) * n, (saved,) * n, (kept,) * n, (0,) * n)
    link = LinkCosts(row["comm_ms"], 1.0)
    span_s = rank_span_s(simulate(make_schedule(name, p, m, chunks, price(costs, link)), costs, link))
    return 1 - m * chunks * (f_s + i_s + w_s) / span_s


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
            rate = bubble_rate("zb-v", row, expected["p"], expected["m"], chunks=2, share=0.5)
            assert rate <= expected["ZB-V"] + 0.02
