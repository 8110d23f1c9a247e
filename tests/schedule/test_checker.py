import random

import pytest
from brute_force import is_legal
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import RequestError
from headrace.schedule import FAMILIES, Op, Schedule, check, make_schedule, unit_prices
from headrace.schedule.prices import Prices
from headrace.simulate.simulator import step_seconds

NAMES = sorted(FAMILIES)
SMALL = {"num_ranks": st.integers(1, 4), "num_microbatches": st.integers(1, 5), "name": st.sampled_from(NAMES)}


def reordered(schedule: Schedule, orders: list[list[Op]]) -> Schedule:
    fields = {name: getattr(schedule, name) for name in schedule.__dataclass_fields__}
    return Schedule(**{**fields, "orders": tuple(map(tuple, orders))})


def accepts(schedule: Schedule) -> bool:
    try:
        check(schedule)
    except RequestError:
        return False
    return True


def small_schedule(name: str, num_ranks: int, num_microbatches: int) -> Schedule | None:
    try:
        return make_schedule(name, num_ranks, num_microbatches)
    except RequestError:
        return None


@given(**SMALL)
@settings(max_examples=150, deadline=None)
def test_every_family_is_legal(name: str, num_ranks: int, num_microbatches: int) -> None:
    schedule = small_schedule(name, num_ranks, num_microbatches)
    if schedule is not None:
        assert is_legal(schedule)
        check(schedule)


@given(**SMALL, seed=st.integers(0, 10**9))
@settings(max_examples=400, deadline=None)
def test_mutated_schedules_are_accepted_exactly_when_brute_force_finds_them_legal(
    name: str, num_ranks: int, num_microbatches: int, seed: int
) -> None:
    schedule = small_schedule(name, num_ranks, num_microbatches)
    if schedule is None:
        return
    draw = random.Random(seed)
    orders = [list(order) for order in schedule.orders]
    for _ in range(draw.randint(1, 3)):
        mutate(orders, schedule, draw)
    mutant = reordered(schedule, orders)
    assert accepts(mutant) == is_legal(mutant)
    if is_legal(mutant):
        assert step_seconds(check(mutant), unit_prices(mutant.num_stages)) > 0, "what is accepted ends in the simulator"


def mutate(orders: list[list[Op]], schedule: Schedule, draw: random.Random) -> None:
    order = draw.choice([order for order in orders if order] or [[]])
    if not order:
        return
    at = draw.randrange(len(order))
    change = draw.choice(
        ["swap", "neighbours", "move", "drop", "twice", "kind", "stage", "microbatch", "rank", "split"]
    )
    op = order[at]
    if change == "swap":
        other = draw.randrange(len(order))
        order[at], order[other] = order[other], order[at]
    elif change == "neighbours" and at + 1 < len(order):
        order[at], order[at + 1] = order[at + 1], order[at]
    elif change == "move":
        order.insert(draw.randrange(len(order)), order.pop(at))
    elif change == "drop":
        order.pop(at)
    elif change == "twice":
        order.insert(draw.randrange(len(order) + 1), op)
    elif change == "kind":
        order[at] = op._replace(kind=draw.choice(["F", "B", "I", "W", "X"]))
    elif change == "stage":
        order[at] = op._replace(stage=draw.randint(-1, schedule.num_stages))
    elif change == "microbatch":
        order[at] = op._replace(microbatch=draw.randint(-1, schedule.num_microbatches))
    elif change == "rank":
        draw.choice(orders).append(order.pop(at))
    elif change == "split" and op.kind == "B":
        order[at : at + 1] = [op._replace(kind="I"), op._replace(kind="W")]


