"""What a schedule sends between ranks in one step."""

import numpy as np

from headrace.costs.costs import StageCosts
from headrace.schedule.checker import Checked
from headrace.schedule.table import F


def count_messages(checked: Checked, costs: StageCosts) -> tuple[int, int]:
    """Messages between two ranks, and their bytes. Hand-overs between stages of one rank are none."""
    table = checked.schedule.table
    received = np.flatnonzero(np.array(checked.sweep.needs) >= 0)
    cut = table.stage[received] - (table.kind[received] == F)
    return len(received), int(np.array(costs.output_bytes)[cut].sum())
