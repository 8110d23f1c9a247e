"""Why a plan is as it is: sentences with numbers, most important first."""

from itertools import pairwise

from headrace.plan.candidate import Candidate, Job, make_candidate
from headrace.plan.offload import MOST_ON_DEVICE
from headrace.plan.rows import microbatch_rows
from headrace.plan.wanted import Wanted
from headrace.plan.words import bytes_text, layers_text, listing, recompute_text, seconds_text

_SAME = "the same time"


def reasons(job: Job, wanted: Wanted, chosen: Candidate, others: list[Candidate]) -> tuple[str, ...]:
    """Sentences about the number of ranks, the cut, the micro-batches, the schedule, memory and recomputation."""
    sentences = (
        _verdict(job, wanted, chosen, others),
        _cut(job, wanted, chosen),
        _microbatches(job, wanted, chosen, others),
        _schedule(wanted, chosen, others),
        _memory(chosen),
        _recompute(job, wanted, chosen),
        _loss_chunks(job, wanted, chosen),
        _offload(wanted, chosen),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _verdict(job: Job, wanted: Wanted, chosen: Candidate, others: list[Candidate]) -> str:
    """Whether one device would do, with its numbers."""
    pp, step = chosen.plan.layout.pp, seconds_text(chosen.prediction.step_s)
    if pp == 1:
        return f"One device holds this model ({_fill(chosen)}): {step} a step." + _no_pipeline(wanted, others)
    alone = _alone(job, wanted, chosen, others)
    asked = f"pp={pp} as asked" if wanted.num_ranks else f"A pipeline of {pp}"
    if not alone.fits:
        needs = f"one device does not hold this model, which needs {_fill(alone)}"
        return f"{asked}: {needs}; here a step takes {step}.{_longer_pipeline(chosen, others)}"
    ratio = alone.prediction.step_s / chosen.prediction.step_s
    compared = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
    return (
        f"{asked}: one device would hold this model ({_fill(alone)}) and take {seconds_text(alone.prediction.step_s)} "
        f"a step; {pp} take {step}, {compared}." + _longer_pipeline(chosen, others)
    )


def _longer_pipeline(chosen: Candidate, others: list[Candidate]) -> str:
    """What the best pipeline of more ranks would give, where one was tried."""
    longer = [other for other in others if other.plan.layout.pp > chosen.plan.layout.pp and other.fits]
    if not longer:
        return ""
    best = min(longer, key=lambda other: other.prediction.step_s)
    return f" More ranks gain no more than 1%: pp={best.plan.layout.pp} would take {_difference(best, chosen)}."


def _alone(job: Job, wanted: Wanted, chosen: Candidate, others: list[Candidate]) -> Candidate:
    """The best plan on one device; where none was tried, the one with the chosen micro-batches."""
    tried = [other for other in others if other.plan.layout.pp == 1]
    fitting = [other for other in tried if other.fits]
    if fitting:
        return min(fitting, key=lambda other: other.prediction.step_s)
    if tried:
        return min(tried, key=lambda other: other.memory_share(0))
    plan = chosen.plan
    return make_candidate(job, 1, "1f1b", plan.microbatches, wanted.recompute, loss_chunks=plan.loss_chunks)


def _no_pipeline(wanted: Wanted, others: list[Candidate]) -> str:
    pipelines = [other for other in others if other.plan.layout.pp > 1 and other.fits]
    if wanted.num_ranks or not pipelines:
        return ""
    best = min(pipelines, key=lambda other: other.prediction.step_s)
    took = seconds_text(best.prediction.step_s)
    return (
        f" No pipeline needed: the best one, pp={best.plan.layout.pp}, would take {took}; "
        "data parallelism is what more devices are good for here."
    )


def _fill(candidate: Candidate) -> str:
    rank = candidate.heaviest_rank
    has = bytes_text(candidate.devices[rank].memory_bytes)
    return f"{bytes_text(candidate.prediction.memory_bytes(rank))} of {has}"


def _cut(job: Job, wanted: Wanted, chosen: Candidate) -> str:
    """Who holds what (of many stages the first, the slowest and the last), and what an even cut would take."""
    bounds = chosen.plan.layout.bounds
    spans, last = list(pairwise(bounds)), len(bounds) - 2
    if last == 0:
        return ""
    stage_s = [sum(parts) for parts in zip(chosen.prediction.stage_f_s, chosen.prediction.stage_b_s, strict=True)]
    named = range(last + 1) if last < 4 else sorted({0, stage_s.index(max(stage_s)), last})
    held = [f"stage {s} {layers_text(job.chain, *spans[s])} ({seconds_text(stage_s[s])})" for s in named]
    return f"Layers, with seconds of a micro-batch: {listing(held)}{_even_cut(job, wanted, chosen)}."


def _even_cut(job: Job, wanted: Wanted, chosen: Candidate) -> str:
    plan = chosen.plan
    layout = plan.layout
    if plan.schedule == "auto":
        return ""  # Another cut would be searched for anew.
    cuts = microbatch_rows(job.chain.num_transformer_layers, layout.num_stages)
    fixed = (wanted.recompute, cuts, layout.chunks, plan.loss_chunks)
    even = make_candidate(job, layout.pp, plan.schedule, plan.microbatches, *fixed)
    if even.plan.layout.bounds == plan.layout.bounds:
        return ", which is the even cut"
    return f"; cut evenly, a step would take {_difference(even, chosen)}"


def _microbatches(job: Job, wanted: Wanted, chosen: Candidate, others: list[Candidate]) -> str:
    plan = chosen.plan
    count = f"{plan.microbatches} micro-batch" + ("es" if plan.microbatches > 1 else "")
    tokens = job.batch_rows * job.sequence_length
    text = (
        f"{count} of {_rows_text(job.batch_rows, plan.microbatches)} ({job.batch_rows} rows, {tokens:,} tokens a step)"
    )
    if wanted.microbatches:
        return f"{text}, as asked."
    rivals = [
        other for other in others if (other.plan.layout.pp, other.plan.schedule) == (plan.layout.pp, plan.schedule)
    ]
    fewer = max((r for r in rivals if r.plan.microbatches < plan.microbatches), key=_number, default=None)
    more = min((r for r in rivals if r.plan.microbatches > plan.microbatches), key=_number, default=None)
    compared = [_against(chosen, rival) for rival in (fewer, more) if rival]
    return f"{text}: {listing(compared)}." if compared else f"{text}."


def _number(candidate: Candidate) -> int:
    return candidate.plan.microbatches


def _rows_text(batch_rows: int, num_microbatches: int) -> str:
    rows = microbatch_rows(batch_rows, num_microbatches)
    each = [f"{size} row{'s' * (size > 1)}" for size in sorted(set(rows), reverse=True)]
    return " or ".join(each)


def _against(chosen: Candidate, rival: Candidate) -> str:
    """What another number of micro-batches would give."""
    number = rival.plan.microbatches
    if not rival.fits:
        return f"{number} would need {_fill(rival)} on rank {rival.heaviest_rank}"
    idle = f"idle {rival.prediction.idle_share:.0%} instead of {chosen.prediction.idle_share:.0%}"
    return f"{number} would {idle} and take {_difference(rival, chosen)}"


def _difference(rival: Candidate, chosen: Candidate) -> str:
    """How much more or less time the rival takes."""
    lost_s = rival.prediction.step_s - chosen.prediction.step_s
    if abs(lost_s) < 0.001 * chosen.prediction.step_s:
        return _SAME
    return f"{seconds_text(abs(lost_s))} {'more' if lost_s > 0 else 'less'}"


def _schedule(wanted: Wanted, chosen: Candidate, others: list[Candidate]) -> str:
    plan = chosen.plan
    if wanted.schedule:
        return f"{plan.schedule} as asked{_updates(chosen)}."
    same = (plan.layout.pp, plan.microbatches)
    rivals = [other for other in others if (other.plan.layout.pp, other.plan.microbatches) == same]
    if not rivals:
        return ""
    rival = min(rivals, key=lambda other: other.prediction.step_s)
    own, other = (max(c.simulation.checked.peak_in_flight) for c in (chosen, rival))
    difference = _difference(rival, chosen)
    if own == other and difference == _SAME:
        return ""
    held = f"holds at most {own} of {plan.microbatches} micro-batches at a time"
    return f"{plan.schedule} {held}; {rival.plan.schedule} would hold {other} and take {difference}."


def _updates(chosen: Candidate) -> str:
    """What it means for the training that weights change within the step."""
    checked, plan = chosen.simulation.checked, chosen.plan
    if not plan.update_every:
        return ""
    number = -(-plan.microbatches // plan.update_every)
    late = max(versions.staleness for versions in checked.weight_versions)
    if number == 1:
        return ": with so few micro-batches it makes one update a step, as a synchronous schedule does"
    age = f"weights up to {_counted(late, 'update')} old" if late else "the newest weights"
    return (
        f": another training than the synchronous one, with {_counted(number, 'update')} a step by gradients of {age}"
    )


def _versions(chosen: Candidate, rank: int) -> str:
    checked = chosen.simulation.checked
    held = max(checked.weight_versions[stage].held for stage in checked.schedule.stages_of(rank))
    return f" in {held} versions" if held > 1 else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _memory(chosen: Candidate) -> str:
    rank, got = chosen.heaviest_rank, chosen.prediction
    parts = [
        f"{bytes_text(part[rank])} {name}"
        for name, part in (
            ("parameters" + _versions(chosen, rank), got.parameter_bytes),
            ("gradients", got.gradient_bytes),
            ("optimizer", got.optimizer_bytes),
            ("activations", got.activation_bytes),
        )
    ]
    return f"Memory: heaviest is rank {rank} with {_fill(chosen)}: {listing(parts)}."


def _recompute(job: Job, wanted: Wanted, chosen: Candidate) -> str:
    """Who computes what again, what that costs, and what memory would need without it."""
    plan = chosen.plan
    if wanted.recompute:
        return f"recompute={wanted.recompute} as asked."
    if not plan.recompute:
        return ""
    layout = plan.layout
    fixed = (_cuts_of(job, chosen), layout.chunks, plan.loss_chunks)
    kept = make_candidate(job, layout.pp, plan.schedule, plan.microbatches, "none", *fixed)
    lost_s = chosen.prediction.step_s - kept.prediction.step_s
    return (
        f"Memory asks for recomputation: {recompute_text(plan.recompute, layout.bounds)}, which costs "
        f"{seconds_text(max(lost_s, 0.0))} a step; without it rank {kept.heaviest_rank} would need {_fill(kept)}."
    )


def _loss_chunks(job: Job, wanted: Wanted, chosen: Candidate) -> str:
    """What chunks of the loss free, and what memory would need without them."""
    plan = chosen.plan
    if wanted.loss_chunks:
        return f"loss_chunks={wanted.loss_chunks} as asked."
    if plan.loss_chunks == 1:
        return ""
    layout, rows = plan.layout, plan.microbatch_size
    fixed = ("none" if not plan.recompute else wanted.recompute, _cuts_of(job, chosen), layout.chunks)
    whole = make_candidate(job, layout.pp, plan.schedule, plan.microbatches, *fixed)
    instead = f"rank {whole.heaviest_rank} would need {_fill(whole)}"
    if whole.fits:
        instead = f"a step would recompute more and take {_difference(whole, chosen)}"
    logits_bytes = job.costs_of(rows).layers[-1].working_bytes
    return (
        f"Memory asks for the loss in {plan.loss_chunks} chunks of tokens: of a micro-batch's "
        f"{bytes_text(logits_bytes)} of logits and their gradients one chunk's is alive at a time; "
        f"in one piece {instead}."
    )


def _offload(wanted: Wanted, chosen: Candidate) -> str:
    if not wanted.offload:
        return ""
    if not chosen.plan.offload:
        return "offload=true changes nothing here: these devices are CPUs, whose memory is the host's own."
    return (
        f"offload=true as asked: of a stage's micro-batches in flight at most {MOST_ON_DEVICE} are on its device, the "
        "others wait in the host's memory; the seconds of these copies are not in the prediction."
    )


def _cuts_of(job: Job, chosen: Candidate) -> tuple[int, ...]:
    """Transformer layers of each stage."""
    inner = range(1, job.chain.num_transformer_layers + 1)
    return tuple(sum(layer in inner for layer in range(*span)) for span in pairwise(chosen.plan.layout.bounds))
