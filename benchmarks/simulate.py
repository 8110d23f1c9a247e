"""Ops against seconds: how long schedules take to make, to check and to simulate.

Run ``python -m benchmarks.simulate [--json]``.
"""

import json
import sys
from time import process_time

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.schedule import Schedule, check, make_schedule, split_backward
from headrace.schedule.prices import Prices
from headrace.simulate import auto, simulate

SIZES = ((4, 4, 21), (16, 4, 52), (32, 4, 260), (64, 4, 512), (64, 4, 1302))
"""Ranks, chunks and micro-batches: about 1e3, 1e4, 1e5, 4e5 and 1e6 ops with split backwards."""


def main() -> None:
    """Prints the tables, or one JSON object with ``--json``."""
    rows = [measure(*size) for size in SIZES]
    searches = [measure_search(p, m) for p, m in ((8, 32), (32, 256))]
    if "--json" in sys.argv[1:]:
        print(json.dumps({"simulate": rows, "auto": searches}))
        return
    print(f"{'ops':>9} {'make s':>8} {'check s':>8} {'simulate s':>11} {'total s':>8} {'us/op':>6}")
    for row in rows:
        total_s = row["make_s"] + row["check_s"] + row["simulate_s"]
        parts = f"{row['make_s']:8.3f} {row['check_s']:8.3f} {row['simulate_s']:11.3f} {total_s:8.3f}"
        print(f"{row['ops']:9.0f} {parts} {total_s / row['ops'] * 1e6:6.2f}")
    for row in searches:
        print(f"auto, {row['stages']:.0f} stages x {row['microbatches']:.0f} micro-batches: {row['search_s']:.1f} s")


def measure(num_ranks: int, chunks: int, num_microbatches: int) -> dict[str, float]:
    """Seconds of this process's own time for an interleaved schedule with split backwards."""
    start_s = process_time()
    schedule: Schedule = split_backward(make_schedule("interleaved-1f1b", num_ranks, num_microbatches, chunks))
    made_s = process_time()
    checked = check(schedule)
    checked_s = process_time()
    n = schedule.num_stages
    one, none = (1.0,) * n, (0,) * n
    _ = simulate(checked, StageCosts(one, one, one, none, none, none, none), LinkCosts(0.1, 1.0)).step_s
    return {
        "ops": schedule.num_ops,
        "make_s": made_s - start_s,
        "check_s": checked_s - made_s,
        "simulate_s": process_time() - checked_s,
    }


def measure_search(num_ranks: int, num_microbatches: int) -> dict[str, float]:
    """Seconds of a search with 1F1B's memory and a tenth of F as latency."""
    p = num_ranks
    prices = Prices((10.0,) * p, (12.0,) * p, (8.0,) * p, (1.0,) * (p - 1), (1.0,) * p, (1.0,) * p)
    start_s = process_time()
    auto(num_microbatches, prices, (float(p),) * p)
    return {"stages": p, "microbatches": num_microbatches, "search_s": process_time() - start_s}


if __name__ == "__main__":
    main()
