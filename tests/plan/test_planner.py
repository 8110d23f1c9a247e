"""The planner against closed forms, an exhaustive search, and the field's reports."""

import json
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from handmade_chains import make_chain, make_costs

from headrace.cluster import Cluster, Device, Link
from headrace.costs import LinkCosts, analytic_costs, stage_costs
from headrace.errors import RequestError
from headrace.plan import Plan, Wanted, make_plan, microbatch_choices, microbatch_rows, stage_rows
from headrace.schedule import make_schedule, write_schedule
from headrace.simulate import simulate


def device(memory_bytes=16 * 10**9, flops_per_s=1e11):
    return Device("made up", "cpu", memory_bytes, flops_per_s, 1e10)


def cluster(*devices):
    return Cluster(devices, Link(0.0, 1e9))


def plan_for(chain, devices, wanted=None, batch_rows=16, tokens=16, **prices):
    return make_plan(
        chain,
        lambda rows: make_costs(chain, rows=rows, **prices),
        cluster(*devices),
        batch_rows,
        tokens,
        wanted or Wanted(),
    )


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("pp", "microbatches"), [(1, 4), (2, 2), (2, 8), (4, 4), (4, 16)])
def test_equal_stages_take_the_time_and_idle_as_the_papers_say(schedule, pp, microbatches):
    wanted = Wanted(pp=pp, schedule=schedule, microbatches=microbatches)
    plan, simulation = plan_for(make_chain(8), [device()] * pp, wanted)
    stage_s = 8 / pp * 3 * 0.001 * (16 / microbatches)
    # Narayanan et al. 2104.04473, section 2.2: m + p - 1 turns, of which p - 1 are idle.
    assert plan.prediction.step_s == pytest.approx((microbatches + pp - 1) * stage_s)
    assert plan.prediction.idle_share == pytest.approx((pp - 1) / (microbatches + pp - 1))
    assert plan.prediction.messages == 2 * (pp - 1) * microbatches
    assert simulation.step_s == plan.prediction.step_s


def test_the_optimizer_adds_the_seconds_of_the_heaviest_rank():
    plan, simulation = plan_for(make_chain(8), [device()] * 2, Wanted(pp=2), optimizer_s_per_byte=1e-6)
    added_s = plan.prediction.step_s - simulation.step_s
    assert added_s == pytest.approx(1e-6 * max(plan.prediction.parameter_bytes))
    assert plan.prediction.tokens_per_s == pytest.approx(16 * 16 / plan.prediction.step_s)


