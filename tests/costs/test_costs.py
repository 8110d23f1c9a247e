"""Prices of stages are the sums of their layers' prices."""

import pytest

from headrace.costs import Costs, LayerCosts, LinkCosts, stage_costs

LAYERS = tuple(LayerCosts(i, 10 * i, 100 * i, i, 2 * i, 3 * i, 7 + i) for i in (1, 2, 3, 4))
COSTS = Costs(LAYERS, LinkCosts(0.5, 4.0), stage_f_s=0.25, stage_i_s=0.5, optimizer_s_per_byte=0.0, source="measured")


def test_stages_add_their_layers_up_and_pay_their_overhead_once():
    stages = stage_costs(COSTS, (0, 1, 4))
    assert stages.num_stages == 2
    assert stages.f_s == (1.25, 9.25)
    assert stages.i_s == (10.5, 90.5)
    assert stages.w_s == (100, 900)
    assert stages.parameter_bytes == (1, 9)
    assert stages.saved_bytes == (2, 18)
    assert stages.weight_saved_bytes == (3, 27)
    assert stages.output_bytes == (8, 11)


def test_a_device_of_half_speed_takes_twice_the_seconds_and_the_same_bytes():
    plain, slowed = stage_costs(COSTS, (0, 2, 4)), stage_costs(COSTS, (0, 2, 4), speeds=[1.0, 0.5])
    assert slowed.f_s == (plain.f_s[0], 2 * plain.f_s[1])
    assert slowed.i_s == (plain.i_s[0], 2 * plain.i_s[1])
    assert slowed.w_s == (plain.w_s[0], 2 * plain.w_s[1])
    assert slowed.saved_bytes == plain.saved_bytes


def test_a_speed_is_needed_for_each_stage():
    with pytest.raises(ValueError, match="shorter"):
        stage_costs(COSTS, (0, 2, 4), speeds=[1.0])


def test_a_message_takes_its_latency_and_its_bytes():
    assert COSTS.link.message_s(10) == 3.0
