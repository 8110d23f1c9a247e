"""Small models of every named type, and what plain transformers makes of them."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from headrace.chain.build import ModelSource
from headrace.chain.microbatch import MicroBatch
from headrace.chain.part import Part

WIDTHS = {"vocab_size": 97, "hidden_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}
LLAMA_LIKE = {
    **WIDTHS,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWED = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "mistral": {**LLAMA_LIKE, "sliding_window": 4},
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 16},
    "gemma2": {**LLAMA_LIKE, "head_dim": 8, "query_pre_attn_scalar": 8, **WINDOWED},
    "gemma3_text": {**LLAMA_LIKE, "head_dim": 8, "query_pre_attn_scalar": 8, **WINDOWED},
    "phi3": LLAMA_LIKE,
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, **NO_DROPOUT},
    "gpt_neox": {**LLAMA_LIKE, "hidden_dropout": 0.0},
    "opt": {**LLAMA_LIKE, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
    "olmo2": LLAMA_LIKE,
    "granite": {**LLAMA_LIKE, "attention_multiplier": 0.3},
    "starcoder2": {**LLAMA_LIKE, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "falcon": {**LLAMA_LIKE, "multi_query": True},
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mixtral": {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SETTINGS},
    "granite scaled": ("granite", {"embedding_multiplier": 12, "residual_multiplier": 0.22, "logits_scaling": 8}),
    "qwen2 windowed": ("qwen2", {"use_sliding_window": True, **WINDOWED}),
    "falcon new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon alibi": ("falcon", {"alibi": True}),
    "opt post-norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "gpt_neox serial": ("gpt_neox", {"use_parallel_residual": False}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}),
}


def variant(name: str) -> PretrainedConfig:
    model_type, extra = VARIANTS[name]
    return AutoConfig.for_model(model_type, **{**SETTINGS[model_type], **extra})


def moved(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Plain transformers; no weight is left at 0 or 1, so that a lost one shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batches(config: PretrainedConfig) -> list[MicroBatch]:
    """Rows padded at the right, at the left, not at all, and one packed from documents of 5 and 7 tokens."""
    ids = torch.randint(3, 97, (4, 12), generator=torch.Generator().manual_seed(1))
    labels, mask = ids.clone(), torch.ones_like(ids)
    mask[0, 8:] = 0
    mask[1, :3] = 0
    labels[mask == 0] = -100
    valid = int((labels[:, 1:] != -100).sum())
    rows = [MicroBatch(ids[i : i + 1], labels[i : i + 1], valid, mask[i : i + 1], key=(0, 0, i)) for i in range(2)]
    rows.append(MicroBatch(ids[2:3], labels[2:3], valid, key=(0, 0, 2)))
    if config.model_type != "bloom":
        positions = torch.tensor([[*range(5), *range(7)]])
        rows.append(MicroBatch(ids[3:], labels[3:], valid, None, positions, key=(0, 0, 3)))
    return rows


def plain_losses(model: PreTrainedModel, rows: list[MicroBatch]) -> list[Tensor]:
    losses = []
    for row in rows:
        optional = {} if row.position_ids is None else {"position_ids": row.position_ids}
        loss = model(
            input_ids=row.input_ids,
            attention_mask=row.attention_mask,
            labels=row.labels,
            num_items_in_batch=row.num_valid_tokens,
            use_cache=False,
            **optional,
        ).loss
        loss.backward()
        losses.append(loss.detach())
    return losses


def cut(source: ModelSource, bounds: list[int], weights: dict[str, Tensor] | None = None) -> list[Part]:
    """The parts between ``bounds``; with ``weights``, global names to values, in place of their own."""
    parts = [source.build(first, stop) for first, stop in pairwise(bounds)]
    owners = dict(source.anatomy.tied)
    if weights is not None:
        with torch.no_grad():
            for part in parts:
                for name, parameter in part.named_parameters():
                    parameter.copy_(weights[owners.get(name, name)])
    return parts


def cut_losses(parts: list[Part], rows: list[MicroBatch]) -> list[Tensor]:
    return [run(parts, row) for row in rows]


def run(parts: list[Part], row: MicroBatch) -> Tensor:
    hidden, outputs, received = None, [], []
    for part in parts:
        received.append(hidden)
        outputs.append(part.forward(hidden, row))
        hidden = outputs[-1].detach().requires_grad_()
    gradient = None
    for output, hidden in zip(reversed(outputs), reversed(received), strict=True):
        output.backward(gradient)
        gradient = None if hidden is None else hidden.grad
    return outputs[-1].detach()


def gradients(parts: list[Part]) -> dict[str, Tensor]:
    return {name: p.grad for part in parts for name, p in part.named_parameters() if p.grad is not None}


def assert_gradients(source: ModelSource, whole: nn.Module, got: dict[str, Tensor]) -> None:
    """The same bits; a tied weight's two sums are added in another order than autograd's, so within 1e-6."""
    owners = {owner: copy for copy, owner in source.anatomy.tied}
    for name, parameter in whole.named_parameters():
        if name in owners:
            total = got[owners[name]] + got[name]
            torch.testing.assert_close(total, parameter.grad, rtol=1e-6, atol=1e-6 * float(parameter.grad.abs().max()))
        elif parameter.grad is None:
            assert name not in got or not got[name].any(), name
        else:
            assert torch.equal(got[name], parameter.grad), name


def every_bounds(num_layers: int) -> list[list[int]]:
    """In two at every place, in three at uneven ones, and every layer apart."""
    end = num_layers + 2
    return [*([0, c, end] for c in range(1, end)), [0, 1, end - 1, end], [0, 3, 4, end], [*range(end + 1)]]
