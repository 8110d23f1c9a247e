"""Predicted bytes of parameters, gradients and optimizer against a model that is counted."""

from itertools import pairwise

import pytest
import torch
from handmade_chains import make_chain, make_costs
from transformers import LlamaConfig, LlamaForCausalLM

from headrace.chain.anatomy import find_anatomy, meta_model
from headrace.chain.build import describe
from headrace.cluster import Cluster, Device, Link
from headrace.plan import Wanted, make_plan

CLUSTER = Cluster((Device("cpu", "cpu", 10**12, 1e9, 1e9),) * 4, Link(0.0, 1e9))


def tiny(tied, num_layers=8):
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        tie_word_embeddings=tied,
    )


def plan_of(config, wanted):
    model = meta_model(config, torch.float32)
    chain = describe(model, find_anatomy(model))
    return make_plan(chain, lambda rows: make_costs(chain, rows=rows), CLUSTER, 8, 16, wanted)[0]


def counted_parameters(config, stage, first, end):
    """Names as plain transformers gives them, sorted to stages by hand."""
    model = LlamaForCausalLM(config)
    own = [p for i in range(first, end) for p in model.model.layers[i].parameters()]
    if stage == 0:
        own += model.model.embed_tokens.parameters()
    if end == config.num_hidden_layers:
        own += [*model.model.norm.parameters(), *model.lm_head.parameters()]
    return list({id(p): p for p in own}.values())


# FR-22: the estimate must not average over stages.
@pytest.mark.parametrize("tied", [False, True])
def test_each_stage_of_an_uneven_cut_needs_the_bytes_that_are_counted_on_it(tied):
    config = tiny(tied)
    plan = plan_of(config, Wanted(cuts=(1, 2, 2, 3)))
    for stage, (first, end) in enumerate(pairwise([0, 1, 3, 5, 8])):
        parameters = counted_parameters(config, stage, first, end)
        optimizer = torch.optim.AdamW(parameters)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        moments = [v for s in optimizer.state.values() for v in s.values() if v.ndim]
        assert plan.prediction.parameter_bytes[stage] == sum(p.nbytes for p in parameters)
        assert plan.prediction.gradient_bytes[stage] == sum(p.grad.nbytes for p in parameters)
        assert plan.prediction.optimizer_bytes[stage] == sum(m.nbytes for m in moments)


def test_the_report_names_the_heaviest_rank():
    plan = plan_of(tiny(False), Wanted(cuts=(1, 2, 2, 3)))
    heaviest = max(range(4), key=plan.prediction.memory_bytes)
    assert heaviest == 3
    assert any(f"heaviest is rank {heaviest}" in reason for reason in plan.reasons)


def test_a_tied_matrix_on_one_rank_is_held_once_and_gathers_two_gradients():
    config = tiny(True)
    got = plan_of(config, Wanted(pp=1)).prediction
    assert got.parameter_bytes == (sum(p.nbytes for p in LlamaForCausalLM(config).parameters()),)
    assert got.gradient_bytes[0] - got.parameter_bytes[0] == 97 * 32 * 4


def test_post_validation_needs_a_copy_of_parameters_and_moments():
    plain, early = (plan_of(tiny(False), Wanted(pp=4, post_validation=wish)).prediction for wish in (False, True))
    for rank in range(4):
        assert early.optimizer_bytes[rank] == 2 * plain.optimizer_bytes[rank] + plain.parameter_bytes[rank]
        assert early.memory_bytes(rank) - plain.memory_bytes(rank) == 12 * plain.parameter_bytes[rank] // 4


@pytest.mark.parametrize(("tied", "turns"), [(False, 3 * 8), (True, 3 * 8 + 3)])
def test_post_validation_takes_the_time_of_the_longest_rank_unless_tied_ends_wait_for_each_other(tied, turns):
    """ZB-H2 at equal F, I and W: each rank computes 3 M turns without a pause, the last begins P - 1 turns late."""
    chain = make_chain(8, tied=tied)
    wanted = Wanted(pp=4, schedule="zb-h2", microbatches=8, cuts=(2, 2, 2, 2), post_validation=True)
    plan, _ = make_plan(chain, lambda rows: make_costs(chain, rows=rows), CLUSTER, 8, 16, wanted)
    assert plan.post_validation
    assert plan.prediction.step_s == pytest.approx(turns * 0.002)
