"""A small model of any type: the same classes and options, few and narrow layers."""

import copy
from typing import Any

from transformers import PretrainedConfig

RANDOM_SETTINGS = ("drop", "jitter", "noise")
"""A setting with one of these in its name, and above 0, makes a model draw at random."""

_NUM_LAYERS = 4
_SIZES: dict[str, Any] = {
    # Widths. A quarter and an eighth of a head are whole and even, as rotary tables want it.
    **dict.fromkeys(["hidden_size", "attention_hidden_size", "lru_width"], 64),
    **dict.fromkeys(
        ["intermediate_size", "ffn_dim", "ffn_hidden_size", "dff", "dim_ff", "dense_intermediate_size"], 96
    ),
    **dict.fromkeys(["num_attention_heads", "swa_num_attention_heads", "index_n_heads"], 4),
    **dict.fromkeys(
        ["head_dim", "dim_head", "swa_head_dim", "v_head_dim", "index_head_dim", "query_pre_attn_scalar"], 16
    ),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "q_lora_rank", "kv_lora_rank", "o_lora_rank"], 16),
    **dict.fromkeys(["rotary_dim", "laurel_rank", "hidden_size_per_layer_input", "d_rel"], 8),
    **dict.fromkeys(["vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"], 97),
    **dict.fromkeys(["max_position_embeddings", "model_max_length"], 64),
    # Windows, shorter than the rows of the check so that they show.
    **dict.fromkeys(["sliding_window", "sliding_window_size", "attention_window_size", "window_size", "index_topk"], 4),
    **dict.fromkeys(["index_block_size", "attention_chunk_size", "rel_extent"], 4),
    **dict.fromkeys(["index_topk_blocks", "index_local_blocks"], 1),
    # Experts.
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k"], 2),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"], 24),
    **dict.fromkeys(["shared_intermediate_size", "moe_shared_expert_intermediate_size"], 24),
    **dict.fromkeys(["shared_experts_intermediate_size", "intermediate_size_mlp"], 24),
    # State spaces and linear attention; heads x width is twice the hidden size, as `expand` is 2.
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "linear_num_heads", "linear_num_value_heads"], 4),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim"], 32),
    **dict.fromkeys(["mamba_d_state", "ssm_state_size", "state_size", "mamba_chunk_size", "chunk_size"], 8),
    **dict.fromkeys(["mamba_dt_rank", "time_step_rank"], 4),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"], 16),
    "linear_num_key_heads": 2,
    "mamba_d_ssm": 128,
    # Patterns over layers, so that each kind is among the few.
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"], 1),
    **dict.fromkeys(["num_kv_shared_layers", "layer_group_size", "n_layers_per_attn_res_block"], 2),
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "max_window_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EVEN_IF_NONE = ("head_dim", "n_routed_experts", "num_experts_per_tok")
"""Some classes leave these to be computed, or have a default that cannot be built."""


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of ``config`` with every size that it names made small, random draws off and a router loss off.

    Settings of single layers (kinds of attention, of experts, …) are kept for as many layers as show each combination
    once. Draws are off since the unsplit model draws from one generator and a cut one from a seed for each layer; that
    both draw what their seeds say is tested apart.
    """
    data = copy.deepcopy(config).to_dict()
    layers_key = type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    _pick_layers(data, layers_key)
    _shrink_heads(data, type(config).attribute_map)
    for key in ("word_embed_proj_dim", "embedding_size"):  # Where it is not the hidden size, a projection follows.
        if data.get(key) is not None:
            data[key] = 64 if data[key] == config.hidden_size else 32
    _shrink(data, type(config).attribute_map)
    if "attention_types" in data:  # GPT-Neo counts its layers here.
        data["attention_types"] = [[["global", "local"], data[layers_key] // 2]]
    for key in ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "output_router_logits"):
        data.pop(key, None)
    return type(config)(**data)


def _pick_layers(data: dict[str, Any], layers_key: str) -> None:
    """Keeps, of all lists with an entry for each layer, the entries of the same few layers."""
    total = data.get(layers_key)
    lists = {k: v for k, v in data.items() if isinstance(v, list) and total is not None and len(v) == total}
    if not isinstance(total, int) or total <= _NUM_LAYERS:
        return
    single: dict[str, Any] = data.get("per_layer_config") or {}
    kinds = [repr([*(v[i] for v in lists.values()), single.get(f"{i:02d}")]) for i in range(total)]
    first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    chosen = sorted([*first, *(i for i in range(total) if i not in first)][: max(_NUM_LAYERS, min(len(first), 8))])
    data[layers_key] = len(chosen)
    data.update({key: [value[i] for i in chosen] for key, value in lists.items()})
    if single:
        kept = {f"{new:02d}": single.get(f"{old:02d}") for new, old in enumerate(chosen)}
        data["per_layer_config"] = {key: value for key, value in kept.items() if value}


def _shrink_heads(data: dict[str, Any], names: dict[str, str]) -> None:
    """Key-value heads stay as many as the heads, or one, or between."""
    heads = data.get(names.get("num_attention_heads", "num_attention_heads"))
    for key in ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "kv_n_heads"):
        name = names.get(key, key)
        if name in data and (name != names.get("num_attention_heads") or key == name):
            data[name] = {heads: 4, 1: 1, None: 4}.get(data[name], 2)
    for key, value in (("n_group", 2), ("num_expert_group", 2), ("n_groups", 2), ("topk_group", 1)):
        if data.get(key) not in (None, 1):
            data[key] = value


def _shrink(data: dict[str, Any], names: dict[str, str]) -> None:
    for key, size in _SIZES.items():
        name = names.get(key, key)
        value = data.get(name)
        if isinstance(value, list):
            data[name] = [size] * len(value)
        elif value or (value is None and name in data and key in _EVEN_IF_NONE) or (value == 0 and "token" in key):
            data[name] = size
    for key, value in data.items():
        if isinstance(value, float) and any(word in key for word in RANDOM_SETTINGS):
            data[key] = 0.0
        elif isinstance(value, int) and key.endswith("_token_id") and value >= _SIZES["vocab_size"]:
            data[key] = _SIZES["vocab_size"] - 1
        elif isinstance(value, dict) and key.endswith("_config"):
            _shrink(value, {})
