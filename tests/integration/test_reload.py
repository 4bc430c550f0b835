"""A configuration that changes while a submission is under way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from pysendmail.spool import QueueLock
from rig.instance import BIN, PATIENCE_S, Instance, smarthost
from rig.peer import PeerThread


def receiving(instance: Instance) -> int:
    """How many large messages have come in part."""
    connection = sqlite3.connect(f"file:{instance.queue_directory}/queue.db?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM message WHERE state = 'receiving'").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("before", [True, False], ids=["renamed", "first"])
def test_a_submission_across_a_reload(tmp_path: Path, before: bool) -> None:
    """Mail whose submission began before a reload goes the new way: the route it had then may be no more."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer, "old")] if before else []) as instance:
        client = subprocess.Popen([BIN / "sendmail", "-C", instance.config, "b@example.org"], stdin=subprocess.PIPE)
        assert client.stdin is not None
        client.stdin.write(b"Subject: large\n\n" + (b"x" * 700 + b"\n") * 4000)
        client.stdin.flush()
        deadline = time.monotonic() + PATIENCE_S
        while not receiving(instance):
            time.sleep(0.02)
            assert time.monotonic() < deadline
        instance.configure(smarthosts=[smarthost(peer, "new")])
        instance.reload()
        client.stdin.close()
        assert client.wait(PATIENCE_S) == 0
        instance.wait_for("outcome", status="sent", smarthost="new")


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


def blocks(pid: int, number: int) -> bool:
    """Whether the process keeps this signal waiting (proc(5), SigBlk)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigBlk:")[2].split()[0], 16) & 1 << number - 1)
