"""Where a transformers model may be cut: everything that knows the insides of its classes lives here and in `part`."""

import copy
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from headrace.chain.small import small_config
from headrace.errors import RequestError

_NUMBER = re.compile(r"\.\d+\.")
MOST_PARAMETERS = 20_000_000
"""Of a small model; the check builds it whole, several times."""


@dataclass(frozen=True)
class Anatomy:
    """What the split must know of one model.

    Attributes:
        layers_path: Global name of the list of transformer layers, such as ``model.layers``.
        num_layers: Its length.
        embedding_modules: Names of the modules outside the list that run before its first layer and own parameters.
        layer_returns_tuple: Whether the model takes the hidden state out of a tuple that its layers return.
        tied: Pairs ``(copy, owner)`` of global names that are one parameter, one in the embedding and one in the head.
        aliases: Such pairs within one layer of the chain, which no cut can part.
        parameter_names: Global names in the model's own order, tied copies left out.
        body_path: Name of the module that the ``*ForCausalLM`` calls for the last hidden state, such as ``model``.
    """

    layers_path: str
    num_layers: int
    embedding_modules: frozenset[str]
    layer_returns_tuple: bool
    tied: tuple[tuple[str, str], ...]
    aliases: tuple[tuple[str, str], ...]
    parameter_names: tuple[str, ...]
    body_path: str = ""

    def layer_of(self, parameter: str) -> int:
        """Index in the chain (0 embedding, then the layers, then the head) of the layer that ``parameter`` is in."""
        if parameter.startswith(self.layers_path + "."):
            return 1 + int(parameter[len(self.layers_path) + 1 :].split(".", 1)[0])
        owner = parameter.rpartition(".")[0]
        inside = any(owner == name or owner.startswith(name + ".") for name in self.embedding_modules)
        return 0 if inside else self.num_layers + 1


def meta_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The whole model on the meta device: structure and shapes, not one byte of weights.

    It has a configuration of its own, since some code keeps state there.
    """
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise RequestError(
            f"{config.model_type} is not a causal language model that transformers knows; "
            "choose a type with a *ForCausalLM class, such as llama"
        ) from None
    return model


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Finds the layers of a meta model, and what runs before them by running the beginning of a small sibling.

    Raises:
        RequestError: The model is no single row of layers between an embedding and a head.
    """
    path, layers = _layer_list(model)
    small = small_model(small_config(model.config))
    small_layers = _layer_list(small)[1]
    _refuse_unlike(model, path, layers, small, small_layers)
    embedding_modules, returns_tuple = _run_beginning(small, small_layers)
    body_path = _find_body(small, _layer_list(small)[0])
    owners = {id(p): n for n, p in model.named_parameters()}
    shared = [(n, owners[id(p)]) for n, p in model.named_parameters(remove_duplicate=False) if owners[id(p)] != n]
    anatomy = Anatomy(path, len(layers), embedding_modules, returns_tuple, (), (), tuple(owners.values()), body_path)
    return _sort_shared(anatomy, shared, model.config.model_type)


