"""The ops of a schedule as arrays, so that half a million of them are checked in a blink."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from headrace.schedule.op import KINDS, Op

Ints = npt.NDArray[np.int64]
F, B, I, W = range(4)  # noqa: E741 - the four kinds by their names


@dataclass(frozen=True)
class OpTable:
    """All ops, rank after rank, each rank's in its order; one entry an op in each array.

    Attributes:
        rank, stage, microbatch: Who and what.
        kind: Index into ``KINDS``; -1 for a kind that is none.
        first: ``first[r]`` is the index of rank ``r``'s first op; one more entry at the end.
    """

    rank: Ints
    kind: Ints
    stage: Ints
    microbatch: Ints
    first: Ints

    @classmethod
    def of(cls, orders: Sequence[Sequence[Op]]) -> "OpTable":
        """Reads the orders of all ranks."""
        lengths = np.array([len(order) for order in orders], dtype=np.int64)
        first = np.concatenate(([0], np.cumsum(lengths)))
        codes = {kind: code for code, kind in enumerate(KINDS)}
        ops = list(chain.from_iterable(orders))
        return cls(
            rank=np.repeat(np.arange(len(orders)), lengths),
            kind=np.fromiter((codes.get(op[0], -1) for op in ops), np.int64, len(ops)),
            stage=np.fromiter((op[1] for op in ops), np.int64, len(ops)),
            microbatch=np.fromiter((op[2] for op in ops), np.int64, len(ops)),
            first=first,
        )

    def __len__(self) -> int:
        return len(self.rank)

    def op(self, index: int) -> Op:
        """The op at ``index``."""
        return Op(KINDS[self.kind[index]], int(self.stage[index]), int(self.microbatch[index]))

    def positions(self, kind: int, num_stages: int, num_microbatches: int) -> Ints:
        """Index of each ``(stage, microbatch)``'s op of ``kind``; -1 where there is none.

        Returns:
            Shape ``[num_stages, num_microbatches]``.
        """
        found = np.full((num_stages, num_microbatches), -1, dtype=np.int64)
        at = np.flatnonzero(self.kind == kind)
        found[self.stage[at], self.microbatch[at]] = at
        return found