@pytest.mark.parametrize("latency_s", [0.0, 0.002, 0.02])
def test_no_open_choice_has_a_clearly_faster_alternative(latency_s):
    chain, link = make_chain(4), LinkCosts(latency_s, 1e12)
    prices = {"link": link, "stage_s": 0.001, "head_s": 0.002}
    found = plan_for(chain, [device()] * 3, batch_rows=8, **prices)[0]

    def step_s(bounds, schedule, microbatches):
        costs = make_costs(chain, rows=-(-8 // microbatches), **prices)
        order = make_schedule(schedule, len(bounds) - 1, microbatches)
        return simulate(order, stage_costs(costs, bounds), link).step_s

    best_s = min(
        step_s((0, *inner, 6), schedule, microbatches)
        for pp in (1, 2, 3)
        for inner in combinations(range(1, 6), pp - 1)
        for schedule in ("gpipe", "1f1b")
        for microbatches in range(pp, 9)
    )
    assert found.prediction.step_s <= 1.02 * best_s  # Steps within 1% count as equal, twice: within pp and between.


def test_latency_and_overhead_make_fewer_microbatches_worth_their_idle_time():
    def chosen(**prices):
        return plan_for(make_chain(8), [device()] * 2, Wanted(pp=2), **prices)[0].microbatches

    assert chosen() == 16
    assert 2 <= chosen(stage_s=0.05) < 16


def test_of_equal_times_less_memory_wins():
    plan, _ = plan_for(make_chain(8), [device()] * 2, Wanted(pp=2, microbatches=8))
    assert plan.schedule == "1f1b"
    assert any("1f1b holds at most 2 of 8 micro-batches at a time; gpipe would hold 8" in r for r in plan.reasons)


def test_a_memory_limit_takes_the_slower_schedule_that_fits():
    link = LinkCosts(0.002, 1e12)  # 1F1B pays each latency, GPipe hides them.
    wanted = Wanted(pp=2, microbatches=8, recompute="none")
    wide, _ = plan_for(make_chain(8), [device()] * 2, wanted, link=link)
    assert wide.schedule == "gpipe"
    limit = wide.prediction.memory_bytes(0) - 1000
    tight, _ = plan_for(make_chain(8), [device(limit)] * 2, wanted, link=link)
    assert tight.schedule == "1f1b"
    assert max(map(tight.prediction.memory_bytes, range(2))) <= limit


# FR-70: stages of equal parameters, yet the first device needs far more memory.
def test_saved_activations_of_1f1b_fall_from_stage_to_stage():
    wanted = Wanted(pp=4, schedule="1f1b", microbatches=8)
    plan, _ = plan_for(make_chain(8), [device()] * 4, wanted, batch_rows=8)
    unit = 2 * 1000  # Two layers a stage, 1000 bytes each.
    assert plan.prediction.activation_bytes == (4 * unit, 3 * unit, 2 * unit, unit)


def test_with_memory_for_two_and_a_half_microbatches_stages_0_and_1_alone_recompute_and_the_plan_says_why():
    chain = make_chain(8)
    wanted = Wanted(pp=4, schedule="1f1b", microbatches=8, cuts=(2, 2, 2, 2))
    limits = [sum(parts) + int(2.5 * 2000) for parts in zip(*_states(chain, wanted), strict=True)]
    plan, _ = plan_for(chain, [device(limit) for limit in limits], wanted, batch_rows=8)
    # Four in flight on stage 0, and one layer kept while its backward runs: 4 x 1010 + 990 would not fit in 5000.
    assert plan.recompute == ("full", "full", "full", "none", "none", "none", "none", "none")
    assert all(plan.prediction.memory_bytes(rank) <= limit for rank, limit in enumerate(limits))
    assert plan.reasons[-1].startswith(
        "Memory asks for recomputation: stage 0 recomputes all 2 layers (full) and stage 1 recomputes 1 of 2 layers "
        "(full), which costs 12 ms a step; without it rank 0 would need"
    )
    assert [row.recompute for row in stage_rows(plan, chain)] == ["all 2 layers (full)", "1 of 2 layers (full)", "", ""]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def _states(chain, wanted):
    got = plan_for(chain, [device()] * 4, wanted, batch_rows=8)[0].prediction
    return got.parameter_bytes, got.gradient_bytes, got.optimizer_bytes


def test_with_memory_short_on_one_stage_the_cut_moves_layers_away_from_it():
    chain = make_chain(8)
    wanted = Wanted(pp=2, microbatches=8, schedule="1f1b", recompute="none")
    free, _ = plan_for(chain, [device()] * 2, wanted)
    limit = free.prediction.memory_bytes(0) - 1
    plan, _ = plan_for(chain, [device(limit), device()], wanted)
    assert plan.layout.bounds[1] < free.layout.bounds[1]
    assert plan.prediction.memory_bytes(0) <= limit


# FR-58: do I need a pipeline?
def test_a_model_that_one_device_runs_fastest_gets_no_pipeline_with_numbers():
    prices = {"layer_s": 1e-5, "link": LinkCosts(5e-4, 1e9), "stage_s": 1e-4}
    plan, _ = plan_for(make_chain(4), [device()] * 4, **prices)
    assert plan.layout.pp == 1
    assert plan.reasons[0].startswith("One device holds this model (")
    assert "of 16 GB" in plan.reasons[0]
    assert "No pipeline needed" in plan.reasons[0]
    assert "data parallelism" in plan.reasons[0]


def test_a_model_that_one_device_does_not_hold_gets_a_pipeline_with_numbers():
    chain = make_chain(8)
    whole = plan_for(chain, [device()])[0].prediction
    plan, _ = plan_for(chain, [device(int(0.7 * whole.memory_bytes(0)))] * 2, layer_s=1e-6, link=LinkCosts(0.01, 1e9))
    assert plan.layout.pp == 2
    assert "one device does not hold this model" in plan.reasons[0]


# FR-63: devices of unequal speed.
def test_a_device_of_half_speed_gets_half_the_layers_and_a_shorter_step_than_the_even_cut():
    devices = [device(), device(flops_per_s=0.5e11), device()]
    plan, _ = plan_for(make_chain(10), devices, Wanted(pp=3, microbatches=8))
    counts = [b - a for a, b in pairwise(plan.layout.bounds)]
    assert counts == [5, 2, 5]  # Embedding and head are among them, and free here.
    even, _ = plan_for(make_chain(10), devices, Wanted(microbatches=8, cuts=(3, 4, 3)))
    assert plan.prediction.step_s < 0.8 * even.prediction.step_s


# FR-21: embedding and head make end stages heavy.
def test_a_large_vocabulary_takes_layers_from_the_head_stage_and_beats_the_uniform_cut():
    chain = make_chain(8, hidden=64, vocab=32000)
    here = cluster(device(), device())

    def planned(wanted):
        return make_plan(chain, lambda rows: analytic_costs(chain, device(), here.link, rows, 32), here, 8, 32, wanted)[
            0
        ]

    chosen, uniform = planned(Wanted(pp=2, microbatches=4)), planned(Wanted(cuts=(4, 4), microbatches=4))
    assert chosen.layout.bounds[1] > uniform.layout.bounds[1]
    assert chosen.prediction.step_s < uniform.prediction.step_s
    assert chosen.costs_source == "analytic"


def test_ranks_that_gain_nothing_are_left_out_with_the_number():
    # 4 layers and a head as heavy as 2 of them: neither 3 nor 4 stages are faster than the head's own.
    plan, _ = plan_for(make_chain(4), [device()] * 4, head_s=0.004, link=LinkCosts(0.001, 1e12))
    assert plan.layout.pp == 2
    assert "More ranks gain no more than 1%: pp=3 would take" in plan.reasons[0]


# FR-69: batch arithmetic is printed, and each row is used once.
def test_the_plan_says_rows_of_a_microbatch_and_tokens_of_a_step():
    plan, _ = plan_for(make_chain(4), [device()] * 2, Wanted(pp=2, microbatches=4), batch_rows=8)
    assert plan.microbatch_size == 2
    assert any("4 micro-batches of 2 rows (8 rows, 128 tokens a step)" in reason for reason in plan.reasons)


def test_a_batch_that_does_not_divide_gives_microbatches_that_differ_by_one_row():
    plan, _ = plan_for(make_chain(4), [device()] * 3, Wanted(pp=3, microbatches=3), batch_rows=8)
    assert plan.microbatch_size == 3
    assert any("3 micro-batches of 3 rows or 2 rows (8 rows, 128 tokens a step)" in reason for reason in plan.reasons)
    assert microbatch_rows(8, 3) == (3, 3, 2)


@pytest.mark.parametrize("batch_rows", [1, 7, 8, 30, 512])
@pytest.mark.parametrize("num_stages", [1, 2, 5])
def test_choices_of_microbatches_use_each_row_once_and_keep_all_even_splits(batch_rows, num_stages):
    choices = microbatch_choices(batch_rows, num_stages)
    fewest = min(num_stages, batch_rows)
    assert choices[0] == fewest
    assert choices[-1] == batch_rows
    assert set(choices) >= {m for m in range(fewest, batch_rows + 1) if batch_rows % m == 0}
    for number in choices:
        rows = microbatch_rows(batch_rows, number)
        assert (sum(rows), len(rows)) == (batch_rows, number)
        assert 0 <= max(rows) - min(rows) <= 1
        assert rows == tuple(sorted(rows, reverse=True))


def test_a_plan_survives_json():
    plan, _ = plan_for(make_chain(4), [device()] * 2)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.costs_source == "measured"


def test_prices_are_asked_for_once_for_each_number_of_rows():
    chain, asked = make_chain(4), []

    def costs_of(rows):
        asked.append(rows)
        return make_costs(chain, rows=rows)

    make_plan(chain, costs_of, cluster(device(), device()), 8, 16, Wanted())
    assert sorted(asked) == [1, 2, 3, 4, 8]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Wanted(dp=2), "dp=2 was asked for, .*only dp=1 works"),
        (Wanted(tp=4), "tp=4 was asked for, .*only tp=1 works"),
        (Wanted(chunks=2), "chunks=2 needs a schedule of several stages a rank; name one"),
        (Wanted(pp=3), "pp=3 needs 3 devices but the cluster has 2; at most pp=2"),
        (Wanted(pp=5), "5 stages but only 4 layers; at most pp=4"),
        (Wanted(pp=2, cuts=(4,)), r"cuts \[4\] name 1 stages, but pp=2 with 1 on each rank has 2"),
        (Wanted(cuts=(3, 2)), r"Cuts \[3, 2\] hold 5 layers but the model has 4"),
        (Wanted(microbatches=9), "9 micro-batches cannot be cut from 8 rows, .*microbatches=8"),
        (Wanted(microbatches=0), "0 micro-batches cannot be cut from 8 rows, .*microbatches=1"),
        (Wanted(schedule="1f1c"), "there is no schedule '1f1c'; did you mean '1f1b'"),
        (
            Wanted(pp=2, schedule="interleaved-1f1b", chunks=3),
            r"6 stages \(3 on each of 2 ranks\) but only 4 layers; at most pp=1",
        ),
        (Wanted(pp=2, schedule="zb-v", cuts=(2, 2)), "name 2 stages, but pp=2 with 2 on each rank has 4"),
        (Wanted(pp=2, schedule="dualpipe"), "Schedule dualpipe keeps two copies of the weights; it can be simulated"),
        (Wanted(recompute="half"), "no recompute=half; choose none, selective, full"),
    ],
)
def test_choices_that_cannot_be_met_are_refused_with_what_works(wanted, text):
    with pytest.raises(RequestError, match=text):
        plan_for(make_chain(4), [device()] * 2, wanted, batch_rows=8)


