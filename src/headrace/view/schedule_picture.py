"""One step of a schedule as a picture, as the papers draw it: a row a rank, a block an op, its micro-batch in it."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from headrace.errors import RequestError
from headrace.schedule.op import Kind
from headrace.schedule.schedule import Schedule
from headrace.simulate.simulator import Simulation
from headrace.simulate.timeline import Span

COLOURS: dict[Kind, str] = {"F": "#5b8ff9", "B": "#5ad8c0", "I": "#9be3d6", "W": "#4caf50"}
"""Of the chunk that comes first; later chunks of a rank are darker and their numbers white."""
LABELS: dict[Kind, str] = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient"}
ENDINGS = (".svg", ".png", ".pdf")
WIDEST_IN, ROW_IN, NUMBER_IN = 24.0, 0.32, 0.075


def draw_schedule(simulation: Simulation, out: Path) -> Path:
    """Draws the step and writes it.

    Args:
        simulation: Whose timeline.
        out: Ends in ``.svg``, ``.png`` or ``.pdf``.

    Returns:
        ``out``.

    Raises:
        RequestError: For another ending, or a file that cannot be written.
    """
    if out.suffix not in ENDINGS:
        raise RequestError(f"the picture {out} ends in '{out.suffix}'; name it {', '.join(ENDINGS)}")
    figure = schedule_figure(simulation)
    metadata = {"Date": None} if out.suffix == ".svg" else None
    try:
        with matplotlib.rc_context({"svg.hashsalt": "headrace", "svg.fonttype": "none"}):
            figure.savefig(out, metadata=metadata, dpi=150, facecolor="white")
    except OSError as error:
        raise RequestError(f"the picture cannot be written to {out} ({error.strerror}); give another file") from error
    return out


def schedule_figure(simulation: Simulation) -> Figure:
    """The picture as a figure, as wide as its micro-batches need up to 24 inches."""
    timeline, schedule = simulation.timeline, simulation.schedule
    shortest_s = min((s.end_s - s.start_s for s in timeline.spans if s.end_s > s.start_s), default=1.0)
    step_s = simulation.step_s or 1.0
    width_in = min(max(7.0, 2 * NUMBER_IN * 1.5 * step_s / shortest_s), WIDEST_IN)
    figure = Figure(figsize=(width_in, ROW_IN * schedule.num_ranks + 1.3), layout="constrained")
    axes = figure.add_subplot()
    inch_s = step_s / (width_in * 0.92)
    for kind in COLOURS:
        _add_blocks(axes, schedule, [span for span in timeline.spans if span.op.kind == kind], inch_s)
    axes.set_xlim(0, step_s)
    axes.set_ylim(schedule.num_ranks - 0.5, -0.5)
    axes.set_yticks(range(schedule.num_ranks), [f"rank {rank}" for rank in range(schedule.num_ranks)])
    axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds * 1e3:g}")
    axes.set_xlabel("ms")
    axes.set_facecolor("#f0f0f0")
    axes.tick_params(length=0)
    axes.set_title(_title(simulation), loc="left", fontsize=10)
    _add_legend(figure, schedule, {span.op.kind for span in timeline.spans})
    return figure


def _add_blocks(axes: "matplotlib.axes.Axes", schedule: Schedule, spans: list[Span], inch_s: float) -> None:
    boxes = [
        [(s.start_s, s.rank - 0.45), (s.end_s, s.rank - 0.45), (s.end_s, s.rank + 0.45), (s.start_s, s.rank + 0.45)]
        for s in spans
    ]
    colours = [_colour(schedule, span) for span in spans]
    axes.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors="white", linewidths=0.5))
    for span, colour in zip(spans, colours, strict=True):
        number = str(span.op.microbatch)
        room_in = (span.end_s - span.start_s) / inch_s
        if room_in >= NUMBER_IN * len(number):
            middle_s = (span.start_s + span.end_s) / 2
            ink = "white" if sum(colour) < 1.5 else "black"
            axes.text(
                middle_s, span.rank, number, ha="center", va="center_baseline", fontsize=7, color=ink, clip_on=True
            )


def _colour(schedule: Schedule, span: Span) -> tuple[float, float, float]:
    """The kind's colour, darker for each chunk of the rank (or copy of the weights) behind the first."""
    chunk = _chunk(schedule, span)
    share = 1.0 - 0.45 * min(chunk, 3) / max(1, min(_num_chunks(schedule) - 1, 3))
    red, green, blue = matplotlib.colors.to_rgb(COLOURS[span.op.kind])
    return (red * share, green * share, blue * share)


def _chunk(schedule: Schedule, span: Span) -> int:
    if schedule.copies:
        return schedule.copy_of[span.op.microbatch]
    return span.op.stage // schedule.num_ranks


def _num_chunks(schedule: Schedule) -> int:
    return len(schedule.placements) if schedule.copies else -(-schedule.num_stages // schedule.num_ranks)


def _title(simulation: Simulation) -> str:
    schedule = simulation.schedule
    return (
        f"{schedule.name}: {schedule.num_stages} stages on {schedule.num_ranks} ranks, "
        f"{schedule.num_microbatches} micro-batches, {simulation.step_s * 1e3:.4g} ms, "
        f"{simulation.idle_share:.1%} idle"
    )


def _add_legend(figure: Figure, schedule: Schedule, kinds: Iterable[Kind]) -> None:
    shown = [Patch(color=colour, label=LABELS[kind]) for kind, colour in COLOURS.items() if kind in kinds]
    if _num_chunks(schedule) > 1:
        what = "second copy" if schedule.copies else "later chunks"
        shown.append(Patch(color="#333333", label=f"darker: {what}"))
    figure.legend(handles=shown, loc="outside lower left", ncols=len(shown), frameon=False, fontsize=8)
