"""The comparison with torch's runtime still runs: each order on a pipeline of three ranks that pause an instant."""

from pathlib import Path

import pytest

from benchmarks.runtime import OURS_ALONE, PAIRS, paced_order, paced_row, summary
from benchmarks.runtime_picture import draw
from headrace.cluster import Link
from headrace.schedule import check
from tests.ranks import Ranks

LINK = Link(1e-4, 1e9)


def test_every_order_runs_on_both_runtimes_and_is_drawn(ranks: Ranks, tmp_path: Path) -> None:
    rows = [paced_row(ranks, LINK, schedule, 3, 6, 0.01, 8) for schedule in (*PAIRS, *OURS_ALONE)]
    assert all(row.ours_s > 0 for row in rows)
    assert [row.schedule for row in rows if row.torch_s] == list(PAIRS)
    assert set(summary(rows)["over_simulated"]["P=3 0.01 ms 0.03125 KB"]) == {*PAIRS, *OURS_ALONE}
    draw({"torch": "2", "rows": [row.__dict__ for row in rows]}, str(tmp_path / "picture.png"))
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("microbatches", [4, 8])
def test_the_search_holds_no_more_activations_than_the_orders_it_is_compared_with(microbatches: int) -> None:
    made = check(paced_order("auto", 4, microbatches, 1e-2, 1e-4))
    chunks = made.schedule.num_stages / 4
    assert max(made.peak_in_flight) / chunks <= 4