def test_an_empty_cluster_and_an_empty_batch_are_refused():
    with pytest.raises(RequestError, match="The cluster has 0 devices"):
        plan_for(make_chain(4), [])
    with pytest.raises(RequestError, match="The batch has 0 rows"):
        plan_for(make_chain(4), [device()], batch_rows=0)


def test_a_model_that_fits_nowhere_is_refused_with_both_numbers():
    with pytest.raises(RequestError, match=r"Nothing fits: even pp=2 .* needs 837 kB on rank \d, which has 100 kB"):
        plan_for(make_chain(8), [device(100_000)] * 2)


@pytest.mark.parametrize(
    ("schedule", "microbatches", "placement"), [("zb-v", 6, (0, 1, 1, 0)), ("interleaved-1f1b", 5, (0, 1, 0, 1))]
)
def test_a_rank_may_hold_several_stages(schedule, microbatches, placement):
    wanted = Wanted(pp=2, schedule=schedule, microbatches=microbatches)
    plan, simulation = plan_for(make_chain(7), [device()] * 2, wanted)
    layout, got = plan.layout, plan.prediction
    assert (layout.pp, layout.chunks, layout.placement) == (2, 2, placement)
    assert len(layout.bounds) == 5
    assert len(got.parameter_bytes) == len(got.activation_bytes) == 2
    assert [row.rank for row in stage_rows(plan, make_chain(7))] == list(placement)
    assert simulation.idle_share == pytest.approx(got.idle_share)


