"""The order of the data: a function of (seed, global sample offset), free of the number of ranks.

Sample ``offset`` is window ``offset % num_windows`` of epoch ``offset // num_windows``, looked up in a permutation
of that epoch. The permutation is a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary
finite domains", 2002, section 3), so any sample is found without keeping or shuffling a list, and the order does
not depend on the version of a random generator.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


def window_of_sample(offsets: NDArray[np.int64], num_windows: int, seed: int) -> NDArray[np.int64]:
    """Which window each sample is.

    Args:
        offsets: Global sample offsets, from 0 without end, 1-D.
        num_windows: Windows of one epoch, at least 1.
        seed: Of the order.

    Returns:
        Indices in ``0 … num_windows - 1``, as many as ``offsets``; each occurs once an epoch.
    """
    epochs, places = np.divmod(offsets.astype(np.uint64), np.uint64(num_windows))
    keys = _mix(_mix(np.full_like(epochs, seed)) + epochs)
    half_bits = np.uint64(max(1, -(-(num_windows - 1).bit_length() // 2)))
    windows = _feistel(places, keys, half_bits)
    while (outside := windows >= num_windows).any():
        windows[outside] = _feistel(windows[outside], keys[outside], half_bits)
    return windows.astype(np.int64)


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: np.uint64) -> NDArray[np.uint64]:
    """A bijection of the numbers of ``2 x half_bits`` bits for each key."""
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(keys + (right << np.uint64(8)) + np.uint64(number)) & mask)
    return (left << half_bits) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), modulo 2**64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
