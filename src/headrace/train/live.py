"""Progress in the terminal: a live bar, or now and then a line where nobody watches."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.train.job import Job
from headrace.train.metrics import StepMetrics

LINE_EVERY_S = 10.0
WIDE = 80
"""Columns of a terminal that has room for the bar and for every figure."""


class Live:
    """Shows each step of a run; on rank 0 only."""

    def __init__(self, job: Job, first_step: int) -> None:
        """Shows nothing yet.

        Args:
            job: The job.
            first_step: Steps that are done already.
        """
        self._steps, self._first = job.config.train.steps, first_step
        self._console = Console(stderr=True)
        self._is_wide = not self._console.is_terminal or self._console.width >= WIDE
        self._bar = Progress(
            TextColumn("[bold]step"),
            MofNCompleteColumn(),
            *([BarColumn(bar_width=None), TextColumn("left")] if self._is_wide else []),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=self._steps, completed=first_step, figures="")
        self._last_line_s = 0.0
        self._validation = ""

    def show(self, metrics: StepMetrics) -> None:
        """Shows a step."""
        if metrics.validation_loss is not None:
            self._validation = f" (held out {metrics.validation_loss:.3f})"
        figures = f"loss {metrics.loss:.3f}{self._validation}"
        if self._is_wide:
            figures += f"  {metrics.tokens_per_s:,.0f} tokens/s  idle {100 * metrics.idle_share:.0f}%"
        if metrics.skipped:
            figures += "  skipped: gradients not finite"
        self._bar.update(self._task, completed=metrics.step, figures=figures)
        now_s = time.monotonic()
        due = now_s - self._last_line_s >= LINE_EVERY_S or metrics.step == self._steps
        if not self._console.is_terminal and due:
            self._last_line_s = now_s
            self._console.print(f"step {metrics.step}/{self._steps}  {figures}", highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()
