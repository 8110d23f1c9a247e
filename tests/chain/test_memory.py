"""Only the local part: the memory that building takes, as the kernel counts it."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

LARGEST_PART_LAYERS = 2
OVERHEAD_BYTES = 12_000_000
"""Allocator, threads and the structure on meta; half a layer."""


@cache
def peaks() -> dict:
    root = Path(__file__).parents[2]
    # Freed memory goes back to the kernel at once, so that it is counted when it is taken again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", "tests.chain.peaks"]
    out = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_the_measure_sees_a_whole_model() -> None:
    assert peaks()["layer_bytes"] > 20_000_000
    assert peaks()["whole"] > 7.5 * peaks()["layer_bytes"]
    assert min(peaks()["drawn"] + peaks()["read"]) > 1.9 * peaks()["layer_bytes"]


@pytest.mark.parametrize("part", range(4))
def test_drawing_a_part_never_holds_more_than_the_part(part: int) -> None:
    assert peaks()["drawn"][part] < LARGEST_PART_LAYERS * peaks()["layer_bytes"] + OVERHEAD_BYTES


@pytest.mark.parametrize("part", range(4))
def test_reading_a_part_touches_no_other_bytes_of_the_file(part: int) -> None:
    """Pages of the file that were read count as resident too, so a part may be there twice, but nothing else."""
    assert peaks()["read"][part] < 2 * LARGEST_PART_LAYERS * peaks()["layer_bytes"] + OVERHEAD_BYTES
