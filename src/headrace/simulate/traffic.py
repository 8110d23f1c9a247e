"""What a schedule sends between ranks in one step, and what the links make of it."""

from dataclasses import dataclass

import numpy as np

from headrace.costs.costs import StageCosts
from headrace.errors import RequestError
from headrace.schedule.checker import Checked
from headrace.schedule.table import F


@dataclass(frozen=True)
class Traffic:
    """How messages share links and ranks.

    Attributes:
        serial: Messages from one rank to another go one at a time; otherwise they overlap.
        slowdown: How much longer an op takes while a message moves from or to its rank: 0.1 is a tenth longer.
    """

    serial: bool = False
    slowdown: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.slowdown < float("inf"):
            raise RequestError(f"slowdown is {self.slowdown}; give a number that is 0 or more")


OVERLAPPING = Traffic()
"""Messages that delay nothing but their receiver."""


def count_messages(checked: Checked, costs: StageCosts) -> tuple[int, int]:
    """Messages between two ranks, and their bytes. Hand-overs between stages of one rank are none."""
    table = checked.schedule.table
    received = np.flatnonzero(np.array(checked.sweep.needs) >= 0)
    cut = table.stage[received] - (table.kind[received] == F)
    return len(received), int(np.array(costs.output_bytes)[cut].sum())
