"""What a run tells: one line a step, and events for TensorBoard."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headrace.engine import StepResult
from headrace.errors import RequestError
from headrace.train.files import RunFiles

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True)
class StepMetrics:
    """One line of ``metrics.jsonl``; ``step`` counts from 1; no ``validation_loss`` where it was not measured."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    step_s: float
    tokens_per_s: float
    idle_share: float
    peak_memory_bytes: tuple[int, ...]
    skipped: bool
    validation_loss: float | None = None

    @classmethod
    def of(cls, result: StepResult, learning_rate: float, validation_loss: float | None = None) -> "StepMetrics":
        """From what the engine answered."""
        return cls(
            result.step,
            result.loss,
            result.grad_norm,
            learning_rate,
            result.num_tokens,
            result.step_s,
            result.num_tokens / result.step_s,
            result.idle_share,
            result.peak_memory_bytes,
            result.skipped,
            validation_loss,
        )


class MetricsWriter:
    """Writes the lines of a run; of a resumed one only those of the steps that the checkpoint has are kept."""

    def __init__(self, files: RunFiles, first_step: int, tensorboard: bool) -> None:
        """Opens the files.

        Args:
            files: The run folder.
            first_step: Steps that are done already.
            tensorboard: Whether events are written too.

        Raises:
            RequestError: TensorBoard is not installed.
        """
        kept = [row for row in read_metrics(files.metrics) if row["step"] <= first_step]
        files.metrics.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = files.metrics.open("a", buffering=1)
        self._events = _summary_writer(files.events, first_step) if tensorboard else None

    def write(self, metrics: StepMetrics) -> None:
        """Adds a step."""
        row = {name: value for name, value in metrics.__dict__.items() if value is not None}
        self._file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name in ("loss", "validation_loss", "grad_norm", "learning_rate", "tokens_per_s", "idle_share"):
                if name in row:
                    self._events.add_scalar(name, row[name], metrics.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last one that a killed run left half written is left out."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def check_tensorboard() -> None:
    """Raises `RequestError` where TensorBoard is asked for and not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise RequestError(
            "track.tensorboard is true, but tensorboard is not installed; pip install 'headrace[tensorboard]'"
        ) from None


def _summary_writer(folder: Path, first_step: int) -> "SummaryWriter":
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1)
