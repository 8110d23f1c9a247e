"""Running a layer so that less of it is kept: the rest is computed again when the backward needs it.

The modes are those of Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models
(arXiv 2205.05198, section 5): ``full`` keeps the layer's input, ``selective`` also the outputs of its linear layers, so
that what runs again is cheap beside what it had kept: norms, the attention inner product with its softmax and dropout,
activation functions and the products of gates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from headrace.chain.chain import RecomputeMode

_aten = torch.ops.aten

LINEAR_OPS = [_aten.mm.default, _aten.addmm.default, _aten._grouped_mm.default]
"""What linear layers and experts come down to; the attention's own products are batched ones."""


def run_layer(mode: RecomputeMode, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs ``run(*args, **kwargs)``, keeping of its activations what ``mode`` says.

    ``run`` must seed its own random draws, since it may run again.
    """
    if mode == "none" or not torch.is_grad_enabled():
        return run(*args, **kwargs)
    extra: dict[str, Any] = {}
    if mode == "selective":
        extra["context_fn"] = partial(create_selective_checkpoint_contexts, LINEAR_OPS)
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **extra, **kwargs)
