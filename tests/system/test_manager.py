"""What systemd hears from the daemon: ready, reloading, alive, stopping, and the queue in words (sd_notify(3))."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig import debian
from rig.damage import overwrite_root
from rig.instance import BIN, PATIENCE_S, Instance, smarthost
from rig.peer import Ordinary, PeerThread

Notification = dict[str, str]


class ServiceManager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Notification] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE_S)

    def next(self) -> Notification:
        text = self.socket.recv(65536).decode()
        notification = dict(line.split("=", 1) for line in text.splitlines())
        self.heard.append(notification)
        return notification

    def wait_for(self, fits: Callable[[Notification], bool]) -> Notification:
        while not fits(notification := self.next()):
            pass
        return notification


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    one = ServiceManager(tmp_path / "notify")
    yield one
    one.socket.close()


@pytest.fixture
def environment(tmp_path: Path, manager: ServiceManager) -> dict[str, str]:
    """With systemd-python: that of our Python, else Debian's if it is the same Python."""
    variables = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1500000"}
    try_it = [str(BIN / "python"), "-P", "-c", "import systemd.daemon"]
    if not subprocess.run(try_it, capture_output=True, check=False).returncode:
        return variables
    package = Path(debian.file("/usr/lib/python3/dist-packages/systemd/daemon.py", "python3-systemd")).parent
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "systemd").symlink_to(package)
    variables["PYTHONPATH"] = str(tmp_path / "packages")
    if subprocess.run(try_it, env=os.environ | variables, capture_output=True, check=False).returncode:
        pytest.skip(f"python3-systemd is for the system's Python, not for this {sys.version.split()[0]}")
    return variables


def test_the_life_of_a_service(tmp_path: Path, manager: ServiceManager, environment: dict[str, str]) -> None:
    """READY once submissions are taken; the queue in words; RELOADING with its time, then READY; STOPPING."""
    with PeerThread(Ordinary(rcpt={"later@example.org": "451 4.3.0 later"})) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.launch(environment=environment)
        try:
            assert manager.next() == {"READY": "1"}
            instance.submit("later@example.org")  # taken, without a wait
            manager.wait_for(lambda one: one.get("STATUS", "").startswith("1 queued, 1 deferred, oldest "))
            assert manager.heard[-1]["STATUS"].endswith(", main: up")
            assert instance.process is not None
            instance.process.send_signal(signal.SIGHUP)
            reloading = manager.wait_for(lambda one: "RELOADING" in one)
            assert int(reloading["MONOTONIC_USEC"]) > 0
            manager.wait_for(lambda one: "READY" in one)
            instance.process.terminate()
            manager.wait_for(lambda one: "STOPPING" in one)
            assert instance.process.wait(PATIENCE_S) == 0
        finally:
            instance.__exit__()


def test_a_start_that_finds_the_store_broken_is_not_ready(
    tmp_path: Path, manager: ServiceManager, environment: dict[str, str]
) -> None:
    """Who waits for the service does not go on as if mail could be taken: it ends with 75, and was never ready."""
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    overwrite_root(instance.queue_directory / "queue.db", "recipient_attempting")
    instance.launch(environment=environment)
    try:
        manager.wait_for(lambda one: "STOPPING" in one)
        assert not [one for one in manager.heard if "READY" in one]
        assert instance.process is not None
        assert instance.process.wait(PATIENCE_S) == 75
        assert "malformed" in instance.wait_for("broken")["error"]
    finally:
        instance.__exit__()


def test_the_watchdog_is_fed_by_progress_only(
    tmp_path: Path, manager: ServiceManager, environment: dict[str, str]
) -> None:
    """Fed while scheduler and writer answer; with the writer stuck, nothing feeds it."""
    instance = Instance(tmp_path)
    instance.launch(environment=environment)
    try:
        for _ in range(2):
            manager.wait_for(lambda one: "WATCHDOG" in one)
        other = sqlite3.connect(instance.queue_directory / "queue.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # what no program should do; it stands for a disk that hangs
        manager.socket.settimeout(2 * 0.5)  # two intervals
        with pytest.raises(TimeoutError):
            manager.wait_for(lambda _one: False)
        other.execute("ROLLBACK")
        other.close()
        manager.socket.settimeout(PATIENCE_S)
        manager.wait_for(lambda one: "WATCHDOG" in one)
    finally:
        instance.__exit__()


def test_without_a_service_manager_nothing_is_told(tmp_path: Path, manager: ServiceManager) -> None:
    """A watchdog that is meant for another process is not fed by us."""
    instance = Instance(tmp_path)
    instance.start(environment={"WATCHDOG_USEC": "1500000"})
    instance.__exit__()
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.next()
