"""The one exchange of a step: gradient norms, loss, timings and the wish to stop, in a single collective."""

import itertools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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

    def __init__(self, owned: list[str], order: tuple[str, ...]) -> None:
        """Tells the others which parameters are here; every rank must call it."""
        self._world = dist.get_world_size()
        everyone: list[list[str]] = [[]] * self._world
        dist.all_gather_object(everyone, owned)
        self._width = 4 + max(len(names) for names in everyone)
        self._counts = [len(names) for names in everyone]
        place = {name: index for index, name in enumerate(order)}
        flat = list(itertools.chain.from_iterable(everyone))
        self._order = sorted(range(len(flat)), key=lambda i: place[flat[i]])

    def exchange(self, mine: Word) -> list[Word]:
        """Everybody's words by rank. Doubles carry every float32 unchanged."""
        row = [mine.loss, mine.busy_s, mine.peak_memory_bytes, float(mine.stop), *mine.norms]
        sent = torch.zeros(self._width, dtype=torch.float64)
        sent[: len(row)] = torch.tensor(row, dtype=torch.float64)
        rows = [torch.empty_like(sent) for _ in range(self._world)]
        dist.all_gather(rows, sent)
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
