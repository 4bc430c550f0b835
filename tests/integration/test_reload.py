"""SIGHUP at moments that nobody planned."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pysendmail.spool import QueueLock
from rig.instance import PATIENCE_S, Instance, smarthost
from rig.peer import Ordinary, PeerThread


def test_a_reload_before_the_start_is_not_the_end(tmp_path: Path) -> None:
    """SIGHUP to a daemon that still waits for the queue: it starts, and then reads the configuration again."""
    instance = Instance(tmp_path)
    instance.queue_directory.mkdir(0o700)
    lock = QueueLock(instance.queue_directory)
    lock.acquire(unless=lambda: False)
    instance.launch()
    try:
        assert instance.process is not None
        deadline = time.monotonic() + PATIENCE_S
        while not blocks(instance.process.pid, signal.SIGHUP):
            os.sched_yield()
            assert time.monotonic() < deadline
        instance.process.send_signal(signal.SIGHUP)
        lock.release()
        instance.wait_for("start")
        instance.wait_for("reload")
    finally:
        instance.__exit__()


def test_a_reload_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    """Where the copy of the last good configuration cannot be written, the new one is used all the same."""
    with Instance(tmp_path) as instance:
        (instance.queue_directory / "pysendmail.toml.good.new").mkdir()
        instance.configure(smarthosts=[{"name": "new", "host": "127.0.0.1", "port": 1}])
        assert instance.reload()["error"] == ""
        assert [one["name"] for one in instance.status()["smarthosts"]] == ["new"]
        assert instance.matching("library") == []


def test_a_reload_tries_a_smarthost_that_rests(tmp_path: Path) -> None:
    """Who has mended a password, in a file that the configuration only names, need not wait for the next probe."""
    with (
        PeerThread(Ordinary(mail="535 5.7.8 the password has expired")) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry={"first": "1h"}) as instance,
    ):
        instance.submit("bob@example.org")
        instance.wait_for("trouble")
        peer.become(Ordinary())
        instance.reload()
        instance.wait_for("outcome", status="sent")


def blocks(pid: int, number: int) -> bool:
    """Whether the process keeps this signal waiting (proc(5), SigBlk)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigBlk:")[2].split()[0], 16) & 1 << number - 1)
