"""Nothing piles up over steps: not a tensor, a descriptor, a piece of shared memory, nor a thread."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.counts import Counts
from headrace.chain.build import ModelSource
from headrace.engine import Batch, Engine
from headrace.plan import Plan
from tests.engine.grid import plan_of
from tests.engine.jobs import SETTINGS, batches, tiny
from tests.ranks import Ranks

EIGHT = tiny(num_hidden_layers=8)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Ranks]:
    """Processes of these tests' own: what other tests have left in a process would be counted."""
    pool = Ranks()
    yield pool
    pool.close()


@pytest.mark.parametrize(("family", "num_ends"), [("1f1b", 2), ("zb-v", 4)])
def test_sixty_three_steps_hold_what_twenty_one_held_and_end_with_the_same_bits_when_run_again(
    fresh: Ranks, family: str, num_ends: int
) -> None:
    steps = batches(1, 8, 16) + batches(1, 8, 13) + batches(1, 3, 16)
    job = (plan_of(family, 2, 4), steps * 21)
    first, again = fresh.run(2, counted, *job), fresh.run(2, counted, *job)
    for early, late, _ in first:
        assert late.more_than(early) <= 2  # One a step would be 42.
        assert late.shared_maps <= num_ends * 4
    assert [bits for *_, bits in first] == [bits for *_, bits in again]


def counted(the_plan: Plan, steps: list[Batch]) -> Any:
    """What is held after a third of the steps and after all, each time behind a batch of one shape; and the weights."""
    engine = Engine(ModelSource(EIGHT), the_plan, SETTINGS)
    for batch in steps[: len(steps) // 3]:
        engine.step(batch)
    early = Counts.now()
    for batch in steps[len(steps) // 3 :]:
        engine.step(batch)
    late = Counts.now()
    total = [float(parameter.detach().double().sum()) for parameter in engine.parameters.local.values()]
    engine.close()
    return early, late, total


def test_an_engine_that_was_closed_leaves_nothing_open(fresh: Ranks) -> None:
    for early, late in fresh.run(2, opened_and_closed, plan_of("zb-v", 2, 4), batches(1)[0]):
        assert late.more_than(early) <= 2  # One an engine would be 8.
        assert late.shared_maps == 0


def opened_and_closed(the_plan: Plan, batch: Batch) -> tuple[Counts, Counts]:
    counts = []
    for _ in range(9):
        engine = Engine(ModelSource(EIGHT), the_plan, SETTINGS)
        engine.step(batch)
        engine.close()
        del engine
        torch.distributed.barrier()
        counts.append(Counts.now())
    return counts[0], counts[-1]
