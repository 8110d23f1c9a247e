"""Closed forms of the field, over a grid of ranks p, micro-batches m and chunks v."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced import FREE, even, rank_span_in_pairs_s, rank_span_s

from headrace.schedule import Schedule, check, make_schedule
from headrace.simulate import Simulation, simulate

SECONDS = st.floats(0.5, 2.0)
GRID = list(product(range(1, 10), (0, 1, 3, 7, 16)))
"""Ranks, and micro-batches beyond the number from which the closed form holds."""


def run(schedule: Schedule, f: float = 1.0, i: float = 1.0, w: float = 1.0) -> Simulation:
    return simulate(schedule, even(schedule.num_stages, f, i, w), FREE)


def own_bubble_s(simulation: Simulation, rank_s: float) -> float:
    """Idle time of the longest rank between its own first and last op."""
    return rank_span_s(simulation) - rank_s * simulation.schedule.num_microbatches


@pytest.mark.parametrize("name", ["interleaved-1f1b", "looped-bfs"])
@given(p=st.integers(1, 8), more=st.integers(0, 20), v=st.integers(1, 4), f=SECONDS, b=SECONDS)
@settings(max_examples=60, deadline=None)
def test_looped_bubble_is_that_of_1f1b_over_the_chunks_for_any_number_of_micro_batches(
    name: str, p: int, more: int, v: int, f: float, b: float
) -> None:
    m = p + more
    simulation = run(make_schedule(name, p, m, v), f, b / 2, b / 2)
    assert simulation.step_s - m * v * (f + b) == pytest.approx((p - 1) * (f + b))


@given(p=st.integers(1, 8), groups=st.integers(2, 4), v=st.integers(2, 4))
@settings(deadline=None)
def test_interleaved_1f1b_holds_p_plus_p_minus_1_over_v_micro_batches(p: int, groups: int, v: int) -> None:
    """2205.05198, section 4.2.3: ``p (1 + (p - 1) / (p v))`` on the first rank."""
    assert check(make_schedule("interleaved-1f1b", p, p * groups, v)).peak_in_flight[0] == p * v + p - 1


def test_interleaved_1f1b_sends_v_times_the_messages() -> None:
    one = run(make_schedule("1f1b", 4, 8)).messages
    assert run(make_schedule("interleaved-1f1b", 4, 8, 3)).messages == 2 * 8 * (3 * 4 - 1) == one * 11 / 3


@pytest.mark.parametrize(("name", "depth"), [("zb-h1", 1), ("zb-h2", 2)])
@given(p=st.integers(1, 8), more=st.integers(0, 12), f=SECONDS, i=SECONDS, w_share=st.floats(0.1, 1.0))
@settings(max_examples=60, deadline=None)
def test_zero_bubble_h_schedules(name: str, depth: int, p: int, more: int, f: float, i: float, w_share: float) -> None:
    """Bubble ``(p - 1)(F + I - W)`` and ``(p - 1)(F + I - 2 W)``; memory ``p`` and ``2p - 1`` (2401.10241, table 2)."""
    w = min(f, i) * w_share
    m = depth * p + more
    simulation = run(make_schedule(name, p, m), f, i, w)
    assert own_bubble_s(simulation, f + i + w) == pytest.approx((p - 1) * (f + i - depth * w), abs=1e-9)
    assert max(simulation.checked.peak_in_flight) == (p if depth == 1 else 2 * p - 1)


@pytest.mark.parametrize(("p", "more"), GRID)
def test_zb_v_has_no_bubble_within_the_memory_of_1f1b(p: int, more: int) -> None:
    simulation = run(make_schedule("zb-v", p, 2 * p + more))
    assert own_bubble_s(simulation, 6) == 0
    assert max(simulation.checked.peak_in_flight) == 2 * p, "2p half activations are p whole ones"


@pytest.mark.parametrize(("p", "more"), GRID)
def test_v_half_halves_both_memory_and_bubble_of_1f1b(p: int, more: int) -> None:
    simulation = run(make_schedule("v-half", p, 2 * p + more))
    assert own_bubble_s(simulation, 6) <= 6 * (p - 1) / 2
    assert max(simulation.checked.peak_in_flight) / 2 <= p / 2 + 1, "one more than half, for rounding"


@pytest.mark.parametrize(("p", "more"), GRID)
def test_v_min_takes_a_third_of_the_memory_and_two_thirds_of_the_bubble_of_1f1b(p: int, more: int) -> None:
    simulation = run(make_schedule("v-min", p, 2 * p + more))
    assert own_bubble_s(simulation, 6) <= 6 * (p - 1) * 2 / 3
    assert max(simulation.checked.peak_in_flight) / 2 <= p / 3 + 4 / 3, "up to 4/3 more than a third, for rounding"


def test_memory_ratios_tend_to_those_of_the_papers_table() -> None:
    p, m = 60, 150
    ratios = {
        name: max(check(make_schedule(name, p, m)).peak_in_flight) / 2 / p for name in ("zb-v", "v-half", "v-min")
    }
    assert ratios == {"zb-v": 1.0, "v-half": pytest.approx(1 / 2, abs=0.02), "v-min": pytest.approx(1 / 3, abs=0.02)}
    assert max(check(make_schedule("zb-1p", 6, 20)).peak_in_flight) <= 6
    assert max(check(make_schedule("zb-2p", 6, 20)).peak_in_flight) <= 12


def test_zb_2p_has_no_bubble_and_zb_1p_a_third_of_that_of_1f1b() -> None:
    assert own_bubble_s(run(make_schedule("zb-2p", 6, 24)), 3) == 0
    assert own_bubble_s(run(make_schedule("zb-1p", 6, 24)), 3) == pytest.approx(3 * 5 / 3)


@pytest.mark.parametrize("p", [2, 4, 6, 8])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_chimera_idles_p_minus_2_slots(p: int, rounds: int) -> None:
    """Li & Hoefler 2021: ratio ``(p - 2) / (2 m + p - 2)`` with F and B of one slot each."""
    simulation = run(make_schedule("chimera", p, p * rounds), 1.0, 0.5, 0.5)
    assert simulation.idle_share == pytest.approx((p - 2) / (2 * p * rounds + p - 2))
    assert max(simulation.checked.peak_in_flight) == p


@pytest.mark.parametrize("name", ["dualpipe", "dualpipe-v"])
@pytest.mark.parametrize(("half", "more"), list(product((1, 2, 3, 4), (0, 2, 8))))
@pytest.mark.parametrize(("f", "i", "w"), [(1.0, 1.0, 1.0), (1.0, 1.2, 0.7)])
def test_dualpipe_beats_its_closed_form_and_holds_one_micro_batch_more_than_1f1b(
    name: str, half: int, more: int, f: float, i: float, w: float
) -> None:
    """DeepSeek prints ``(PP / 2 - 1)(F&B + B - 3 W)`` and ``PP + 1``.

    Its F&B is one block whose results come out at its end; so priced, the closed form is exact. Here ``F`` hands on
    its result when it ends, which makes the bubble shorter.
    """
    p = 2 * half if name == "dualpipe" else half
    m = 4 * half + more
    simulation = run(make_schedule(name, p, m), f, i, w)
    closed_form_s = (half - 1) * (f + 2 * (i + w) - 3 * w)
    chunks = simulation.schedule.num_stages // p
    assert own_bubble_s(simulation, chunks * (f + i + w)) <= closed_form_s + 1e-9
    in_pairs_s = rank_span_in_pairs_s(simulation.schedule, {"F": f, "B": i + w, "I": i, "W": w})
    assert in_pairs_s - chunks * m * (f + i + w) == pytest.approx(closed_form_s)
    assert max(simulation.checked.peak_in_flight) == 2 * half + 1


@pytest.mark.parametrize("name", ["pipedream", "pipedream-2bw"])
@pytest.mark.parametrize("p", [1, 2, 5])
def test_asynchronous_schedules_have_no_bubble_in_the_steady_state(name: str, p: int) -> None:
    """One more micro-batch costs its own work and nothing else."""
    steps_s = [run(make_schedule(name, p, m), 1.0, 1.5, 0.5).step_s for m in (3 * p, 3 * p + 1)]
    assert steps_s[1] - steps_s[0] == pytest.approx(3.0)


@pytest.mark.parametrize(("p", "m", "v"), [(4, 8, 2), (8, 16, 2), (8, 8, 4), (3, 7, 2)])
def test_hanayo_waves_beat_1f1b_within_its_memory(p: int, m: int, v: int) -> None:
    simulation = run(make_schedule("hanayo", p, m, v))
    assert own_bubble_s(simulation, 3 * v) < 3 * v * (p - 1)
    assert max(simulation.checked.peak_in_flight) <= p * v
