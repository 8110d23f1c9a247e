"""The planner: tries the choices that are open, and keeps the one that should be fastest."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from headrace.chain.chain import Chain
from headrace.cluster.cluster import Cluster
from headrace.costs.costs import Costs
from headrace.errors import RequestError
from headrace.plan.candidate import Candidate, Job, make_candidate
from headrace.plan.loss_chunks import choose_loss_chunks
from headrace.plan.offload import has_host
from headrace.plan.plan import Plan
from headrace.plan.reasons import reasons
from headrace.plan.rows import microbatch_choices
from headrace.plan.wanted import Wanted
from headrace.plan.words import bytes_text
from headrace.simulate.simulator import Simulation

SCHEDULES = ("1f1b", "gpipe")
"""Tried when the user names none; on one rank they take the same time, so there only the first."""

SAME_TIME = 1.01
"""Predictions do not tell steps apart that differ by less; then less memory, or fewer ranks, decides."""


def make_plan(
    chain: Chain,
    costs_of: Callable[[int], Costs],
    cluster: Cluster,
    batch_rows: int,
    sequence_length: int,
    wanted: Wanted,
) -> tuple[Plan, Simulation]:
    """Chooses what ``wanted`` leaves open by predicted step time, within the memory of every device.

    All pipeline lengths that the cluster and the model allow are tried, with each of `SCHEDULES`, the numbers of
    micro-batches of `microbatch_choices`, and the exact best cut for each. Layers are computed again only where the
    memory of their rank asks for it.

    Args:
        chain: The model.
        costs_of: Prices on the cluster's first device by rows of a micro-batch; called once for each number of rows.
        cluster: Rank ``r`` of the pipeline runs on its device ``r``.
        batch_rows: Rows of one step. Where they do not divide, the first micro-batches hold one row more.
        sequence_length: Tokens of a row.
        wanted: The user's fixed choices.

    Returns:
        The plan with its prediction and reasons, and the simulated step.

    Raises:
        RequestError: The fixed choices contradict each other or the model, or nothing fits in memory.
    """
    wanted.check(chain, cluster, batch_rows)
    offload = wanted.offload and has_host(cluster)
    job = Job(chain, cache(costs_of), cluster, batch_rows, sequence_length, wanted.post_validation, offload)
    most = min(len(cluster.devices), chain.num_transformer_layers // wanted.stages_per_rank)
    tried = {num: _try_ranks(job, wanted, num) for num in _rank_choices(wanted, most)}
    fitting = [candidate for candidates in tried.values() if (candidate := _best(candidates))]
    if not fitting:
        raise _does_not_fit([candidate for candidates in tried.values() for candidate in candidates])
    chosen = _fastest(fitting, lambda candidate: candidate.plan.layout.pp)
    others = [candidate for candidates in tried.values() for candidate in candidates if candidate is not chosen]
    plan = replace(chosen.plan, reasons=reasons(job, wanted, chosen, others))
    return plan, chosen.simulation


def _rank_choices(wanted: Wanted, most: int) -> list[int]:
    return [wanted.num_ranks] if wanted.num_ranks else list(range(1, most + 1))


def _try_ranks(job: Job, wanted: Wanted, num_ranks: int) -> list[Candidate]:
    """All candidates of one number of ranks."""
    fixed = (wanted.recompute, wanted.cuts, wanted.stages_per_rank)
    return [
        choose_loss_chunks(wanted.loss_chunks, partial(make_candidate, job, num_ranks, schedule, microbatches, *fixed))
        for schedule in _schedule_choices(wanted, num_ranks)
        for microbatches in _microbatch_choices(job, wanted, num_ranks)
    ]


def _schedule_choices(wanted: Wanted, num_ranks: int) -> tuple[str, ...]:
    if wanted.schedule:
        return (wanted.schedule,)
    return SCHEDULES if num_ranks > 1 else SCHEDULES[:1]


def _microbatch_choices(job: Job, wanted: Wanted, num_ranks: int) -> tuple[int, ...]:
    return (wanted.microbatches,) if wanted.microbatches else microbatch_choices(job.batch_rows, num_ranks)


def _best(candidates: list[Candidate]) -> Candidate | None:
    fitting = [candidate for candidate in candidates if candidate.fits]
    return _fastest(fitting, lambda candidate: candidate.memory_share(candidate.heaviest_rank)) if fitting else None


def _fastest(candidates: list[Candidate], tie_break: Callable[[Candidate], float]) -> Candidate:
    """The fastest, or of those about as fast the one that is least by ``tie_break``."""
    limit_s = SAME_TIME * min(candidate.prediction.step_s for candidate in candidates)
    near = [candidate for candidate in candidates if candidate.prediction.step_s <= limit_s]
    return min(near, key=lambda candidate: (tie_break(candidate), candidate.prediction.step_s))


def _does_not_fit(candidates: list[Candidate]) -> RequestError:
    nearest = min(candidates, key=lambda candidate: candidate.memory_share(candidate.heaviest_rank))
    rank, plan = nearest.heaviest_rank, nearest.plan
    loss = f", a loss in {plan.loss_chunks} chunks" if plan.loss_chunks > 1 else ""
    return RequestError(
        f"Nothing fits: even pp={plan.layout.pp} with {plan.microbatches} micro-batches, {plan.schedule}{loss} and "
        f"recompute={' and '.join(dict.fromkeys(plan.recompute)) or 'none'} needs "
        f"{bytes_text(nearest.prediction.memory_bytes(rank))} on rank {rank}, which has "
        f"{bytes_text(nearest.devices[rank].memory_bytes)}; use more devices, shorter sequences or a smaller model."
    )
