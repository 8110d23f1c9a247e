"""DualPipe and DualPipeV: a forward beside a backward in every turn (DeepSeek-AI 2024, arXiv 2412.19437, 3.2.1).

Two streams of micro-batches cross on each rank. DualPipe runs them in opposite directions over two copies of the
weights; DualPipeV folds the pipeline into a V, so that the second stream is the first one on its way back.
"""

from collections import deque
from collections.abc import Sequence

from headrace.errors import RequestError
from headrace.schedule.op import Kind, Op
from headrace.schedule.padded import keep_first
from headrace.schedule.placement import waves
from headrace.schedule.schedule import Schedule


def dualpipe_v(num_ranks: int, num_microbatches: int) -> Schedule:
    """Stages ``r`` and ``2p - 1 - r`` on rank ``r``; fewer than ``2p`` micro-batches run as ``2p`` without the rest."""
    p, m = num_ranks, max(num_microbatches, 2 * num_ranks)
    everything = range(m)
    orders = tuple(_order(rank, p, ((rank, everything), (2 * p - 1 - rank, everything))) for rank in range(p))
    return keep_first(Schedule("dualpipe-v", 2 * p, m, waves(p, 2), orders), num_microbatches)


def dualpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """Even micro-batches run down the ranks, odd ones up, through another copy of the weights.

    Needs an even number of ranks, and holds two stages' weights on each. Gradients of the two copies are added at the
    end of the step, so in another order than one process would.
    """
    p, m = num_ranks, max(num_microbatches + num_microbatches % 2, 2 * num_ranks)
    if p % 2:
        raise RequestError(
            f"schedule 'dualpipe' needs an even number of ranks, got {p}; take {p + 1} or {max(p - 1, 2)}"
        )
    down, up = tuple(range(p)), tuple(range(p))[::-1]
    orders = []
    for rank in range(p):
        streams = [(rank, range(0, m, 2)), (p - 1 - rank, range(1, m, 2))]
        near = min(rank, p - 1 - rank)
        orders.append(_order(near, p // 2, streams if near == rank else streams[::-1]))
    whole = Schedule("dualpipe", p, m, down, tuple(orders), copies=(up,), copy_of=(0, 1) * (m // 2))
    return keep_first(whole, num_microbatches)


def _order(near: int, half: int, streams: Sequence[tuple[int, range]]) -> tuple[Op, ...]:
    """One rank's order.

    Args:
        near: Ranks between this one and the end at which stream 0 enters.
        half: Ranks between the two ends' meeting point and an end.
        streams: For each of the two its stage on this rank and its micro-batches.
    """
    far = half - 1 - near
    ops = _Ops(streams)
    for _ in range(2 * far):
        ops.run("F", 0)
    for _ in range(near + 1):
        ops.run("F", 0)
        ops.run("F", 1)
    for _ in range(far):
        ops.run("I", 1)
        ops.run_weight()
        ops.run("F", 1)
    for _ in range(len(streams[0][1]) - 2 * half + near + 1):
        ops.run("F", 0)
        ops.run("B", 1)
        ops.run("F", 1)
        ops.run("B", 0)
    for _ in range(far):
        ops.run("B", 1)
        ops.run("F", 1)
        ops.run("B", 0)
    for turn in range(2 * (near + 1)):
        ops.run("I" if turn >= near + 1 else "B", 1 - turn % 2)
    for _ in range(far):
        ops.run_weight()
        ops.run("I", 0)
    for _ in range(near + 1):
        ops.run_weight()
    return tuple(ops.done)


class _Ops:
    """Counts the micro-batches of both streams and remembers which ``W`` are due."""

    def __init__(self, streams: Sequence[tuple[int, range]]) -> None:
        self.streams = streams
        self.next = {(which, stream): 0 for which in "FB" for stream in (0, 1)}
        self.due: deque[Op] = deque()
        self.done: list[Op] = []

    def run(self, kind: Kind, stream: int) -> None:
        """Appends the stream's next forward or backward."""
        which = "F" if kind == "F" else "B"
        stage, microbatches = self.streams[stream]
        op = Op(kind, stage, microbatches[self.next[which, stream]])
        self.next[which, stream] += 1
        self.done.append(op)
        if kind == "I":
            self.due.append(op._replace(kind="W"))

    def run_weight(self) -> None:
        """Appends the oldest ``W`` that is due."""
        self.done.append(self.due.popleft())
