"""Schedules without backwards: accepted where they say so, and as short as can be."""

from dataclasses import replace
from itertools import product

import pytest
from brute_force import is_legal

from headrace.costs import LinkCosts, StageCosts
from headrace.errors import RequestError
from headrace.plan.orders import open_schedule
from headrace.schedule import (
    FAMILIES,
    Op,
    Schedule,
    check,
    forward_only,
    make_schedule,
    schedule_from_json,
    schedule_to_json,
    write_schedule,
)
from headrace.schedule.padded import keep_first
from headrace.schedule.placement import looped, straight, waves
from headrace.simulate import simulate
from headrace.simulate.report import Question, answer
from headrace.view.schedule_picture import draw_schedule


def seconds(schedule: Schedule) -> float:
    n = schedule.num_stages
    costs = StageCosts((1.0,) * n, (9.0,) * n, (9.0,) * n, (0,) * n, (5,) * n, (0,) * n, (0,) * n)
    simulation = simulate(schedule, costs, LinkCosts(0.0, 1.0))
    assert simulation.peak_activation_bytes == (5,) * schedule.num_ranks
    return simulation.step_s


@pytest.mark.parametrize(("ranks", "count"), list(product((1, 2, 3, 4), (1, 2, 5, 8))))
def test_every_placement_is_legal_and_takes_the_time_of_its_closed_form(ranks: int, count: int) -> None:
    for chunks in (1, 2, 3):
        schedule = forward_only(looped(ranks, chunks), count)
        assert is_legal(schedule)
        assert check(schedule).peak_in_flight == (1,) * ranks
        assert seconds(schedule) == (chunks - 1) * max(count, ranks) + count + ranks - 1
    v = forward_only(waves(ranks, 2), count)
    assert is_legal(v)
    assert seconds(v) == 2 * count + 2 * (ranks - 1)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_training_schedule_without_its_backwards_is_refused_unless_it_says_that_it_has_none(name: str) -> None:
    made = make_schedule(name, 2, 4)
    bare = replace(made, orders=tuple(tuple(op for op in order if op.kind == "F") for order in made.orders))
    with pytest.raises(RequestError, match=r"every op once\): I\(stage 0, micro-batch 0\) is missing"):
        check(bare)
    assert check(replace(bare, forward_only=True, update_every=0, delayed_update=False)).peak_in_flight == (1, 1)


def test_a_schedule_that_says_forward_only_has_every_forward_and_nothing_else() -> None:
    good = forward_only(straight(2), 2)
    with pytest.raises(RequestError, match=r"B\(stage 0, micro-batch 0\) on rank 0 is a backward in a schedule that"):
        check(replace(good, orders=((*good.orders[0], Op("B", 0, 0)), good.orders[1])))
    with pytest.raises(RequestError, match=r"F\(stage 0, micro-batch 1\) is missing on rank 0"):
        check(replace(good, orders=(good.orders[0][:1], good.orders[1])))
    with pytest.raises(RequestError, match=r"same order at both ends"):
        check(replace(good, orders=(good.orders[0], good.orders[1][::-1])))
    with pytest.raises(RequestError, match=r"update_every is 1, but it is forward only"):
        check(replace(good, update_every=1))


def test_fewer_rows_leave_the_later_micro_batches_out() -> None:
    assert keep_first(forward_only(waves(3, 2), 5), 2) == forward_only(waves(3, 2), 2)


def test_files_keep_the_word_and_no_file_without_backwards_is_trained_with(tmp_path) -> None:
    schedule = forward_only(looped(2, 2), 3)
    assert schedule_from_json(schedule_to_json(schedule)) == schedule
    with pytest.raises(RequestError, match="forward_only must be true or false, got 1"):
        schedule_from_json(schedule_to_json(schedule) | {"forward_only": 1})
    write_schedule(schedule, tmp_path / "forward.json")
    with pytest.raises(RequestError, match=r"forward.json has no backwards; it can be simulated but not trained with"):
        open_schedule(str(tmp_path / "forward.json"), 2, 3, 2)


def test_the_simulator_answers_prices_and_draws_it(tmp_path) -> None:
    for chunks, messages in ((1, 24), (2, 56)):
        row, simulation = answer("forward", Question(4, 8, 10.0, 10.0, 10.0, 1.0, chunks))
        assert row["step_ms"] == pytest.approx(80 + 3 * (10 / chunks + 1))
        assert (row["messages"], row["ops"], row["peak_in_flight"]) == (messages, 32 * chunks, [1 / chunks] * 4)
        assert row["above_bound"] == pytest.approx(0, abs=1e-9)
        picture = draw_schedule(simulation, tmp_path / "forward.svg").read_text()
        assert "forward: " in picture
        assert "gradient" not in picture
