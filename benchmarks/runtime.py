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
from headrace.costs import LinkCosts, StageCosts
from headrace.schedule import check, make_schedule
from headrace.simulate import simulate
from tests.ranks import Ranks

PAIRS = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved-1f1b": "Interleaved1F1B", "zb-v": "ZBVZeroBubble"}
OURS_ALONE = ("zb-h1",)
CUTS = {"1f1b": (0, 5, 10), "zb-h1": (0, 5, 10), "zb-v": (0, 3, 5, 7, 10)}


@dataclass(frozen=True)
class Row:
    """One comparison: medians of seconds a step, and the spread (least and most) of ours."""

    part: str
    schedule: str
    ranks: int
    microbatches: int
    pace_ms: float
    boundary_kb: float
    simulated_s: float | None
    ours_s: float
    ours_spread_s: tuple[float, float]
    torch_s: float | None
    alone_s: float | None
    ours_peak_bytes: tuple[int, ...] = ()
    torch_peak_bytes: tuple[int, ...] = ()


def paced_rows(ranks: Ranks, quick: bool) -> list[Row]:
    """Order and runtime alone."""
    rows = []
    for size in (4,) if quick else (4, 8):
        for microbatches in (8,) if quick else (8, 32):
            for pace_ms in (10, 2) if quick else (10, 5, 2, 1):
                for numbers in (16 * 1024,) if quick else (16 * 1024, 1024 * 1024):
                    for schedule in (*PAIRS, *OURS_ALONE):
                        rows.append(_paced(ranks, schedule, size, microbatches, pace_ms, numbers, 5 if quick else 8))
                        print(json.dumps(asdict(rows[-1])), file=sys.stderr)
    return rows


def _paced(ranks: Ranks, schedule: str, size: int, microbatches: int, pace_ms: float, numbers: int, steps: int) -> Row:
    arguments = (microbatches, pace_ms / 1e3, numbers, steps)
    ours: list[float] = []
    peer: list[float] = []
    for _ in range(2):
        ours += ranks.run(size, paced_headrace, schedule, *arguments)[0][2:]
        if schedule in PAIRS:
            peer += ranks.run(size, paced_torch, PAIRS[schedule], *arguments)[0][2:]
    made = make_schedule(schedule, size, microbatches)
    one_s = pace_ms / 1e3 * size / made.num_stages
    stages = made.num_stages
    same, none = (one_s,) * stages, (0,) * stages
    simulated = simulate(check(made), StageCosts(same, same, same, none, none, none, none), LinkCosts(0.0, 1e15))
    return Row(
        "paced",
        schedule,
        size,
        microbatches,
        pace_ms,
        numbers * 4 / 1024,
        simulated.step_s,
        statistics.median(ours),
        (min(ours), max(ours)),
        statistics.median(peer) if peer else None,
        None,
    )


def real_rows(ranks: Ranks, quick: bool) -> list[Row]:
    """A Llama of 8 layers, hidden 512, on two ranks with one thread each."""
    rows, steps = [], 3 if quick else 6
    for microbatches in (8,) if quick else (8, 16):
        for schedule, bounds in CUTS.items():
            ours: list[float] = []
            peer: list[float] = []
            alone: list[float] = []
            for _ in range(2):
                mine = ranks.run(2, real_headrace, schedule, bounds, microbatches, steps)
                ours += mine[0][0][1:]
                alone += ranks.run(1, real_alone, microbatches, steps)[0][0][1:]
                if schedule in PAIRS:
                    theirs = ranks.run(2, real_torch, PAIRS[schedule], bounds, microbatches, steps)
                    peer += theirs[0][0][1:]
            rows.append(
                Row(
                    "real",
                    schedule,
                    2,
                    microbatches,
                    0.0,
                    256 * 512 * 4 / 1024,
                    None,
                    statistics.median(ours),
                    (min(ours), max(ours)),
                    statistics.median(peer) if peer else None,
                    statistics.median(alone),
                )
            )
            print(json.dumps(asdict(rows[-1])), file=sys.stderr)
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
        rows.append(Row("memory", schedule, 2, 8, 0.0, 0.0, None, 0.0, (0.0, 0.0), None, None, peaks[0], peaks[1]))
        print(json.dumps(asdict(rows[-1])), file=sys.stderr)
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """The figures that are promised: ratios above 1 are in headrace's favour, ``over_simulated`` should be near 1."""

    def median(values: list[float]) -> float | None:
        return round(statistics.median(values), 4) if values else None

    paced = [row for row in rows if row.part == "paced"]
    compared = [row for row in paced if row.torch_s]
    points: dict[tuple[Any, ...], list[Row]] = {}
    for row in paced:
        points.setdefault((row.ranks, row.microbatches, row.pace_ms, row.boundary_kb), []).append(row)
    best = [min(r.torch_s for r in group if r.torch_s) / min(r.ours_s for r in group) for group in points.values()]
    real = [row for row in rows if row.part == "real"]
    return {
        "over_simulated": {
            f"P={size} {pace:g} ms": median(
                [r.ours_s / r.simulated_s for r in paced if r.simulated_s and (r.ranks, r.pace_ms) == (size, pace)]
            )
            for size, pace in sorted({(r.ranks, r.pace_ms) for r in paced})
        },
        "torch_over_ours_same_schedule": median([r.torch_s / r.ours_s for r in compared if r.torch_s]),
        "torch_over_ours_short_ops": median([r.torch_s / r.ours_s for r in compared if r.torch_s and r.pace_ms <= 2]),
        "torch_over_ours_worst": min((r.torch_s / r.ours_s for r in compared if r.torch_s), default=None),
        "torch_best_over_ours_best": median(best),
        "real_share_of_twice_one_process": {
            f"{r.schedule} M={r.microbatches}": round(r.alone_s / (2 * r.ours_s), 4) for r in real if r.alone_s
        },
        "real_torch_over_ours": {
            f"{r.schedule} M={r.microbatches}": round(r.torch_s / r.ours_s, 4) for r in real if r.torch_s
        },
    }


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few points, under 3 minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--part", choices=("paced", "real", "memory"), help="only one part")
    arguments = parser.parse_args()
    ranks, rows = Ranks(), []
    if arguments.part in (None, "paced"):
        rows += paced_rows(ranks, arguments.quick)
    if arguments.part in (None, "real"):
        rows += real_rows(ranks, arguments.quick)
    ranks.close()
    if arguments.part in (None, "memory"):
        rows += peak_rows(arguments.quick)
    result = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "summary": summary(rows),
        "rows": [asdict(row) for row in rows],
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
