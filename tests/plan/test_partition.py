"""The partition against brute force over all cuts, and the field's reports of cuts that went wrong."""

from itertools import combinations, pairwise
from math import inf

import pytest
from handmade_chains import make_chain
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.plan import bounds_from_cuts, check_num_stages, partition


def all_bounds(num_layers, num_stages):
    return [(0, *inner, num_layers) for inner in combinations(range(1, num_layers), num_stages - 1)]


def spans(bounds):
    return list(pairwise(bounds))


def stage_seconds(layer_s, bounds, speeds):
    return [sum(layer_s[a:b]) / speed for (a, b), speed in zip(spans(bounds), speeds, strict=True)]


@st.composite
def rows(draw):
    layer_s = draw(st.lists(st.integers(0, 20), min_size=1, max_size=10))
    num_stages = draw(st.integers(1, len(layer_s)))
    speeds = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=num_stages, max_size=num_stages))
    return layer_s, num_stages, speeds


@settings(deadline=None, max_examples=300)
@given(rows())
def test_no_cut_is_better_and_ties_go_to_the_lighter_rest_and_the_lighter_front(row):
    layer_s, num_stages, speeds = row
    best = min(
        all_bounds(len(layer_s), num_stages),
        key=lambda bounds: (sorted(stage_seconds(layer_s, bounds, speeds), reverse=True), bounds),
    )
    assert partition(layer_s, num_stages, speeds) == best


@settings(deadline=None)
@given(rows())
def test_a_light_back_differs_in_ties_alone(row):
    layer_s, num_stages, speeds = row
    times = {b: sorted(stage_seconds(layer_s, b, speeds), reverse=True) for b in all_bounds(len(layer_s), num_stages)}
    assert partition(layer_s, num_stages, speeds, light="back") == max(
        b for b in times if times[b] == min(times.values())
    )


@settings(deadline=None, max_examples=300)
@given(rows(), st.data())
def test_memory_limits_hold_and_the_best_of_what_fits_is_found(row, data):
    layer_s, num_stages, speeds = row
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=len(layer_s), max_size=len(layer_s)))
    limits = data.draw(st.lists(st.integers(0, 30), min_size=num_stages, max_size=num_stages))

    def added_s(stage, first, end):
        """What lies above the limit may be bought away, up to twice the limit."""
        size = sum(sizes[first:end])
        return inf if size > 2 * limits[stage] else float(max(0, size - limits[stage]))

    def slowest_s(bounds):
        own = enumerate(zip(spans(bounds), speeds, strict=True))
        return max((sum(layer_s[a:b]) + added_s(stage, a, b)) / speed for stage, ((a, b), speed) in own)

    best_s = min(map(slowest_s, all_bounds(len(layer_s), num_stages)))
    found = partition(layer_s, num_stages, speeds, added_s=added_s)
    if best_s == inf:
        assert found is None
    else:
        assert slowest_s(found) == best_s


def test_equal_layers_are_told_apart_in_spite_of_rounding():
    # Sums of 0.1 differ in the last bit by where they begin; the cut must not follow that.
    assert partition([0.1] * 10, 3) == (0, 3, 6, 10)
    assert partition([0.1] * 8, 4) == (0, 2, 4, 6, 8)


def test_seconds_of_a_stage_count_by_its_speed():
    assert partition([1.0] * 8, 2, speeds=[1.0, 0.1], stage_s=0.5) == (0, 7, 8)


def test_one_layer_of_three_times_the_cost_does_not_drag_the_pipe():
    bounds = partition([1, 1, 1, 3, 1, 1, 1, 1, 1, 1], 4)
    assert bounds == (0, 3, 4, 7, 10)


def test_a_hundred_layers_on_sixty_four_stages_leave_none_empty():
    bounds = partition([0.2] + [1.0] * 105 + [3.0], 64)
    assert len(bounds) == 65
    assert all(end > first for first, end in spans(bounds))
    assert max(sum(([0.2] + [1.0] * 105 + [3.0])[a:b]) for a, b in spans(bounds)) == 3.0


