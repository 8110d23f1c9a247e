"""A part of the chain as a runnable module: the real transformers model, with identities where layers belong elsewhere.

The model is entered again on every stage ("split by re-entry"): masks and rotary tables are rebuilt from the integers
of the micro-batch, and whatever the model does to its embeddings before the first layer is overruled by the hidden
state that was received.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headrace.chain.anatomy import Anatomy, keep_settings
from headrace.chain.chain import RecomputeMode
from headrace.chain.compiled import compiled
from headrace.chain.late_loss import late_loss
from headrace.chain.microbatch import MicroBatch
from headrace.chain.recompute import run_layer
from headrace.chain.small import RANDOM_SETTINGS
from headrace.errors import RequestError


class _StandIn(nn.Module):
    """Takes the place of a module of another stage; says so when the model reads more of it than its settings."""

    def __init__(self, name: str, of: nn.Module) -> None:
        super().__init__()
        self.name = name
        keep_settings(self, of)

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(f"its code reads {self.name}.{attribute}, which lies on another stage")


class _Elsewhere(_StandIn):
    """Stands for a transformer layer of another stage."""

    def __init__(self, name: str, of: nn.Module, returns_tuple: bool) -> None:
        super().__init__(name, of)
        self.returns_tuple = returns_tuple

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if self.returns_tuple else hidden


class _Absent(_StandIn):
    """Stands for an embedding, norm or head of another stage; what it answers is never used, but its type is."""

    def __init__(self, name: str, of: nn.Module) -> None:
        super().__init__(name, of)
        self.embedding_dtype = of.weight.dtype if isinstance(of, nn.Embedding) else None

    def forward(self, value: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.embedding_dtype is not None:  # Broadcasts against any hidden state that it is added to.
            return torch.zeros(*value.shape, 1, dtype=self.embedding_dtype, device=value.device)
        return value


class Part:
    """Layers ``first … stop - 1`` of a chain, ready to run.

    Attributes:
        model: The transformers model with everything else replaced by parameterless stand-ins.
        anatomy: That of the unsplit model.
        first, stop: Bounds in the chain (0 is the embedding, ``num_layers + 1`` the head).
        recompute: The mode of each transformer layer of the unsplit model; empty where all are kept whole.
        loss_chunks: Chunks of tokens in which the loss is computed; its logits are alive one chunk at a time.
        autocast: Type in which matrix products are made, as ``torch.autocast`` chooses them; None: the parameters'.
        compiled_layers: Those that run through ``torch.compile``, forward and backward each in one piece.
        passes_gradient: Whether a layer before this part learns, so that the gradient of what is received is wanted.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, first: int, stop: int) -> None:
        self.model, self.anatomy, self.first, self.stop = model, anatomy, first, stop
        self.recompute: tuple[RecomputeMode, ...] = ()
        self.loss_chunks = 1
        self.autocast: torch.dtype | None = None
        self.compiled_layers: list[nn.Module] = []
        self.passes_gradient = first > 0
        self._received: Tensor | None = None
        self._output: Tensor | None = None
        self._key: tuple[int, int, int] = (0, 0, 0)
        self._dtype, self._hidden_size = model.dtype, model.config.get_text_config(decoder=True).hidden_size
        prune(model, anatomy, first, stop)
        layers = cast(nn.ModuleList, model.get_submodule(anatomy.layers_path))
        if not self.has_embedding:
            layers[0].register_forward_pre_hook(self._hand_in, with_kwargs=True)
        layers[anatomy.num_layers - 1].register_forward_hook(self._keep_output)
        self._random = _draws_at_random(model)
        self._forwards: dict[int, Callable[..., Any]] = {}
        for index in self.local_layers():
            self._forwards[index] = layers[index].forward
            layers[index].forward = self._layer_forward(index)
        parameters = inspect.signature(model.base_model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        can_keep_last = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if can_keep_last else {}

    @property
    def has_embedding(self) -> bool:
        """Whether token ids enter here."""
        return self.first == 0

    @property
    def has_head(self) -> bool:
        """Whether the loss leaves here."""
        return self.stop == self.anatomy.num_layers + 2

    @property
    def body(self) -> nn.Module:
        """The model without its head: that answers the last hidden state."""
        return self.model.get_submodule(self.anatomy.body_path)

    def local_layers(self) -> range:
        """Indices, in the model's list, of the transformer layers that are here."""
        return range(max(self.first - 1, 0), min(self.stop - 1, self.anatomy.num_layers))

    def compile_layers(self, backend: str) -> None:
        """Compiles each transformer layer, once for all that are alike; to be called before a `Stage` takes the part.

        Args:
            backend: As ``torch.compile`` names it.
        """
        layers = cast(nn.ModuleList, self.model.get_submodule(self.anatomy.layers_path))
        for index in self.local_layers():
            name = f"{self.anatomy.layers_path}.{index} of this {self.model.config.model_type}"
            self._forwards[index] = compiled(self._forwards[index], backend, name)
            self.compiled_layers.append(layers[index])

    def layer(self, index: int) -> nn.Module:
        """The transformer layer at ``index`` of the model's list, or what stands for it."""
        return self.model.get_submodule(f"{self.anatomy.layers_path}.{index}")

    def forward(self, hidden: Tensor | None, batch: MicroBatch) -> Tensor:
        """Runs the part.

        Args:
            hidden: ``[rows, length, hidden]`` from the part before; None where the embedding is here.
            batch: The integers of the micro-batch.

        Returns:
            The hidden state ``[rows, length, hidden]``, or, where the head is here, the micro-batch's share of the
            step's mean loss (a scalar, which its backward fills in: see `late_loss`), or, where the micro-batch asks
            for them, the logits ``[rows, vocabulary]`` of the next token.
        """
        if self.autocast is None:
            return self._forward(hidden, batch)
        # Autocast casts a leaf once for all its uses, a hidden state of the unsplit model for each.
        hidden = None if hidden is None else hidden.view_as(hidden)
        with torch.autocast(batch.input_ids.device.type, self.autocast):
            return self._forward(hidden, batch)

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Local parameters by global name; the head's copy of a tied embedding has its own name."""
        return self.model.named_parameters()

    def _forward(self, hidden: Tensor | None, batch: MicroBatch) -> Tensor:
        self._received, self._key = hidden, batch.key
        inputs: dict[str, Any] = {"attention_mask": batch.attention_mask, "use_cache": False}
        if batch.position_ids is not None:
            if not self._takes_positions:
                raise RequestError(f"{self.model.config.model_type} takes no position_ids; do not pack documents")
            inputs["position_ids"] = batch.position_ids
        if hidden is None:
            inputs["input_ids"] = batch.input_ids
        else:
            inputs["inputs_embeds"] = hidden.detach()
        self._seed(0, batch.key)
        if self.has_head and batch.wants_logits:
            logits: Tensor = self.model(**inputs, **self._last_only).logits
            self._received = self._output = None
            return logits[:, -1]
        if self.has_head:
            answer = self.body(**inputs)
            self._received = self._output = None
            return late_loss(self.model, self.body, answer, batch, self.loss_chunks, self._seed_head(batch.key))
        self.model.base_model(**inputs)
        output, self._received, self._output = self._output, None, None
        assert output is not None
        self._check_output(output, (*batch.shape, self._hidden_size))
        return output.contiguous()

    def _check_output(self, output: Tensor, shape: tuple[int, ...]) -> None:
        """The next stage makes room for what crosses the cut from these alone."""
        if (tuple(output.shape), output.dtype) != (shape, self._dtype):
            raise RequestError(
                f"{self.model.config.model_type} passes {list(output.shape)} {output.dtype} between its layers, "
                f"where {list(shape)} {self._dtype} can cross a cut"
            )

    def _hand_in(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._received, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._received}

    def _keep_output(self, _: nn.Module, __: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, tuple) else output
        self._seed(self.anatomy.num_layers + 1, self._key)

    def _layer_forward(self, index: int) -> Callable[..., Any]:
        """A layer's forward that seeds its draws, also when it runs again in the backward."""

        def run(key: tuple[int, int, int], *args: Any, **kwargs: Any) -> Any:
            self._seed(index + 1, key)
            return self._forwards[index](*args, **kwargs)

        def layer_forward(*args: Any, **kwargs: Any) -> Any:
            mode = self.recompute[index] if self.recompute else "none"
            return run_layer(mode, run, self._key, *args, **kwargs)

        return layer_forward

    def _seed_head(self, key: tuple[int, int, int]) -> Callable[[], None]:
        return lambda: self._seed(self.anatomy.num_layers + 1, key)

    def _seed(self, layer: int, key: tuple[int, int, int]) -> None:
        if self._random:
            _reseed(draw_seed(*key, layer))


def prune(model: PreTrainedModel, anatomy: Anatomy, first: int, stop: int) -> None:
    """Replaces all that owns parameters outside layers ``first … stop - 1``; a tied head gets its own parameter."""
    layers = cast(nn.ModuleList, model.get_submodule(anatomy.layers_path))
    for index in range(anatomy.num_layers):
        if not first <= index + 1 < stop:
            name = f"{anatomy.layers_path}.{index}"
            layers[index] = _Elsewhere(name, layers[index], anatomy.layer_returns_tuple)
    for copy, _ in anatomy.tied:
        owner, _, leaf = copy.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, leaf, nn.Parameter(torch.empty_like(getattr(module, leaf))))
    absent: list[str] = []
    for name, module in list(model.named_modules()):
        own = [f"{name}.{leaf}" for leaf, _ in module.named_parameters(recurse=False)]
        inside = any(name.startswith(other + ".") for other in absent)
        if own and not inside and not first <= anatomy.layer_of(own[0]) < stop:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _Absent(name, module))
            absent.append(name)


def draw_seed(seed: int, step: int, microbatch: int, layer: int) -> int:
    """Seed of the draws of one layer for one micro-batch, whatever rank runs it and in whatever order."""
    digest = hashlib.blake2b(f"{seed}/{step}/{microbatch}/{layer}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _reseed(seed: int) -> None:
    """What ``torch.manual_seed`` does, which formats a stack trace each time where CUDA is not at work: 0.5 ms."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _draws_at_random(model: PreTrainedModel) -> bool:
    settings = model.config.get_text_config(decoder=True).to_dict().items()
    rates = [value for key, value in settings if any(word in key for word in RANDOM_SETTINGS)]
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
