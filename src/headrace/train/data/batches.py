"""Sequences of a step, wherever it is run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.train.data.cursor import window_of_sample
from headrace.train.data.prepared import Prepared


class TokenData:
    """Prepared tokens as sequences in the order of a cursor.

    The tokens are cut into windows of one length, the rest at the end is left out; an epoch visits every window once.

    Attributes:
        prepared: What is known about the tokens.
        num_windows: Sequences of one epoch.
    """

    def __init__(self, folder: Path, sequence_length: int, seed: int):
        """Open what `prepare` made, without reading it."""
        self.prepared = Prepared.load(folder)
        self.num_windows = self.prepared.num_tokens // sequence_length
        self._windows = self.prepared.tokens()[: self.num_windows * sequence_length].reshape(-1, sequence_length)
        self._seed = seed

    def batch(self, first_sample: int, rows: int) -> NDArray[np.int64]:
        """Sequences ``first_sample … first_sample + rows - 1`` of the job, counted from its first step.

        Returns:
            Token ids, shape [rows, sequence_length]. They are the labels too: transformers shifts
            them, and none is padding.
        """
        samples = np.arange(first_sample, first_sample + rows)
        windows = window_of_sample(samples, self.num_windows, self._seed)
        return np.array(self._windows[windows], np.int64)
