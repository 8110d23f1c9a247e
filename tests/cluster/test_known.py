"""Devices by name."""

import pytest

from headrace.cluster import known_device, known_device_names
from headrace.cluster.known import peer_link
from headrace.errors import RequestError


def test_an_a100_has_the_figures_of_its_data_sheet_and_the_share_that_training_reaches():
    device = known_device("A100-SXM-80GB")
    assert device == known_device("a100-sxm-80gb")
    assert (device.kind, device.memory_bytes, device.memory_bytes_per_s) == ("cuda", 72 * 10**9, 2039e9)
    # Narayanan et al. (arXiv 2104.04473), table 1: 135 to 163 TFLOP/s for each A100.
    assert 135e12 <= device.flops_per_s <= 163e12


def test_every_name_gives_a_device():
    assert len(set(known_device_names())) == len(known_device_names())
    for name in known_device_names():
        device = known_device(name)
        assert min(device.memory_bytes, device.flops_per_s, device.memory_bytes_per_s) > 0


def test_no_figure_counts_sparsity():
    peaks = {"A100-SXM-80GB": 624e12, "H100-SXM-80GB": 1979e12, "RTX-4090-24GB": 330e12}
    assert all(known_device(name).flops_per_s < 0.5 * peak for name, peak in peaks.items())


def test_an_unknown_device_is_refused_with_the_nearest_name():
    with pytest.raises(RequestError, match=r"no figures for a device A100-SXM-60GB; did you mean A100-SXM-\d0GB\?"):
        known_device("A100-SXM-60GB")
    with pytest.raises(RequestError, match="no figures for a device abacus; known are V100"):
        known_device("abacus")


@pytest.mark.parametrize(
    ("torch_name", "gb_per_s"),
    [
        ("NVIDIA A100-SXM4-80GB", 300),
        ("NVIDIA A100 80GB PCIe", 31.5),
        ("NVIDIA H100 80GB HBM3", 450),
        ("NVIDIA H100 PCIe", 63),
        ("NVIDIA L40S", 31.5),
        ("NVIDIA GeForce RTX 3090", 56.25),
    ],
)
def test_the_link_between_devices_follows_from_the_name_that_torch_gives(torch_name, gb_per_s):
    assert peer_link(torch_name).bytes_per_s == gb_per_s * 1e9


def test_a_device_that_is_not_in_the_table_has_no_known_link():
    assert peer_link("NVIDIA L400") is None
