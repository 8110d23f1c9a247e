"""Seconds of single ops and messages, looked up for all of them at once."""

import numpy as np

from headrace.schedule.prices import Prices
from headrace.schedule.table import OpTable


def op_seconds(table: OpTable, prices: Prices) -> list[float]:
    """Seconds of each op."""
    i_s, w_s = np.array(prices.i_s), np.array(prices.w_s)
    by_kind = np.stack([np.array(prices.f_s), i_s + w_s, i_s, w_s])
    seconds: list[float] = by_kind[table.kind, table.stage].tolist()
    return seconds


def transfer_seconds(table: OpTable, prices: Prices) -> list[float]:
    """Seconds that the message which each op waits for is under way (0 at the ends of the chain and for ``W``)."""
    forward_s, backward_s = np.array([0.0, *prices.edge_s]), np.array([*prices.edge_s, 0.0])
    by_kind = np.stack([forward_s, backward_s, backward_s, np.zeros(prices.num_stages)])
    seconds: list[float] = by_kind[table.kind, table.stage].tolist()
    return seconds
