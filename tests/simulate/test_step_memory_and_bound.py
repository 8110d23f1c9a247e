from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from priced import FREE, even, uneven

from headrace.chain import RecomputeMode
from headrace.costs.costs import Costs, LayerCosts, LinkCosts, recomputed, stage_costs
from headrace.errors import RequestError
from headrace.schedule import FAMILIES, Op, Schedule, check, check_memory, make_schedule, price
from headrace.simulate import Simulation, lower_bound_s, rank_memory, simulate, update


def test_the_optimizer_waits_for_all_ranks_or_for_its_own_only() -> None:
    """ZB-H2 at F = I = W: rank r runs from r to r + 3 m; without a wait a step costs 3 m, with it p - 1 more."""
    p, m = 4, 12
    simulation = simulate(make_schedule("zb-h2", p, m), even(p), FREE)
    zeros = (0.0,) * p
    waiting = update(simulation, zeros, (0.5,) * p)
    assert waiting.ends_s == (3 * m + p - 1 + 0.5,) * p
    assert waiting.period_s == 3 * m + p - 1 + 0.5
    validated_after = update(simulation, zeros, (0.5,) * p, post_validation=True)
    assert validated_after.period_s == 3 * m + 0.5
    assert validated_after.ends_s == tuple(3 * m + r + 0.5 for r in range(p))


def test_all_reduces_start_when_a_stage_is_complete_and_follow_each_other_on_a_rank() -> None:
    """Looped BFS on one rank, two chunks: stage 1 is complete 2 B before stage 0 and reduces meanwhile."""
    simulation = simulate(make_schedule("looped-bfs", 1, 2, 2), even(2), FREE)
    assert simulation.step_s == 12.0
    assert update(simulation, (1.0, 3.0), (0.0, 0.0)).period_s == 13.0, "3 s fit beside the last 4 s; then 1 s"
    assert update(simulation, (1.0, 6.0), (0.0, 0.0)).period_s == 8.0 + 6.0 + 1.0
    with pytest.raises(RequestError, match="optimizer_s has 1 entries for 2 stages"):
        update(simulation, (1.0, 3.0), (0.0,))


def test_memory_is_parameters_gradients_optimizer_and_activations() -> None:
    memory = rank_memory(check(make_schedule("1f1b", 3, 6)), even(3), optimizer_bytes_per_byte=2.0)
    assert memory.parameter_bytes == memory.gradient_bytes == (100, 100, 100)
    assert memory.optimizer_bytes == (200, 200, 200)
    assert memory.activation_bytes == (30, 20, 10)
    assert memory.total_bytes(0) == 430


def test_pipedream_holds_a_version_for_each_micro_batch_in_flight_and_2bw_two() -> None:
    stash = rank_memory(check(make_schedule("pipedream", 4, 12)), even(4), 0.0)
    assert stash.parameter_bytes == (400, 300, 200, 100)
    assert rank_memory(check(make_schedule("pipedream-2bw", 4, 12)), even(4), 0.0).parameter_bytes == (200,) * 4


def test_two_copies_of_the_weights_cost_twice_the_parameters() -> None:
    assert rank_memory(check(make_schedule("dualpipe", 4, 8)), even(4), 0.0).parameter_bytes == (200,) * 4


def test_recompute_keeps_the_input_and_runs_the_forward_again() -> None:
    embedding, head = LayerCosts(0.0, 0.0, 0.0, 0, 0, 0, 8), LayerCosts(0.0, 0.0, 0.0, 0, 0, 0, 0)
    layer = LayerCosts(1.0, 1.0, 1.0, 100, 10, 4, 8)
    costs = Costs((embedding, layer, layer, head), FREE, 0.0, 0.0, 0.0, "made up")

    def step(*modes: RecomputeMode) -> Simulation:
        return simulate(make_schedule("1f1b", 2, 4), stage_costs(recomputed(costs, modes), (0, 2, 4)), FREE)

    plain, again, first_alone = step(), step("full", "full"), step("full", "none")
    assert (plain.step_s, again.step_s) == (5 * 3, 5 * 4)
    assert plain.peak_activation_bytes == (20, 10)
    assert again.peak_activation_bytes == (16 + 2, 8 + 2), "inputs of 8 in flight, one whole layer while it runs again"
    assert first_alone.peak_activation_bytes == (16 + 2, 10)
    assert plain.step_s < first_alone.step_s <= again.step_s


def test_a_memory_limit_names_op_rank_and_both_numbers() -> None:
    schedule, costs = make_schedule("gpipe", 2, 4), even(2)
    check_memory(schedule, costs.saved_bytes, costs.weight_saved_bytes, (40, 40))
    words = (
        r"memory limit\): at F\(stage 1, micro-batch 2\) rank 1 holds 30 of activations and may hold 25; it needs 40"
    )
    with pytest.raises(RequestError, match=words):
        check_memory(schedule, costs.saved_bytes, costs.weight_saved_bytes, (40, 25))


