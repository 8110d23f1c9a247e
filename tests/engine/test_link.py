from headrace.cluster import CPU_LINK, Cluster, Device, Link
from headrace.engine.link import measured_link, with_measured_link


def test_a_link_is_measured_in_possible_figures() -> None:
    """Faster than light in a wire, or slower than a second: neither is a link within one machine."""
    link = measured_link()
    assert link is not None
    assert 1e-7 < link.latency_s < 1.0
    assert link.bytes_per_s > 1e6


def test_only_parts_of_this_cpu_are_measured() -> None:
    def cluster(kind: str) -> Cluster:
        return Cluster((Device("one", kind, 1, 1.0, 1.0),) * 2, CPU_LINK, 2)

    assert with_measured_link(cluster("cuda")) == cluster("cuda")
    measured = with_measured_link(cluster("cpu"))
    assert measured.devices == cluster("cpu").devices
    assert isinstance(measured.link, Link)
    assert measured.link != CPU_LINK
