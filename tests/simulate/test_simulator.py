from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced import FREE, ends_by_definition, even, uneven

from headrace.costs.costs import LinkCosts
from headrace.errors import RequestError
from headrace.schedule import FAMILIES, Op, Schedule, check, make_schedule
from headrace.simulate import simulate

COUNTS = {"p": st.integers(1, 6), "m": st.integers(1, 10)}


def schedule_or_none(name: str, p: int, m: int) -> Schedule | None:
    try:
        return make_schedule(name, p, m)
    except RequestError:
        return None


@given(**COUNTS, name=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 999), latency=st.sampled_from([0, 0.3]))
@settings(max_examples=100, deadline=None)
def test_times_are_those_of_the_definition(p: int, m: int, name: str, seed: int, latency: float) -> None:
    schedule = schedule_or_none(name, p, m)
    if schedule is None:
        return
    costs, link = uneven(schedule.num_stages, seed), LinkCosts(latency, 10.0)
    timeline = simulate(schedule, costs, link).timeline
    ends = ends_by_definition(schedule, costs, link)
    assert {span.op: span.end_s for span in timeline.spans} == pytest.approx(ends)


@given(**COUNTS, f=st.floats(0.1, 9), i=st.floats(0.1, 9), w=st.floats(0.1, 9), name=st.sampled_from(["gpipe", "1f1b"]))
def test_bubble_of_gpipe_and_1f1b_is_the_closed_form(p: int, m: int, f: float, i: float, w: float, name: str) -> None:
    simulation = simulate(make_schedule(name, p, m), even(p, f, i, w), FREE)
    bubble_s = simulation.step_s - m * (f + i + w)
    assert bubble_s == pytest.approx((p - 1) * (f + i + w))
    assert simulation.idle_share == pytest.approx(bubble_s / simulation.step_s) == simulation.timeline.idle_share


@given(**COUNTS)
def test_messages_are_counted(p: int, m: int) -> None:
    """Each of the ``p - 1`` cuts is crossed by an activation and by a gradient of each micro-batch."""
    simulation = simulate(make_schedule("1f1b", p, m), even(p), FREE)
    assert simulation.messages == 2 * (p - 1) * m
    assert simulation.message_bytes == 8 * simulation.messages


@given(**COUNTS, seed=st.integers(0, 999), name=st.sampled_from(sorted(FAMILIES)))
@settings(deadline=None)
def test_memory_is_that_of_counting_op_by_op(p: int, m: int, seed: int, name: str) -> None:
    schedule = schedule_or_none(name, p, m)
    if schedule is None:
        return
    costs = uneven(schedule.num_stages, seed)
    assert simulate(schedule, costs, FREE).peak_activation_bytes == tuple(
        peak_by_counting(order, costs.saved_bytes, costs.weight_saved_bytes) for order in schedule.orders
    )


def peak_by_counting(order: tuple[Op, ...], saved: tuple[int, ...], kept: tuple[int, ...]) -> int:
    held, peak = {}, 0
    for op in order:
        held[op.stage, op.microbatch] = {"F": saved[op.stage], "I": kept[op.stage]}.get(op.kind, 0)
        peak = max(peak, sum(held.values()))
    return peak


def test_in_flight_activations_of_1f1b_go_4_3_2_1() -> None:
    simulation = simulate(make_schedule("1f1b", 4, 8), even(4), FREE)
    assert simulation.peak_activation_bytes == (40, 30, 20, 10)


def test_one_micro_batch_on_eight_ranks_leaves_seven_idle_at_any_time() -> None:
    assert simulate(make_schedule("gpipe", 8, 1), even(8), FREE).idle_share == pytest.approx(0.875)


def test_each_link_has_its_own_price() -> None:
    links = [LinkCosts(1.0, 1e30), LinkCosts(0.0, 4.0)]
    assert simulate(make_schedule("gpipe", 3, 1), even(3), links).step_s == pytest.approx(9 + 2 * (1.0 + 2.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_prices_that_are_no_times_are_refused(bad: float) -> None:
    with pytest.raises(RequestError, match=r"w_s of stage 1 is .*0 or more"):
        simulate(make_schedule("1f1b", 2, 2), replace(even(2), w_s=(1.0, bad)), FREE)
    with pytest.raises(RequestError, match="a message from stage 0 to stage 1 takes"):
        simulate(make_schedule("1f1b", 2, 2), even(2), LinkCosts(100 * bad, 1.0))


def test_wrong_counts_are_refused() -> None:
    with pytest.raises(RequestError, match="has 2 stages, but 3 are priced"):
        simulate(make_schedule("1f1b", 2, 2), even(3), FREE)
    with pytest.raises(RequestError, match="2 links between them, but 1"):
        simulate(make_schedule("1f1b", 3, 2), even(3), [FREE])


def test_a_checked_schedule_is_taken_as_it_is() -> None:
    checked = check(make_schedule("1f1b", 2, 2))
    assert simulate(checked, even(2), FREE).checked is checked
