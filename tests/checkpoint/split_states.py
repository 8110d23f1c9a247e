"""A small model's state and its moments, whole and as pipeline ranks hold it."""

import torch
from torch import Tensor

LAYERS = 4
EMBEDDING = "model.embed_tokens.weight"
META = {"step": 7, "data_offset": 1234, "model_config": {"model_type": "llama", "hidden_size": 3}}


def whole_state(seed: int = 0) -> dict[str, Tensor]:
    """Every parameter of a tied model with the two moments and the step of each, no two values alike."""
    generator = torch.Generator().manual_seed(seed)
    names = [EMBEDDING, *(f"model.layers.{i}.mlp.{p}_proj.weight" for i in range(LAYERS) for p in ("up", "down"))]
    state = {}
    for index, name in enumerate(names):
        for prefix in ("", "optimizer.exp_avg.", "optimizer.exp_avg_sq."):
            state[prefix + name] = torch.randn(5, 3 + index, generator=generator)
        state[f"optimizer.step.{name}"] = torch.tensor(float(index + 1))
    return state


def rank_state(state: dict[str, Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """What a pipeline rank holds: its layers, and at both ends of the pipeline the tied embedding."""
    mine = [f"layers.{i}." for i in range(LAYERS) if i * num_ranks // LAYERS == rank]
    mine += [EMBEDDING] if rank in (0, num_ranks - 1) else []
    return {name: tensor for name, tensor in state.items() if any(part in name for part in mine)}


def blank(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
