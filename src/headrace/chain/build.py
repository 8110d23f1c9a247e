"""From a model's source to its chain, and to a part of it with weights."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from headrace.chain.anatomy import Anatomy, find_anatomy, meta_model
from headrace.chain.chain import Chain, Layer
from headrace.chain.frozen import frozen_names
from headrace.chain.part import Part
from headrace.chain.weights import draw_weights, read_weights
from headrace.errors import RequestError


@dataclass(frozen=True)
class ModelSource:
    """What a model is made from.

    Attributes:
        config: Its transformers configuration.
        folder: Where its safetensors lie; None draws the weights from ``seed``.
        dtype: Of parameters and activations.
        seed: Of the start weights.
        freeze: Patterns of the names of parameters that do not learn, as `frozen_names` reads them.
        autocast: Type of the matrix products where it is another than ``dtype`` (see ``torch.autocast``).
        compile_backend: Of ``torch.compile``, through which the transformer layers run; None: as they are.
    """

    config: PretrainedConfig
    folder: Path | None = None
    dtype: torch.dtype = torch.float32
    seed: int = field(default=0)
    freeze: tuple[str, ...] = ()
    autocast: torch.dtype | None = None
    compile_backend: str | None = None

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where the model may be cut.

        Raises:
            RequestError: The type is not supported, with the reason.
        """
        refuse_settings(self.config)
        return find_anatomy(meta_model(self.config, self.dtype))

    @cached_property
    def frozen(self) -> frozenset[str]:
        """Global names of the parameters that do not learn.

        Raises:
            RequestError: A pattern matches none, or all are frozen.
        """
        return frozen_names(self.freeze, self.anatomy.parameter_names, self.anatomy.tied)

    @cached_property
    def first_that_learns(self) -> int:
        """Index in the chain of the first layer with a parameter that learns; none before it needs a gradient."""
        return min(self.anatomy.layer_of(name) for name in self.anatomy.parameter_names if name not in self.frozen)

    def chain(self) -> Chain:
        """The model as a row of layers, found on the meta device."""
        return describe(meta_model(self.config, self.dtype), self.anatomy, self.frozen, self.first_that_learns)

    def build(self, first: int, stop: int, device: torch.device | str = "cpu") -> Part:
        """Layers ``first … stop - 1`` of the chain, with weights; nothing else is ever held.

        Weights are drawn on the CPU whatever the device, so that they have the same bits everywhere.
        """
        part = Part(meta_model(self.config, self.dtype), self.anatomy, first, stop)
        if self.folder is not None:
            read_weights(part.model, self.anatomy, self.folder)
        draw_weights(part.model, self.anatomy, self.seed)
        part.model.train().to(device)
        owners = dict(self.anatomy.tied)
        for name, parameter in part.named_parameters():
            if owners.get(name, name) in self.frozen:
                parameter.requires_grad_(False)
        part.passes_gradient, part.autocast = first > self.first_that_learns, self.autocast
        if self.compile_backend is not None:
            part.compile_layers(self.compile_backend)
        return part


