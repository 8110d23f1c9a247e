"""Counts the bytes of living tensors: each memory once, from the op that made it until nobody holds it."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Within it new tensors are counted.

    Attributes:
        peak: The most bytes that were alive at a time.
    """

    def __init__(self, counts: Callable[[Tensor], bool]) -> None:
        """``counts`` says which tensors do."""
        super().__init__()
        self._alive: dict[int, int] = {}
        self._counts, self.peak = counts, 0

    @property
    def now(self) -> int:
        return sum(self._alive.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and self._counts(tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._alive:
                    self._alive[storage.data_ptr()] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage.data_ptr())
        self.peak = max(self.peak, self.now)
        return result
