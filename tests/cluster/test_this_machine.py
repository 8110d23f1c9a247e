"""This machine as a cluster, and the limits that the system sets."""

import subprocess
import sys
from importlib import import_module

import psutil
import pytest

from headrace.cluster import CPU_LINK, num_cores, this_machine
from headrace.cluster.limits import cgroup_cores, cgroup_memory_bytes, cpu_name
from headrace.cluster.probe import Speed, probe
from headrace.errors import RequestError


@pytest.fixture(name="_known_speed")
def known_speed(monkeypatch):
    module = import_module("headrace.cluster.this_machine")
    monkeypatch.setattr(module, "probe", lambda device, dtype: Speed(6e9, 3e9))


@pytest.mark.usefixtures("_known_speed")
@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_ranks_on_a_cpu_share_its_speed_and_memory_equally(count):
    cluster = this_machine(count, kind="cpu")
    assert len(cluster.devices) == count
    assert len(set(cluster.devices)) == 1
    device = cluster.devices[0]
    assert (device.kind, device.flops_per_s, device.memory_bytes_per_s) == ("cpu", 6e9 / count, 3e9 / count)
    assert 0 < device.memory_bytes * count <= 0.9 * psutil.virtual_memory().total
    assert cluster.link == CPU_LINK


@pytest.mark.usefixtures("_known_speed")
def test_the_whole_cpu_is_one_device_when_nobody_says():
    assert len(this_machine(kind="cpu").devices) == 1


def test_the_probe_measures_products_and_memory():
    speed = probe("cpu", "float32")
    assert speed.flops_per_s > 1e8
    assert speed.memory_bytes_per_s > 1e8


@pytest.mark.parametrize("count", [0, -2])
def test_no_device_is_refused(count):
    with pytest.raises(RequestError, match=f"{count} devices were asked for; at least 1 is needed"):
        this_machine(count)


def test_more_cuda_devices_than_there_are_is_refused_with_both_numbers():
    with pytest.raises(RequestError, match=r"999 CUDA devices were asked for but this machine has \d+; choose cpu"):
        this_machine(999, kind="cuda")


@pytest.mark.usefixtures("_known_speed")
def test_without_enough_cuda_devices_the_cpu_takes_over():
    assert this_machine(999).devices[0].kind == "cpu"


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= num_cores() <= psutil.cpu_count()


def test_torch_is_not_imported_with_the_folder():
    code = "import sys, headrace.cluster; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_tightest_group_limit_of_version_2_counts(tmp_path):
    own = tmp_path / "own"
    write(own, "0::/outer/inner\n")
    assert cgroup_memory_bytes(tmp_path, own) is None
    write(tmp_path / "outer/memory.max", "5000\n")
    write(tmp_path / "outer/inner/memory.max", "max\n")
    write(tmp_path / "outer/cpu.max", "250000 100000\n")
    write(tmp_path / "outer/inner/cpu.max", "max 100000\n")
    assert cgroup_memory_bytes(tmp_path, own) == 5000
    assert cgroup_cores(tmp_path, own) == 3


def test_the_tightest_group_limit_of_version_1_counts(tmp_path):
    own = tmp_path / "own"
    write(own, "4:memory:/job\n2:cpu,cpuacct:/job\n1:pids:/\n")
    write(tmp_path / "memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(tmp_path / "memory/job/memory.limit_in_bytes", "7000\n")
    write(tmp_path / "cpu,cpuacct/job/cpu.cfs_quota_us", "150000\n")
    write(tmp_path / "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cgroup_memory_bytes(tmp_path, own) == 7000
    assert cgroup_cores(tmp_path, own) == 2


def test_a_system_without_groups_has_no_limits(tmp_path):
    assert cgroup_memory_bytes(tmp_path, tmp_path / "none") is None
    assert cgroup_cores(tmp_path, tmp_path / "none") is None


def test_the_processor_has_a_name(tmp_path):
    write(
        tmp_path / "cpuinfo", "processor\t: 0\nmodel name\t: Turbine 9000\nprocessor\t: 1\nmodel name\t: Turbine 9000\n"
    )
    assert cpu_name(tmp_path / "cpuinfo") == "Turbine 9000"
    assert cpu_name(tmp_path / "none")