def small_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The whole model with weights, drawn without touching the caller's generator; only for small ones.

    Raises:
        RequestError: It is not small: the sizes of its type are unknown to `small_config`.
    """
    num_parameters = meta_model(config, dtype).num_parameters()
    if num_parameters > MOST_PARAMETERS:
        raise RequestError(
            f"{config.model_type} cannot be checked: its small form has {num_parameters:,} parameters, "
            f"more than {MOST_PARAMETERS:,}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def _refuse_unlike(
    model: PreTrainedModel, path: str, layers: nn.ModuleList, small: PreTrainedModel, small_layers: nn.ModuleList
) -> None:
    """What is found with the small model is true of the large one only if both are made of the same."""
    unlike = _weights_outside(model, path) ^ _weights_outside(small, path)
    for layer in layers:
        unlike |= min((_weights_of(layer) ^ _weights_of(other) for other in small_layers), key=len)
    if unlike:
        raise RequestError(
            f"{model.config.model_type} with these settings cannot be checked: its small form is made of other "
            f"weights, the first is {min(unlike)}"
        )


def _weights_outside(model: PreTrainedModel, layers_path: str) -> set[str]:
    return {_NUMBER.sub(".N.", n) for n, _ in model.named_parameters() if not n.startswith(layers_path + ".")}


def _weights_of(layer: nn.Module) -> set[str]:
    return {_NUMBER.sub(".N.", name) for name, _ in layer.named_parameters()}


def _sort_shared(anatomy: Anatomy, shared: list[tuple[str, str]], model_type: str) -> Anatomy:
    """Tells weights shared by embedding and head from those shared within one layer; refuses any other sharing."""
    tied, aliases = [], []
    for twin, owner in shared:
        ends = {anatomy.layer_of(twin), anatomy.layer_of(owner)}
        if len(ends) == 1:
            aliases.append((twin, owner))
        elif ends == {0, anatomy.num_layers + 1}:
            tied.append((twin, owner))
        else:
            raise RequestError(f"{model_type} shares {owner} with {twin}; only embedding and head may share a weight")
    return replace(anatomy, tied=tuple(tied), aliases=tuple(aliases))


def _layer_list(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    found = [(n, m) for n, m in model.base_model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    outer = [(n, m) for n, m in found if not any(n.startswith(other + ".") for other, _ in found)]
    if len(outer) != 1:
        raise RequestError(
            f"{model.config.model_type} is not supported: {len(outer)} lists of {count} layers were found "
            "where exactly one is needed"
        )
    name, layers = outer[0]
    prefix = "" if model.base_model is model else model.base_model_prefix + "."
    return prefix + name, layers


def keep_settings(stand_in: nn.Module, of: nn.Module) -> None:
    """Gives a stand-in the plain attributes of the module that it stands for, such as its kind of attention."""
    plain = {k: v for k, v in vars(of).items() if not k.startswith("_") and not callable(v)}
    vars(stand_in).update({k: v for k, v in plain.items() if k not in vars(stand_in)})


def _find_body(model: PreTrainedModel, layers_path: str) -> str:
    """The outermost module around the layers that the model's own forward calls."""
    entered: list[str] = []

    def watch(name: str) -> Any:
        def stop(*_: Any) -> None:
            entered.append(name)
            raise _StopHereError

        return model.get_submodule(name).register_forward_pre_hook(stop)

    steps = layers_path.split(".")[:-1]
    hooks = [watch(".".join(steps[:end])) for end in range(1, len(steps) + 1)]
    try:
        model(input_ids=torch.ones(1, 2, dtype=torch.long), use_cache=False)
    except _StopHereError:
        return entered[0]
    except Exception as error:
        raise RequestError(f"{model.config.model_type} is not supported: up to its layers, {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    raise RequestError(f"{model.config.model_type} is not supported: its head cannot be told from its layers")


class _StopHereError(Exception):
    """Ends the run of a model's beginning."""


class _FirstLayer(nn.Module):
    """Stands for layer 0 and answers with a tuple, so that what comes next shows whether the model unpacks it."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.reached = False
        keep_settings(self, of)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any]:
        self.reached = True
        return (args[0] if args else kwargs["hidden_states"],)


def _run_beginning(model: PreTrainedModel, layers: nn.ModuleList) -> tuple[frozenset[str], bool]:
    first, real_first = _FirstLayer(layers[0]), layers[0]
    before: set[str] = set()
    returns_tuple = True

    def watch(name: str, module: nn.Module) -> list[Any]:
        def entered(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal returns_tuple
            if first.reached:
                value = args[0] if args else kwargs.get("hidden_states")
                returns_tuple = not isinstance(value, tuple)
                raise _StopHereError

        def left(*_: Any) -> None:
            if not first.reached and any(True for _ in module.parameters(recurse=False)):
                before.add(name)

        return [module.register_forward_pre_hook(entered, with_kwargs=True), module.register_forward_hook(left)]

    layers[0] = first
    hooks = [h for n, m in model.named_modules() if m is not first for h in watch(n, m)]
    try:
        model.base_model(input_ids=torch.ones(1, 2, dtype=torch.long), use_cache=False)
    except _StopHereError:
        pass
    except Exception as error:
        reason = "its layers hand on more than the hidden state" if "to unpack" in str(error) else str(error)
        raise RequestError(f"{model.config.model_type} is not supported: up to its first layer, {reason}") from error
    finally:
        layers[0] = real_first
        for hook in hooks:
            hook.remove()
    return frozenset(before), returns_tuple
