"""Prices of single ops and messages, looked up for all of them at once."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.errors import RequestError
from headrace.schedule.schedule import Schedule
from headrace.schedule.table import OpTable


def op_seconds(table: OpTable, costs: StageCosts) -> list[float]:
    """Seconds of each op.

    Raises:
        RequestError: For a price that is negative or not finite.
    """
    check_prices(costs)
    seconds: list[float] = _by_kind(costs)[table.kind, table.stage].tolist()
    return seconds


def transfer_seconds(schedule: Schedule, costs: StageCosts, link: LinkCosts | Sequence[LinkCosts]) -> list[float]:
    """Seconds that the message which each op waits for is under way (0 at the ends of the chain and for ``W``)."""
    num_edges = schedule.num_stages - 1
    links = [link] * num_edges if isinstance(link, LinkCosts) else list(link)
    if len(links) != num_edges:
        raise RequestError(
            f"{schedule.num_stages} stages have {num_edges} links between them, but {len(links)} are "
            "priced; give one price, or one for each"
        )
    edge_s = [one.message_s(num_bytes) for one, num_bytes in zip(links, costs.output_bytes[:-1], strict=True)]
    if not all(np.isfinite(s) and s >= 0 for s in edge_s):
        raise RequestError(
            f"a message takes {next(s for s in edge_s if not (np.isfinite(s) and s >= 0))} s; "
            "give a time that is 0 or more"
        )
    forward_s, backward_s = np.array([0.0, *edge_s]), np.array([*edge_s, 0.0])
    none_s = np.zeros(schedule.num_stages)
    by_kind = np.stack([forward_s, backward_s, backward_s, none_s])
    seconds: list[float] = by_kind[schedule.table.kind, schedule.table.stage].tolist()
    return seconds


def check_prices(costs: StageCosts) -> None:
    """Refuses prices that are negative or not finite.

    Raises:
        RequestError: Names the price and the stage.
    """
    for name, values in asdict(costs).items():
        if len(values) != costs.num_stages:
            raise RequestError(f"{name} has {len(values)} entries for {costs.num_stages} stages; give one for each")
        for stage, value in enumerate(values):
            if not np.isfinite(value) or value < 0:
                raise RequestError(f"{name} of stage {stage} is {value}; give a number that is 0 or more")


def _by_kind(costs: StageCosts) -> npt.NDArray[np.float64]:
    """Seconds of each kind and stage, ``[4, num_stages]``."""
    i_s, w_s = np.array(costs.i_s), np.array(costs.w_s)
    return np.stack([np.array(costs.f_s), i_s + w_s, i_s, w_s])