def test_more_stages_than_layers_of_the_row_is_refused():
    with pytest.raises(RequestError, match=r"3 stages cannot share 2 layers; take 1 to 2 stages\."):
        partition([1.0, 1.0], 3)


# FR-19: 5 equal layers on 4 gave 2, 2, 1, 0.
@pytest.mark.parametrize("num_layers", [5, 4])
def test_equal_layers_on_four_stages_leave_none_empty(num_layers):
    check_num_stages(make_chain(num_layers), 4)
    counts = [b - a for a, b in spans(partition([0.0] + [1.0] * num_layers + [0.0], 4))]
    assert min(counts) >= 1
    assert sum(counts) == num_layers + 2


def test_three_layers_on_four_stages_are_refused_with_the_largest_that_works():
    with pytest.raises(RequestError, match=r"4 stages but only 3 layers; at most pp=3\."):
        check_num_stages(make_chain(3), 4)


@pytest.mark.parametrize("num_stages", [0, -1])
def test_a_pipeline_has_a_stage(num_stages):
    with pytest.raises(RequestError, match=f"{num_stages} stages were asked for"):
        check_num_stages(make_chain(3), num_stages)


# FR-20: a large vocabulary must not leave a stage without parameters.
def test_a_large_vocabulary_leaves_no_stage_without_parameters():
    chain = make_chain(2, hidden=16, vocab=20000)
    work = [layer.num_parameters for layer in chain.layers]
    for num_stages in (1, 2):
        bounds = partition(work, num_stages)
        assert all(sum(work[a:b]) > 0 for a, b in spans(bounds))
    with pytest.raises(RequestError, match=r"3 stages but only 2 layers; at most pp=2\."):
        check_num_stages(chain, 3)


# FR-21: embedding and head make the end stages heavy.
def test_the_stage_with_a_heavy_head_gets_fewer_layers():
    chain = make_chain(8, hidden=64, vocab=32000)
    work = [layer.forward_flops_per_token for layer in chain.layers]
    first, last = spans(partition(work, 2))
    assert first[1] - first[0] - 1 > last[1] - last[0] - 1
    uniform = max(sum(work[:5]), sum(work[5:]))
    assert max(sum(work[a:b]) for a, b in (first, last)) <= uniform


# FR-63: no even cut exists on devices of unequal speed.
def test_a_device_of_half_speed_gets_about_half_the_layers():
    work = [1.0] * 10
    speeds = [1.0, 0.5, 1.0]
    bounds = partition(work, 3, speeds)
    assert [b - a for a, b in spans(bounds)] == [4, 2, 4]
    even = max(stage_seconds(work, (0, 3, 7, 10), speeds))
    assert max(stage_seconds(work, bounds, speeds)) < even


def test_cuts_by_hand_put_the_embedding_first_and_the_head_last():
    chain = make_chain(8)
    assert bounds_from_cuts(chain, [3, 2, 3]) == (0, 4, 6, 10)
    assert bounds_from_cuts(chain, [8]) == (0, 10)
    assert bounds_from_cuts(chain, [0, 8]) == (0, 1, 10)
    assert bounds_from_cuts(chain, [8, 0]) == (0, 9, 10)
    assert bounds_from_cuts(chain, [0, 8, 0]) == (0, 1, 9, 10)


@pytest.mark.parametrize(
    ("cuts", "text"),
    [
        ([3, 2], "hold 5 layers but the model has 8"),
        ([3, 3, 3], "hold 9 layers but the model has 8"),
        ([9, -1], "give a stage -1 layers"),
        ([4, 0, 4], "leave stage 1 with 0 layers"),
        ([1] * 9, "9 stages but only 8 layers; at most pp=8"),
        ([], "0 stages were asked for"),
    ],
)
def test_cuts_that_do_not_add_up_are_refused_with_both_numbers(cuts, text):
    with pytest.raises(RequestError, match=text):
        bounds_from_cuts(make_chain(8), cuts)
