"""The rows of one optimizer step, and cutting them into micro-batches."""

from dataclasses import dataclass

from torch import Tensor

from headrace.chain.microbatch import MicroBatch


@dataclass(frozen=True)
class Batch:
    """All rows of one step; integers, the same on every rank.

    Attributes:
        input_ids: ``[rows, length]``.
        labels: ``[rows, length]``, -100 where nothing is to be predicted; shifted by the loss.
        attention_mask: ``[rows, length]``, 0 for padding; None where there is none.
        position_ids: ``[rows, length]``, for rows packed from several documents; None counts from 0.
    """

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the step."""
        return self.input_ids.shape[0]

    @property
    def num_valid_tokens(self) -> int:
        """Labels that the loss counts: those behind the first column that are not -100."""
        return int((self.labels[:, 1:] != -100).sum())

    def split(self, num_microbatches: int, seed: int, step: int, update_every: int = 0) -> list[MicroBatch]:
        """Cuts the rows into micro-batches whose sizes differ by at most one, the larger ones first.

        Args:
            num_microbatches: How many; no more than there are rows.
            seed: Of the random draws.
            step: The number of the step, which the draws depend on.
            update_every: Micro-batches of an update, whose valid tokens the losses are divided by; 0: all.
        """
        rows, extra = divmod(self.num_rows, num_microbatches)
        sizes = [rows + (index < extra) for index in range(num_microbatches)]

        def pieces(tensor: Tensor | None) -> list[Tensor | None]:
            return [None] * num_microbatches if tensor is None else list(tensor.split(sizes))

        columns = zip(
            self.input_ids.split(sizes),
            self.labels.split(sizes),
            pieces(self.attention_mask),
            pieces(self.position_ids),
            strict=True,
        )
        every = update_every or num_microbatches
        counts = [int((labels[:, 1:] != -100).sum()) for labels in self.labels.split(sizes)]
        valid = [sum(counts[first : first + every]) for first in range(0, num_microbatches, every)]
        return [
            MicroBatch(ids, labels, valid[index // every], mask, positions, (seed, step, index))
            for index, (ids, labels, mask, positions) in enumerate(columns)
        ]
