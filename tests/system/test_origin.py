"""Which job sent this? Messages say so, from the command, over SMTP and without a daemon; an older client does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pysendmail.origin import CGROUP, origin
from pysendmail.thin import client
from rig.instance import BIN, Instance, smarthost
from rig.peer import PeerThread

TEXT = "Subject: nightly\n\ndone\n"
SMTP = (
    "EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"
)


@pytest.fixture
def unit() -> str | None:
    """In which this test runs."""
    lines = Path("/proc/self/cgroup").read_bytes().split(b"\n")
    (group,) = [line.removeprefix(b"0::") for line in lines if line.startswith(b"0::")] or [b""]
    return origin(1, {CGROUP: group}).unit


def job(instance: Instance, text: str, *options: str) -> int:
    """A script called nightly-backup sends a message; its sendmail's pid, which is its own word for it."""
    script = instance.directory / "nightly-backup"
    script.write_text(f"#!/bin/sh\n{BIN}/sendmail \"$@\" <<'.' &\n{text}.\necho $!\nwait $!\n")
    script.chmod(0o755)
    environment: Mapping[str, str] = {**os.environ, "PYSENDMAIL_CONFIG": str(instance.config), "SECRET": "sesame"}
    command = [str(script), *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[0])


def told(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["pid"], entry["command"], entry["unit"]


def test_the_job_is_named(tmp_path: Path, unit: str | None) -> None:
    """The log, the history, the views, explain and show have it; the mail has it only where that is wanted."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        pid = job(instance, TEXT, "-i", "bob@example.org")
        event = instance.wait_for("accepted")
        assert (event["pid"], event["command"], event["unit"]) == (str(pid), "nightly-backup", unit or "")
        [entry] = instance.history()
        assert told(entry) == (pid, "nightly-backup", unit)
        words = f"process {pid}, which claims to be of command nightly-backup"
        assert words in instance.pysendmail("queue", "explain", entry["queue_id"])
        assert words in instance.pysendmail("queue", "show", entry["queue_id"])
        peer.wait_until(lambda: peer.messages)
        assert b"nightly-backup" not in peer.messages[0].content
        instance.configure(smarthosts=[smarthost(peer)], headers={"origin": True})
        instance.reload()
        job(instance, TEXT, "-i", "bob@example.org")
        peer.wait_until(lambda: len(peer.messages) == 2)
        assert b", command nightly-backup" in peer.messages[1].content.partition(b"\r\n")[0]
        assert "sesame" not in instance.log


def test_over_smtp(tmp_path: Path, unit: str | None) -> None:
    """-bs, which claims after the greeting."""
    with Instance(tmp_path) as instance:
        file = instance.directory / "dialogue"
        file.write_bytes(SMTP.encode())
        environment = {**os.environ, "PYSENDMAIL_CONFIG": str(instance.config)}
        with file.open("rb") as dialogue:
            subprocess.run([BIN / "sendmail", "-bs"], env=environment, stdin=dialogue, check=True, capture_output=True)
        [entry] = instance.history()
        own = Path("/proc/self/comm").read_text().rstrip("\n")
        assert told(entry)[1:] == (own, unit)
        assert entry["pid"]


def test_without_a_daemon(tmp_path: Path, unit: str | None) -> None:
    """The command that queues it itself knows as much."""
    instance = Instance(tmp_path)
    pid = job(instance, TEXT, "-i", "bob@example.org")
    [entry] = instance.history()
    assert told(entry) == (pid, "nightly-backup", unit)


def test_an_older_client(tmp_path: Path) -> None:
    """It claims nothing; the kernel's word is there all the same."""
    with Instance(tmp_path) as instance:
        path = os.fsencode(instance.socket)
        code, _, error = client.talk(path, [b"sendmail", b"bob@example.org"], {}, TEXT.encode())
        assert (code, error) == (0, b"")
        [entry] = instance.history()
        assert told(entry) == (os.getpid(), None, None)
