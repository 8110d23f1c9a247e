"""What a message between two processes of this machine costs: sent and timed, not assumed."""

import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import torch

from headrace.cluster import Cluster, Link
from headrace.engine.shared_memory import SharedInbox, SharedOutbox, machine_identity

SMALL, LARGE = 256, 1 << 20
"""Numbers (float32) of the two messages that are timed."""
REPEATS = 15
PAUSE_S = 1e-3


def with_measured_link(cluster: Cluster) -> Cluster:
    """The same devices, and the link as measured where they are parts of this CPU."""
    link = measured_link() if cluster.devices[0].kind == "cpu" else None
    return cluster if link is None else replace(cluster, link=link)


def measured_link() -> Link | None:
    """Times messages through shared memory, each to a receiver that already sleeps, as ranks mostly wait.

    The two ends are threads of this process: they block and wake in the kernel as two processes do.

    Returns:
        Latency and bandwidth; None where processes share no memory here.
    """
    if not machine_identity():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    outbox, inbox = SharedOutbox(ours), SharedInbox(theirs, torch.float32)
    small_s, large_s = (_message_s(outbox, inbox, numbers) for numbers in (SMALL, LARGE))
    outbox.close()
    inbox.close()
    extra_bytes = (LARGE - SMALL) * 4
    return Link(small_s, extra_bytes / max(large_s - small_s, 1e-9))


def _message_s(outbox: SharedOutbox, inbox: SharedInbox, numbers: int) -> float:
    """Median seconds from the start of a send to the moment when the receiver has the tensor."""
    message = torch.ones(numbers)
    inbox.expect((index, (numbers,)) for index in range(REPEATS))

    def send() -> list[float]:
        starts = []
        for index in range(REPEATS):
            time.sleep(PAUSE_S)
            starts.append(time.perf_counter())
            outbox.put(index, message)
        return starts

    with ThreadPoolExecutor(1) as sender:
        starts = sender.submit(send)
        ends = []
        for index in range(REPEATS):
            inbox.take(index, timedelta(seconds=10))
            ends.append(time.perf_counter())
    laps = [end - start for start, end in zip(starts.result(), ends, strict=True)]
    return statistics.median(laps[2:])  # The first two make the memory.
