"""What is computed again against all ways to choose it, each priced and laid out by the definition."""

from dataclasses import replace
from itertools import accumulate, pairwise, product
from math import inf

import pytest
from handmade_chains import make_chain, make_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chain import RECOMPUTE_MODES
from headrace.cluster import Cluster, Device, Link
from headrace.costs import Costs, LayerCosts, LinkCosts
from headrace.plan import Wanted, make_plan
from headrace.plan.recompute import Recomputation, choose_modes
from headrace.plan.words import recompute_text
from headrace.schedule import check, make_schedule
from headrace.schedule.memory import stage_levels

LINK = LinkCosts(0.0, 1e12)


def held_at_most(schedule, rank, layers_of, modes):
    """By the definition: what is kept after each op, and what runs again while I or B does."""
    held, most = {}, 0

    def kept(stage):
        return sum(saved(layer, mode) for layer, mode in zip(layers_of[stage], modes[stage], strict=True))

    def again(stage):
        return runs_again(layers_of[stage], modes[stage])

    for op in schedule.orders[rank]:
        place = op.stage, op.microbatch
        if op.kind == "F":
            held[place] = kept(op.stage)
        if op.kind in "BI":
            most = max(most, sum(held.values()) + again(op.stage))
            splits = any(one.kind == "W" for order in schedule.orders for one in order)
            held[place] = sum(layer.weight_saved_bytes for layer in layers_of[op.stage]) if splits else 0
            most = max(most, sum(held.values()) + again(op.stage))
        if op.kind in "BW":
            held[place] = 0
        most = max(most, sum(held.values()))
    return most


def runs_again(layers, modes):
    return max(layer.saved_bytes - saved(layer, mode) for layer, mode in zip(layers, modes, strict=True))


def saved(layer, mode):
    return {"none": layer.saved_bytes, "selective": layer.saved_bytes - layer.selective_freed_bytes, "full": 10}[mode]


def added(layer, mode):
    return {"none": 0.0, "selective": layer.selective_s, "full": layer.f_s}[mode]


@st.composite
def layers(draw, least):
    """Up to three prices, so that some layers are equal; seconds in halves, which add up without rounding."""
    prices = []
    for _ in range(3):
        size = draw(st.integers(10, 60))
        freed, kept = draw(st.integers(0, size - 10)), draw(st.integers(0, 30))
        halves = st.integers(0, 20).map(lambda number: number / 2)
        prices.append(LayerCosts(draw(halves), 1.0, 1.0, 0, size, kept, 10, draw(halves), freed))
    return draw(st.lists(st.sampled_from(prices), min_size=least, max_size=5))


def end_layer(saved_bytes):
    return LayerCosts(1.0, 1.0, 1.0, 0, saved_bytes, 0, 10)


def choices(inner, bounds, schedule, free_bytes):
    """What `choose_modes` says, and every way that fits with its seconds, for each rank."""
    costs = Costs((end_layer(3), *inner, end_layer(7)), LINK, 0.0, 0.0, 0.0, "made up")
    check(schedule)
    levels = stage_levels(schedule)
    modes = choose_modes(Recomputation(costs, None), costs, bounds, schedule, levels, free_bytes)
    full = ("none", *(modes or ("none",) * len(inner)), "none")
    layers_of = [costs.layers[a:b] for a, b in pairwise(bounds)]
    chosen = [full[a:b] for a, b in pairwise(bounds)]
    return layers_of, chosen


def ways_of(layers_of, bounds, last):
    """All modes of one stage; embedding and head have none."""
    for stage_layers, (a, b) in zip(layers_of, pairwise(bounds), strict=True):
        open_ = [RECOMPUTE_MODES if 0 < layer < last else ("none",) for layer in range(a, b)]
        yield list(product(*open_)) if stage_layers else [()]


def seconds(layers_of, modes, stages):
    return sum(added(*pair) for s in stages for pair in zip(layers_of[s], modes[s], strict=True))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["1f1b", "gpipe", "zb-h1", "zb-2p"]), st.integers(1, 3))
