"""What went wrong, in words for a person, and whether it is this rank's fault or a peer's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from headrace.errors import HeadraceError, RunError

MOST_CHARACTERS = 500


def describe(error: Exception) -> str:
    """The kind and the text of an error on one line, and what to do where memory ran out."""
    text = " ".join(str(error).split())[:MOST_CHARACTERS].rstrip(".")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not is_out_of_memory(error):
        return said
    return f"{said}; memory has run out here: set parallel.recompute=full, more parallel.microbatches or more stages"


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def is_of_peer(error: Exception) -> bool:
    """Whether what a transport raised tells of its other end: gone, or silent for too long."""
    if isinstance(error, OSError):
        return isinstance(error, (ConnectionError, TimeoutError))
    return isinstance(error, RuntimeError) and not is_out_of_memory(error)


def located(error: Exception, where: str) -> HeadraceError:
    """The error for a person: whatever was raised, they must learn where."""
    if isinstance(error, HeadraceError):
        return type(error)(f"{where}: {error}")
    return RunError(f"{where} failed: {describe(error)}")


@contextmanager
def naming(where: str, on_failure: Callable[[], None]) -> Iterator[None]:
    """Lets errors out as `located` ones, after ``on_failure``."""
    try:
        yield
    except Exception as error:
        on_failure()
        raise located(error, where) from error
