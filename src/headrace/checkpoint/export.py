"""Export: an ordinary Hugging Face folder, made a few layers at a time."""

import fnmatch
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from headrace.checkpoint.folder import read_meta
from headrace.checkpoint.load import load_state, stored_tensors
from headrace.checkpoint.room import check_room
from headrace.errors import RequestError, RunError

_SHARD_BYTES = 2 * 10**9
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
_build: Callable[[PreTrainedConfig], PreTrainedModel] = AutoModelForCausalLM.from_config


def export_checkpoint(checkpoint: Path, out: Path, tokenizer_dir: Path | None) -> Path:
    """Writes a folder that ``AutoModelForCausalLM.from_pretrained`` loads, with the checkpoint's very bits.

    Tensors get the names and shapes that their type is published with (each expert of a mixture on its own, say); a
    tied parameter is stored once and stays tied. Never more than one shard is in memory: 2 GB, or one layer where that
    is larger, twice while it is converted.

    Args:
        checkpoint: A checkpoint whose meta has the model's configuration, as ``to_dict()`` gives it, under
            ``model_config``.
        out: The folder to make; its parents are made too. Absent until it is whole.
        tokenizer_dir: Where the tokenizer's files are, copied as they are; None for a model without.

    Returns:
        ``out``.

    Raises:
        RequestError: ``out`` holds something, the disk has too little room, the checkpoint is half written, damaged
            or lacks a tensor of its model, or ``tokenizer_dir`` has no tokenizer.
        RunError: The disk refused; nothing is left in ``out``.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} exists and is not empty; choose another folder to export to, or remove it.")
    model, state = _empty_model(checkpoint)
    check_room(out, sum(map(_num_bytes, state.values())))
    partial = out.absolute().with_name(out.absolute().name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if tokenizer_dir is not None:
            _copy_tokenizer(tokenizer_dir, partial)
        _write_configs(model, partial)
        _write_weights(model, state, checkpoint, partial)
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"The export to {out} stopped and left nothing: {error}; make room or choose another."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _empty_model(checkpoint: Path) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model without storage, and the tensors to export, in the types that the checkpoint has them in."""
    config = AutoConfig.for_model(**read_meta(checkpoint)["model_config"])
    stored = stored_tensors(checkpoint)
    with torch.device("meta"):
        model = _build(config)
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    for name in state.keys() & stored.keys():
        state[name] = state[name].to(stored[name].properties.dtype)
    model.config.dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    model.config.architectures = [type(model).__name__]
    return model, state


def _write_configs(model: PreTrainedModel, folder: Path) -> None:
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _write_weights(model: PreTrainedModel, state: dict[str, Tensor], checkpoint: Path, folder: Path) -> None:
    shards = list(_cut_into_shards(state))
    file_of: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        loaded = {name: torch.empty_like(state[name], device="cpu") for name in names}
        load_state(checkpoint, loaded)
        published = {name: tensor.contiguous() for name, tensor in revert_weight_conversion(model, loaded).items()}
        save_file(published, folder / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(published, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(map(_num_bytes, state.values()))}, "weight_map": file_of}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _cut_into_shards(state: dict[str, Tensor]) -> Iterator[list[str]]:
    """Names by the shard, in the model's order; what is converted together stays together."""
    blocks: dict[str, list[str]] = {}
    for name in state:
        blocks.setdefault(_block_of(name), []).append(name)
    shard: list[str] = []
    shard_bytes = 0
    for names in blocks.values():
        block_bytes = sum(_num_bytes(state[name]) for name in names)
        if shard and shard_bytes + block_bytes > _SHARD_BYTES:
            yield shard
            shard, shard_bytes = [], 0
        shard += names
        shard_bytes += block_bytes
    yield shard


def _block_of(name: str) -> str:
    """The layer, ``model.layers.3``, or outside the layers the module, ``model.norm``, that a parameter belongs to."""
    layer = re.match(r".*?\.\d+(?=\.)", name)
    return layer.group() if layer else name.rpartition(".")[0]


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copy_tokenizer(tokenizer_dir: Path, folder: Path) -> None:
    files = sorted(tokenizer_dir.iterdir()) if tokenizer_dir.is_dir() else []
    chosen = [f for f in files if any(fnmatch.fnmatch(f.name, pattern) for pattern in _TOKENIZER_FILES)]
    if not chosen:
        raise RequestError(f"{tokenizer_dir} has no tokenizer files (tokenizer.json or others); give their folder.")
    for file in chosen:
        shutil.copy(file, folder / file.name)
