"""Devices and the links between them."""

from headrace.cluster.cluster import Cluster, Device, Link
from headrace.cluster.known import known_device, known_device_names
from headrace.cluster.this_machine import CPU_LINK, num_cores, this_machine

__all__ = [
    "CPU_LINK",
    "Cluster",
    "Device",
    "Link",
    "known_device",
    "known_device_names",
    "num_cores",
    "this_machine",
]