@given(num_ranks=st.integers(1, 3), num_microbatches=st.integers(1, 2), seed=st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_random_orders_are_accepted_exactly_when_legal(num_ranks: int, num_microbatches: int, seed: int) -> None:
    draw = random.Random(seed)
    orders = [list(order) for order in make_schedule("1f1b", num_ranks, num_microbatches).orders]
    for order in orders:
        draw.shuffle(order)
    schedule = Schedule("random", num_ranks, num_microbatches, tuple(range(num_ranks)), tuple(map(tuple, orders)))
    assert accepts(schedule) == is_legal(schedule)


def two_ranks(first: str, second: str, placement: tuple[int, ...] = (0, 1), num_microbatches: int = 2) -> Schedule:
    """Orders written as ``F00 F01 …``: kind, stage, micro-batch."""
    orders = tuple(tuple(Op(t[0], int(t[1]), int(t[2])) for t in text.split()) for text in (first, second))
    return Schedule("mine", len(placement), num_microbatches, placement, orders)


GOOD = "F10 B10 F11 B11"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("F00 F01 B00", GOOD, r"every op once\): I\(stage 0, micro-batch 1\) is missing on rank 0"),
        (
            "F00 F01 B00 B01 F00",
            GOOD,
            r"every op once\): F\(stage 0, micro-batch 0\) on rank 0 is there more than once",
        ),
        ("F00 F01 B00 B01 W01", GOOD, "is a full backward beside an I or W"),
        ("F00 F01 B00 B01 X00", GOOD, r"known ops\): X\(stage 0, micro-batch 0\) on rank 0 is not one of F, B, I, W"),
        ("F00 F01 B00 B02", GOOD, "is not one of F, B, I, W of 2 stages and 2 micro-batches"),
        ("F00 F01 B00 B11", GOOD, r"placement\): B\(stage 1, micro-batch 1\) on rank 0 is not on the rank"),
        ("F00 B01 F01 B00", GOOD, r"dependencies\): rank 0 runs B\(stage 0, micro-batch 1\) before F\(stage 0"),
        ("F01 F00 B00 B01", GOOD, r"same order at both ends\): rank 1 takes F\(stage 1, micro-batch 0\) where rank 0"),
        ("F00 B00 F01 B01", "F10 F11 B10 B11", r"no deadlock\): rank \d waits at .* which rank \d can only run later"),
    ],
)
def test_a_refusal_names_op_rank_and_rule(first: str, second: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check(two_ranks(first, second))


def test_two_stages_of_one_rank_in_a_circle_are_refused() -> None:
    """Both ranks would send and neither receive: a receive that comes before its send in the order of two chunks."""
    first = "F20 F00 B20 B00"
    with pytest.raises(RequestError, match="no deadlock"):
        check(two_ranks(first, "F10 F30 B30 B10", placement=(0, 1, 0, 1), num_microbatches=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_stages": 0}, "counts"),
        ({"num_microbatches": 0}, "counts"),
        ({"placement": (0, 2)}, "placement"),
        ({"placement": (0,)}, "placement"),
        ({"placement": (0, 0)}, "rank 1 holds no stage"),
        ({"copy_of": (0, 1)}, "copy_of"),
    ],
)
def test_unsound_counts_are_refused(change: dict[str, object], words: str) -> None:
    good = make_schedule("1f1b", 2, 2)
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    with pytest.raises(RequestError, match=words):
        check(Schedule(**{**fields, **change}))


@given(num_ranks=st.integers(1, 8), num_microbatches=st.integers(1, 20))
@settings(deadline=None)
def test_peaks_in_flight_are_the_closed_forms(num_ranks: int, num_microbatches: int) -> None:
    m, p = num_microbatches, num_ranks
    assert check(make_schedule("gpipe", p, m)).peak_in_flight == (m,) * p
    one = check(make_schedule("1f1b", p, m))
    assert one.peak_in_flight == one.stage_peak_in_flight == tuple(min(m, p - i) for i in range(p))


def test_gradients_added_out_of_order_are_reported() -> None:
    descending = two_ranks("F00 F01 B01 B00", "F10 F11 B11 B10")
    assert check(descending).unordered_stages == (0, 1)
    assert not check(descending).ascending
    assert check(make_schedule("1f1b", 3, 5)).ascending
    assert check(make_schedule("gpipe", 3, 5)).ascending


@pytest.mark.parametrize(("asked", "words"), [("1f1", "did you mean '1f1b'"), ("qqqq", "choose one of")])
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_schedule(asked, 2, 2)


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (-1, 4)])
def test_counts_below_one_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="at least 1"):
        make_schedule("1f1b", *counts)


def test_chunks_that_a_family_lacks_are_refused() -> None:
    with pytest.raises(RequestError, match="has 1 chunk"):
        make_schedule("gpipe", 2, 4, chunks=2)


@given(
    st.sampled_from([name for name, family in FAMILIES.items() if family.priced]),
    st.integers(1, 5),
    st.integers(1, 9),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_families_that_place_by_prices_are_legal_whatever_their_stages_cost(name, p, m, data):
    num_stages = make_schedule(name, p, m).num_stages

    def values(least=0.0):
        numbers = st.floats(least, 100.0, allow_subnormal=False)
        return tuple(data.draw(st.lists(numbers, min_size=num_stages, max_size=num_stages)))

    saved = values()
    kept = tuple(whole * data.draw(st.floats(0.0, 1.0)) for whole in saved)
    prices = Prices(values(0.1), values(0.1), values(), values()[1:], saved, kept)
    check(make_schedule(name, p, m, prices=prices))
