"""Plans whose weights change within a step: chosen only by name, and said to be another training."""

import json
from dataclasses import replace

import pytest
from handmade_chains import make_chain, make_costs

from headrace.cluster import Cluster, Device, Link
from headrace.errors import RequestError
from headrace.plan import Plan, Wanted, is_asynchronous, make_plan
from headrace.schedule import FAMILIES, make_schedule, write_schedule

OPTIMIZER_S_PER_BYTE = 1e-8


def plan_for(wanted, tied=False, memory_bytes=10**9):
    chain = make_chain(8, tied=tied)
    cluster = Cluster((Device("made up", "cpu", memory_bytes, 1e11, 1e10),) * 4, Link(0.0, 1e12))
    return make_plan(
        chain,
        lambda rows: make_costs(chain, rows=rows, optimizer_s_per_byte=OPTIMIZER_S_PER_BYTE),
        cluster,
        8,
        16,
        wanted,
    )[0]


@pytest.mark.parametrize("pp", [1, 2, 4])
def test_pipedream_holds_a_version_for_each_micro_batch_in_flight_and_2bw_two(pp):
    wanted = Wanted(pp=pp, microbatches=8, cuts=(8 // pp,) * pp)
    plain = plan_for(wanted).prediction
    stash = plan_for(replace(wanted, schedule="pipedream")).prediction
    buffers = plan_for(replace(wanted, schedule="pipedream-2bw")).prediction
    # Narayanan et al. 2019, section 3.3: one version for each micro-batch in flight; 2006.09503, section 3.1: two.
    assert stash.parameter_bytes == tuple((pp - rank) * one for rank, one in enumerate(plain.parameter_bytes))
    assert buffers.parameter_bytes == tuple(2 * one for one in plain.parameter_bytes)
    for part in ("gradient_bytes", "optimizer_bytes", "activation_bytes"):
        assert getattr(stash, part) == getattr(buffers, part) == getattr(plain, part)


def test_all_updates_of_a_step_are_in_its_seconds():
    wanted = Wanted(pp=1, microbatches=8)
    once = plan_for(wanted).prediction
    every = plan_for(replace(wanted, schedule="pipedream")).prediction
    update_s = OPTIMIZER_S_PER_BYTE * once.parameter_bytes[0]
    assert every.step_s == pytest.approx(once.step_s + 7 * update_s)


def test_the_versions_count_where_memory_decides():
    chain_bytes = plan_for(Wanted(pp=1)).prediction.memory_bytes(0)
    wanted = Wanted(pp=2, microbatches=8, schedule="1f1b", recompute="none")
    needed = max(plan_for(wanted).prediction.memory_bytes(rank) for rank in range(2))
    assert needed < chain_bytes
    plan_for(wanted, memory_bytes=needed)
    with pytest.raises(RequestError, match="Nothing fits: even pp=2 with 8 micro-batches, pipedream-2bw"):
        plan_for(replace(wanted, schedule="pipedream-2bw"), memory_bytes=needed)


def test_the_reasons_say_how_old_the_weights_are_and_how_many_versions_there_are():
    text = " ".join(plan_for(Wanted(pp=4, microbatches=8, schedule="pipedream")).reasons)
    assert (
        "pipedream as asked: another training than the synchronous one, with 8 updates a step by gradients of weights "
        "up to 3 updates old."
    ) in text
    text = " ".join(plan_for(Wanted(pp=2, microbatches=5, schedule="pipedream-2bw")).reasons)
    assert "with 3 updates a step by gradients of weights up to 1 update old." in text
    assert "parameters in 2 versions" in text
    text = " ".join(plan_for(Wanted(pp=1, microbatches=2, schedule="pipedream")).reasons)
    assert "by gradients of the newest weights." in text
    text = " ".join(plan_for(Wanted(pp=2, microbatches=2, schedule="pipedream-2bw")).reasons)
    assert "pipedream-2bw as asked: with so few micro-batches it makes one update a step, as a synchronous" in text


@pytest.mark.parametrize("schedule", [None, "auto"])
def test_nobody_gets_one_without_its_name(schedule):
    plan = plan_for(Wanted(pp=4, schedule=schedule, microbatches=8))
    assert plan.update_every == 0
    assert not plan.made_schedule().update_every


def test_families_and_files_are_known_as_asynchronous_by_what_they_do(tmp_path):
    assert [name for name in FAMILIES if is_asynchronous(name)] == [
        name for name in FAMILIES if make_schedule(name, 2, 4).update_every
    ]
    assert not is_asynchronous("auto")
    write_schedule(replace(make_schedule("1f1b", 2, 4), update_every=2), tmp_path / "mine.json")
    assert is_asynchronous(str(tmp_path / "mine.json"))


def test_a_plan_keeps_what_its_schedule_says_about_updates(tmp_path):
    made = replace(make_schedule("1f1b", 2, 6), update_every=3, delayed_update=True)
    write_schedule(made, tmp_path / "mine.json")
    plan = plan_for(Wanted(pp=2, microbatches=6, schedule=str(tmp_path / "mine.json")))
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    assert (back.made_schedule().update_every, back.made_schedule().delayed_update) == (3, True)


def test_ends_that_are_tied_across_stages_are_refused():
    with pytest.raises(
        RequestError, match=r"pipedream updates each stage .* one tied embedding; set tie_word_embeddings"
    ):
        plan_for(Wanted(pp=2, schedule="pipedream"), tied=True)
    assert plan_for(Wanted(pp=1, schedule="pipedream"), tied=True).update_every == 1


def test_there_is_no_one_update_to_take_back():
    with pytest.raises(RequestError, match=r"pipedream makes several under way.*set parallel.post_validation=false"):
        plan_for(Wanted(pp=2, schedule="pipedream", post_validation=True))
