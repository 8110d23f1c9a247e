import random

import pytest
from priced import FREE, StageCosts

from headrace.errors import RequestError
from headrace.schedule import check, check_memory
from headrace.schedule.prices import Prices, spread
from headrace.simulate import lower_bound_s, simulate
from headrace.simulate.auto import Found, auto, families_within
from headrace.simulate.simulator import step_seconds

RATIOS = ((1, 1, 1), (1, 2, 1), (2, 1, 1), (18.522, 18.086, 9.337))


def rank_prices(p: int, ratio: tuple[float, float, float], latency: float, heavy_rank: int, times: float) -> Prices:
    def seconds(value: float) -> tuple[float, ...]:
        return tuple(value * (times if rank == heavy_rank else 1) for rank in range(p))

    f, i, w = ratio
    return Prices(seconds(f), seconds(i), seconds(w), (latency * f,) * (p - 1), (1.0,) * p, (1.0,) * p)


def random_points(count: int) -> list[tuple[int, Prices, tuple[float, ...]]]:
    draw = random.Random(5)
    points = []
    for _ in range(count):
        p = draw.choice([2, 3, 4, 6, 8])
        latency, times = draw.choice([0.0, 0.1, 0.3]), draw.choice([1, 1.5, 3])
        prices = rank_prices(p, draw.choice(RATIOS), latency, draw.randrange(p), times)
        points.append((draw.choice([1, 2, 4, 7, 16]), prices, (max(1.0, p * draw.choice([0.5, 1, 1.5, 2])),) * p))
    return points


def fastest_family_s(m: int, prices: Prices, limits: tuple[float, ...]) -> float:
    families = families_within(m, prices, limits)
    return min((one.step_s for one in families), default=float("inf"))


@pytest.mark.parametrize("copies", [1, 2])
def test_auto_is_never_slower_than_a_family_and_often_faster(copies: int) -> None:
    faster = 0
    points = random_points(12)
    for m, prices, limits in points:
        found = auto(m, prices, limits, copies)
        best_s = fastest_family_s(m, prices, limits) if copies == 2 else float("inf")
        assert_holds(found, prices, limits, copies)
        assert found.step_s <= best_s * (1 + 1e-9)
        faster += found.step_s < best_s * (1 - 1e-6)
    assert faster >= len(points) / 3


def assert_holds(found: Found, prices: Prices, limits: tuple[float, ...], copies: int) -> None:
    """What the search says of its order is what checker, simulator and memory say."""
    schedule, stages = found.schedule, found.prices
    assert stages == spread(prices, schedule.placement)
    assert found.step_s == pytest.approx(step_seconds(check(schedule), stages))
    check_memory(schedule, stages.saved, stages.kept, limits)
    assert len(schedule.placements) <= copies
    assert lower_bound_s(schedule, stages, limits) <= found.step_s * (1 + 1e-9)


def test_it_finds_the_bound_where_the_papers_do() -> None:
    """Twice the memory of 1F1B, no latency: only the last rank's wait for its first micro-batch is left."""
    found = auto(16, rank_prices(4, (1, 1, 1), 0.0, 0, 1), (8.0,) * 4, max_copies=1)
    assert found.step_s == 3 / 2 + 16 * 3


def test_the_result_is_the_same_every_time() -> None:
    point = (8, rank_prices(4, (1, 2, 1), 0.3, 2, 1.5), (3.0,) * 4)
    assert auto(*point) == auto(*point)


def test_its_step_is_the_simulators() -> None:
    found = auto(6, rank_prices(3, (1, 2, 1), 0.0, 1, 2.0), (3.0,) * 3, max_copies=1)
    p = found.prices
    n = (0,) * p.num_stages
    costs = StageCosts(p.f_s, p.i_s, p.w_s, n, n, n, n)
    assert simulate(found.schedule, costs, FREE).step_s == pytest.approx(found.step_s)


def test_a_limit_below_one_micro_batch_is_answered_with_the_least() -> None:
    with pytest.raises(RequestError, match=r"no order fits rank 1: it may hold 0.9 .* at least one micro-batch, 1,"):
        auto(4, rank_prices(2, (1, 1, 1), 0.0, 0, 1), (1.0, 0.9))
    with pytest.raises(RequestError, match="2 ranks have 1 memory limits"):
        auto(4, rank_prices(2, (1, 1, 1), 0.0, 0, 1), (1.0,))
    with pytest.raises(RequestError, match="may hold nan"):
        auto(4, rank_prices(1, (1, 1, 1), 0.0, 0, 1), (float("nan"),))
