"""The measured timeline: what each rank has noted, on one clock."""

import time

import torch.distributed as dist

from headrace.schedule import Op
from headrace.simulate import Span, Timeline


def gather_timeline(ops: list[tuple[Op, float, float]], rank: int) -> Timeline:
    """The ops of all ranks; every rank must call it.

    Args:
        ops: This rank's, with start and end in seconds of `time.perf_counter`.
        rank: This rank.
    """
    dist.barrier()  # Here all ranks' clocks are compared.
    now_s = time.perf_counter()
    mine = [Span(rank, op, start - now_s, end - now_s) for op, start, end in ops]
    everyone: list[list[Span]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    spans = tuple(span for spans in everyone for span in spans)
    return Timeline(len(everyone), spans, min(s.start_s for s in spans), max(s.end_s for s in spans))
