"""Devices that are known by name, from a table of published figures."""

import json
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TypedDict

from headrace.cluster.cluster import MEMORY_MARGIN, Device, Link
from headrace.errors import RequestError

REACHED_FLOPS = 0.45
"""Share of the dense peak that training reaches. Narayanan et al. (arXiv 2104.04473), table 1: 0.43 to 0.52."""

PEER_LATENCY_S = 20e-6
"""Seconds of a small NCCL message between two devices of one machine; an assumption until somebody measures it."""


class _Figures(TypedDict):
    name: str
    torch_name: str
    memory_gb: float
    dense_16_bit_tflops: float
    memory_gb_per_s: float
    peer_gb_per_s: float


def known_device(name: str) -> Device:
    """The device of that name, at 16-bit precision, with the share of its peak that is reached in training.

    Raises:
        RequestError: Nobody of that name is known; says the nearest.
    """
    by_name = {figures["name"].lower(): figures for figures in _table()}
    if name.lower() not in by_name:
        near = get_close_matches(name.lower(), by_name, n=1)
        hint = f"did you mean {by_name[near[0]]['name']}?" if near else f"known are {', '.join(known_device_names())}."
        raise RequestError(f"There are no figures for a device {name}; {hint}")
    figures = by_name[name.lower()]
    return Device(
        name=figures["name"],
        kind="cuda",
        memory_bytes=int(MEMORY_MARGIN * figures["memory_gb"] * 1e9),
        flops_per_s=REACHED_FLOPS * figures["dense_16_bit_tflops"] * 1e12,
        memory_bytes_per_s=figures["memory_gb_per_s"] * 1e9,
    )


def known_device_names() -> tuple[str, ...]:
    """Names that `known_device` takes."""
    return tuple(figures["name"] for figures in _table())


def peer_link(torch_name: str) -> Link | None:
    """The link between two devices of one machine, by the name that torch gives them; None where it is unknown."""
    words = torch_name.split()
    found = [figures for figures in _table() if _contains(words, figures["torch_name"].split())]
    if not found:
        return None
    longest = max(found, key=lambda figures: len(figures["torch_name"]))
    return Link(PEER_LATENCY_S, longest["peer_gb_per_s"] * 1e9)


def _contains(words: list[str], part: list[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words)))


@cache
def _table() -> list[_Figures]:
    table: list[_Figures] = json.loads(files("headrace.cluster").joinpath("devices.json").read_text())["devices"]
    return table
