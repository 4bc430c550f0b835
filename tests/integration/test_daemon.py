"""What the daemon's own loop must not wait for."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pysendmail import threads
from pysendmail.config import Smarthost
from pysendmail.daemon import Daemon
from rig.instance import PATIENCE_S, Instance, smarthost
from rig.peer import PeerThread
from rig.store import config


class Hanging:
    """Secrets on a disk that does not answer for now."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def check(self, smarthost: Smarthost) -> str:
        self.asked.set()
        return "it is gone" if self.answers.wait(PATIENCE_S) else "nobody else had a turn"


async def test_status_reads_password_files_beside_the_loop(tmp_path: Path) -> None:
    """While one does not answer, all else goes on; what is wrong with it is told in the end."""
    secrets = Hanging()
    daemon: Any = SimpleNamespace(
        _secrets=secrets,
        _config=config(tmp_path, Smarthost(name="main", host="smtp.example.com")),
        _store_error=None,
        _config_error=None,
        _reserve=SimpleNamespace(given_up=False),
        _loopback=None,
    )
    asked = asyncio.create_task(Daemon._circumstances(daemon))
    assert await asyncio.to_thread(secrets.asked.wait, PATIENCE_S)
    secrets.answers.set()
    assert (await asked).secret_problems == {"main": "it is gone"}


async def test_a_start_that_is_told_to_stop_waits_for_no_recovery(tmp_path: Path) -> None:
    """New routes for all that waits may take minutes: SIGTERM does not wait for the last of it."""

    async def run(_step: object) -> None: ...

    daemon: Any = SimpleNamespace(
        _writer=SimpleNamespace(run=run), _recovered=asyncio.Event(), _stop=(stop := asyncio.Event())
    )
    start = asyncio.create_task(Daemon._look_for_room(daemon))
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await start


def test_no_thread_is_begun_later(tmp_path: Path) -> None:
    """Python waits for ever for one that has no memory to begin: whatever the daemon does, it has its threads."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        assert instance.process is not None
        tasks = f"/proc/{instance.process.pid}/task"
        had = set(os.listdir(tasks))
        header = b"".join(b"X-Long: %d\n" % number for number in range(3000))  # read beside the loop
        for count in range(1, 4):
            instance.submit("bob@example.org", text=header + b"\n" + (b"x" * 70 + b"\n") * 20_000)
            instance.wait_for("outcome", count=count, status="sent")
            instance.status()
        assert set(os.listdir(tasks)) == had


def test_a_thread_that_does_not_begin_is_not_waited_for() -> None:
    """Python would wait for it without end."""
    with pytest.raises(OSError, match="does not begin"), threads.begun_within(0.01):
        threading.Event().wait()