def test_one_stage_on_a_rank_takes_the_cheapest_of_all_ways_that_fit(data, family, num_ranks):
    inner = data.draw(layers(num_ranks))
    sizes = data.draw(st.permutations([len(inner) - num_ranks + 1, *[1] * (num_ranks - 1)]))
    inside = [1 + end for end in accumulate(sizes)]
    bounds = (0, *inside[:-1], len(inner) + 2)
    schedule = make_schedule(family, num_ranks, 4)
    free_bytes = data.draw(st.lists(st.integers(10, 500), min_size=num_ranks, max_size=num_ranks))
    layers_of, chosen = choices(inner, bounds, schedule, free_bytes)
    for rank, ways in enumerate(ways_of(layers_of, bounds, len(inner) + 1)):
        costs_s = {
            way: seconds(layers_of, [*chosen[:rank], way, *chosen[rank + 1 :]], [rank])
            for way in ways
            if held_at_most(schedule, rank, layers_of, [*chosen[:rank], way, *chosen[rank + 1 :]]) <= free_bytes[rank]
        }
        if costs_s:
            assert costs_s.get(chosen[rank], inf) == min(costs_s.values())


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(["zb-v", "interleaved-1f1b", "dualpipe-v"]))
def test_several_stages_on_a_rank_fit_where_the_fewest_bytes_do(data, family):
    inner = data.draw(layers(4))
    bounds = (0, 2, 3, 4, len(inner) + 2)
    schedule = make_schedule(family, 2, 4)
    free_bytes = data.draw(st.lists(st.integers(50, 600), min_size=2, max_size=2))
    layers_of, chosen = choices(inner, bounds, schedule, free_bytes)
    kept = [("none",) * len(stage) for stage in layers_of]
    fewest = [
        min(ways, key=lambda way, s=s: (sum(map(saved, layers_of[s], way)), -runs_again(layers_of[s], way)))
        for s, ways in enumerate(ways_of(layers_of, bounds, len(inner) + 1))
    ]
    for rank in range(2):
        held = held_at_most(schedule, rank, layers_of, chosen)
        if held_at_most(schedule, rank, layers_of, fewest) <= free_bytes[rank]:
            assert held <= free_bytes[rank]
        if held_at_most(schedule, rank, layers_of, kept) <= free_bytes[rank]:
            assert seconds(layers_of, chosen, schedule.stages_of(rank)) == 0


def plan_for(limit_bytes, wanted):
    """Selective frees 600 of 1000 bytes for a tenth of a forward; all of it costs a forward."""
    chain, made = make_chain(8), make_costs(make_chain(8))
    inner = [replace(one, selective_s=0.0001, selective_freed_bytes=600) for one in made.layers[1:-1]]
    costs = replace(made, layers=(made.layers[0], *inner, made.layers[-1]))
    devices = (Device("made up", "cpu", limit_bytes, 1e11, 1e10),) * 2
    return make_plan(chain, lambda _: costs, Cluster(devices, Link(0.0, 1e9)), 8, 16, wanted)[0]


def test_less_memory_means_selective_first_and_full_only_where_that_is_not_enough():
    wanted = Wanted(pp=2, microbatches=8, schedule="1f1b", cuts=(4, 4))
    free = plan_for(10**9, wanted)
    held = free.prediction.memory_bytes(0)
    assert free.recompute == ()
    steps_s = [free.prediction.step_s]
    for limit, text in (
        (held - 1, "stage 0 recomputes 1 of 4 layers (selective)"),
        (held - 3000, "stage 0 recomputes 3 of 4 layers (selective)"),
        (
            held - 6000,
            "stage 0 recomputes all 4 layers (1 selective and 3 full) and stage 1 recomputes "
            "all 4 layers (2 selective and 2 full)",
        ),
    ):
        plan = plan_for(limit, wanted)
        assert recompute_text(plan.recompute, plan.layout.bounds) == text
        assert plan.prediction.memory_bytes(0) <= limit
        steps_s.append(plan.prediction.step_s)
    assert steps_s == sorted(steps_s)


@pytest.mark.parametrize("mode", RECOMPUTE_MODES)
def test_a_mode_that_is_asked_for_holds_for_every_layer(mode):
    plan = plan_for(10**9, Wanted(pp=2, microbatches=8, schedule="1f1b", recompute=mode))
    assert plan.recompute == (() if mode == "none" else (mode,) * 8)
    assert plan.reasons[-1] == f"recompute={mode} as asked."


def test_stages_are_told_in_words():
    modes = ("selective", "full", "full", "none", "none", "none", "full", "full")
    assert recompute_text(modes, (0, 3, 5, 8, 10)) == (
        "stage 0 recomputes all 2 layers (1 selective and 1 full), stage 1 recomputes 1 of 2 layers (full), "
        "stage 2 recomputes 1 of 3 layers (full) and stage 3 recomputes its layer (full)"
    )
    assert (
        recompute_text(("full", "none", "full", "none"), (0, 3, 6)) == "stages 0 and 1 recompute 1 of 2 layers (full)"
    )
    assert recompute_text(("full",) * 4, (0, 2, 3, 4, 6)) == "stages 0 to 3 recompute their layer (full)"
    assert recompute_text((), (0, 3, 6)) == "no layer is recomputed"
