"""The page's colours must stay apart for colour-blind readers, and its text must stand out."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import headrace.view

CSS = (Path(headrace.view.__file__).parent / "assets" / "page.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part)) for part in CSS.split("@media", 2)[:2])
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    white = np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0.01, 1) / white)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    low, high = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


@THEMES
@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("names", ["F B I W", "parameters gradients optimizer activations"])
def test_colours_side_by_side_differ_for_every_kind_of_sight(theme: dict[str, str], sight: str, names: str) -> None:
    seen = [lab(SIGHT[sight] @ linear(theme[name])) for name in names.split()]
    # 2.3 is just noticeable; Okabe and Ito's blue, vermilion, orange and green come to 17 by the same measure.
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 17


@THEMES
def test_text_has_the_contrast_that_wcag_asks_for(theme: dict[str, str]) -> None:
    for ink in ("ink", "muted", "done", "stopped", "failed", "running"):
        assert contrast(theme[ink], theme["ground"]) >= 4.5
        assert contrast(theme[ink], theme["surface"]) >= 4.5
