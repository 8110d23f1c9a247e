"""One micro-batch: integers that every stage can read, since only the hidden state crosses a cut."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one step that run together.

    Attributes:
        input_ids: Token ids, ``[rows, length]``.
        labels: The same tokens, or -100 where none is to be predicted, ``[rows, length]``; shifted by the loss.
        num_valid_tokens: Labels of the **whole step** that count (where the weights change within it: of the
            update); each micro-batch's sum of losses is divided by it.
        attention_mask: 1 where a token is real, 0 for padding, ``[rows, length]``; None where all are.
        position_ids: ``[rows, length]``; restarts at each document of a packed row; None counts from 0.
        key: ``(seed, step, micro-batch)``, from which every random draw is derived.
        wants_logits: The head answers the logits of the token behind each row, and no loss.
    """

    input_ids: Tensor
    labels: Tensor
    num_valid_tokens: int
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    key: tuple[int, int, int] = (0, 0, 0)
    wants_logits: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and length."""
        rows, length = self.input_ids.shape
        return rows, length

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on ``device``."""
        mask, positions = self.attention_mask, self.position_ids
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            labels=self.labels.to(device),
            attention_mask=None if mask is None else mask.to(device),
            position_ids=None if positions is None else positions.to(device),
        )
