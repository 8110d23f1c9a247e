"""Prices for tests, and the simulator once more, by the definition."""

import random

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.schedule import Op, Schedule
from headrace.simulate import Simulation

FREE = LinkCosts(0.0, 1e30)


def even(num_stages: int, f_s: float = 1.0, i_s: float = 1.0, w_s: float = 1.0) -> StageCosts:
    n = num_stages
    return StageCosts((f_s,) * n, (i_s,) * n, (w_s,) * n, (100,) * n, (10,) * n, (4,) * n, (8,) * n)


def uneven(num_stages: int, seed: int) -> StageCosts:
    draw = random.Random(seed)

    def times() -> tuple[float, ...]:
        return tuple(draw.choice([0.0, 0.5, 1.0, draw.random() * 3]) for _ in range(num_stages))

    def sizes(most: int) -> tuple[int, ...]:
        return tuple(draw.randint(0, most) for _ in range(num_stages))

    saved = sizes(50)
    return StageCosts(times(), times(), times(), sizes(99), saved, tuple(draw.randint(0, n) for n in saved), sizes(20))


def ends_by_definition(schedule: Schedule, costs: StageCosts, link: LinkCosts) -> dict[Op, float]:
    """Raises all end times until nothing moves any more."""
    price = {"F": costs.f_s, "I": costs.i_s, "W": costs.w_s}
    price["B"] = tuple(i + w for i, w in zip(costs.i_s, costs.w_s, strict=True))
    ends = {op: 0.0 for order in schedule.orders for op in order}
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(schedule.orders):
            free = 0.0
            for op in order:
                start = max(free, arrival(schedule, costs, link, ends, rank, op))
                free = start + price[op.kind][op.stage]
                if free > ends[op]:
                    ends[op], moved = free, True
    return ends


def arrival(schedule: Schedule, costs: StageCosts, link: LinkCosts, ends: dict[Op, float], rank: int, op: Op) -> float:
    source = {"F": op.stage - 1, "B": op.stage + 1, "I": op.stage + 1, "W": -1}[op.kind]
    if not 0 <= source < schedule.num_stages:
        return 0.0
    kinds = "F" if op.kind == "F" else "BI"
    end = max(ends.get(Op(kind, source, op.microbatch), 0.0) for kind in kinds)
    if schedule.rank_of(source, op.microbatch) == rank:
        return end
    return end + link.latency_s + costs.output_bytes[min(source, op.stage)] / link.bytes_per_s


def rank_span_s(simulation: Simulation) -> float:
    """The longest time between a rank's own first and last op: ``cost`` in the Zero Bubble paper."""
    spans = simulation.timeline.spans
    ranks = range(simulation.schedule.num_ranks)
    return max(
        max(span.end_s for span in spans if span.rank == rank) - min(s.start_s for s in spans if s.rank == rank)
        for rank in ranks
    )
