"""Messages between two processes of one machine: tensors through shared memory, a few bytes through a local socket.

On a CPU this costs the sender about a tenth of what a send over TCP does, and a receiver wakes sooner. Memory is passed
as open file descriptors, so nothing has a name in a file system and nothing is left behind by a process that dies. The
receiver works on the memory itself, without a copy: it is written again only when nobody holds the tensor any more.
"""

import ctypes
import mmap
import os
import socket
import struct
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

Shape = tuple[int, ...]

_HEADER = struct.Struct("=iiq")  # slot, micro-batch, bytes of the slot where it is new, else 0
_FOLLOWS = b"m"  # comes behind the header of a new slot, with the slot's descriptor
_ACK = struct.Struct("=i")  # a slot that is free again
_TIMEOUT = struct.Struct("@ll")  # seconds and microseconds, as setsockopt takes them


def machine_identity() -> str:
    """Equal for two processes that can share memory: one kernel, one network namespace; empty where none can."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    if not hasattr(os, "memfd_create") or not boot.exists():
        return ""
    return f"{boot.read_text().strip()} {os.readlink(namespace)}"


def listen(name: str) -> socket.socket:
    """Opens the receiving end under a name that lives as long as the socket."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind("\0" + name)
    server.listen(1)
    return server


def connect(name: str) -> socket.socket:
    """The sending end of what `listen` opened before."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect("\0" + name)
    return client


class _Slot:
    """A piece of shared memory that holds one message at a time."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        """Maps the memory behind ``descriptor``, which may then be closed."""
        self.memory, self.num_bytes = mmap.mmap(descriptor, num_bytes), num_bytes
        self._view = torch.empty(0)

    def write(self, tensor: Tensor) -> None:
        if self._view.shape != tensor.shape:  # Messages of one edge mostly have one shape.
            self._view = torch.frombuffer(self.memory, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
        self._view.copy_(tensor)


class SharedOutbox:
    """The sending end. As many slots as messages were ever under way; each is used again once it has been read."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a connected socket."""
        self._connection = connection
        self._slots: list[_Slot] = []
        self._free: list[int] = []

    def put(self, microbatch: int, tensor: Tensor) -> None:
        """Copies the message into a slot and tells the receiver; waits for nobody.

        Raises:
            OSError: The receiver is gone.
        """
        needed = tensor.numel() * tensor.element_size()
        index = self._take_free(needed)
        if index is None:
            self._collect_free()
            index = self._take_free(needed)
        if index is not None:
            self._slots[index].write(tensor)
            self._connection.sendall(_HEADER.pack(index, microbatch, 0))
            return
        descriptor = os.memfd_create("headrace")
        os.ftruncate(descriptor, needed)
        slot = _Slot(descriptor, needed)
        slot.write(tensor)
        if self._free:  # All of them are too small; both ends let the memory of one go and use its number again.
            index = self._free.pop()
            self._slots[index] = slot
        else:
            index = len(self._slots)
            self._slots.append(slot)
        self._connection.sendall(_HEADER.pack(index, microbatch, needed))
        socket.send_fds(self._connection, [_FOLLOWS], [descriptor])
        os.close(descriptor)

    def flush(self) -> None:
        """Nothing is left to wait for: a message is in shared memory when `put` returns."""

    def close(self) -> None:
        """The receiver learns that nothing more will come."""
        self._connection.close()

    def _take_free(self, needed: int) -> int | None:
        index = next((i for i in self._free if self._slots[i].num_bytes >= needed), None)
        if index is not None:
            self._free.remove(index)
        return index

    def _collect_free(self) -> None:
        try:
            acks = self._connection.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._free += [index for (index,) in _ACK.iter_unpack(acks)]


class SharedInbox:
    """The receiving end, first in, first out."""

    def __init__(self, connection: socket.socket, dtype: torch.dtype) -> None:
        """Takes over an accepted socket."""
        self._connection, self._dtype, self._timeout = connection, dtype, timedelta()
        self._expected: deque[tuple[int, Shape]] = deque()
        self._slots: dict[int, _Slot] = {}
        self._leases: dict[int, weakref.ref[ctypes.Array[ctypes.c_char]]] = {}

    def expect(self, messages: Iterable[tuple[int, Shape]]) -> None:
        """Announces the messages of a step, as ``(micro-batch, shape)`` in the order in which they will come."""
        self._expected.extend(messages)

    def take(self, microbatch: int, timeout: timedelta) -> Tensor:
        """Waits for the next message, which must be that of ``microbatch``.

        The tensor lies in the memory that the sender wrote; the sender gets it back when the tensor's storage dies.

        Raises:
            OSError: The sender is gone, or did not send in time.
        """
        expected, shape = self._expected.popleft()
        if timeout != self._timeout:  # Known to the kernel: Python's own would cost a second call for each message.
            seconds, rest = divmod(timeout, timedelta(seconds=1))
            packed = _TIMEOUT.pack(seconds, rest.microseconds)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
            self._timeout = timeout
        try:
            header = self._connection.recv(_HEADER.size, socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError(f"nothing came in {timeout.total_seconds():g} s") from None
        if len(header) < _HEADER.size:
            raise ConnectionResetError("the connection was closed")
        index, got, num_bytes = _HEADER.unpack(header)
        assert got == expected == microbatch, f"expected micro-batch {microbatch}, the channel brings {got}"
        if num_bytes:
            _, descriptors, _, _ = socket.recv_fds(self._connection, len(_FOLLOWS), 1)
            self._slots[index] = _Slot(descriptors[0], num_bytes)
            os.close(descriptors[0])
        slot = self._slots[index]
        lease = (ctypes.c_char * slot.num_bytes).from_buffer(slot.memory)
        self._leases[index] = weakref.ref(lease, lambda _: self._give_back(index))
        return torch.frombuffer(lease, dtype=self._dtype, count=torch.Size(shape).numel()).view(shape)

    def close(self) -> None:
        """The sender learns that nobody will read more."""
        self._connection.close()

    def _give_back(self, index: int) -> None:
        with suppress(OSError):  # A sender that is gone needs no slot.
            self._connection.sendall(_ACK.pack(index))
