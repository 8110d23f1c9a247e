"""Ways for a job to fail or to hang, and what each rank says of it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.chain.build import ModelSource
from headrace.engine import Batch, Engine
from headrace.errors import HeadraceError
from headrace.plan import Plan
from headrace.schedule import Op
from tests.engine.jobs import SETTINGS, tiny

FOUR = tiny(num_hidden_layers=4)
Said = tuple[str, str]


def act_at(engine: Engine, op: Op, action: Callable[[], Any]) -> None:
    """The rank that runs ``op`` does ``action`` instead."""
    if op.stage not in engine._stages:
        return
    stage = engine._stages[op.stage]
    name = {"F": "forward", "B": "backward", "I": "input_backward", "W": "weight_backward"}[op.kind]
    real = getattr(stage, name)

    def method(microbatch: int, *rest: Any) -> Any:
        return action() if microbatch == op.microbatch else real(microbatch, *rest)

    setattr(stage, name, method)


def said(engine: Engine, batch: Batch, steps: int = 1) -> Said:
    """Class and text of the error that a step ends with."""
    try:
        for _ in range(steps):
            engine.step(batch)
    except HeadraceError as error:
        return type(error).__name__, str(error)
    return "", ""


def failing_op(the_plan: Plan, batch: Batch, op: Op, error: Exception) -> Said:
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS)
    act_at(engine, op, lambda: _throw(error))
    return said(engine, batch)


def failing_message(the_plan: Plan, batch: Batch, end: str, rank: int, error: Exception) -> Said:
    """Every channel of ``rank`` fails at its ``end``: ``put`` or ``take``."""
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS)
    boxes = engine._channels._outboxes if end == "put" else engine._channels._inboxes
    for box in boxes.values() if engine.rank == rank else ():
        setattr(box, end, lambda *_: _throw(error))
    return said(engine, batch)


def failing_optimizer(the_plan: Plan, batch: Batch, rank: int) -> Said:
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS)
    if engine.rank == rank:
        engine.optimizer.step = lambda: _throw(ValueError("no state"))
    return said(engine, batch, steps=2)


def _throw(error: Exception) -> None:
    raise error


def hanging_op(the_plan: Plan, batch: Batch, op: Op, timeout_s: float, folder: Path) -> Said:
    """The rank that runs ``op`` stays in it until all others have given up."""
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS, timeout_s=timeout_s, watch_folder=folder / "watch")
    act_at(engine, op, lambda: _wait_for_others(folder, the_plan.layout.num_ranks - 1))
    answer = said(engine, batch)
    (folder / f"gave-up-{engine.rank}").touch()
    return answer


def hanging_optimizer(the_plan: Plan, batch: Batch, rank: int, timeout_s: float, folder: Path) -> Said:
    engine = Engine(ModelSource(FOUR), the_plan, SETTINGS, timeout_s=timeout_s, watch_folder=folder / "watch")
    if engine.rank == rank:
        engine.optimizer.step = lambda: _wait_for_others(folder, the_plan.layout.num_ranks - 1)
    answer = said(engine, batch, steps=2)
    (folder / f"gave-up-{engine.rank}").touch()
    return answer


def _wait_for_others(folder: Path, how_many: int) -> None:
    while len(list(folder.glob("gave-up-*"))) < how_many:
        time.sleep(0.05)
    raise ValueError("the others have given up")