@given(
    p=st.integers(1, 5),
    m=st.integers(1, 9),
    name=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 999),
    latency=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_no_schedule_is_below_its_lower_bound(p: int, m: int, name: str, seed: int, latency: float) -> None:
    try:
        schedule = make_schedule(name, p, m)
    except RequestError:
        return
    costs, link = uneven(schedule.num_stages, seed), LinkCosts(latency, 10.0)
    simulation = simulate(schedule, costs, link)
    limits = tuple(float(size) for size in simulation.peak_activation_bytes)
    assert lower_bound_s(schedule, price(costs, link), limits) <= simulation.step_s * (1 + 1e-9)


def test_the_bound_is_reached_where_an_order_is_perfect() -> None:
    for name, p, m in (("zb-h2", 4, 12), ("zb-v", 4, 12), ("gpipe", 1, 5), ("zb-h1", 5, 1)):
        simulation = simulate(make_schedule(name, p, m), even(4 * 2 if name == "zb-v" else p), FREE)
        assert (
            lower_bound_s(simulation.schedule, price(even(simulation.schedule.num_stages), FREE)) == simulation.step_s
        )


def test_the_memory_bound_speaks_when_memory_is_scarce() -> None:
    """One micro-batch at a time: each stays for its whole way, so the step is m ways but for what overlaps."""
    schedule = make_schedule("1f1b", 4, 10)
    prices = price(even(4), FREE)
    assert lower_bound_s(schedule, prices) == 3 + 30
    assert lower_bound_s(schedule, prices, (10.0,) * 4) > 80


def orders(text: str) -> tuple[tuple[Op, ...], ...]:
    return (tuple(Op(t[0], 0, int(t[1])) for t in text.split()),)


def test_weight_versions_are_those_that_the_papers_state() -> None:
    p, m = 4, 16
    for stage, versions in enumerate(check(make_schedule("pipedream", p, m)).weight_versions):
        assert versions.staleness == p - 1 - stage
        assert versions.seen == tuple(max(0, mb - (p - 1 - stage)) for mb in range(m))
    for versions in check(make_schedule("pipedream-2bw", p, m)).weight_versions:
        assert versions.seen == tuple(max(0, mb // p - 1) for mb in range(m))
        assert (versions.staleness, versions.held) == (1, 2)
    assert {v.held for v in check(make_schedule("zb-v", p, m)).weight_versions} == {1}


def test_a_forward_that_reads_weights_of_the_future_is_refused() -> None:
    """Updates after each micro-batch, one late: micro-batch 2 reads version 1, which B(0) makes."""
    good = Schedule("mine", 1, 3, (0,), orders("F0 F1 B0 F2 B1 B2"), update_every=1, delayed_update=True)
    assert check(good).weight_versions[0].seen == (0, 0, 1)
    bad = replace(good, orders=orders("F0 F1 F2 B0 B1 B2"))
    words = r"weight versions\): F\(stage 0, micro-batch 2\) reads version 1, but rank 0 has made only 0"
    with pytest.raises(RequestError, match=words):
        check(bad)


def test_a_gradient_before_the_update_that_it_does_not_belong_to_is_refused() -> None:
    good = Schedule("mine", 1, 4, (0,), orders("F0 F1 F2 F3 B1 B0 B2 B3"), update_every=2)
    assert [str(op) for op in check(good).weight_versions[0].updates] == [
        "B(stage 0, micro-batch 0)",
        "B(stage 0, micro-batch 3)",
    ]
    words = r"weight versions\): B\(stage 0, micro-batch 2\) is of update 1, but rank 0 has made 0 by then"
    with pytest.raises(RequestError, match=words):
        check(replace(good, orders=orders("F0 F1 F2 F3 B0 B2 B1 B3")))


@pytest.mark.parametrize(("every", "delayed"), [(1, False), (2, False), (3, False), (1, True), (2, True), (4, True)])
@pytest.mark.parametrize(("p", "m"), [(1, 4), (2, 5), (3, 7), (4, 8), (4, 3)])
def test_versions_lie_in_as_few_copies_as_readers_need(p: int, m: int, every: int, delayed: bool) -> None:
    """Replays each stage with real copies: a reader finds its version, and every copy is in use at some time."""
    schedule = replace(make_schedule("1f1b", p, m), update_every=every, delayed_update=delayed)
    try:
        checked = check(schedule)
    except RequestError:
        assert delayed
        assert every < p, "a forward would read a version of the future"
        return
    for stage, versions in enumerate(checked.weight_versions):
        contents, latest, most = {0: 0}, 0, 1
        unfinished = set(range(m))
        for op in schedule.orders[stage]:
            assert contents[versions.slots[versions.seen[op.microbatch]]] == versions.seen[op.microbatch]
            if op.kind == "B":
                unfinished.remove(op.microbatch)
            if op in versions.updates:
                latest += 1
                contents[versions.slots[latest]] = latest
                readable = {versions.seen[mb] for mb in unfinished if versions.seen[mb] <= latest}
                most = max(most, len(readable | {latest}))
        assert latest == len(versions.updates) == -(-m // every)
        assert versions.held == most == len(set(versions.slots))


def test_two_copies_that_update_on_their_own_are_refused() -> None:
    with pytest.raises(RequestError, match="update_every must be 0"):
        check(replace(make_schedule("chimera", 2, 4), update_every=1))
