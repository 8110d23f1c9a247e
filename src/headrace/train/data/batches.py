"""Sequences of a step, wherever it is run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.train.data.cursor import window_of_sample
from headrace.train.data.prepared import Prepared


class TokenData:
    """Prepared tokens as sequences in the order of a cursor.

    The tokens are cut into windows of one length, the rest at the end is left out; an epoch visits every window once,
    but for those that are held out.

    Attributes:
        prepared: What is known about the tokens.
        num_windows: Sequences of one epoch.
        num_held_out: Sequences that no epoch visits, spread evenly over the data whatever the seed.
    """

    def __init__(self, folder: Path, sequence_length: int, seed: int, num_held_out: int = 0):
        """Open what `prepare` made, without reading it."""
        self.prepared = Prepared.load(folder)
        total = self.prepared.num_tokens // sequence_length
        self.num_held_out, self.num_windows = num_held_out, total - num_held_out
        places = np.arange(num_held_out)
        self._held_out = (2 * places + 1) * total // max(2 * num_held_out, 1)
        self._learnt_before = self._held_out - places
        self._windows = self.prepared.tokens()[: total * sequence_length].reshape(-1, sequence_length)
        self._seed = seed

    def batch(self, first_sample: int, rows: int) -> NDArray[np.int64]:
        """Sequences ``first_sample … first_sample + rows - 1`` of the job, counted from its first step.

        Returns:
            Token ids, shape [rows, sequence_length]. They are the labels too: transformers shifts
            them, and none is padding.
        """
        samples = np.arange(first_sample, first_sample + rows)
        places = window_of_sample(samples, self.num_windows, self._seed)
        windows = places + np.searchsorted(self._learnt_before, places, side="right")
        return np.array(self._windows[windows], np.int64)

    def held_out(self, first: int, rows: int) -> NDArray[np.int64]:
        """Held-out sequences ``first … first + rows - 1``, fewer at the end.

        Returns:
            As `batch`.
        """
        return np.array(self._windows[self._held_out[first : first + rows]], np.int64)
