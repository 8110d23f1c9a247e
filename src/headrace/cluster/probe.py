"""How fast a device is: a short measurement of products and of memory."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple


class Speed(NamedTuple):
    """Dense matrix products and memory traffic as reached."""

    flops_per_s: float
    memory_bytes_per_s: float


def probe(device: str, dtype: str) -> Speed:
    """Measures with torch, on all of its threads: a square product, and a copy that reads and writes.

    Args:
        device: As torch names it, such as ``cpu`` or ``cuda:0``.
        dtype: As torch names it, such as ``float32``.
    """
    import torch  # Not at the top: planning needs no torch.

    side, num_copied = (768, 1 << 24) if device == "cpu" else (8192, 1 << 28)
    settings = {"device": device, "dtype": getattr(torch, dtype)}
    square, product = torch.ones(side, side, **settings), torch.empty(side, side, **settings)
    source, target = torch.zeros(num_copied, **settings), torch.empty(num_copied, **settings)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    product_s = _best_s(lambda: torch.mm(square, square, out=product), wait)
    copy_s = _best_s(lambda: target.copy_(source), wait)
    return Speed(2 * side**3 / product_s, 2 * source.nbytes / copy_s)


def _best_s(run: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the best of five runs after one to warm up; the others were disturbed."""
    seconds = []
    for _ in range(6):
        wait()
        start_s = perf_counter()
        run()
        wait()
        seconds.append(perf_counter() - start_s)
    return min(seconds[1:])
