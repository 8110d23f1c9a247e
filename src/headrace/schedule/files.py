"""Schedules as files that a person can write: CSV, which torch's pipelining reads and writes too, and JSON.

An op is written ``STAGE KIND MICROBATCH``, such as ``0F3``. In CSV each row is a rank and each cell an op; empty cells
(idle slots in torch's files) mean nothing, since only the order counts.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.errors import RequestError
from headrace.schedule.op import KINDS, Kind, Op
from headrace.schedule.schedule import Schedule

_KINDS: dict[str, Kind] = {kind: kind for kind in KINDS}
_OP = re.compile(r"(\d+)([FBIW])(\d+)")
_PAIR = re.compile(r"\((.*)\)OVERLAP_F_B")
_DERIVED = re.compile(r"\d+(SEND_F|RECV_F|SEND_B|RECV_B|UNSHARD|RESHARD|REDUCE_GRAD)\d*")
_JSON_FIELDS = {"name", "orders", "update_every", "delayed_update", "forward_only"}


def read_schedule(path: Path) -> Schedule:
    """Reads a ``.csv`` or ``.json`` file; the schedule is not checked yet.

    Raises:
        RequestError: When the file cannot be read or holds something else; says where.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the schedule file {path} cannot be read: {error}") from error
    if path.suffix == ".csv":
        return schedule_from_csv(text, path.stem)
    if path.suffix == ".json":
        return schedule_from_json(_load_json(text, path))
    raise RequestError(f"the schedule file {path} ends in '{path.suffix}'; name it .csv or .json")


def write_schedule(schedule: Schedule, path: Path) -> None:
    """Writes a ``.csv`` (orders only) or a ``.json`` file.

    Raises:
        RequestError: For another ending.
    """
    if path.suffix == ".csv":
        path.write_text(schedule_to_csv(schedule))
    elif path.suffix == ".json":
        path.write_text(json.dumps(schedule_to_json(schedule)) + "\n")
    else:
        raise RequestError(f"a schedule cannot be written to {path}, which ends in '{path.suffix}'; take .csv or .json")


def schedule_to_csv(schedule: Schedule) -> str:
    """One row a rank, as torch's ``_load_csv`` reads it in its ``compute_only`` format."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(_cells, schedule.orders))
    return out.getvalue()


def schedule_from_csv(text: str, name: str) -> Schedule:
    """The inverse of `schedule_to_csv`; also takes torch's ``compute_comms`` format, whose messages are derived anew.

    Raises:
        RequestError: For a cell that is no op; says its row and place.
    """
    return _schedule(name, [_ops(row, f"row {number}") for number, row in enumerate(csv.reader(io.StringIO(text)), 1)])


def schedule_to_json(schedule: Schedule) -> dict[str, Any]:
    """As plain JSON values: ``{"name": …, "orders": [["0F0", …], …], "update_every": 0, …}``."""
    return {
        "name": schedule.name,
        "orders": [_cells(order) for order in schedule.orders],
        "update_every": schedule.update_every,
        "delayed_update": schedule.delayed_update,
        "forward_only": schedule.forward_only,
    }


def schedule_from_json(data: Any) -> Schedule:
    """The inverse of `schedule_to_json`; all but ``orders`` may be left out.

    Raises:
        RequestError: For another shape of data or an op that is none; says where.
    """
    if not isinstance(data, dict) or not isinstance(data.get("orders"), list) or not set(data) <= _JSON_FIELDS:
        raise RequestError(f"a schedule in JSON is an object with 'orders' and no more than {sorted(_JSON_FIELDS)}")
    every, delayed = data.get("update_every", 0), data.get("delayed_update", False)
    if type(every) is not int or type(delayed) is not bool:
        raise RequestError(f"update_every must be a count and delayed_update true or false, got {every} and {delayed}")
    forward_only = data.get("forward_only", False)
    if type(forward_only) is not bool:
        raise RequestError(f"forward_only must be true or false, got {forward_only}")
    for rank, order in enumerate(data["orders"]):
        if not isinstance(order, list):
            raise RequestError(f"orders[{rank}] is {order!r}; give a list of ops such as '0F0'")
    orders = [_ops(map(str, order), f"orders[{rank}]") for rank, order in enumerate(data["orders"])]
    made = _schedule(str(data.get("name", "mine")), orders, every, delayed)
    return replace(made, forward_only=forward_only)


def _load_json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"the schedule file {path} is not JSON: {error}") from error


def _cells(order: Iterable[Op]) -> list[str]:
    return [f"{op.stage}{op.kind}{op.microbatch}" for op in order]


def _ops(cells: Iterable[str], where: str) -> tuple[Op, ...]:
    return tuple(op for place, cell in enumerate(cells, 1) for op in _parse(cell.strip(), f"{where}, cell {place}"))


def _parse(cell: str, where: str) -> Iterator[Op]:
    """The ops of a cell: none if it is empty or a message, several if torch overlaps them."""
    if not cell or _DERIVED.fullmatch(cell):
        return
    pair, single = _PAIR.fullmatch(cell), _OP.fullmatch(cell)
    if pair:
        for part in pair[1].split(";"):
            yield from _parse(part.strip(), where)
    elif single:
        stage, kind, microbatch = single.groups()
        yield Op(_KINDS[kind], int(stage), int(microbatch))
    else:
        raise RequestError(f"{where} is '{cell}'; write STAGE KIND MICROBATCH with a kind of F, B, I or W, such as 0F3")


def _schedule(name: str, orders: list[tuple[Op, ...]], update_every: int = 0, delayed_update: bool = False) -> Schedule:
    """Finds counts and placement in the orders: a stage is where its ops are."""
    rank_of = {(op.stage, op.microbatch): rank for rank, order in enumerate(orders) for op in order}
    if not rank_of:
        raise RequestError(f"the schedule '{name}' has no ops; write one row of ops such as 0F3 for each rank")
    num_stages, num_microbatches = (1 + max(pair[k] for pair in rank_of) for k in (0, 1))
    if num_stages * num_microbatches > len(rank_of):
        every = ((s, mb) for s in range(num_stages) for mb in range(num_microbatches))
        stage, mb = next(pair for pair in every if pair not in rank_of)
        raise RequestError(
            f"the schedule '{name}' is refused (rule: every op once): it goes up to stage {num_stages - 1} and "
            f"micro-batch {num_microbatches - 1}, but stage {stage} has no op of micro-batch {mb} on any rank"
        )
    ways = [tuple(rank_of[s, mb] for s in range(num_stages)) for mb in range(num_microbatches)]
    placements = list(dict.fromkeys(ways))
    if len(placements) == 1:
        return Schedule(
            name, num_stages, num_microbatches, ways[0], tuple(orders), (), (), update_every, delayed_update
        )
    copy_of = tuple(placements.index(way) for way in ways)
    rest = (tuple(placements[1:]), copy_of, update_every, delayed_update)
    return Schedule(name, num_stages, num_microbatches, ways[0], tuple(orders), *rest)
