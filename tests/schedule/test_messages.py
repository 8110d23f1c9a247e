from collections import Counter

import pytest

from headrace.schedule import FAMILIES, Op, Transfer, input_of, make_schedule, output_of, receives, sends


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_is_sent_is_what_is_received_in_the_same_order_on_each_channel(name: str) -> None:
    schedule = make_schedule(name, 4, 8)
    sent = [t for rank in range(4) for t in sends(schedule, rank)]
    received = [t for rank in range(4) for t in receives(schedule, rank)]
    assert Counter(sent) == Counter(received)
    for channel in {(t.source_stage, t.target_stage, t.source_rank) for t in sent}:
        ends = [[t for t in side if (t.source_stage, t.target_stage, t.source_rank) == channel]
                for side in (sent, received)]  # fmt: skip
        assert ends[0] == ends[1]


def test_ends_of_the_chain_and_weight_gradients_move_nothing() -> None:
    schedule = make_schedule("1f1b", 3, 2)
    assert input_of(schedule, Op("F", 0, 0)) is None
    assert input_of(schedule, Op("B", 2, 0)) is None
    assert output_of(schedule, Op("F", 2, 0)) is None
    assert output_of(schedule, Op("I", 0, 0)) is None
    assert input_of(schedule, Op("W", 1, 0)) is None
    assert output_of(schedule, Op("W", 1, 0)) is None


def test_a_forward_takes_an_activation_and_a_backward_a_gradient() -> None:
    schedule = make_schedule("1f1b", 3, 2)
    assert input_of(schedule, Op("F", 1, 1)) == Transfer("activation", 0, 1, 0, 1, 1) == output_of(
        schedule, Op("F", 0, 1))  # fmt: skip
    assert input_of(schedule, Op("I", 1, 1)) == Transfer("gradient", 2, 1, 2, 1, 1) == output_of(
        schedule, Op("B", 2, 1))  # fmt: skip
    assert not output_of(schedule, Op("F", 0, 1)).is_local
