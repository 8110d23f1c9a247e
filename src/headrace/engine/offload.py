"""Activations wait in the host's memory: they leave the device behind F, and come back ahead of the backward.

Of the micro-batches in flight on a stage, the next to go backward stays on the device and the others are on the host;
since backwards are in ascending order, it is the lowest. While one goes backward the next comes in, on a stream of its
own, so a stage has at most two on the device and one on its way out, however many are in flight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

SMALLEST_BYTES = 1 << 16
"""Smaller tensors stay on the device: to start a copy takes longer than to make it."""


class Offload:
    """Moves what autograd saves for one stage; parameters and buffers of its model never move.

    On a CPU, which has no other memory, it makes the same copies, so that all of it can be tested there.
    """

    def __init__(self, model: nn.Module, device: torch.device, smallest_bytes: int = SMALLEST_BYTES) -> None:
        """Moves nothing yet.

        Args:
            model: Of the stage.
            device: Where it computes.
            smallest_bytes: Of a memory that is moved.
        """
        self._model, self._device, self._smallest_bytes = model, device, smallest_bytes
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._moved: dict[int, list[_Moved]] = {}

    @property
    def host_bytes(self) -> int:
        """What is on the host now and not on the device."""
        return sum(one.host.nbytes for moved in self._moved.values() for one in moved if one.host is not None)

    @contextmanager
    def saving(self, microbatch: int, received: Tensor | None) -> Iterator[None]:
        """Within it the forward of ``microbatch`` saves to the host, unless its backward is the next one.

        ``received``, the input of the stage, which is kept until its gradient has been made, stays.
        """
        moved = self._moved[microbatch] = []
        if min(self._moved) == microbatch:
            yield
            return
        stay = {t.untyped_storage().data_ptr() for t in (*self._model.parameters(), *self._model.buffers())}
        if received is not None:
            stay.add(received.untyped_storage().data_ptr())
        known: dict[tuple[StorageWeakRef, int], _Moved] = {}  # A weak reference, since memory let go is used again.

        def pack(tensor: Tensor) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() in stay or not self._is_worth_it(tensor):
                return tensor
            key = StorageWeakRef(storage), tensor._version
            if key not in known:
                known[key] = _Moved(storage, self._stream)
                moved.append(known[key])
            return _View.of(known[key], tensor)

        with saved_tensors_hooks(pack, _unpack):
            yield

    def _is_worth_it(self, tensor: Tensor) -> bool:
        large = tensor.untyped_storage().nbytes() >= self._smallest_bytes
        return large and tensor.device.type == self._device.type

    def clear(self) -> None:
        """Lets go of everything that waits."""
        self._moved.clear()

    def begin_backward(self, microbatch: int) -> None:
        """Brings back what ``microbatch`` still has on the host, and begins to bring back the one after it."""
        for one in self._moved.pop(microbatch):
            one.fetch()
        for one in self._moved.get(min(self._moved, default=-1), ()):
            one.fetch()


class _Moved:
    """One memory that has left the device: views of it are saved, it moves once."""

    def __init__(self, storage: torch.UntypedStorage, stream: torch.cuda.Stream | None) -> None:
        self._stream, self._device = stream, storage.device
        there = _bytes_of(storage)
        self._here: Tensor | None = None
        self.host: Tensor | None = torch.empty(there.shape, dtype=torch.uint8, pin_memory=stream is not None)
        with _on(stream, waits=True):
            self.host.copy_(there, non_blocking=True)
        if stream is not None:
            there.record_stream(stream)  # Its memory is given to nobody else before the copy is made.

    def fetch(self) -> None:
        """Begins to bring it back."""
        if self.host is None:
            return
        with _on(self._stream, waits=False):
            self._here = torch.empty(self.host.shape, dtype=torch.uint8, device=self._device)
            self._here.copy_(self.host, non_blocking=True)
            self._arrived = None if self._stream is None else self._stream.record_event()
        self.host = None

    def storage(self) -> torch.UntypedStorage:
        """On the device, once it has arrived."""
        self.fetch()
        assert self._here is not None
        if self._arrived is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._arrived)
            self._here.record_stream(current)
        return self._here.untyped_storage()


@dataclass(frozen=True)
class _View:
    """How a saved tensor lies in its memory."""

    moved: _Moved
    dtype: torch.dtype
    offset: int
    size: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, moved: _Moved, tensor: Tensor) -> "_View":
        return cls(moved, tensor.dtype, int(tensor.storage_offset()), tensor.size(), tensor.stride())


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    storage = packed.moved.storage()
    tensor = torch.empty(0, dtype=packed.dtype, device=storage.device)
    return tensor.set_(storage, packed.offset, packed.size, packed.stride)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


@contextmanager
def _on(stream: torch.cuda.Stream | None, waits: bool) -> Iterator[None]:
    """On ``stream`` where there is one, behind all that has been asked of the current one if it ``waits`` for that."""
    if stream is None:
        yield
        return
    if waits:
        stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield
