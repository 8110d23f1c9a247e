"""Figures and layers as a person reads them."""

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from headrace.chain.chain import RECOMPUTE_MODES, Chain, RecomputeMode


def seconds_text(seconds: float) -> str:
    """Such as ``123 µs``, ``12.3 ms`` or ``1.23 s``."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def bytes_text(num_bytes: float) -> str:
    """Decimal units, such as ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} TB" if num_bytes < 999.5 else f"{num_bytes:,.0f} TB"


def layers_text(chain: Chain, first: int, end: int) -> str:
    """Layers ``first … end - 1`` of the chain, such as ``embedding, layers 0-3``."""
    last = len(chain.layers) - 1
    low, high = max(first, 1) - 1, min(end, last) - 2
    inner = "" if high < low else f"layer {low}" if high == low else f"layers {low}-{high}"
    parts = ("embedding" if first == 0 else "", inner, "head" if end > last else "")
    return ", ".join(part for part in parts if part)


def listing(parts: Iterable[str]) -> str:
    """Joins with commas and a final *and*."""
    *front, last = parts
    return f"{', '.join(front)} and {last}" if front else last


def stage_recompute_text(modes: Sequence[RecomputeMode], first: int, end: int) -> str:
    """What of layers ``first … end - 1`` of the chain is computed again, such as ``3 of 4 layers (selective)``.

    Empty where nothing is.
    """
    inner = modes[max(first - 1, 0) : max(end - 1, 0)]
    counts = {mode: inner.count(mode) for mode in RECOMPUTE_MODES[1:] if mode in inner}
    again = sum(counts.values())
    if not again:
        return ""
    how = next(iter(counts)) if len(counts) == 1 else listing(f"{count} {mode}" for mode, count in counts.items())
    share = f"{again} of {len(inner)}" if again < len(inner) else f"all {len(inner)}" if again > 1 else "its"
    return f"{share} layer{'s' * (len(inner) > 1)} ({how})"


def recompute_text(modes: Sequence[RecomputeMode], bounds: Sequence[int]) -> str:
    """What is computed again, such as ``stages 0 and 1 recompute 3 of 4 layers (selective)``."""
    texts = [(stage, stage_recompute_text(modes, *span)) for stage, span in enumerate(pairwise(bounds))]
    parts = []
    for text, group in groupby(texts, key=lambda pair: pair[1]):
        stages = [str(stage) for stage, _ in group]
        if text:
            named = listing(stages) if len(stages) < 3 else f"{stages[0]} to {stages[-1]}"
            many = len(stages) > 1
            text = text.replace("its ", "their ") if many else text
            parts.append(f"stage{'s' * many} {named} recompute{'s' * (not many)} {text}")
    return listing(parts) if parts else "no layer is recomputed"
