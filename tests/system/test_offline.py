"""A machine without a network: no attempts, no bounces, and mail that leaves when somebody says that it is back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.debian import program
from rig.instance import BIN, Instance
from rig.peer import PeerThread

HOOK = Path(__file__).parents[2] / "contrib" / "network" / "pysendmail-flush"
PORT = 2525


@pytest.fixture
def alone() -> list[str]:
    """What goes before the daemon: it has a network of its own in which there is nothing, not even a loopback."""
    unshare = program("unshare", "util-linux")
    if os.geteuid() != 0 or subprocess.run([unshare, "--net", "true"], check=False).returncode:
        pytest.skip("only root may give the daemon a network of its own")
    program("nsenter", "util-linux")
    program("ip", "iproute2")
    return [unshare, "--net"]


def instance_at(tmp_path: Path, host: str, lifetime: str = "5d") -> Instance:
    table = {"name": "main", "host": host, "port": PORT, "tls": "none"}
    return Instance(tmp_path, smarthosts=[table], queue={"lifetime": lifetime})


@pytest.fixture
def offline(tmp_path: Path, alone: list[str]) -> Iterator[Instance]:
    """Its daemon runs there; mail past its lifetime lies in the queue."""
    instance = instance_at(tmp_path, "127.0.0.1", "0.001s")
    try:
        instance.start(wrapper=alone)
        yield instance
    finally:
        instance.__exit__()


def test_no_way_is_no_attempt(offline: Instance) -> None:
    """Nothing is counted or recorded, nothing expires however often it is tried; mailq, explain, status say why."""
    offline.submit("bob@example.org")
    assert "Network is unreachable" in offline.wait_for("trouble")["reason"]
    for number in range(2, 5):
        offline.pysendmail("flush")
        offline.wait_for("trouble", count=number)
    [waiting] = offline.mailq()
    assert waiting["attempts"] == 0
    assert "Network is unreachable" in waiting["recipients"][0]["delay_reason"]
    assert offline.history()[0]["recipients"][0]["attempts"] == []
    assert "Network is unreachable" in offline.pysendmail("queue", "explain", "--all")
    assert offline.status()["smarthosts"][0]["state"] == "trouble"
    assert offline.matching("outcome") == []


def test_new_mail_does_not_end_the_rest(offline: Instance) -> None:
    """However much is submitted on the train, nobody tries the network for it."""
    offline.submit("bob@example.org")
    offline.wait_for("trouble")
    for number in range(5):
        offline.submit(f"r{number}@example.org")
    offline.pysendmail("queue", "hold", offline.mailq()[-1]["queue_id"])  # the daemon has looked at all of it
    assert len(offline.matching("trouble")) == 1


@pytest.mark.parametrize(
    "arguments",
    [["wlan0", "up"], ["tun0", "vpn-up"], ["none", "connectivity-change"], ["post", "suspend"], []],
    ids=["NetworkManager", "VPN", "connectivity", "resume", "networkd-dispatcher"],
)
def test_the_network_is_back(offline: Instance, arguments: list[str]) -> None:
    """Whoever says it, the mail leaves at once; it is late, and is not too late."""
    offline.submit("bob@example.org")
    offline.wait_for("trouble")
    assert offline.process is not None
    network = Path(f"/proc/{offline.process.pid}/ns/net")
    subprocess.run(["nsenter", f"--net={network}", "ip", "link", "set", "lo", "up"], check=True)
    with PeerThread(port=PORT, network=network) as peer:
        hook(offline, *arguments)
        offline.wait_for("outcome", status="sent")
        assert [message.recipients for message in peer.messages] == [["<bob@example.org>"]]


@pytest.mark.parametrize(
    "arguments",
    [["lo", "up"], ["wlan0", "down"], ["wlan0", "pre-up"], ["pre", "suspend"], ["none", "hostname"]],
    ids=" ".join,
)
def test_what_is_no_network(offline: Instance, arguments: list[str]) -> None:
    """Everything else that these callers tell is none of our business."""
    hook(offline, *arguments)
    assert offline.matching("flush") == []


def hook(instance: Instance, *arguments: str) -> None:
    """As its callers start it."""
    environment = {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "PYSENDMAIL_CONFIG": str(instance.config),
        "CONNECTIVITY_STATE": "FULL",
    }
    done = subprocess.run([HOOK, *arguments], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_resolver_is_no_attempt(tmp_path: Path, alone: list[str]) -> None:
    """A name that cannot be looked up for now is the same as no way to it."""
    instance = instance_at(tmp_path, "smtp.example.com", "0.001s")
    try:
        instance.start(wrapper=alone)
        instance.submit("bob@example.org")
        assert "Temporary failure in name resolution" in instance.wait_for("trouble")["reason"]
        instance.pysendmail("flush")
        instance.wait_for("trouble", count=2)
        assert instance.history()[0]["recipients"][0]["attempts"] == []
        assert instance.matching("outcome") == []
    finally:
        instance.__exit__()
