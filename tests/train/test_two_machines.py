"""Two machines: network namespaces, joined by a pair of virtual devices of which one is held to 200 Mbit/s."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.train.jobs import ENVIRONMENT, PATIENCE_S, TORCHRUN, outcome, train, write_job

ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 29500


@dataclass(frozen=True)
class Machine:
    """A network namespace with one device beside its loopback."""

    namespace: str
    device: str
    address: str


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _why_not() -> str | None:
    """Why namespaces cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"network namespaces need {missing[0]}, of iproute2"
    probe = f"headrace-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True)
    return f"network namespaces cannot be made here: {made.stderr.strip()}" if made.returncode else None


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    if (reason := _why_not()) is not None:
        # The workflow's container is root, privileged and has iproute2, so that a skip there is a fault of it.
        (pytest.fail if os.environ.get("GITHUB_ACTIONS") else pytest.skip)(reason)
    number = os.getpid()
    both = [Machine(f"headrace-{number}-{side}", f"hr{number}{side}", ADDRESSES[side]) for side in (0, 1)]
    with ExitStack() as cleaning:
        for machine in both:
            _ip("netns", "add", machine.namespace)
            cleaning.callback(_ip, "netns", "delete", machine.namespace)
        left, right = both
        _ip(
            *("link", "add", left.device, "netns", left.namespace, "type", "veth"),
            *("peer", "name", right.device, "netns", right.namespace),
        )
        for machine in both:
            _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", machine.device)
            for device in ("lo", machine.device):
                _ip("-n", machine.namespace, "link", "set", device, "up")
        limit = ["tbf", "rate", "200mbit", "burst", "64kb", "latency", "100ms"]
        tc = ["tc", "-n", left.namespace, "qdisc", "add", "dev", left.device, "root"]
        subprocess.run([*tc, *limit], check=True, capture_output=True, text=True)
        yield left, right


def _torchrun(machine: Machine, words: list[str], folder: Path) -> "subprocess.Popen[str]":
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "two-machines"]
    meeting += ["--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--local-addr", machine.address]
    meeting += ["--rdzv-conf", f"is_host={int(machine.address == ADDRESSES[0])}"]  # Both have one host name.
    return subprocess.Popen(
        ["ip", "netns", "exec", machine.namespace, *TORCHRUN, *meeting, "-m", "headrace", *words],
        cwd=folder,
        env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": machine.device},
        stderr=subprocess.PIPE,
        text=True,
    )


def _bytes_sent(machine: Machine) -> int:
    path = f"/sys/class/net/{machine.device}/statistics/tx_bytes"
    command = ["ip", "netns", "exec", machine.namespace, "cat", path]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_two_namespaces_train_to_the_bits_of_one_machine(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    job = write_job(tmp_path, steps=3)
    alone = train(job, "alone")
    assert alone.returncode == 0, alone.stderr
    words = ["train", str(job), "--run-dir", "both"]
    started = [_torchrun(machine, words, tmp_path) for machine in machines]
    try:
        said = [process.communicate(timeout=PATIENCE_S)[1] for process in started]
    finally:
        for process in started:
            process.terminate()  # Then torchrun ends its own processes too.
        for process in started:
            process.wait(timeout=60)
    assert [process.returncode for process in started] == [0, 0], said
    assert outcome(tmp_path / "both") == outcome(tmp_path / "alone")
    # What crosses the cut each way: 3 steps of 8 rows x 16 tokens x 32 numbers of 4 bytes.
    assert min(map(_bytes_sent, machines)) > 3 * 8 * 16 * 32 * 4
