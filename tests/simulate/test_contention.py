import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced import even, uneven

from headrace.costs.costs import LinkCosts
from headrace.errors import RequestError
from headrace.schedule import Op, Schedule, check, make_schedule, price
from headrace.simulate import Traffic, simulate
from headrace.simulate.contention import Contention
from headrace.simulate.seconds import op_seconds, transfer_seconds

NAMES = ["gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "dualpipe-v", "hanayo"]


@given(name=st.sampled_from(NAMES), p=st.integers(1, 4), m=st.integers(1, 8), seed=st.integers(0, 99))
@settings(deadline=None)
def test_without_contention_the_event_clock_and_the_sweep_agree(name: str, p: int, m: int, seed: int) -> None:
    checked = check(make_schedule(name, p, m))
    costs, link = uneven(checked.schedule.num_stages, seed), LinkCosts(0.1, 10.0)
    table, prices = checked.schedule.table, price(costs, link)
    clock = Contention(checked, op_seconds(table, prices), transfer_seconds(table, prices), Traffic())
    starts_s, ends_s = clock.times()
    simulation = simulate(checked, costs, link)
    assert (starts_s, ends_s) == (pytest.approx(simulation.starts_s), pytest.approx(simulation.ends_s))


@given(name=st.sampled_from(NAMES), p=st.integers(2, 4), m=st.integers(1, 8), seed=st.integers(0, 99))
@settings(deadline=None)
def test_contention_makes_nothing_faster(name: str, p: int, m: int, seed: int) -> None:
    checked = check(make_schedule(name, p, m))
    costs, link = uneven(checked.schedule.num_stages, seed), LinkCosts(0.1, 10.0)
    free = simulate(checked, costs, link).step_s
    serial = simulate(checked, costs, link, Traffic(serial=True)).step_s
    both = simulate(checked, costs, link, Traffic(serial=True, slowdown=0.5)).step_s
    assert free <= serial + 1e-9
    assert free <= both + 1e-9


def test_one_message_at_a_time_waits_for_the_one_before() -> None:
    """GPipe on two ranks: forwards of 1 s, messages of 3 s. Rank 1 starts its third at 1 + 3 * 3, not at 3 + 3."""
    schedule = make_schedule("gpipe", 2, 3)
    for serial, start_s in ((False, 6.0), (True, 10.0)):
        spans = simulate(schedule, even(2), LinkCosts(3.0, 1e30), Traffic(serial=serial)).timeline.spans
        assert next(span.start_s for span in spans if span.op == Op("F", 1, 2)) == start_s


def test_the_two_directions_of_a_link_do_not_wait_for_each_other() -> None:
    first = (Op("F", 0, 0), Op("F", 0, 1), Op("B", 0, 0), Op("B", 0, 1))
    second = (Op("F", 1, 0), Op("B", 1, 0), Op("F", 1, 1), Op("B", 1, 1))
    schedule = Schedule("mine", 2, 2, (0, 1), (first, second))
    link = LinkCosts(1.0, 1e30)
    assert simulate(schedule, even(2), link, Traffic(serial=True)).step_s == simulate(schedule, even(2), link).step_s


def test_a_moving_message_slows_both_of_its_ranks() -> None:
    """Rank 0's second forward (1 to 2) goes at half speed while the first one's message moves for 0.5 s."""
    spans = simulate(make_schedule("gpipe", 2, 2), even(2), LinkCosts(0.5, 1e30), Traffic(slowdown=1.0)).timeline.spans
    assert next(span.end_s for span in spans if span.op == Op("F", 0, 1)) == pytest.approx(2.25)


@pytest.mark.parametrize("slowdown", [-0.1, float("nan"), float("inf")])
def test_a_slowdown_that_is_none_is_refused(slowdown: float) -> None:
    with pytest.raises(RequestError, match="slowdown is"):
        Traffic(slowdown=slowdown)
