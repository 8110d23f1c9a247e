"""The runtime benchmark as a picture: what each runtime's best order loses to one in which messages are free."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, PEER = "#1f6fb4", "#d9822b"
Row = dict[str, Any]


def draw(result: dict[str, Any], path: str) -> None:
    """One panel for each number of ranks and micro-batches, and one of the real model."""
    paced = [row for row in result["rows"] if row["part"] == "paced"]
    real = [row for row in result["rows"] if row["part"] == "real"]
    points = sorted({(row["ranks"], row["microbatches"]) for row in paced})
    count = len(points) + bool(real)
    figure = Figure(figsize=(3.4 * count, 3.8), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis, (ranks, microbatches) in zip(axes, points, strict=False):
        chosen = [row for row in paced if (row["ranks"], row["microbatches"]) == (ranks, microbatches)]
        _paced_panel(axis, chosen, f"{ranks} ranks, {microbatches} micro-batches")
    if points:
        axes[0].set_ylabel("step of the best order / best possible step")
    if real:
        _real_panel(axes[-1], real)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"headrace and torch.distributed.pipelining {result['torch']}", fontsize=11)
    figure.savefig(Path(path), dpi=150, facecolor="white")


def _paced_panel(axis: Axes, rows: list[Row], title: str) -> None:
    """The best possible step: every rank busy from start to end."""
    for size_kb, style in zip(sorted({row["boundary_kb"] for row in rows}), ("-", "--"), strict=False):
        for key, colour, name in (("ours_s", OURS, "headrace"), ("torch_s", PEER, "torch")):
            lines: dict[float, float] = {}
            for row in rows:
                if row["boundary_kb"] == size_kb and row[key]:
                    best_s = 3 * row["microbatches"] * row["pace_ms"] / 1e3
                    over = row[key] / best_s
                    lines[row["pace_ms"]] = min(over, lines.get(row["pace_ms"], over))
            label = f"{name}, messages of {size_kb:g} KB"
            axis.plot(sorted(lines), [lines[x] for x in sorted(lines)], style, color=colour, marker="o", label=label)
    paces = sorted({row["pace_ms"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(paces, [f"{pace:g}" for pace in paces])
    axis.minorticks_off()
    axis.set_ylim(bottom=1.0)
    axis.set_xlabel("F, I and W of a rank (ms each)")
    axis.set_title(title, fontsize=9)
    axis.grid(axis="y", alpha=0.3)


def _real_panel(axis: Axes, rows: list[Row]) -> None:
    names = [f"{row['schedule']}\nM = {row['microbatches']}" for row in rows]
    for shift, key, colour in ((-0.2, "ours_s", OURS), (0.2, "torch_s", PEER)):
        shares = [row["alone_s"] / (2 * row[key]) if row[key] else 0.0 for row in rows]
        bars = axis.bar([place + shift for place in range(len(rows))], shares, 0.38, color=colour)
        axis.bar_label(bars, [f"{share:.2f}" if share else "" for share in shares], fontsize=7)
    axis.axhline(1.0, color="#888888", linewidth=0.8)
    axis.set_xticks(range(len(rows)), names, fontsize=7)
    axis.set_ylim(0.5, 1.05)
    axis.set_title("a Llama on 2 ranks: speed / twice one process", fontsize=9)
