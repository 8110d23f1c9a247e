"""Running a layer through ``torch.compile``."""

from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from headrace.errors import RequestError

Forward = Callable[..., Any]


def compiled(forward: Forward, backend: str, name: str) -> Forward:
    """The forward of a layer, compiled when it is first trained with; layers of one class share what was compiled.

    Each shape is compiled for itself and always as a whole, so that what runs does not depend on what ran before: a
    layer has the same bits on every stage. Where no gradient is wanted ``forward`` runs as it is.

    Args:
        forward: A layer's own.
        backend: As ``torch.compile`` names it.
        name: Of the layer, for messages.

    Raises:
        RequestError: By what is answered, where the layer cannot be compiled.
    """
    fast: Forward = torch.compile(forward, fullgraph=True, dynamic=False, backend=backend)

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        try:
            return fast(*args, **kwargs)
        except TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            raise RequestError(f"{name} cannot be compiled: {first}; set train.compile=false") from error

    return run
