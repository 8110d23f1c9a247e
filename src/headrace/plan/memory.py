"""What training needs of a rank's memory, apart from activations."""

from collections.abc import Collection
from typing import NamedTuple

from headrace.chain.chain import Chain

ADAMW_BYTES_PER_PARAMETER = 8
"""Two float32 moments (Kingma & Ba, arXiv 1412.6980, algorithm 1)."""


class StateBytes(NamedTuple):
    """Bytes that stay on a rank from step to step."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int


def num_held_parameters(chain: Chain, layers: Collection[int]) -> int:
    """Parameters on a rank that holds these layers of the chain.

    A tied head owns no matrix of its own, so without the embedding beside it the rank holds a copy.
    """
    own = sum(chain.layers[layer].num_parameters for layer in layers)
    needs_copy = bool(chain.tied) and len(chain.layers) - 1 in layers and 0 not in layers
    return own + chain.vocab_size * chain.hidden_size * needs_copy


def num_learning_parameters(chain: Chain, layers: Collection[int]) -> int:
    """Those of `num_held_parameters` that learn."""
    num_parameters = num_held_parameters(chain, layers)
    num_copied = num_parameters - sum(chain.layers[layer].num_parameters for layer in layers)
    num_learning = num_parameters - sum(chain.layers[layer].num_frozen for layer in layers)
    return num_learning - (0 if _tied_learns(chain) else num_copied)


def state_bytes(chain: Chain, layers: Collection[int], post_validation: bool = False) -> StateBytes:
    """Parameters, their gradients in the same precision, and the state of AdamW on a rank with these layers.

    Those that do not learn have neither gradient nor state. A tied head gathers a gradient of its own over the
    micro-batches, also where it shares the embedding's matrix. Post-validation keeps a copy of what learns and of its
    state, which counts as state.
    """
    num_parameters, num_learning = num_held_parameters(chain, layers), num_learning_parameters(chain, layers)
    twice_gathered = _tied_learns(chain) and {0, len(chain.layers) - 1} <= set(layers)
    num_gradients = num_learning + chain.vocab_size * chain.hidden_size * twice_gathered
    copied_bytes = (chain.dtype_bytes + ADAMW_BYTES_PER_PARAMETER) * post_validation
    return StateBytes(
        num_parameters * chain.dtype_bytes,
        num_gradients * chain.dtype_bytes,
        num_learning * (ADAMW_BYTES_PER_PARAMETER + copied_bytes),
    )


def version_bytes(chain: Chain, layers: Collection[int], num_held: int) -> int:
    """Parameters of a stage in the versions that it holds beside the newest; what does not learn has one version."""
    return (num_held - 1) * num_learning_parameters(chain, layers) * chain.dtype_bytes


def _tied_learns(chain: Chain) -> bool:
    return bool(chain.tied) and chain.frozen.isdisjoint(owner for _, owner in chain.tied)
