"""What each rank is at, written where the others find it: when a wait takes too long, the stuck rank is named.

Each rank has a small file of its own that is mapped into its memory, so a note costs a microsecond, and it is there to
be read when its process is stopped, or caught in code that lets nothing else run.
"""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from headrace.errors import PeerLostError, StuckError

NOTE_BYTES = 256
DEFAULT_TIMEOUT_S = 600.0
"""What torch's own process groups over NCCL take; no step's first compilation is that slow."""

_NOBODY, _ALL = -1, -2


@dataclass(frozen=True)
class Note:
    """What one rank is at.

    Attributes:
        text: Such as ``F(stage 1, micro-batch 1) of step 3``.
        since_s: In seconds of `time.time`.
        waits_for: The ranks that it waits for; empty while it works.
    """

    text: str
    since_s: float
    waits_for: frozenset[int]


class Watch:
    """Keeps this rank's note, and reads everybody's when a wait fails.

    Attributes:
        timeout: The longest that a rank waits for another one within a step.
        slow_timeout: The same while stages are built and checkpoints saved.
    """

    def __init__(self, rank: int, num_ranks: int, timeout_s: float, folder: Path | None) -> None:
        """Opens this rank's file in ``folder``, which all ranks see; without one only direct peers can be named."""
        self.timeout, self.slow_timeout = timedelta(seconds=timeout_s), slow_timeout(timeout_s)
        self._rank, self._num_ranks, self._folder = rank, num_ranks, folder
        self._memory: mmap.mmap | None = None
        self._since_s = time.monotonic()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file(rank).write_bytes(b" " * NOTE_BYTES)
            with self._file(rank).open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), NOTE_BYTES)
        self.works("the preparation of its stages")

    def works(self, what: str) -> None:
        """Notes that this rank works at ``what``."""
        self._write(what, _NOBODY)

    def waits(self, what: str, peer: int | None = None) -> None:
        """Notes that this rank waits: for rank ``peer``, or for all."""
        self._write(what, _ALL if peer is None else peer)

    @contextmanager
    def waiting(self, why: str, in_step: bool = True) -> Iterator[None]:
        """Around what all ranks do together.

        Args:
            why: Such as ``at the end of step 3``.
            in_step: Whether the limit is that of a step, and not that of starting and saving.

        Raises:
            PeerLostError: A rank is gone.
            StuckError: A rank did not come; the others' notes tell which.
        """
        self.waits(f"{why} for all ranks")
        try:
            yield
        except RuntimeError as error:  # Of the backend.
            raise self.lost(f"rank {self._rank} waited {why} for another rank", error, in_step) from error

    def lost(self, who: str, error: Exception, in_step: bool = True) -> PeerLostError | StuckError:
        """The error for a wait that failed: who is stuck where the limit is over, else that a peer is gone.

        Args:
            who: This rank and what it waited for, as the beginning of a sentence.
            error: What the transport raised.
            in_step: Whether the limit was that of a step, and not that of starting and saving.
        """
        limit_s = self.timeout.total_seconds() if in_step else self.slow_timeout.total_seconds()
        if time.monotonic() - self._since_s < 0.99 * limit_s:
            return PeerLostError(f"{who}, which is gone: {str(error).splitlines()[0]}")
        limit = f"train.timeout_s={limit_s:g}" if in_step else f"{limit_s:g} s"
        notes = self._read()
        waiting = ", ".join(f"rank {rank} waits {note.text}" for rank, note in notes.items() if note.waits_for)
        stuck = _stuck(self._rank, notes)
        if stuck is None:
            return StuckError(f"{who}, which did not come within {limit}{': ' if waiting else ''}{waiting}")
        note = notes[stuck]
        return StuckError(
            f"rank {stuck} is stuck at {note.text}: it has been there for {time.time() - note.since_s:.0f} s, more "
            f"than {limit}; {waiting}"
        )

    def close(self) -> None:
        """Takes this rank's file away: a run that has ended needs none."""
        if self._folder is None or self._memory is None:
            return
        self._memory.close()
        self._memory = None
        self._file(self._rank).unlink(missing_ok=True)
        with suppress(OSError):  # The last one to close removes the folder.
            self._folder.rmdir()

    def _file(self, rank: int) -> Path:
        assert self._folder is not None
        return self._folder / f"rank-{rank}"

    def _write(self, text: str, peer: int) -> None:
        self._since_s = time.monotonic()
        if self._memory is not None:
            note = f"{time.time():.3f} {peer} {text}".encode()[:NOTE_BYTES]
            self._memory[:] = note.ljust(NOTE_BYTES)

    def _read(self) -> dict[int, Note]:
        notes: dict[int, Note] = {}
        for rank in range(self._num_ranks) if self._folder is not None else ():
            with suppress(OSError, ValueError):  # One that was never written, or is being written just now.
                since, peer, text = self._file(rank).read_bytes().decode(errors="ignore").strip().split(" ", 2)
                notes[rank] = Note(text, float(since), self._peers(rank, int(peer)))
        return notes

    def _peers(self, rank: int, peer: int) -> frozenset[int]:
        if peer == _ALL:
            return frozenset(range(self._num_ranks)) - {rank}
        return frozenset() if peer == _NOBODY else frozenset({peer})


def slow_timeout(timeout_s: float) -> timedelta:
    """How long starting and saving may take, however short a step may be."""
    return timedelta(seconds=max(timeout_s, DEFAULT_TIMEOUT_S))


def _stuck(rank: int, notes: dict[int, Note]) -> int | None:
    """The rank at the end of the chain of waits that begins at ``rank``: of those that work the one longest at it."""
    seen, frontier = {rank}, {rank}
    while frontier:
        frontier = {peer for one in frontier if one in notes for peer in notes[one].waits_for} - seen
        seen |= frontier
    working = [one for one in seen if one in notes and not notes[one].waits_for]
    return min(working, key=lambda one: notes[one].since_s, default=None)
