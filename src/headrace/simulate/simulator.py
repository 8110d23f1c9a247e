"""The simulator: when each op of a schedule runs, and what that takes of memory and links."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from headrace.costs.costs import LinkCosts, StageCosts
from headrace.errors import RequestError
from headrace.schedule.checker import Checked, check
from headrace.schedule.prices import Prices, price
from headrace.schedule.schedule import Schedule
from headrace.simulate.contention import Contention
from headrace.simulate.memory import peak_activation_bytes
from headrace.simulate.seconds import op_seconds, transfer_seconds
from headrace.simulate.timeline import Span, Timeline
from headrace.simulate.traffic import OVERLAPPING, Traffic, count_messages


@dataclass(frozen=True)
class Simulation:
    """What one step of a schedule takes under given prices.

    Attributes:
        checked: The schedule and its peaks.
        starts_s, ends_s: Per op, in the order of ``schedule.table``; the first op starts at 0.
        peak_activation_bytes: Per rank.
        messages: Messages between two ranks in one step.
        message_bytes: Their bytes.
    """

    checked: Checked = field(repr=False)
    starts_s: list[float] = field(repr=False)
    ends_s: list[float] = field(repr=False)
    peak_activation_bytes: tuple[int, ...]
    messages: int
    message_bytes: int

    @property
    def schedule(self) -> Schedule:
        """The schedule that was simulated."""
        return self.checked.schedule

    @property
    def step_s(self) -> float:
        """Seconds from the first op to the end of the last."""
        return max(self.ends_s)

    @property
    def rank_starts_s(self) -> tuple[float, ...]:
        """When each rank's first op starts."""
        return tuple(self.starts_s[first] for first in self.schedule.table.first[:-1])

    @property
    def rank_ends_s(self) -> tuple[float, ...]:
        """When each rank's last op ends."""
        return tuple(self.ends_s[end - 1] for end in self.schedule.table.first[1:])

    @property
    def span_s(self) -> float:
        """The longest time between a rank's own first and last op: a step, when ranks need not start together."""
        return max(end - start for start, end in zip(self.rank_starts_s, self.rank_ends_s, strict=True))

    @property
    def bubble_rate(self) -> float:
        """Share of ``span_s`` in which ranks do not compute, as the Zero Bubble paper defines it (2401.10241)."""
        span_s = self.span_s
        return 1.0 - self.busy_s / (self.schedule.num_ranks * span_s) if span_s > 0 else 0.0

    @property
    def busy_s(self) -> float:
        """Seconds in which ranks compute, of all ranks together."""
        return sum(self.ends_s) - sum(self.starts_s)

    @property
    def idle_share(self) -> float:
        """Share of all ranks' time in which they do not compute, 0 to 1."""
        step_s = self.step_s
        return 1.0 - self.busy_s / (self.schedule.num_ranks * step_s) if step_s > 0 else 0.0

    @cached_property
    def timeline(self) -> Timeline:
        """The spans of all ops."""
        ops = (op for order in self.schedule.orders for op in order)
        rows = zip(self.schedule.table.rank.tolist(), ops, self.starts_s, self.ends_s, strict=True)
        return Timeline(self.schedule.num_ranks, tuple(map(Span._make, rows)), 0.0, self.step_s)


def simulate(
    schedule: Schedule | Checked,
    costs: StageCosts,
    link: LinkCosts | Sequence[LinkCosts],
    traffic: Traffic = OVERLAPPING,
) -> Simulation:
    """Prices a schedule: each rank runs its ops strictly in order, each as soon as it can.

    A message leaves when its op ends and is there ``link.message_s(bytes)`` later. Ranks go on computing meanwhile, and
    messages do not delay each other unless ``traffic`` says so. Linear in the number of ops.

    Args:
        schedule: A schedule, which is checked first, or one that has been.
        costs: One price for each stage.
        link: Of all neighbouring stages, or one for each pair ``(stage, stage + 1)``.
        traffic: How messages share links and ranks.

    Raises:
        RequestError: When the checker refuses, the counts differ, or a price is negative or not a number.
    """
    checked = schedule if isinstance(schedule, Checked) else check(schedule)
    table = checked.schedule.table
    if costs.num_stages != checked.schedule.num_stages:
        raise RequestError(
            f"schedule '{checked.schedule.name}' has {checked.schedule.num_stages} stages, "
            f"but {costs.num_stages} are priced; give one price for each stage"
        )
    prices = price(costs, link)
    durations_s, transfers_s = op_seconds(table, prices), transfer_seconds(table, prices)
    if traffic == OVERLAPPING:
        starts_s, ends_s = _times(checked, durations_s, transfers_s)
    else:
        starts_s, ends_s = Contention(checked, durations_s, transfers_s, traffic).times()
    messages, message_bytes = count_messages(checked, costs)
    return Simulation(
        checked, starts_s, ends_s, peak_activation_bytes(checked.schedule, costs), messages, message_bytes
    )


def step_seconds(checked: Checked, prices: Prices) -> float:
    """Seconds of a step, and nothing else: what a search asks for."""
    table = checked.schedule.table
    return max(_times(checked, op_seconds(table, prices), transfer_seconds(table, prices))[1])


def _times(checked: Checked, durations_s: list[float], transfers_s: list[float]) -> tuple[list[float], list[float]]:
    """Start and end of each op. ``transfers_s`` is the time that each op's input takes on its way."""
    owner: list[int] = checked.schedule.table.rank.tolist()
    needs = checked.sweep.needs
    free_s = [0.0] * checked.schedule.num_ranks
    starts_s, ends_s = [0.0] * len(owner), [0.0] * len(owner)
    for i in checked.sweep.order:
        rank = owner[i]
        start_s = free_s[rank]
        source = needs[i]
        if source >= 0:
            start_s = max(start_s, ends_s[source] + transfers_s[i])
        starts_s[i] = start_s
        free_s[rank] = ends_s[i] = start_s + durations_s[i]
    return starts_s, ends_s
