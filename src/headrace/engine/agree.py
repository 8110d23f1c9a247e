"""The one exchange of a step: gradient norms, loss, timings and the wish to stop."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from headrace.engine.watch import Watch


@dataclass(frozen=True)
class Word:
    """What one rank tells the others at the end of its backwards.

    Attributes:
        loss: Sum of the micro-batches' shares where the head is here, else 0.
        busy_s: Seconds in which it computed.
        peak_memory_bytes: The most that its process or device has held.
        stop: Whether it was asked to stop after this step.
        norms: Norm of each owned gradient, -1 where there is none.
    """

    loss: float
    busy_s: float
    peak_memory_bytes: float
    stop: bool
    norms: list[float]


class Agreement:
    """Exchanges words; each rank's parameters and the model's order of all of them are known beforehand."""

    def __init__(self, owned: list[str], order: tuple[str, ...], watch: Watch) -> None:
        """Tells the others which parameters are here; every rank must call it. ``watch`` limits later waits."""
        self.watch = watch
        self._world, self._rank = dist.get_world_size(), dist.get_rank()
        everyone: list[list[str]] = [[]] * self._world
        dist.all_gather_object(everyone, owned)
        self._width = 4 + max(len(names) for names in everyone)
        self._counts = [len(names) for names in everyone]
        place = {name: index for index, name in enumerate(order)}
        flat = list(itertools.chain.from_iterable(everyone))
        self._order = sorted(range(len(flat)), key=lambda i: place[flat[i]])

    def start(self, mine: Word, dtype: torch.dtype) -> "Exchange":
        """Sends this rank's word and waits for nobody. Doubles carry every float32 unchanged.

        Each rank writes to each other one directly: a collective passes words around a ring, one wait after another.

        Args:
            mine: What this rank tells.
            dtype: Of the norm.

        Raises:
            PeerLostError: A rank is already gone.
        """
        row = [mine.loss, mine.busy_s, mine.peak_memory_bytes, float(mine.stop), *mine.norms]
        sent = torch.zeros(self._width, dtype=torch.float64)
        sent[: len(row)] = torch.tensor(row, dtype=torch.float64)
        rows = [sent if rank == self._rank else torch.empty_like(sent) for rank in range(self._world)]
        others = [rank for rank in range(self._world) if rank != self._rank]
        with self.watch.waiting("at the end of the step"):
            works = [dist.irecv(rows[rank], rank) for rank in others]
            works += [dist.isend(sent, rank) for rank in others]
        return Exchange(self, works, rows, dtype)

    def read(self, rows: list[Tensor]) -> list[Word]:
        """The words by rank."""
        return [
            Word(r[0], r[1], r[2], bool(r[3]), r[4 : 4 + count])
            for r, count in zip((t.tolist() for t in rows), self._counts, strict=True)
        ]

    def total_norm(self, words: list[Word], dtype: torch.dtype) -> Tensor:
        """The norm over all parameters of the model, in its order: the same bits in every layout.

        It is what ``torch.nn.utils.get_total_norm`` makes of the unsplit model: the norm of the vector of norms.
        """
        flat = list(itertools.chain.from_iterable(word.norms for word in words))
        norms = [flat[index] for index in self._order if flat[index] >= 0 or flat[index] != flat[index]]
        total: Tensor = torch.linalg.vector_norm(torch.tensor(norms, dtype=dtype))
        return total


class Exchange:
    """The words of one step on their way."""

    def __init__(
        self, agreement: Agreement, works: list[dist.Work | None], rows: list[Tensor], dtype: torch.dtype
    ) -> None:
        self._agreement, self._works, self._rows, self._dtype = agreement, works, rows, dtype

    def wait(self) -> None:
        """Waits for all ranks.

        Raises:
            PeerLostError: A rank is gone.
            StuckError: A rank did not come in time.
        """
        watch = self._agreement.watch
        if not self._works:
            return
        with watch.waiting("at the end of the step"):
            while self._works:  # To wait for one twice would be to wait for another message.
                work = self._works.pop()
                assert work is not None
                work.wait(watch.timeout)

    @cached_property
    def words(self) -> list[Word]:
        """Everybody's words by rank, waited for."""
        self.wait()
        return self._agreement.read(self._rows)

    @cached_property
    def norm(self) -> Tensor:
        """Global norm of the gradients, waited for."""
        return self._agreement.total_norm(self.words, self._dtype)
