"""Devices and the links between them."""

from headrace.cluster.cluster import Cluster, Device, Link
from headrace.cluster.this_machine import CPU_LINK, CUDA_LINK, num_cores, this_machine

__all__ = ["CPU_LINK", "CUDA_LINK", "Cluster", "Device", "Link", "num_cores", "this_machine"]
