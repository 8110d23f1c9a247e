"""The order of the data is a function of seed and offset, and nothing else."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.train.data import window_of_sample

NUM_WINDOWS = st.integers(1, 700)
SEEDS = st.integers(0, 2**63 - 1)


@given(NUM_WINDOWS, SEEDS, st.integers(0, 5))
def test_every_window_once_an_epoch(num_windows: int, seed: int, epoch: int) -> None:
    samples = np.arange(epoch * num_windows, (epoch + 1) * num_windows)
    assert sorted(window_of_sample(samples, num_windows, seed)) == list(range(num_windows))


@given(NUM_WINDOWS, SEEDS, st.lists(st.integers(0, 900), max_size=6))
def test_the_order_does_not_depend_on_how_it_is_asked(num_windows: int, seed: int, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 1000]
    parts = [window_of_sample(np.arange(start, end), num_windows, seed) for start, end in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), window_of_sample(np.arange(1000), num_windows, seed))


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(window_of_sample(np.arange(e * 50, e * 50 + 50), 50, seed)) for seed in (0, 1, 2) for e in range(4)]
    assert len(set(orders)) == 12


def test_windows_are_found_among_very_many() -> None:
    num_windows = 10**12
    windows = window_of_sample(np.arange(2000), num_windows, 7)
    assert len(set(windows.tolist())) == 2000
    assert 0 <= windows.min() < num_windows // 100
    assert num_windows - num_windows // 100 < windows.max() < num_windows


def test_every_place_is_equally_likely_for_the_first_sample() -> None:
    """Chi-squared over 20,000 epochs and 10 windows: 9 degrees of freedom, 27.9 is exceeded once in 1,000 times."""
    counts = np.bincount(window_of_sample(np.arange(20_000) * 10, 10, 0), minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9


def test_neighbours_are_not_kept_together() -> None:
    """Of a random order of n, one pair in expectation is i, i + 1 in a row (Poisson with mean 1)."""
    windows = window_of_sample(np.arange(5000), 5000, 3)
    assert (np.diff(windows) == 1).sum() <= 7


def test_the_order_stays_the_same_in_later_versions() -> None:
    """A job that is resumed after an upgrade goes on with the same data."""
    assert window_of_sample(np.arange(12), 11, 5).tolist() == [8, 3, 7, 6, 1, 4, 5, 10, 9, 2, 0, 2]
