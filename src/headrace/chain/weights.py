"""Giving a part its weights: read from safetensors or drawn, never more than what is local."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from headrace.chain.anatomy import Anatomy
from headrace.errors import RequestError


def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Fills every tensor of a pruned model that is still on meta, as the model's own class prescribes.

    Each module draws from a seed of its own, derived from ``seed`` and its global name, so the start weights do not
    depend on the layout. Tensors that were read before stay as they are.
    """
    for module in model.modules():
        _materialise(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _draw(model, "", model, seed)


def read_weights(model: PreTrainedModel, anatomy: Anatomy, folder: Path) -> None:
    """Reads the parameters of a pruned meta model from a Hugging Face folder; other stages' bytes are not touched.

    Raises:
        RequestError: No safetensors, a broken file, or a parameter that is not in them.
    """
    if next(model.parameters(), None) is None:  # A stage may hold no layer, and transformers wants a weight's type.
        return
    mapping: list[Any] = list(get_model_conversion_mapping(model))
    config = LoadStateDictConfig(dtype=model.dtype, weight_mapping=mapping)
    with ExitStack() as files:
        slices: dict[str, Any] = {}
        for path in _safetensors_files(folder):
            try:
                file = files.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise RequestError(f"{path} cannot be read: {error}") from None
            slices.update({key: file.get_slice(key) for key in file.keys()})  # noqa: SIM118 (not a dict)
        info, _ = convert_and_load_state_dict_in_model(model, slices, config)
    copies = {copy for copy, _ in anatomy.tied}
    missing = sorted(set(info.missing_keys) - copies - {n for n, _ in model.named_buffers()})
    if missing:
        raise RequestError(f"{folder} lacks {len(missing)} parameters of this model, the first is {missing[0]}")
    if info.mismatched_keys:
        name, found, wanted = next(iter(info.mismatched_keys))
        raise RequestError(f"{folder}: {name} has shape {tuple(found)}, the configuration wants {tuple(wanted)}")


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    single = folder / "model.safetensors"
    if not single.exists():
        raise RequestError(f"{folder} holds no model.safetensors; save the model with save_pretrained")
    return [single]


def _materialise(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_meta:
            empty = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
            module.register_parameter(name, empty)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_meta:
            module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _draw(module: nn.Module, name: str, owner: PreTrainedModel, seed: int) -> None:
    """Children before parents, as transformers does it: a parent may scale what its children drew."""
    if isinstance(module, PreTrainedModel):
        owner = module
    for child_name, child in module.named_children():
        _draw(child, f"{name}.{child_name}" if name else child_name, owner, seed)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    torch.manual_seed(int.from_bytes(digest, "big"))
    owner._init_weights(module)
