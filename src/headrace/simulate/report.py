"""What `headrace simulate` answers: one schedule, or all of them as a table, under given prices."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.errors import RequestError
from headrace.schedule.checker import Checked, check
from headrace.schedule.families import FAMILIES, find_family, make_schedule
from headrace.schedule.files import read_schedule
from headrace.schedule.forward_only import forward_only
from headrace.schedule.memory import held_activations, peaks
from headrace.schedule.placement import looped
from headrace.schedule.prices import Prices, spread
from headrace.schedule.schedule import Schedule
from headrace.simulate.auto import auto
from headrace.simulate.bound import lower_bound_s
from headrace.simulate.simulator import Simulation, simulate

_BYTES = 10**6
"""One micro-batch's activations on a rank, in the unit that ``StageCosts`` counts whole; only ratios are shown."""


@dataclass(frozen=True)
class Question:
    """What was asked for; times are those of one rank's layers for one micro-batch.

    Attributes:
        stages: Ranks of the pipeline.
        microbatches: Micro-batches of a step.
        f_ms, i_ms, w_ms: Forward, gradient of the input, gradient of the weights.
        comm_ms: A message between two ranks.
        chunks: Stages on each rank; None: the family's own.
        memory_limit: Activations that a rank may hold, in units of 1F1B's (``stages`` micro-batches); None: any.
        w_memory: What W still needs of a micro-batch's activations once I has run. For the models of the Zero Bubble
            paper it is 0.37 and 0.43 (``32 / (34 + 5 a s / h)``, 2401.10241, table 1).
    """

    stages: int
    microbatches: int
    f_ms: float
    i_ms: float
    w_ms: float
    comm_ms: float = 0.0
    chunks: int | None = None
    memory_limit: float | None = None
    w_memory: float = 0.5

    def __post_init__(self) -> None:
        for name in ("stages", "microbatches"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} is {getattr(self, name)}; give a number that is 1 or more")
        for name in ("f_ms", "i_ms", "w_ms", "memory_limit"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise RequestError(f"{name} is {value}; give a number above 0")
        if not (isfinite(self.comm_ms) and self.comm_ms >= 0):
            raise RequestError(f"comm_ms is {self.comm_ms}; give a number that is 0 or more")
        if not 0 <= self.w_memory <= 1:
            raise RequestError(f"w_memory is {self.w_memory}; give a share from 0 to 1")

    @property
    def rank_prices(self) -> Prices:
        """One entry a rank, in seconds and micro-batches."""
        n = self.stages
        f_s, i_s, w_s = ((ms / 1e3,) * n for ms in (self.f_ms, self.i_ms, self.w_ms))
        return Prices(f_s, i_s, w_s, (self.comm_ms / 1e3,) * (n - 1), (1.0,) * n, (self.w_memory,) * n)

    @property
    def limits(self) -> tuple[float, ...]:
        """Micro-batches that each rank may hold."""
        most = float("inf") if self.memory_limit is None else self.memory_limit * self.stages
        return (min(most, float(self.microbatches)),) * self.stages


def answer(schedule: str, question: Question) -> tuple[dict[str, Any], Simulation]:
    """One schedule under the question's prices.

    Args:
        schedule: A family, ``auto``, ``forward`` (no backwards), or a schedule file (``.csv``, ``.json``), whose own
            counts then hold.
        question: The prices.

    Returns:
        The JSON object of ``headrace simulate SCHEDULE``, and the simulation, for a picture.

    Raises:
        RequestError: For anything that cannot be; a memory limit that the schedule breaks is answered with the least
            that it needs.
    """
    checked = check(_schedule(schedule, question))
    _check_counts(checked.schedule, question)
    row, simulation = _row(checked, question)
    if question.memory_limit is not None and row["memory"] > question.memory_limit * (1 + 1e-9):
        raise RequestError(
            f"schedule '{schedule}' needs {row['memory']:.4g} of 1F1B's activation memory and may have "
            f"{question.memory_limit:g}; raise the limit, or ask for 'auto' or 'all'"
        )
    return row, simulation


def answer_all(question: Question) -> dict[str, Any]:
    """All families and ``auto``, sorted by step time.

    Returns:
        ``schedules``: the rows of `answer` that hold within the memory limit; ``left_out``: ``{schedule, reason}``.

    Raises:
        RequestError: When no schedule holds within the limit; says the least that any needs, and which.
    """
    rows, left_out = [], []
    for name in (*FAMILIES, "auto"):
        try:
            rows.append(answer(name, question)[0])
        except RequestError as error:
            left_out.append({"schedule": name, "reason": str(error)})
    if not rows:
        raise RequestError(
            f"no order of {question.stages} stages fits {question.memory_limit:g} of 1F1B's activation memory; the "
            f"least is {1 / question.stages:.4g}, one micro-batch at a time, which 'auto' finds; ask for that"
        )
    return {"schedules": sorted(rows, key=lambda row: (row["step_ms"], row["memory"])), "left_out": left_out}


def _schedule(name: str, question: Question) -> Schedule:
    if name == "auto":
        return auto(question.microbatches, question.rank_prices, question.limits).schedule
    if Path(name).suffix in (".csv", ".json"):
        return read_schedule(Path(name))
    if name == "forward":
        return forward_only(looped(question.stages, question.chunks or 1), question.microbatches)
    find_family(name, "auto", "forward", "all", "a file that ends in .csv or .json")
    made = make_schedule(name, question.stages, question.microbatches, question.chunks)
    if not FAMILIES[name].priced:
        return made
    prices = spread(question.rank_prices, made.placement)
    return make_schedule(name, question.stages, question.microbatches, question.chunks, prices)


def _check_counts(schedule: Schedule, question: Question) -> None:
    """A file brings its own counts; options that say otherwise are a mistake."""
    for what, own, asked in (
        ("ranks", schedule.num_ranks, question.stages),
        ("micro-batches", schedule.num_microbatches, question.microbatches),
    ):
        if own != asked:
            raise RequestError(
                f"schedule '{schedule.name}' has {own} {what}, but {asked} were asked for; ask for {own}"
            )


def _row(checked: Checked, question: Question) -> tuple[dict[str, Any], Simulation]:
    schedule = checked.schedule
    prices = spread(question.rank_prices, schedule.placement)
    simulation = simulate(checked, _stage_costs(prices), [LinkCosts(s, 1.0) for s in prices.edge_s])
    held = peaks(schedule, held_activations(schedule, prices.saved, prices.kept))
    bound_s = lower_bound_s(schedule, prices, question.limits)
    row = {
        "schedule": schedule.name,
        "stages": question.stages,
        "chunks": schedule.num_stages // schedule.num_ranks,
        "microbatches": question.microbatches,
        "step_ms": simulation.step_s * 1e3,
        "bubble_rate": max(0.0, simulation.bubble_rate),
        "idle_share": max(0.0, simulation.idle_share),
        "longest_rank_ms": simulation.span_s * 1e3,
        "lower_bound_ms": bound_s * 1e3,
        "above_bound": max(0.0, simulation.step_s / bound_s - 1.0),
        "peak_in_flight": [round(most, 6) for most in held],
        "memory": max(held) / question.stages,
        "messages": simulation.messages,
        "ops": schedule.num_ops,
        "weight_copies": len(schedule.placements),
        "weight_versions": max(versions.held for versions in checked.weight_versions),
        "same_bits": checked.ascending and not schedule.update_every,
    }
    return row, simulation


def _stage_costs(prices: Prices) -> StageCosts:
    none = (0,) * prices.num_stages
    saved, kept = (tuple(round(_BYTES * one) for one in values) for values in (prices.saved, prices.kept))
    return StageCosts(prices.f_s, prices.i_s, prices.w_s, none, saved, kept, none)


TABLE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("schedule", "schedule"),
    ("step_ms", "step ms"),
    ("bubble_rate", "bubble"),
    ("above_bound", "above bound"),
    ("memory", "memory / 1F1B"),
    ("messages", "messages"),
    ("weight_copies", "weight copies"),
)
"""Keys of a row and their headings, for a table that a person reads."""


def table_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of `answer_all` as text, in the order of ``TABLE_COLUMNS``."""
    shape = {"step_ms": "{:.3f}", "bubble_rate": "{:.2%}", "above_bound": "{:.1%}", "memory": "{:.3f}"}
    return [tuple(shape.get(key, "{}").format(row[key]) for key, _ in TABLE_COLUMNS) for row in rows]
