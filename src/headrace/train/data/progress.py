"""How far long work is, for whoever wants to show it."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how much in all, and the name of the work."""


def silent(done: int, total: int, what: str) -> None:
    """Shows nothing."""