@pytest.mark.parametrize("pp", [2, 3, 4])
def test_the_search_gives_a_plan_that_is_no_slower_than_any_family(pp):
    link = LinkCosts(0.02, 1e12)
    chosen, _ = plan_for(make_chain(8), [device()] * pp, Wanted(pp=pp, schedule="auto", microbatches=5), link=link)
    assert chosen.schedule == "auto"
    assert chosen.made_schedule().placement == chosen.layout.placement
    for family in ("gpipe", "1f1b", "zb-h1", "zb-2p", "zb-v", "interleaved-1f1b"):
        rival, _ = plan_for(make_chain(8), [device()] * pp, Wanted(pp=pp, schedule=family, microbatches=5), link=link)
        assert chosen.prediction.step_s <= rival.prediction.step_s * (1 + 1e-9)


def test_an_order_from_a_file_is_what_the_plan_holds(tmp_path):
    written = make_schedule("zb-h1", 2, 4)
    write_schedule(written, tmp_path / "mine.csv")
    wanted = Wanted(pp=2, schedule=str(tmp_path / "mine.csv"), microbatches=4)
    plan, _ = plan_for(make_chain(4), [device()] * 2, wanted)
    assert plan.made_schedule().orders == written.orders
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    with pytest.raises(RequestError, match="is for microbatches=4, not 8; set microbatches=4"):
        plan_for(make_chain(4), [device()] * 2, replace(wanted, microbatches=8))


def test_more_ranks_than_cores_take_turns():
    chain, prices = make_chain(8), make_costs(make_chain(8))
    wanted = Wanted(pp=4, microbatches=8)
    step_s = {
        cores: make_plan(chain, lambda _: prices, Cluster((device(),) * 4, Link(0.0, 1e12), cores), 8, 16, wanted)[
            0
        ].prediction.step_s
        for cores in (None, 2, 4)
    }
    assert step_s[2] == pytest.approx(2 * step_s[4])
    assert step_s[None] == step_s[4]
