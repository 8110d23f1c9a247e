"""The chain: a model as an ordered row of layers, known without a device."""

from dataclasses import dataclass
from typing import Literal, get_args

RecomputeMode = Literal["none", "selective", "full"]
"""What of a layer's activations is computed again in the backward instead of kept."""

RECOMPUTE_MODES: tuple[RecomputeMode, ...] = get_args(RecomputeMode)
"""From the most memory to the least."""


@dataclass(frozen=True)
class Layer:
    """One link of the chain; cuts lie between layers.

    Attributes:
        name: ``embedding``, ``layers.0`` … ``layers.N-1`` or ``head``.
        kind: Layers of one kind have the same structure, so the same cost.
        num_parameters: Parameters that this layer owns (a tied head owns none of its own).
        parameter_names: Their global names, as in the unsplit model, in its order.
        forward_flops_per_token: Multiplications and additions of the matrix products, attention scores apart.
        attention_width: Heads x head size of the layer's attention (0 where there is none); the scores and
            their use cost ``4 x attention_width x context`` FLOPs a token.
        num_frozen: Of its parameters, those that do not learn: they have neither gradient nor optimizer state.
        linear_output_width: Numbers a token in the outputs of the matrix products, attention scores apart.
    """

    name: str
    kind: str
    num_parameters: int
    parameter_names: tuple[str, ...]
    forward_flops_per_token: float
    attention_width: int
    num_frozen: int = 0
    linear_output_width: int = 0


@dataclass(frozen=True)
class Chain:
    """A model that can be cut.

    Attributes:
        model_type: The type that transformers gives it, such as ``llama``.
        layers: Embedding first, then the transformer layers, then the head with its norm and loss.
        hidden_size: Width of the hidden state, which alone crosses a cut.
        vocab_size: Rows of the embedding.
        tied: Pairs of global names ``(copy, owner)`` that are one parameter.
        dtype_bytes: Bytes of one parameter.
        frozen: Global names of the parameters that do not learn.
    """

    model_type: str
    layers: tuple[Layer, ...]
    hidden_size: int
    vocab_size: int
    tied: tuple[tuple[str, str], ...]
    dtype_bytes: int
    frozen: frozenset[str] = frozenset()

    @property
    def num_transformer_layers(self) -> int:
        """Layers between embedding and head; a pipeline has at most as many stages."""
        return len(self.layers) - 2

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def num_learning(self) -> int:
        """Parameters that are trained, tied ones once."""
        return self.num_parameters - sum(layer.num_frozen for layer in self.layers)
