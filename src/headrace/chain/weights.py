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
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig

from headrace.chain.anatomy import Anatomy
from headrace.errors import RequestError


def draw_weights(model: PreTrainedModel, anatomy: Anatomy, seed: int) -> None:
    """Fills every tensor of a pruned model that is still on meta, as the model's own class prescribes.

    Each module draws from a seed of its own, derived from ``seed`` and its global name, so the start weights do not
    depend on the layout. Tensors that were read before stay as they are. The head's copy of a tied embedding shares
    its memory where both are here; on two ranks the engine makes them equal.

    Raises:
        RequestError: The class leaves a tensor without a value.
    """
    for module in model.modules():
        _materialise(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _draw(model, "", model, seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel() and bool(tensor.view(-1)[[0, -1]].isnan().any()):
            raise RequestError(f"{model.config.model_type} is not supported: its class gives {name} no start value")
    names = dict(model.named_parameters())
    for copy, owner in anatomy.tied:
        if copy in names and owner in names:
            names[copy].data = names[owner].data
    for copy, owner in anatomy.aliases:
        if owner in names:
            _set(model, copy, names[owner])


def read_weights(model: PreTrainedModel, anatomy: Anatomy, folder: Path) -> None:
    """Reads the tensors of a pruned meta model from a Hugging Face folder; other stages' bytes are not touched.

    Raises:
        RequestError: No safetensors, a broken file, or a tensor that is not in them or has another shape.
    """
    if next(model.parameters(), None) is None:  # A stage may hold no layer, and transformers wants a weight's type.
        return
    mapping: list[Any] = list(get_model_conversion_mapping(model))
    with ExitStack() as files:
        slices: dict[str, Any] = {}
        for path in _safetensors_files(folder):
            try:
                file = files.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise RequestError(f"{path} cannot be read: {error}") from None
            slices.update({key: file.get_slice(key) for key in file.keys()})  # noqa: SIM118 (not a dict)
        local = _local_slices(model, anatomy, slices, mapping)
        config = LoadStateDictConfig(dtype=model.dtype, weight_mapping=mapping)
        info, _ = convert_and_load_state_dict_in_model(model, local, config)
    if info.mismatched_keys:
        name, found, wanted = min(info.mismatched_keys)
        raise RequestError(f"{folder}: {name} has shape {tuple(found)}, the configuration wants {tuple(wanted)}")
    missing = sorted(info.missing_keys - {copy for copy, _ in anatomy.aliases})
    if missing:
        raise RequestError(f"{folder} lacks {len(missing)} tensors of this model, the first is {missing[0]}")
    for tensor in [*model.parameters(), *model.buffers()]:
        if not tensor.is_meta:  # So far it lies in the file, which someone may write while we train.
            tensor.data = tensor.data.clone()


def _local_slices(
    model: PreTrainedModel, anatomy: Anatomy, slices: dict[str, Any], mapping: list[Any]
) -> dict[str, Any]:
    """Of all that the files hold, what this part needs; the head's copy of a tied embedding is read from its owner."""
    state: dict[str, Any] = model.state_dict()
    copies = {owner: copy for copy, owner in anatomy.tied if copy in state}
    known = state | {owner: state[copy] for owner, copy in copies.items()}
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    local: dict[str, Any] = {}
    for key, tensor in slices.items():
        name, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
        if name in state and name not in copies.values():
            local[key] = tensor
        if name in copies:
            local[copies[name]] = tensor
    return local


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise RequestError(f"{index} is no index of safetensors files; save the model again") from None
        return [folder / name for name in sorted(names)]
    single = folder / "model.safetensors"
    if not single.exists():
        raise RequestError(f"{folder} holds no model.safetensors; save the model with save_pretrained")
    return [single]


def _materialise(module: nn.Module) -> None:
    """Makes room for what is on meta, filled with what cannot be taken for a value."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.is_meta:
            room = torch.full_like(parameter, torch.nan, device="cpu", requires_grad=False)
            module.register_parameter(name, nn.Parameter(room, parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_meta:
            nothing = torch.nan if buffer.is_floating_point() else 0
            module._buffers[name] = torch.full_like(buffer, nothing, device="cpu")


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner).register_parameter(leaf, parameter)


def _draw(module: nn.Module, name: str, owner: PreTrainedModel, seed: int) -> None:
    """Children before parents, as transformers does it: a parent may scale what its children drew."""
    if isinstance(module, PreTrainedModel):
        owner = module
    for child_name, child in module.named_children():
        _draw(child, f"{name}.{child_name}" if name else child_name, owner, seed)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest, "big"))
    owner._init_weights(module)
