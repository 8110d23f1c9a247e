"""A small model of any type: the same classes and options, few and narrow layers."""

import copy
from typing import Any

from transformers import PretrainedConfig

_SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "ffn_hidden_size": 64,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "query_pre_attn_scalar": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of ``config`` with every size that it names made small, dropout off and a router loss off.

    Dropout is off since the unsplit model draws from one generator and a cut one from a seed for each layer; that both
    draw what their seeds say is tested apart.
    """
    data = copy.deepcopy(config).to_dict()
    known = type(config).attribute_map
    for key, value in _SIZES.items():
        name = known.get(key, key)
        if data.get(name) is not None:
            data[name] = value
    for key, value in data.items():
        if "drop" in key and isinstance(value, float):
            data[key] = 0.0
    if data.get("layer_types"):
        kinds = list(dict.fromkeys(data["layer_types"]))
        data["layer_types"] = [kinds[i % len(kinds)] for i in range(_SIZES["num_hidden_layers"])]
    for key in ("output_router_logits", "tie_word_embeddings"):
        if key in data and key == "output_router_logits":
            data[key] = False
    for key in ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype"):
        data.pop(key, None)
    return type(config)(**data)