def named_config(model_type: str, **settings: Any) -> PretrainedConfig:
    """The configuration of ``model_type`` with ``settings`` on top of its defaults.

    Raises:
        RequestError: Unknown type (names the nearest) or a setting that the class refuses.
    """
    if model_type not in CONFIG_MAPPING:
        near = get_close_matches(model_type, list(CONFIG_MAPPING.keys()), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(f"transformers knows no model type {model_type!r}{hint}")
    try:
        return AutoConfig.for_model(model_type, **settings)
    except StrictDataclassError as error:
        reason = str(error.__cause__ or error)
    except (ValueError, TypeError) as error:
        reason = str(error)
    raise RequestError(f"the configuration of {model_type} was refused: {reason}")


def config_of(model: str) -> PretrainedConfig:
    """The configuration that a person means by ``model``: a model type, a ``config.json``, or a Hugging Face folder.

    Raises:
        RequestError: It is none of them, or was refused.
    """
    path = Path(model)
    if not path.exists():
        return named_config(model)
    file = path / "config.json" if path.is_dir() else path
    try:
        settings = json.loads(file.read_text())
        return named_config(settings.pop("model_type"), **settings)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{file} is no configuration of a model: {type(error).__name__} {error}") from None


def refuse_settings(config: PretrainedConfig) -> None:
    """Refuses, before anything is built, what cannot be cut by its settings alone.

    Raises:
        RequestError: With the setting and what to choose instead.
    """
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise RequestError(f"{name} is an encoder-decoder; only causal language models can be cut")
    if (text := config.get_text_config(decoder=True)) is not config:
        take = f": take {text.model_type}" if text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else ""
        raise RequestError(f"{name} is several models in one; only its language model can be cut{take}")
    if getattr(config, "output_router_logits", False):
        raise RequestError(
            f"{name} with output_router_logits=true adds a loss of every layer, "
            "which a cut model would leave out; set it to false"
        )
    if getattr(config, "layerdrop", 0):
        raise RequestError(f"{name} with layerdrop={config.layerdrop} skips layers at random; set it to 0")


def describe(
    model: PreTrainedModel, anatomy: Anatomy, frozen: frozenset[str] = frozenset(), first_that_learns: int = 0
) -> Chain:
    """The chain of a meta model, of which the parameters ``frozen`` do not learn."""
    config = model.config.get_text_config(decoder=True)
    names: list[list[str]] = [[] for _ in range(anatomy.num_layers + 2)]
    for name in anatomy.parameter_names:
        names[anatomy.layer_of(name)].append(name)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layers = model.get_submodule(anatomy.layers_path)
    assert isinstance(layers, nn.ModuleList)
    types = getattr(config, "layer_types", None) or [""] * anatomy.num_layers
    attention = _attention_width(config)

    def layer(index: int, name: str, kind: str, flops: float, width: int, outputs: int = 0) -> Layer:
        own = tuple(names[index])
        still = [n for n in own if n in frozen]
        if still:  # It costs less than one that learns, and least where no gradient has to go further back.
            kind = f"{kind} frozen {_digest(n.removeprefix(prefix_of[index]) for n in still)}"
        if 0 < index <= first_that_learns:
            kind = f"{kind} without a gradient of its input"
        sizes = {n: parameters[n].numel() for n in own}
        return Layer(name, kind, sum(sizes.values()), own, flops, width, sum(sizes[n] for n in still), outputs)

    prefix_of = ["", *(f"{anatomy.layers_path}.{i}." for i in range(anatomy.num_layers)), ""]
    row = [layer(0, "embedding", "embedding", 0.0, 0)]
    for i, block in enumerate(layers):
        kind = f"{type(block).__name__} {types[i]} {_structure(block)}"
        matrices = _matrices(block, config)
        flops, outputs = 2.0 * sum(size for size, _ in matrices), sum(width for _, width in matrices)
        row.append(layer(i + 1, f"layers.{i}", kind, flops, attention, outputs))
    head_flops = 2.0 * config.hidden_size * config.vocab_size
    row.append(layer(anatomy.num_layers + 1, "head", "head", head_flops, 0))
    dtype_bytes = torch.empty(0, dtype=model.dtype).element_size()
    return Chain(
        config.model_type, tuple(row), config.hidden_size, config.vocab_size, anatomy.tied, dtype_bytes, frozen
    )


def _structure(block: nn.Module) -> str:
    """A word that two layers share when their modules and shapes are the same; the same in every process."""
    rows = [f"{name} {tuple(parameter.shape)}" for name, parameter in block.named_parameters()]
    rows += [f"{name} {type(module).__name__}" for name, module in block.named_modules()]
    return _digest(rows)


def _digest(rows: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=6).hexdigest()


def _attention_width(config: PretrainedConfig) -> int:
    heads: int = getattr(config, "num_attention_heads", None) or 0
    if heads == 0:
        return 0
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * head_dim


def _matrices(block: nn.Module, config: PretrainedConfig) -> list[tuple[int, int]]:
    """Weights, and numbers of the output, of each matrix that a token meets; of fused experts the active ones count."""
    counts = [getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")]
    experts = next(filter(None, counts), 1)
    active = getattr(config, "num_experts_per_tok", None) or 1
    found: list[tuple[int, int]] = []
    for module in block.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 2 and not isinstance(module, nn.Embedding):
                found.append((parameter.numel(), parameter.shape[1 if isinstance(module, Conv1D) else 0]))
            elif parameter.ndim == 3 and parameter.shape[0] == experts:
                found += [(parameter[0].numel(), parameter.shape[1])] * active
    return found
