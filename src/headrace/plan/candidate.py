"""A candidate: one full set of choices, cut, simulated and priced."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from headrace.chain.chain import Chain
from headrace.cluster.cluster import Cluster, Device
from headrace.costs.costs import Costs, LinkCosts, StageCosts, recomputed, slowed, stage_costs
from headrace.plan.asynchronous import copies_bytes, with_updates
from headrace.plan.memory import state_bytes, version_bytes
from headrace.plan.orders import open_schedule, priced_schedule, runnable_families
from headrace.plan.partition import bounds_from_cuts, partition
from headrace.plan.plan import Layout, Plan, Prediction
from headrace.schedule.checker import Checked, check
from headrace.schedule.files import schedule_to_json
from headrace.schedule.prices import price
from headrace.schedule.schedule import Schedule
from headrace.simulate.auto import auto
from headrace.simulate.simulator import Simulation, simulate


@dataclass(frozen=True)
class Job:
    """What is to be planned.

    Attributes:
        chain: The model.
        costs_of: Prices on the cluster's first device, by rows of a micro-batch.
        cluster: Its first ``pp`` devices are the ranks, in order.
        batch_rows: Rows of one step.
        sequence_length: Tokens of a row.
        post_validation: Whether ranks begin the next step before the norm of this one is known.
    """

    chain: Chain
    costs_of: Callable[[int], Costs] = field(repr=False)
    cluster: Cluster
    batch_rows: int
    sequence_length: int
    post_validation: bool = False


@dataclass(frozen=True)
class Candidate:
    """A priced set of choices.

    Attributes:
        plan: The choices and their prediction.
        prediction: The same as ``plan.prediction``.
        simulation: One step of the pipeline, without the optimizer.
        devices: Of the stages.
    """

    plan: Plan
    prediction: Prediction
    simulation: Simulation = field(repr=False)
    devices: tuple[Device, ...] = field(repr=False)

    def memory_share(self, rank: int) -> float:
        """Memory of a rank as a share of what its device has."""
        return self.prediction.memory_bytes(rank) / self.devices[rank].memory_bytes

    @property
    def heaviest_rank(self) -> int:
        """The rank whose memory is fullest."""
        return max(range(len(self.devices)), key=self.memory_share)

    @property
    def fits(self) -> bool:
        """Whether every rank has the memory that it needs."""
        return self.memory_share(self.heaviest_rank) <= 1.0


def make_candidate(
    job: Job,
    num_ranks: int,
    schedule: str,
    microbatches: int,
    recompute: str,
    cuts: tuple[int, ...] | None = None,
    chunks: int = 1,
) -> Candidate:
    """Prices one set of choices, cut as ``cuts`` say or else as well as memory allows.

    Every micro-batch is priced as if it had the rows of the first, so uneven ones come out a little slow.

    Raises:
        RequestError: The schedule does not exist or cannot have these numbers, or the cuts do not add up.
    """
    costs = job.costs_of(-(-job.batch_rows // microbatches))
    prices = _Prices.of(slowed(costs, job.cluster.ranks_per_core(num_ranks)), recompute)
    if schedule != "auto":
        made = open_schedule(schedule, num_ranks, microbatches, chunks)
        return _named(_cut_and_price(job, prices, made, recompute, cuts), schedule)
    start = _cut_and_price(job, prices, open_schedule("1f1b", num_ranks, microbatches, 1), recompute, cuts)
    options = _search(job, prices, start, cuts)
    tried = [start, *(_cut_and_price(job, prices, made, recompute, cuts) for made in options)]
    return _named(min(tried, key=lambda one: (not one.fits, one.prediction.step_s)), "auto")


def _named(candidate: Candidate, schedule: str) -> Candidate:
    """Under the name that was asked for: a search's or a file's, not that of the order which came of it."""
    return replace(candidate, plan=replace(candidate.plan, schedule=schedule))


def _search(job: Job, prices: "_Prices", start: Candidate, cuts: tuple[int, ...] | None) -> list[Schedule]:
    """Orders worth a try: the search's own under the prices of ``start``, and every family that can be cut so."""
    layout, got = start.plan.layout, start.prediction
    speeds = [device.flops_per_s / start.devices[0].flops_per_s for device in start.devices]
    rank_prices = price(stage_costs(prices.costs, layout.bounds, speeds), prices.costs.link)
    free_bytes = [
        device.memory_bytes - got.memory_bytes(rank) + got.activation_bytes[rank]
        for rank, device in enumerate(start.devices)
    ]
    most = len(cuts) if cuts else job.chain.num_transformer_layers
    made = runnable_families(layout.pp, start.plan.microbatches)
    if all(free >= saved for free, saved in zip(free_bytes, rank_prices.saved, strict=True)):
        made = [auto(start.plan.microbatches, rank_prices, free_bytes, max_copies=1).schedule, *made]
    return [one for one in made if (one.num_stages == most if cuts else one.num_stages <= most)]


