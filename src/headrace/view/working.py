"""Long work before a run, shown as a bar that is gone when the work is."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Working:
    """A bar on a terminal, nothing elsewhere; called with how far the work is."""

    def __init__(self, console: Console) -> None:
        """Shows nothing yet."""
        columns = (TextColumn("{task.description}"), BarColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None)

    def __call__(self, done: int, total: int, what: str) -> None:
        """Shows that ``done`` of ``total`` is over, of the work that ``what`` names."""
        self._bar.update(self._task, completed=done, total=total, description=what)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def __enter__(self) -> "Working":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
