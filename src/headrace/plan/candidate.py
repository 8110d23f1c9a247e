"""A candidate: one full set of choices, cut, simulated and priced."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Literal

from headrace.chain.chain import Chain, RecomputeMode
from headrace.cluster.cluster import Cluster, Device
from headrace.costs.costs import Costs, StageCosts, loss_in_chunks, recomputed, slowed, stage_costs
from headrace.plan.asynchronous import copies_bytes, with_updates
from headrace.plan.memory import StateBytes, state_bytes, version_bytes
from headrace.plan.offload import bytes_on_device, on_device
from headrace.plan.orders import open_schedule, priced_schedule, runnable_families
from headrace.plan.partition import bounds_from_cuts, partition
from headrace.plan.plan import Layout, Plan, Prediction
from headrace.plan.recompute import Recomputation, choose_modes
from headrace.schedule.checker import Checked, check
from headrace.schedule.files import schedule_to_json
from headrace.schedule.memory import Level, stage_levels
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
        offload: Whether activations wait in the host's memory.
    """

    chain: Chain
    costs_of: Callable[[int], Costs] = field(repr=False)
    cluster: Cluster
    batch_rows: int
    sequence_length: int
    post_validation: bool = False
    offload: bool = False


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
    recompute: RecomputeMode | None,
    cuts: tuple[int, ...] | None = None,
    chunks: int = 1,
    loss_chunks: int = 1,
) -> Candidate:
    """Prices one set of choices, cut as ``cuts`` say or else as well as memory allows.

    Every micro-batch is priced as if it had the rows of the first, so uneven ones come out a little slow.

    Args:
        job: What is to be planned.
        num_ranks: Ranks of the pipeline.
        schedule: Name of a family or a file, or ``auto``.
        microbatches: Micro-batches of a step.
        recompute: Mode of all transformer layers; None: each layer's as memory asks for it.
        cuts: Transformer layers of each stage.
        chunks: Stages on each rank.
        loss_chunks: Chunks of tokens in which a micro-batch's loss is computed.

    Raises:
        RequestError: The schedule does not exist or cannot have these numbers, or the cuts do not add up.
    """
    costs = slowed(job.costs_of(-(-job.batch_rows // microbatches)), job.cluster.ranks_per_core(num_ranks))
    costs = loss_in_chunks(costs, loss_chunks)
    prices = _Prices(costs, Recomputation(costs, recompute), loss_chunks)
    if schedule != "auto":
        made = open_schedule(schedule, num_ranks, microbatches, chunks)
        return _named(_cut_and_price(job, prices, made, cuts), schedule)
    start = _cut_and_price(job, prices, open_schedule("1f1b", num_ranks, microbatches, 1), cuts)
    options = _search(job, prices, start, cuts)
    tried = [start, *(_cut_and_price(job, prices, made, cuts) for made in options)]
    return _named(min(tried, key=_rank), "auto")


def _rank(candidate: Candidate) -> tuple[bool, float]:
    """Smaller is better: those that fit, then the fastest."""
    return not candidate.fits, candidate.prediction.step_s


def _named(candidate: Candidate, schedule: str) -> Candidate:
    """Under the name that was asked for: a search's or a file's, not that of the order which came of it."""
    return replace(candidate, plan=replace(candidate.plan, schedule=schedule))


@dataclass(frozen=True)
class _Prices:
    """Prices without recomputation, with a loss in so many chunks, and what of recomputation may be chosen."""

    costs: Costs
    recomputation: Recomputation
    loss_chunks: int


def _search(job: Job, prices: _Prices, start: Candidate, cuts: tuple[int, ...] | None) -> list[Schedule]:
    """Orders worth a try: the search's own under the prices of ``start``, and every family that can be cut so."""
    layout, got = start.plan.layout, start.prediction
    speeds = [device.flops_per_s / start.devices[0].flops_per_s for device in start.devices]
    stages = stage_costs(recomputed(prices.costs, start.plan.recompute), layout.bounds, speeds)
    rank_prices = price(stages, prices.costs.link)
    free_bytes = [
        device.memory_bytes - got.memory_bytes(rank) + got.activation_bytes[rank] - stages.working_bytes[rank]
        for rank, device in enumerate(start.devices)
    ]
    most = len(cuts) if cuts else job.chain.num_transformer_layers
    made = runnable_families(layout.pp, start.plan.microbatches)
    if all(free >= saved for free, saved in zip(free_bytes, rank_prices.saved, strict=True)):
        made = [auto(start.plan.microbatches, rank_prices, free_bytes, max_copies=1).schedule, *made]
    return [one for one in made if (one.num_stages == most if cuts else one.num_stages <= most)]


def _cut_and_price(job: Job, prices: _Prices, schedule: Schedule, cuts: tuple[int, ...] | None) -> Candidate:
    checked, levels = check(schedule), _levels(job, schedule)
    devices, placement = job.cluster.devices[: schedule.num_ranks], schedule.placement
    speeds = [devices[rank].flops_per_s / devices[0].flops_per_s for rank in placement]
    cut = [bounds_from_cuts(job.chain, cuts)] if cuts else _cuts(job, prices, checked, levels, speeds, devices)
    tried = [_priced(job, prices, checked, levels, bounds, speeds) for bounds in dict.fromkeys(cut)]
    # Of a family that places its ops by prices the better of two orders: at equal prices, and at these.
    for one in tuple(tried):
        stages = _stages(job, prices, one.plan.recompute, one.plan.layout.bounds, speeds, schedule)
        by_price = priced_schedule(schedule, partial(price, stages, prices.costs.link))
        if by_price is not None:
            bounds, levels = one.plan.layout.bounds, _levels(job, by_price)
            tried.append(_priced(job, prices, check(by_price), levels, bounds, speeds))
    return min(tried, key=_rank)


def _levels(job: Job, schedule: Schedule) -> list[list[Level]]:
    """What a device holds of each stage; with offload the host holds the rest."""
    levels = stage_levels(schedule)
    return [on_device(stage) for stage in levels] if job.offload else levels


def _priced(
    job: Job,
    prices: _Prices,
    checked: Checked,
    levels: list[list[Level]],
    bounds: tuple[int, ...],
    speeds: list[float],
) -> Candidate:
    """One cut and one order, with what memory asks to be computed again."""
    schedule, microbatches = checked.schedule, checked.schedule.num_microbatches
    devices = job.cluster.devices[: schedule.num_ranks]
    held = [
        [layer for stage in schedule.stages_of(rank) for layer in range(bounds[stage], bounds[stage + 1])]
        for rank in range(schedule.num_ranks)
    ]
    plain_states = [state_bytes(job.chain, layers, job.post_validation) for layers in held]
    states = [
        state._replace(parameter_bytes=state.parameter_bytes + copies_bytes(job.chain, bounds, checked, rank))
        for rank, state in enumerate(plain_states)
    ]
    free_bytes = [device.memory_bytes - sum(state) for device, state in zip(devices, states, strict=True)]
    modes = choose_modes(prices.recomputation, prices.costs, bounds, schedule, levels, free_bytes)
    stages = _stages(job, prices, modes, bounds, speeds, schedule)
    simulation = simulate(checked, stages, prices.costs.link)
    rank_speeds = [speeds[schedule.placement.index(rank)] for rank in range(schedule.num_ranks)]
    stepped_bytes = [min(state.parameter_bytes, state.gradient_bytes) for state in plain_states]
    slowest = max(num_bytes / speed for num_bytes, speed in zip(stepped_bytes, rank_speeds, strict=True))
    if job.offload:
        simulation = replace(simulation, peak_activation_bytes=bytes_on_device(schedule, stages, levels))
    update_s = 0.0 if schedule.update_every else prices.costs.optimizer_s_per_byte * slowest
    prediction = _predict(job, states, stages, simulation, update_s)
    layout = Layout(1, schedule.num_ranks, 1, schedule.num_stages // schedule.num_ranks, bounds, schedule.placement)
    plan = Plan(
        layout,
        schedule.name,
        microbatches,
        -(-job.batch_rows // microbatches),
        modes,
        prediction,
        costs_source=prices.costs.source,
        orders=tuple(map(tuple, schedule_to_json(schedule)["orders"])),
        post_validation=job.post_validation,
        update_every=schedule.update_every,
        delayed_update=schedule.delayed_update,
        loss_chunks=prices.loss_chunks,
        offload=job.offload,
    )
    return Candidate(plan, prediction, simulation, devices)


def _cuts(
    job: Job,
    prices: _Prices,
    checked: Checked,
    levels: list[list[Level]],
    speeds: list[float],
    devices: tuple[Device, ...],
) -> list[tuple[int, ...]]:
    """The best cut within memory, or without that limit where there is none, which then does not fit.

    Where several are equally good the two extremes: which of them fills the pipeline faster, only a simulation tells.
    """
    chain, costs, placement = job.chain, prices.costs, checked.schedule.placement

    def added_s(stage: int, first: int, end: int) -> float:
        """Of several stages on a rank each may fill its share of the memory."""
        limit_bytes = devices[placement[stage]].memory_bytes / placement.count(placement[stage])
        layers = range(first, end)
        copy_bytes = version_bytes(chain, layers, checked.weight_versions[stage].held)
        free_bytes = limit_bytes - sum(state_bytes(chain, layers, job.post_validation)) - copy_bytes
        chosen = prices.recomputation.cheapest(first, end, levels[stage], free_bytes)
        return chosen.added_s if chosen else inf

    def cut(light: Literal["front", "back"]) -> tuple[int, ...]:
        limits = (len(placement), speeds, costs.stage_f_s + costs.stage_i_s)
        bounds = partition(layer_s, *limits, added_s, light) or partition(layer_s, *limits, None, light)
        assert bounds, "a cut without limits always exists"
        return bounds

    layer_s = [layer.f_s + layer.i_s + layer.w_s for layer in costs.layers]
    return [cut("front"), cut("back")]


def _stages(
    job: Job,
    prices: _Prices,
    modes: tuple[RecomputeMode, ...],
    bounds: tuple[int, ...],
    speeds: list[float],
    schedule: Schedule,
) -> StageCosts:
    costs = recomputed(prices.costs, modes)
    stages = stage_costs(costs, bounds, speeds)
    return with_updates(stages, job.chain, bounds, speeds, schedule, costs.optimizer_s_per_byte)


def _predict(
    job: Job, states: list[StateBytes], stages: StageCosts, simulation: Simulation, update_s: float
) -> Prediction:
    # Ends that are tied across two ranks wait for each other's gradients, and with them the whole pipeline.
    placement = simulation.schedule.placement
    together = not job.post_validation or (bool(job.chain.tied) and placement[0] != placement[-1])
    step_s = (simulation.step_s if together else simulation.span_s) + update_s
    return Prediction(
        step_s=step_s,
        idle_share=max(
            0.0, simulation.idle_share if together else simulation.bubble_rate
        ),  # Rounding may leave it just below.
        tokens_per_s=job.batch_rows * job.sequence_length / step_s,
        parameter_bytes=tuple(state.parameter_bytes for state in states),
        gradient_bytes=tuple(state.gradient_bytes for state in states),
        optimizer_bytes=tuple(state.optimizer_bytes for state in states),
        activation_bytes=simulation.peak_activation_bytes,
        messages=simulation.messages,
        message_bytes=simulation.message_bytes,
        stage_f_s=stages.f_s,
        stage_b_s=tuple(i_s + w_s for i_s, w_s in zip(stages.i_s, stages.w_s, strict=True)),
        in_flight=simulation.checked.stage_peak_in_flight,
    )