def _cut_and_price(
    job: Job, prices: "_Prices", schedule: Schedule, recompute: str, cuts: tuple[int, ...] | None
) -> Candidate:
    checked, microbatches = check(schedule), schedule.num_microbatches
    devices, placement = job.cluster.devices[: schedule.num_ranks], schedule.placement
    speeds = [devices[rank].flops_per_s / devices[0].flops_per_s for rank in placement]
    cut = [bounds_from_cuts(job.chain, cuts)] if cuts else _cuts(job, prices, checked, speeds, devices)
    priced = {bounds: _priced(job.chain, prices.costs, bounds, speeds, schedule) for bounds in cut}
    simulated = {bounds: _simulate(checked, stages, prices.costs.link) for bounds, stages in priced.items()}
    bounds = min(simulated, key=lambda bounds: simulated[bounds].step_s)
    simulation = simulated[bounds]
    prediction = _predict(job, prices, bounds, speeds, priced[bounds], simulation)
    layout = Layout(1, schedule.num_ranks, 1, schedule.num_stages // schedule.num_ranks, bounds, placement)
    plan = Plan(
        layout,
        schedule.name,
        microbatches,
        -(-job.batch_rows // microbatches),
        recompute,
        prediction,
        costs_source=prices.costs.source,
        orders=tuple(map(tuple, schedule_to_json(simulation.schedule)["orders"])),
        post_validation=job.post_validation,
        update_every=schedule.update_every,
        delayed_update=schedule.delayed_update,
    )
    return Candidate(plan, prediction, simulation, devices)


def _simulate(checked: Checked, stages: StageCosts, link: LinkCosts) -> Simulation:
    """Of a family that places its ops by prices the better of two orders: at equal prices, and at these."""
    equal = simulate(checked, stages, link)
    by_price = priced_schedule(checked.schedule, lambda: price(stages, link))
    return equal if by_price is None else min(equal, simulate(by_price, stages, link), key=lambda made: made.step_s)


@dataclass(frozen=True)
class _Prices:
    """Prices under a recompute mode, and the bytes of each layer that come back while its backward runs."""

    costs: Costs
    working_bytes: tuple[int, ...]

    @classmethod
    def of(cls, costs: Costs, recompute: str) -> "_Prices":
        if recompute == "none":
            return cls(costs, (0,) * len(costs.layers))
        inner = tuple(layer.saved_bytes for layer in costs.layers[1:-1])
        return cls(recomputed(costs), (0, *inner, 0))


def _cuts(
    job: Job, prices: _Prices, checked: Checked, speeds: list[float], devices: tuple[Device, ...]
) -> list[tuple[int, ...]]:
    """The best cut within memory, or without that limit where there is none, which then does not fit.

    Where several are equally good the two extremes: which of them fills the pipeline faster, only a simulation tells.
    """
    chain, costs, placement = job.chain, prices.costs, checked.schedule.placement

    def fits(stage: int, first: int, end: int) -> bool:
        """Of several stages on a rank each may fill its share of the memory."""
        limit_bytes = devices[placement[stage]].memory_bytes / placement.count(placement[stage])
        saved_bytes = sum(layer.saved_bytes for layer in costs.layers[first:end])
        activation_bytes = checked.stage_peak_in_flight[stage] * saved_bytes + max(prices.working_bytes[first:end])
        copy_bytes = version_bytes(chain, range(first, end), checked.weight_versions[stage].held)
        return (
            sum(state_bytes(chain, range(first, end), job.post_validation)) + copy_bytes + activation_bytes
            <= limit_bytes
        )

    def cut(light: Literal["front", "back"]) -> tuple[int, ...]:
        limits = (len(placement), speeds, costs.stage_f_s + costs.stage_i_s)
        bounds = partition(layer_s, *limits, fits, light) or partition(layer_s, *limits, None, light)
        assert bounds, "a cut without limits always exists"
        return bounds

    layer_s = [layer.f_s + layer.i_s + layer.w_s for layer in costs.layers]
    return [cut("front"), cut("back")]


def _priced(chain: Chain, costs: Costs, bounds: tuple[int, ...], speeds: list[float], schedule: Schedule) -> StageCosts:
    stages = stage_costs(costs, bounds, speeds)
    return with_updates(stages, chain, bounds, speeds, schedule, costs.optimizer_s_per_byte)


def _predict(
    job: Job,
    prices: _Prices,
    bounds: tuple[int, ...],
    speeds: list[float],
    stages: StageCosts,
    simulation: Simulation,
) -> Prediction:
    schedule = simulation.schedule
    held = [
        [layer for stage in schedule.stages_of(rank) for layer in range(bounds[stage], bounds[stage + 1])]
        for rank in range(schedule.num_ranks)
    ]
    states = [state_bytes(job.chain, layers, job.post_validation) for layers in held]
    rank_speeds = [speeds[schedule.placement.index(rank)] for rank in range(schedule.num_ranks)]
    stepped_bytes = [min(state.parameter_bytes, state.gradient_bytes) for state in states]
    slowest = max(num_bytes / speed for num_bytes, speed in zip(stepped_bytes, rank_speeds, strict=True))
    # Ends that are tied across two ranks wait for each other's gradients, and with them the whole pipeline.
    together = not job.post_validation or (bool(job.chain.tied) and schedule.placement[0] != schedule.placement[-1])
    pipe_s = simulation.step_s if together else simulation.span_s
    optimizer_s = 0.0 if schedule.update_every else prices.costs.optimizer_s_per_byte * slowest
    step_s = pipe_s + optimizer_s
    copies = [copies_bytes(job.chain, bounds, simulation.checked, rank) for rank in range(schedule.num_ranks)]
    working_bytes = [max(prices.working_bytes[layer] for layer in layers) for layers in held]
    activations = zip(simulation.peak_activation_bytes, working_bytes, strict=True)
    return Prediction(
        step_s=step_s,
        idle_share=max(
            0.0, simulation.idle_share if together else simulation.bubble_rate
        ),  # Rounding may leave it just below.
        tokens_per_s=job.batch_rows * job.sequence_length / step_s,
        parameter_bytes=tuple(state.parameter_bytes + extra for state, extra in zip(states, copies, strict=True)),
        gradient_bytes=tuple(state.gradient_bytes for state in states),
        optimizer_bytes=tuple(state.optimizer_bytes for state in states),
        activation_bytes=tuple(peak + working for peak, working in activations),
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
        stage_f_s=stages.f_s,
        stage_b_s=tuple(i_s + w_s for i_s, w_s in zip(stages.i_s, stages.w_s, strict=True)),
        in_flight=simulation.checked.stage_peak_in_flight,
    )
