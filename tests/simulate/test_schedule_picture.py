"""Pictures of schedules; that they look right a person has to see."""

import re
from pathlib import Path

import pytest
from priced import even

from headrace.costs.costs import LinkCosts
from headrace.errors import RequestError
from headrace.schedule import FAMILIES, make_schedule
from headrace.simulate import Simulation, simulate
from headrace.view.schedule_picture import draw_schedule, schedule_figure


def simulation_of(name: str, p: int = 4, m: int = 8) -> Simulation:
    schedule = make_schedule(name, p, m)
    return simulate(schedule, even(schedule.num_stages, 0.01, 0.01, 0.01), LinkCosts(0.001, 1e30))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_op_is_a_block_with_its_micro_batch(name: str) -> None:
    simulation = simulation_of(name)
    axes = schedule_figure(simulation).axes[0]
    assert sum(len(blocks.get_paths()) for blocks in axes.collections) == simulation.schedule.num_ops
    numbers = sorted(int(text.get_text()) for text in axes.texts)
    assert numbers == sorted(op.microbatch for order in simulation.schedule.orders for op in order)


def test_the_same_step_gives_the_same_svg_with_text_that_can_be_read(tmp_path: Path) -> None:
    first, second = (draw_schedule(simulation_of("zb-v"), tmp_path / name) for name in ("a.svg", "b.svg"))
    text = first.read_text()
    assert text == second.read_text()
    assert "zb-v: 8 stages on 4 ranks, 8 micro-batches" in re.sub(r"<[^>]+>", "", text)


def test_blocks_too_narrow_for_a_number_have_none() -> None:
    assert len(schedule_figure(simulation_of("1f1b", 2, 1000)).axes[0].texts) == 0


def test_the_ending_says_the_format(tmp_path: Path) -> None:
    assert draw_schedule(simulation_of("1f1b"), tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RequestError, match=r"ends in '\.bmp'; name it \.svg"):
        draw_schedule(simulation_of("1f1b"), tmp_path / "a.bmp")
    with pytest.raises(RequestError, match="cannot be written"):
        draw_schedule(simulation_of("1f1b"), tmp_path / "missing" / "a.png")
