"""How a run ended, predicted against measured."""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from headrace.train.files import RunFiles, write_json
from headrace.train.job import Job
from headrace.train.metrics import read_metrics

WARM_UP_STEPS = 2
"""Left out of what is measured: the first steps also allocate."""

LAST_STEPS = 20


@dataclass(frozen=True)
class Summary:
    """What ``summary.json`` holds.

    Attributes:
        status: ``done``, ``stopped`` or ``failed``.
        error: The sentence of a failed run.
        steps: Steps done.
        first_loss: Of the first step.
        last_loss: Mean of the last 20 steps, since single ones differ by what their rows hold.
        validation_loss: As last measured; None where nothing was held out.
        train_s: Seconds of all steps.
        predicted, measured: ``step_s``, ``idle_share`` and ``tokens_per_s``; measured are medians.
    """

    status: str
    error: str | None
    steps: int
    first_loss: float | None
    last_loss: float | None
    validation_loss: float | None
    train_s: float
    predicted: dict[str, float]
    measured: dict[str, float]

    @classmethod
    def of(cls, job: Job, status: str, error: str | None = None, first_step: int = 0) -> "Summary":
        """From the run's metrics and plan, which steps from ``first_step`` on have followed."""
        rows = read_metrics(job.files.metrics)
        prediction = job.plan.prediction
        names = ("step_s", "idle_share", "tokens_per_s")
        return cls(
            status=status,
            error=error,
            steps=len(rows),
            first_loss=rows[0]["loss"] if rows else None,
            last_loss=statistics.mean(row["loss"] for row in rows[-LAST_STEPS:]) if rows else None,
            validation_loss=next((r["validation_loss"] for r in reversed(rows) if "validation_loss" in r), None),
            train_s=sum(row["step_s"] for row in rows),
            predicted={name: getattr(prediction, name) for name in names} if prediction else {},
            measured=_medians(rows[first_step:], names),
        )

    def save(self, files: RunFiles) -> None:
        """Writes ``summary.json``."""
        write_json(files.summary, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def _medians(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, float]:
    counted = rows[WARM_UP_STEPS:] or rows
    return {name: statistics.median(row[name] for row in counted) for name in names} if counted else {}
