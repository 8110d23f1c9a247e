"""Activation memory of each rank: what its own order of ops decides, whatever the clock says."""

import numpy as np

from headrace.costs.costs import StageCosts
from headrace.schedule.schedule import Schedule


def peak_activation_bytes(schedule: Schedule, costs: StageCosts) -> tuple[int, ...]:
    """The most bytes of saved activations that each rank holds at a time.

    ``F`` adds the stage's ``saved_bytes``; ``B`` frees them; ``I`` frees them but for ``weight_saved_bytes``, which
    ``W`` frees.
    """
    saved, kept = np.array(costs.saved_bytes), np.array(costs.weight_saved_bytes)
    change = np.stack([saved, -saved, kept - saved, -kept])[schedule.table.kind, schedule.table.stage]
    peaks = np.zeros(schedule.num_ranks, dtype=np.int64)
    np.maximum.at(peaks, schedule.table.rank, np.cumsum(change))
    return tuple(int(peak) for peak in peaks)
