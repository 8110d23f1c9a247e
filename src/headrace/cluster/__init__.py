"""Devices and the links between them."""

from headrace.cluster.cluster import Cluster, Device, Link

__all__ = ["Cluster", "Device", "Link"]
