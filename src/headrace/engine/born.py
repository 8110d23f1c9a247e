"""Counting the bytes that ops have made and that something still keeps, autograd's graph included."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Born(TorchDispatchMode):
    """Notes each memory that an op makes while this is entered; views and in-place results make none.

    What a checkpointed layer or a function of one's own keeps is seen too, which hooks on saved tensors do not see.
    """

    def __init__(self) -> None:
        start: Callable[[], None] = super().__init__  # Which has no types.
        start()
        self._born: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the op and notes what is new."""
        older = {_address(tensor) for tensor in _tensors((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            if _address(tensor) not in older:
                storage = tensor.untyped_storage()
                self._born[_address(tensor)] = StorageWeakRef(storage), storage.nbytes()
        return output

    def __len__(self) -> int:
        """Memories noted so far, alive or not."""
        return len(self._born)

    def alive_bytes(self, first: int = 0) -> int:
        """Bytes that are still kept of the memories noted, without the first ones."""
        return sum(size for reference, size in list(self._born.values())[first:] if not reference.expired())


class Peak(Born):
    """Also notes the most that was alive at a time.

    Attributes:
        most_bytes: Behind any op.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the op, notes what is new, and counts."""
        output = super().__torch_dispatch__(func, types, args, kwargs)
        self.most_bytes = max(self.most_bytes, self.alive_bytes())
        return output


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _address(tensor: Tensor) -> int:
    """Of the storage; a weak reference keeps it from being given to another."""
    address: int = tensor.untyped_storage()._cdata
    return address
