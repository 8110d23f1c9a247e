"""What the recording of the timeline costs: seconds of one span, times the spans of a step, against a step.

Run ``python -m benchmarks.recording``. The step is that of the quickstart, run here for a few steps; the span is
recorded as the engine does it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headrace.schedule import Op

QUICKSTART = Path(__file__).parents[1] / "examples/quickstart.yaml"
SPANS = 1_000_000


def span_s() -> float:
    """Seconds of recording one op, the loop around it included."""
    op, spans = Op("F", 0, 0), []
    start_s = time.perf_counter()
    for _ in range(SPANS):
        begin_s = time.perf_counter()
        spans.append((op, begin_s, time.perf_counter()))
    return (time.perf_counter() - start_s) / SPANS


def quickstart() -> tuple[float, int]:
    """Median seconds of a step, and the most ops that one rank records in it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "-m", "headrace", "train", QUICKSTART, "train.steps=12", "--run-dir", run_dir]
        summary = json.loads(subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True).stdout)
        events = json.loads((run_dir / "timeline.json").read_text())["traceEvents"]
    ranks = [event["pid"] for event in events if event["ph"] == "X"]
    return summary["measured"]["step_s"], max(map(ranks.count, ranks))


def main() -> None:
    """Prints the figures."""
    each_s = span_s()
    step_s, num_ops = quickstart()
    print(f"{each_s * 1e9:.0f} ns a span x {num_ops} spans of a rank = {each_s * num_ops * 1e6:.2f} µs a step")
    print(f"a step of the quickstart takes {step_s * 1e3:.1f} ms: recording is {each_s * num_ops / step_s:.6%} of it")


if __name__ == "__main__":
    main()
