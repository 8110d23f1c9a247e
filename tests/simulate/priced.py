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


def rank_span_in_pairs_s(schedule: Schedule, seconds: dict[str, float]) -> float:
    """The same, when an ``F`` with a ``B`` right behind it is one block, whose results come out at its end."""
    blocks = [in_pairs(order) for order in schedule.orders]
    ends: dict[Op, float] = {}
    spans: list[float] = []
    moved = True
    while moved:
        moved, spans = False, []
        for row in blocks:
            starts, free = [], 0.0
            for block in row:
                sources = (op._replace(stage=op.stage + {"F": -1, "W": 0}.get(op.kind, 1)) for op in block)
                arrivals = [ends.get(source._replace(kind=kind), 0.0) for source in sources
                            for kind in {"F": "F", "W": ""}.get(source.kind, "BI")]  # fmt: skip
                starts.append(max(free, *arrivals) if arrivals else free)
                free = starts[-1] + sum(seconds[op.kind] for op in block)
                moved = moved or any(ends.get(op) != free for op in block)
                ends.update(dict.fromkeys(block, free))
            spans.append(free - starts[0])
    return max(spans)


def in_pairs(order: tuple[Op, ...]) -> list[tuple[Op, ...]]:
    blocks: list[tuple[Op, ...]] = []
    for op in order:
        if op.kind == "B" and blocks and blocks[-1][-1].kind == "F":
            blocks[-1] = (*blocks[-1], op)
        else:
            blocks.append((op,))
    return blocks
