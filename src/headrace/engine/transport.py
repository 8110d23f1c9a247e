"""Messages between machines and GPUs: a channel for each edge, receives posted ahead, sends waited for by nobody."""

from collections import deque
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

Shape = tuple[int, ...]


class Inbox:
    """The receiving end of one directed edge between two stages, first in, first out.

    At most ``ahead`` receives are posted before they are asked for, so their buffers are a bounded cost.
    """

    def __init__(self, source: int, group: dist.ProcessGroup, dtype: torch.dtype, device: torch.device) -> None:
        self._source, self._group, self._dtype, self._device = source, group, dtype, device
        self._expected: deque[tuple[int, Shape]] = deque()
        self._posted: deque[tuple[int, dist.Work, Tensor]] = deque()

    def expect(self, messages: Iterable[tuple[int, Shape]], ahead: int = 2) -> None:
        """Announces the messages of a step, as ``(micro-batch, shape)`` in the order in which they will come."""
        self._expected.extend(messages)
        for _ in range(ahead):
            self._post()

    def take(self, microbatch: int, timeout: timedelta) -> Tensor:
        """Waits for the next message, which must be that of ``microbatch``."""
        got, work, buffer = self._posted.popleft()
        assert got == microbatch, f"expected micro-batch {microbatch}, the channel brings {got}"
        self._post()
        work.wait(timeout)
        return buffer

    def _post(self) -> None:
        if self._expected:
            microbatch, shape = self._expected.popleft()
            buffer = torch.empty(shape, dtype=self._dtype, device=self._device)
            work = dist.irecv(buffer, self._source, group=self._group)
            assert work is not None
            self._posted.append((microbatch, work, buffer))


class Outbox:
    """The sending end of one directed edge. Tensors are kept alive until they have left."""

    def __init__(self, target: int, group: dist.ProcessGroup) -> None:
        self._target, self._group = target, group
        self._leaving: deque[tuple[dist.Work, Tensor]] = deque()
        self._left: deque[tuple[dist.Work, Tensor]] = deque()

    def put(self, microbatch: int, tensor: Tensor) -> None:
        """Starts a send and returns at once."""
        tensor = tensor.contiguous()
        work = dist.isend(tensor, self._target, group=self._group)
        assert work is not None
        self._leaving.append((work, tensor))
        while self._leaving and self._leaving[0][0].is_completed():
            self._leaving.popleft()[0].wait()

    def flush(self) -> None:
        """Waits until everything has left: at the end of a step, when the receivers have long taken it."""
        self.pass_step()
        self.pass_step()

    def pass_step(self) -> None:
        """Waits until everything has left that was put before the last call."""
        while self._left:
            self._left.popleft()[0].wait()
        self._left, self._leaving = self._leaving, self._left


class Local:
    """Both ends of an edge between two stages of one rank: handed over without a copy."""

    def __init__(self) -> None:
        self._tensors: deque[Tensor] = deque()

    def put(self, microbatch: int, tensor: Tensor) -> None:
        """Hands in."""
        self._tensors.append(tensor)

    def take(self, microbatch: int, timeout: timedelta) -> Tensor:
        """Takes out, in the order of handing in."""
        return self._tensors.popleft()
