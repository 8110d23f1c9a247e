"""How much memory a rank has held at most."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the CUDA allocator, or of this process's resident memory on a CPU (libraries included)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
