"""Plans and results as a person reads them in a terminal."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from headrace.chain import Chain
from headrace.cluster import Cluster
from headrace.costs import Costs
from headrace.plan import Plan, microbatch_rows, stage_rows
from headrace.plan.words import bytes_text, seconds_text
from headrace.simulate.report import TABLE_COLUMNS, table_rows


def plan_table(plan: Plan, chain: Chain, batch_rows: int, sequence_length: int) -> RenderableType:
    """The stages, the figures that should come out, and the reasons."""
    table = _table(f"Plan: {chain.model_type}, {chain.num_parameters / 1e6:.1f} M parameters")
    for name in ("stage", "rank", "layers", "weights", "F", "B", "in\nflight", "memory"):
        table.add_column(name, justify="left" if name == "layers" else "right", no_wrap=True)
    if plan.recompute:
        table.add_column("recomputed")
    for row in stage_rows(plan, chain):
        table.add_row(
            str(row.stage),
            str(row.rank),
            row.layers,
            f"{row.num_parameters / 1e6:.2f} M",
            seconds_text(row.forward_s),
            seconds_text(row.backward_s),
            str(row.in_flight),
            bytes_text(row.memory_bytes),
            *([row.recompute] if plan.recompute else []),
        )
    return Group(table, Text(_figures(plan, batch_rows, sequence_length)), Markdown(_reasons(plan)))


def _table(title: str) -> Table:
    """Without margins, so that the widest fits 80 columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def _figures(plan: Plan, batch_rows: int, sequence_length: int) -> str:
    got = plan.prediction
    assert got is not None
    rows = microbatch_rows(batch_rows, plan.microbatches)
    each = f"{rows[0]}" if rows[0] == rows[-1] else f"{rows[0]} or {rows[-1]}"
    return (
        f"{plan.schedule}, {plan.microbatches} micro-batches of {each} rows, "
        f"{batch_rows * sequence_length:,} tokens a step\n"
        f"predicted: {seconds_text(got.step_s)} a step, {got.tokens_per_s:,.0f} tokens/s, "
        f"idle {100 * got.idle_share:.1f}%, {got.messages} messages of {bytes_text(got.message_bytes)} in all "
        f"({plan.costs_source} costs)\n"
    )


def _reasons(plan: Plan) -> str:
    return "\n".join(f"- {reason}" for reason in plan.reasons)


def comparison(summary: dict[str, Any]) -> RenderableType:
    """Predicted beside measured, and what became of the loss."""
    table = _table("Predicted and measured")
    for name in ("", "predicted", "measured"):
        table.add_column(name, justify="right" if name else "left")
    formats = {
        "step_s": ("step", seconds_text),
        "tokens_per_s": ("tokens/s", lambda value: f"{value:,.0f}"),
        "idle_share": ("idle", lambda value: f"{100 * value:.1f}%"),
    }
    for name, (title, text) in formats.items():
        pair = [summary[side].get(name) for side in ("predicted", "measured")]
        table.add_row(title, *("" if value is None else text(value) for value in pair))
    first, last = summary["first_loss"], summary["last_loss"]
    held_out = summary["validation_loss"]
    beside = "" if held_out is None else f", {held_out:.2f} on what was held out"
    return Group(table, Text(f"Loss {first:.2f} at the first step, {last:.2f} over the last ones{beside}"))


def cost_table(costs: Costs, chain: Chain) -> Table:
    """What each kind of layer costs."""
    table = _table(f"{chain.model_type}: {costs.source} costs of one micro-batch")
    for name in ("layer", "count", "F", "I", "W", "parameters", "kept\nfor I", "kept\nfor W"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=True)
    kinds = [layer.kind for layer in chain.layers]
    for index, layer in enumerate(chain.layers):
        if layer.kind in kinds[:index]:
            continue
        price = costs.layers[index]
        table.add_row(
            layer.name,
            str(kinds.count(layer.kind)),
            *(seconds_text(value) for value in (price.f_s, price.i_s, price.w_s)),
            *(bytes_text(n) for n in (price.parameter_bytes, price.saved_bytes, price.weight_saved_bytes)),
        )
    return table


def cluster_table(cluster: Cluster) -> RenderableType:
    """The devices, and what a message between two of them costs."""
    table = _table("This machine")
    for name in ("device", "kind", "memory", "FLOP/s", "memory speed"):
        table.add_column(name, justify="left" if name in ("device", "kind") else "right")
    for device in cluster.devices:
        memory, speed = bytes_text(device.memory_bytes), bytes_text(device.memory_bytes_per_s)
        table.add_row(device.name, device.kind, memory, f"{device.flops_per_s:.3g}", f"{speed}/s")
    link = cluster.link
    message = f"a message takes {seconds_text(link.latency_s)} and goes on at {bytes_text(link.bytes_per_s)}/s"
    return Group(table, Text(message))


def whereabouts(run_dir: Path) -> str:
    """Where everything of a finished run lies."""
    rows = (
        ("export/", "the model, an ordinary Hugging Face folder"),
        ("checkpoints/", "to go on from"),
        ("metrics.jsonl", "one line a step"),
        ("plan.json", "the plan, its prediction and its reasons"),
        ("timeline.json", "the last step; opens in ui.perfetto.dev"),
    )
    lines = [f"  {name:<15} {what}" for name, what in rows]
    return "\n".join([f"In {run_dir}:", *lines, f"  Look at it: headrace view {run_dir}"])


def schedules_table(rows: list[dict[str, Any]], left_out: list[dict[str, str]]) -> RenderableType:
    """Schedules by step time, and those that do not hold with the reason."""
    table = _table("Schedules under the given times")
    for index, (_, heading) in enumerate(TABLE_COLUMNS):
        table.add_column(heading, justify="right" if index else "left")
    for cells in table_rows(rows):
        table.add_row(*cells)
    reasons = [Text(f"left out: {item['schedule']}: {item['reason']}", style="dim") for item in left_out]
    return Group(table, *reasons)
