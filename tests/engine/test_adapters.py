"""Adapters of the peft library on a split backward: autograd's bits, and the frozen weights cost no product."""

import copy
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from headrace.engine.split_backward import defer_weight_gradients
from tests.engine.jobs import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
ALL_LINEAR = {"llama": ["q_proj", "v_proj", "up_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"], "mixtral": ["q_proj"]}


def lora(model_type: str, **settings: Any) -> Any:
    shape = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "target_modules": ALL_LINEAR[model_type]}
    return LoraConfig(**{**shape, "fan_in_fan_out": model_type == "gpt2", **settings})


ADAPTERS = {
    "lora": ("llama", lora("llama")),
    "lora of Conv1D": ("gpt2", lora("gpt2")),
    "lora beside experts": ("mixtral", lora("mixtral")),
    "biases learn too": ("gpt2", lora("gpt2", bias="all")),
    "dora": ("llama", lora("llama", use_dora=True)),
    "the head learns whole": ("llama", lora("llama", modules_to_save=["lm_head"])),
    "ia3": (
        "llama",
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_have_autograds_bits_and_frozen_weights_wait_for_nothing(name: str) -> None:
    model_type, adapter = ADAPTERS[name]
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_config(tiny(model_type, num_hidden_layers=2)).eval(), adapter)
    twin = copy.deepcopy(model)
    later = defer_weight_gradients(twin)
    ids = torch.randint(3, 97, (3, 2, 16))
    for microbatch in range(3):
        later.collect(microbatch)
        for each in (model, twin):
            each(input_ids=ids[microbatch], labels=ids[microbatch], use_cache=False).loss.backward()
        assert bool(later._waiting[microbatch]) == (name != "ia3")  # Its vectors are no products of matrices.
        later.run(microbatch)
    gradients = {n: p.grad for n, p in twin.named_parameters() if p.grad is not None}
    assert gradients.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for parameter_name, parameter in model.named_parameters():
        assert not parameter.requires_grad or torch.equal(gradients[parameter_name], parameter.grad), parameter_name
