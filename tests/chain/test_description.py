"""The chain's figures: parameters of the real model, FLOPs by closed form, kinds that every process agrees on."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headrace.chain import Chain
from headrace.chain.build import ModelSource, named_config
from headrace.errors import RequestError
from tests.chain import models


def chain_of(model_type: str, **settings: object) -> Chain:
    return ModelSource(AutoConfig.for_model(model_type, **settings)).chain()


@pytest.mark.parametrize("name", models.VARIANTS)
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    config = models.variant(name)
    model, chain = AutoModelForCausalLM.from_config(config), ModelSource(config).chain()
    assert chain.num_parameters == model.num_parameters()
    order = [n for n, _ in model.named_parameters()]
    assert sorted(n for layer in chain.layers for n in layer.parameter_names) == sorted(order)
    for layer in chain.layers:
        assert list(layer.parameter_names) == sorted(layer.parameter_names, key=order.index)
        assert layer.num_parameters == sum(model.get_parameter(n).numel() for n in layer.parameter_names)
    assert (chain.num_transformer_layers, chain.hidden_size, chain.vocab_size) == (3, 32, 97)
    assert [layer.name for layer in chain.layers] == ["embedding", *(f"layers.{i}" for i in range(3)), "head"]
    assert bool(chain.tied) == bool(config.tie_word_embeddings)


def test_a_type_of_several_billions_is_described_without_its_weights() -> None:
    """The published counts of Llama 2 7B and Mixtral 8x7B."""
    llama = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    assert chain_of("llama", **llama, num_key_value_heads=32, vocab_size=32000).num_parameters == 6_738_415_616
    mixtral = {**llama, "intermediate_size": 14336, "num_key_value_heads": 8, "num_local_experts": 8}
    assert chain_of("mixtral", **mixtral, vocab_size=32000).num_parameters == 46_702_792_704


H, KV, F, V = 64, 32, 160, 97
SHAPE = {"hidden_size": H, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": V}


def test_flops_of_a_llama_layer() -> None:
    """Queries and output h x h, keys and values h x kv, gated MLP 3 h f; two FLOPs each."""
    for biased in (False, True):
        chain = chain_of("llama", **SHAPE, num_key_value_heads=2, intermediate_size=F, attention_bias=biased)
        layer = chain.layers[1]
        assert layer.forward_flops_per_token == 2 * (2 * H * H + 2 * H * KV + 3 * H * F)
        assert layer.attention_width == H
    assert chain.layers[-1].forward_flops_per_token == 2 * H * V
    assert chain.layers[0].forward_flops_per_token == 0


def test_flops_of_a_gpt2_layer() -> None:
    """24 h^2 (Narayanan et al., arXiv 2104.04473, appendix, per token and without the scores)."""
    chain = chain_of("gpt2", n_embd=H, n_layer=2, n_head=4, vocab_size=V)
    assert chain.layers[2].forward_flops_per_token == 24 * H * H
    assert chain.layers[-1].forward_flops_per_token == 2 * H * V, "the head is tied, and multiplies all the same"


@pytest.mark.parametrize(("experts", "active"), [(8, 2), (4, 1), (4, 4)])
def test_flops_of_a_mixtral_layer_count_the_router_and_the_active_experts(experts: int, active: int) -> None:
    extra = {"num_local_experts": experts, "num_experts_per_tok": active, "intermediate_size": F}
    chain = chain_of("mixtral", **SHAPE, num_key_value_heads=2, **extra)
    attention = 2 * H * H + 2 * H * KV
    assert chain.layers[1].forward_flops_per_token == 2 * (attention + experts * H + active * 3 * H * F)


def test_layers_of_one_kind_are_those_of_one_structure() -> None:
    kinds = [layer.kind for layer in ModelSource(models.variant("gemma2")).chain().layers]
    assert kinds[1] == kinds[3] != kinds[2]
    assert len(set(kinds)) == 4
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
    mixed = chain_of("qwen3_moe", **models.LLAMA_LIKE, head_dim=8, **experts)
    assert mixed.layers[1].kind == mixed.layers[3].kind != mixed.layers[2].kind


def test_a_kind_is_the_same_word_in_every_process() -> None:
    """Also in one whose strings hash otherwise."""
    code = (
        "from headrace.chain.build import ModelSource; from tests.chain import models;"
        "print([layer.kind for layer in ModelSource(models.variant('gemma2')).chain().layers])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = [layer.kind for layer in ModelSource(models.variant("gemma2")).chain().layers]
    assert there.stdout.strip() == str(here)


def test_bytes_of_a_parameter_are_those_of_its_type() -> None:
    assert ModelSource(models.variant("llama"), dtype=torch.bfloat16).chain().dtype_bytes == 2


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="transformers knows no model type 'lama'; did you mean llama"):
        named_config("lama")
