"""The check must not be fooled: every mutant is told, and what cannot be trained at all is refused."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from headrace.chain import check as checks
from headrace.chain.build import ModelSource, config_of, named_config
from headrace.chain.check import check, check_named, require_exact
from headrace.chain.part import Part
from headrace.errors import RequestError
from tests.chain import models

Mutation = Callable[[Part], None]


def layers_of(part: Part) -> nn.ModuleList:
    return part.model.get_submodule(part.anatomy.layers_path)


def shift_layer_index(part: Part) -> None:
    """The kind of attention of each layer is taken from the layer before."""
    kinds = part.model.config.layer_types
    part.model.config.layer_types = [kinds[-1], *kinds[:-1]]


def swap_layers(part: Part) -> None:
    layers = layers_of(part)
    if {1, 2} <= set(part.local_layers()):
        layers[1].forward, layers[2].forward = layers[2].forward, layers[1].forward


def lose_bias(part: Part) -> None:
    for index in part.local_layers():
        attention = layers_of(part)[index].self_attn
        attention.q_proj.bias = None


def silence_bias(part: Part) -> None:
    """The bias is still a parameter, but has no part in the sum."""
    for index in part.local_layers():
        layer = layers_of(part)[index].self_attn.q_proj
        layer.forward = lambda x, layer=layer: nn.functional.linear(x, layer.weight)


def scale_head(part: Part) -> None:
    if part.has_head:
        part.model.lm_head.register_forward_hook(lambda module, args, output: output * (1 + 2e-7))


def scale_input_again(part: Part) -> None:
    if not part.has_embedding:
        part._hand_in = None
        layers_of(part)[0].register_forward_pre_hook(lambda m, args: (args[0] * 1.000001, *args[1:]))


def skip_a_layer(part: Part) -> None:
    if 3 in part.local_layers():
        layers_of(part)[3].forward = lambda hidden, **_: hidden


def detach_within(part: Part) -> None:
    """The loss is right, a gradient is not."""
    if part.has_head:
        part.model.model.norm.register_forward_pre_hook(lambda module, args: (args[0].detach(),))


def freeze(part: Part) -> None:
    for name, parameter in part.named_parameters():
        if name.endswith("k_proj.weight"):
            parameter.requires_grad_(False)


def forget_mask(part: Part) -> None:
    real = part.model.base_model.forward
    if not part.has_embedding:
        part.model.base_model.forward = lambda *a, **k: real(*a, **k | {"attention_mask": None})


def forget_positions(part: Part) -> None:
    real = part.model.base_model.forward
    if not part.has_embedding:
        part.model.base_model.forward = lambda *a, **k: real(*a, **k | {"position_ids": None})


def hold_anothers_weight(part: Part) -> None:
    if not part.has_embedding:
        part.model.model.embed_tokens = nn.Embedding(97, 64)


MUTATIONS: list[tuple[str, Mutation, str]] = [
    ("gemma2", shift_layer_index, "differs"),
    ("llama", swap_layers, "differs"),
    ("qwen2", lose_bias, r"q_proj\.bias is in 0 parts"),
    ("qwen2", silence_bias, "differs|only one side"),
    ("llama", scale_head, "differs"),
    ("llama", scale_input_again, "differs"),
    ("llama", skip_a_layer, "differs"),
    ("llama", detach_within, "gradient"),
    ("llama", freeze, r"only one side has a gradient of .*k_proj\.weight"),
    ("llama", forget_mask, "differs"),
    ("llama", forget_positions, "differs"),
    ("llama", hold_anothers_weight, r"embed_tokens\.weight is in 2 parts|embed_tokens\.weight is in"),
]


@pytest.mark.parametrize(("model_type", "mutation", "reason"), MUTATIONS, ids=lambda v: getattr(v, "__name__", None))
def test_a_part_that_is_wrong_is_told(
    model_type: str, mutation: Mutation, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model_type)
    assert check(config, any_size=True).exact
    real = ModelSource.build

    def build(self: ModelSource, first: int, stop: int) -> Part:
        part = real(self, first, stop)
        mutation(part)
        return part

    monkeypatch.setattr(ModelSource, "build", build)
    verdict = check(config, any_size=True)
    assert not verdict.exact
    assert re.search(reason, verdict.reason or ""), verdict.reason


def test_a_loss_that_ignores_the_steps_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LlamaForCausalLM.forward

    def forward(self: LlamaForCausalLM, *args: object, **kwargs: object) -> object:
        kwargs.pop("num_items_in_batch", None)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    verdict = check_named("llama")
    assert not verdict.exact
    assert "divided by num_items_in_batch" in (verdict.reason or "")


def test_state_that_flows_between_layers_beside_the_hidden_state_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 2 uses what layer 0 left on the model's configuration, as shared keys and values would."""
    real = LlamaDecoderLayer.forward

    def forward(self: LlamaDecoderLayer, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        shared = self.self_attn.config.__dict__
        if self.self_attn.layer_idx == 0:
            shared["left"] = hidden_states
        if self.self_attn.layer_idx == 2 and "left" in shared:
            hidden_states = hidden_states + 0.1 * shared.pop("left").detach()
        return real(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    verdict = check_named("llama")
    assert not verdict.exact


def test_draws_that_no_setting_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MixtralSparseMoeBlock.forward

    def forward(self: MixtralSparseMoeBlock, hidden_states: Tensor) -> Tensor:
        return real(self, hidden_states * torch.empty_like(hidden_states).uniform_(0.99, 1.01))

    monkeypatch.setattr(MixtralSparseMoeBlock, "forward", forward)
    assert "draws at random where no setting says so" in (check_named("mixtral").reason or "")


def test_a_model_that_looks_ahead_is_refused_and_says_how_it_would_not() -> None:
    reason = check_named("bert").reason or ""
    assert reason == "its answers depend on later tokens, so it is not causal; set is_decoder=true"
    assert check(named_config("bert", is_decoder=True)).exact
    assert check(named_config("roberta", is_decoder=True)).exact


REFUSED = {
    "t5": "t5 is not a causal language model|t5 is an encoder-decoder",
    "bart": "bart is an encoder-decoder",
    "vit": "vit is not a causal language model",
    "trocr": "divided by num_items_in_batch",
    "gemma3n_text": "can cross a cut",
    "xlm": "4 lists of 4 layers were found where exactly one is needed",
    "glm_moe_dsa": "its layers hand on more than the hidden state",
    "openai-gpt": "no start value",
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_refusal_says_which_part_was_not_understood(model_type: str) -> None:
    """pytorch#162898, #128394, accelerate#3151."""
    verdict = check_named(model_type)
    assert not verdict.exact
    assert re.search(REFUSED[model_type], verdict.reason or ""), verdict.reason
    assert "\n" not in (verdict.reason or "")


def test_settings_that_break_a_cut_are_refused() -> None:
    llama = models.SETTINGS["llama"]
    for model_type, settings, reason in (
        ("mixtral", {"output_router_logits": True}, "output_router_logits=true adds a loss of every layer"),
        ("opt", {"layerdrop": 0.1}, r"layerdrop=0\.1 skips layers at random"),
    ):
        config = AutoConfig.for_model(model_type, **{**llama, **settings})
        with pytest.raises(RequestError, match=reason):
            require_exact(config)
    require_exact(AutoConfig.for_model("llama", **llama))


def test_a_small_form_that_lost_a_projection_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found with a small model holds for the large one only if they are made of the same weights."""
    from headrace.chain import anatomy

    real = anatomy.small_config

    def losing(config: object) -> object:
        small = real(config)
        small.attention_bias = False
        return small

    monkeypatch.setattr(anatomy, "small_config", losing)
    reason = check(AutoConfig.for_model("llama", **models.LLAMA_LIKE, attention_bias=True)).reason or ""
    assert "its small form is made of other weights, the first is self_attn." in reason


def test_a_type_whose_small_form_is_large_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.chain import anatomy

    monkeypatch.setattr(anatomy, "MOST_PARAMETERS", 1000)
    assert "its small form has" in (check_named("llama").reason or "")


@pytest.mark.parametrize("name", models.VARIANTS)
def test_the_named_types_and_their_variants_are_exact(name: str) -> None:
    verdict = check(models.variant(name))
    assert verdict.exact, verdict.reason
    assert (verdict.cuts, verdict.layers) == (4, 3)


def test_check_compares_at_every_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    real = checks._compare
    monkeypatch.setattr(checks, "_compare", lambda s, w, bounds, e: seen.append(bounds) or real(s, w, bounds, e))
    assert check(models.variant("llama")).exact
    assert seen == [[0, 1, 5], [0, 2, 5], [0, 3, 5], [0, 4, 5], [0, 1, 2, 3, 4, 5]]
