"""headrace beside torch's own pipeline runtime and beside one process, alternating in one run.

Run ``python -m benchmarks.runtime [--quick] [--json] [--plot FILE]``. Paced stages sleep instead of computing, so that
many ranks overlap on few cores and only the order and the runtime show; real ones are a Llama on two ranks.
"""

import argparse
import json
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.peers import paced_headrace, paced_torch, real_alone, real_headrace, real_torch
from headrace.cluster import Link
from headrace.costs import LinkCosts, StageCosts
from headrace.engine.link import measured_link
from headrace.schedule import Schedule, check, make_schedule
from headrace.schedule.prices import Prices
from headrace.simulate import auto, simulate
from tests.ranks import Ranks

PAIRS = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved-1f1b": "Interleaved1F1B", "zb-v": "ZBVZeroBubble"}
OURS_ALONE = ("zb-h1", "auto")
CUTS = {"1f1b": (0, 5, 10), "zb-h1": (0, 5, 10), "zb-v": (0, 3, 5, 7, 10)}
LARGE = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One comparison: medians of seconds a step, and the spread (least and most) of ours.

    ``free_s`` is simulated with messages that cost nothing, ``simulated_s`` with the link as measured.
    """

    part: str
    schedule: str
    ranks: int
    microbatches: int
    pace_ms: float
    boundary_kb: float
    free_s: float | None
    simulated_s: float | None
    ours_s: float
    ours_spread_s: tuple[float, float]
    torch_s: float | None
    alone_s: float | None
    ours_peak_bytes: tuple[int, ...] = ()
    torch_peak_bytes: tuple[int, ...] = ()


def paced_rows(ranks: Ranks, link: Link, quick: bool) -> list[Row]:
    """Order and runtime alone."""
    rows = []
    for size in (4,) if quick else (4, 8):
        for microbatches in (8,) if quick else (8, 32):
            for pace_ms in (10, 2) if quick else (10, 5, 2, 1):
                for numbers in (16 * 1024,) if quick else (16 * 1024, LARGE):
                    for schedule in (*PAIRS, *OURS_ALONE):
                        rows.append(paced_row(ranks, link, schedule, size, microbatches, pace_ms, numbers))
                        print(json.dumps(asdict(rows[-1])), file=sys.stderr)
    return rows


def paced_row(
    ranks: Ranks, link: Link, schedule: str, size: int, microbatches: int, pace_ms: float, numbers: int
) -> Row:
    """One order on one grid point; two rounds, each of ours and theirs in turn, the first laps left out."""
    pace_s, steps = pace_ms / 1e3, 6 if microbatches <= 8 else 4
    made = paced_order(schedule, size, microbatches, pace_s, link.latency_s + numbers * 4 / link.bytes_per_s)
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(2):
        ours += ranks.run(size, paced_headrace, made, pace_s, numbers, steps)[0][1:]
        if schedule in PAIRS:
            peer += ranks.run(size, paced_torch, PAIRS[schedule], microbatches, pace_s, numbers, steps)[0][1:]
    one_s, stages = pace_s * size / made.num_stages, made.num_stages
    same, none = (one_s,) * stages, (0,) * stages
    costs = StageCosts(same, same, same, none, none, none, (numbers * 4,) * stages)
    free_s, simulated_s = (
        simulate(check(made), costs, of).step_s
        for of in (LinkCosts(0.0, 1e15), LinkCosts(link.latency_s, link.bytes_per_s))
    )
    return Row(
        "paced",
        schedule,
        size,
        microbatches,
        pace_ms,
        numbers * 4 / 1024,
        free_s,
        simulated_s,
        statistics.median(ours),
        (min(ours), max(ours)),
        statistics.median(peer) if peer else None,
        None,
    )


def paced_order(schedule: str, size: int, microbatches: int, pace_s: float, message_s: float) -> Schedule:
    """A family's order, or the search's within the activation memory of 1F1B and ZB-V: ``size`` micro-batches."""
    if schedule != "auto":
        return make_schedule(schedule, size, microbatches)
    same, one = (pace_s,) * size, (1.0,) * size
    prices = Prices(same, same, same, (message_s,) * (size - 1), one, one)
    return auto(microbatches, prices, [float(size)] * size, max_copies=1).schedule


def real_rows(ranks: Ranks, quick: bool) -> list[Row]:
    """A Llama of 8 layers, hidden 512, on two ranks with one thread each."""
    rows, steps = [], 3 if quick else 5
    for microbatches in (8,) if quick else (8, 16):
        ours: dict[str, list[float]] = {schedule: [] for schedule in CUTS}
        peer: dict[str, list[float]] = {schedule: [] for schedule in CUTS}
        alone: list[float] = []
        for _ in range(1 if quick else 2):
            alone += ranks.run(1, real_alone, microbatches, steps)[0][0][1:]
            for schedule, bounds in CUTS.items():
                ours[schedule] += ranks.run(2, real_headrace, schedule, bounds, microbatches, steps)[0][0][1:]
                if schedule in PAIRS:
                    theirs = ranks.run(2, real_torch, PAIRS[schedule], bounds, microbatches, steps)
                    peer[schedule] += theirs[0][0][1:]
        for schedule, mine in ours.items():
            row = Row(
                "real",
                schedule,
                2,
                microbatches,
                0.0,
                256 * 512 * 4 / 1024,
                None,
                None,
                statistics.median(mine),
                (min(mine), max(mine)),
                statistics.median(peer[schedule]) if peer[schedule] else None,
                statistics.median(alone),
            )
            rows.append(row)
            print(json.dumps(asdict(row)), file=sys.stderr)
    return rows


def peak_rows(quick: bool) -> list[Row]:
    """Peak memory of each process; in processes of their own, since a peak never falls."""
    rows = []
    for schedule in ("1f1b", "zb-v"):
        peaks = []
        for job, name in ((real_headrace, schedule), (real_torch, PAIRS[schedule])):
            ranks = Ranks()
            peaks.append(tuple(peak for _, peak in ranks.run(2, job, name, CUTS[schedule], 8, 2 if quick else 4)))
            ranks.close()
        rows.append(Row("memory", schedule, 2, 8, 0.0, 0.0, None, None, 0.0, (0.0, 0.0), None, None, *peaks))
        print(json.dumps(asdict(rows[-1])), file=sys.stderr)
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """The figures that are promised: ratios above 1 are in headrace's favour, ``over_simulated`` should be near 1."""

    def median(values: list[float]) -> float | None:
        return round(statistics.median(values), 4) if values else None

    paced = [row for row in rows if row.part == "paced"]
    same = [(row, row.torch_s / row.ours_s) for row in paced if row.torch_s]
    points: dict[tuple[Any, ...], list[Row]] = {}
    for row in paced:
        points.setdefault((row.ranks, row.microbatches, row.pace_ms, row.boundary_kb), []).append(row)
    best = [min(r.torch_s for r in group if r.torch_s) / min(r.ours_s for r in group) for group in points.values()]
    real = [row for row in rows if row.part == "real"]
    return {
        "over_simulated": {
            f"P={size} {pace:g} ms {kb:g} KB": {
                r.schedule: round(r.ours_s / r.simulated_s, 4)
                for r in paced
                if r.simulated_s and (r.ranks, r.pace_ms, r.boundary_kb) == (size, pace, kb)
            }
            for size, pace, kb in sorted({(r.ranks, r.pace_ms, r.boundary_kb) for r in paced})
        },
        "torch_over_ours_same_schedule": median([ratio for _, ratio in same]),
        "torch_over_ours_short_ops": median([ratio for row, ratio in same if row.pace_ms <= 2]),
        "torch_over_ours_worst": min((ratio for _, ratio in same), default=None),
        "torch_best_over_ours_best": median(best),
        "real_share_of_twice_one_process": {
            f"{r.schedule} M={r.microbatches}": round(r.alone_s / (2 * r.ours_s), 4) for r in real if r.alone_s
        },
        "real_torch_over_ours": {
            f"{r.schedule} M={r.microbatches}": round(r.torch_s / r.ours_s, 4) for r in real if r.torch_s
        },
        "peak_bytes_over_torch": {
            r.schedule: round(max(r.ours_peak_bytes) / max(r.torch_peak_bytes), 4) for r in rows if r.torch_peak_bytes
        },
    }


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few points, under 3 minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the same, such as runtime.svg")
    parser.add_argument("--part", choices=("paced", "real", "memory"), help="only one part")
    arguments = parser.parse_args()
    link = measured_link()
    assert link is not None, "the paced part compares with a link that was measured through shared memory"
    ranks, rows = Ranks(), []
    if arguments.part in (None, "paced"):
        rows += paced_rows(ranks, link, arguments.quick)
    if arguments.part in (None, "real"):
        rows += real_rows(ranks, arguments.quick)
    ranks.close()
    if arguments.part in (None, "memory"):
        rows += peak_rows(arguments.quick)
    result = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "link": asdict(link),
        "summary": summary(rows),
        "rows": [asdict(row) for row in rows],
    }
    if arguments.plot:
        from benchmarks.runtime_picture import draw

        draw(result, arguments.plot)
    print(json.dumps(result) if arguments.json else json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
