"""Figures and layers as a person reads them."""

from collections.abc import Iterable

from headrace.chain.chain import Chain


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
