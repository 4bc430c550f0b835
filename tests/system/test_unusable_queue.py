"""A queue that cannot be opened or read: 75 and words that name the place and the mend, and the mail in it waits.

Network file systems are not at hand here. What makes them one is that locks fail, which strace does as well.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.debian import program
from rig.instance import OTHERS, Instance, can_be, smarthost
from rig.peer import PeerThread

PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What somebody did to the queue's directory, how he takes it back, and what `check` says to do."""

    do: Callable[[Path], object]
    undo: Callable[[Path], object]
    mend: str


def put_a_directory_there(directory: Path) -> None:
    (directory / "queue.db").rename(directory / "aside")
    (directory / "queue.db").mkdir()


def take_it_away(directory: Path) -> None:
    (directory / "queue.db").rmdir()
    (directory / "aside").rename(directory / "queue.db")


FAULTS = {
    "a file's mode": Fault(
        do=lambda directory: (directory / "queue.db").chmod(0),
        undo=lambda directory: (directory / "queue.db").chmod(0o600),
        mend="chmod 0600 {}/queue.db",
    ),
    "the directory's mode": Fault(
        do=lambda directory: directory.chmod(0o600), undo=lambda directory: directory.chmod(0o700), mend="chmod 0700 {}"
    ),
    "something else in its place": Fault(do=put_a_directory_there, undo=take_it_away, mend="it is not a file"),
}


def test_a_queue_that_cannot_be_opened_waits(open_path: Path) -> None:
    """Whatever bars the way: one line and 75, `check` says what to do, and when that is done the mail leaves."""
    uid = os.geteuid()
    if uid == 0 and not can_be(uid := OTHERS[0]):
        pytest.skip("for root no mode is in the way, and we cannot run commands as anybody else")
    (directory := open_path / "queue").mkdir(mode=0o700)
    os.chown(directory, uid, -1)  # root becomes him
    with PeerThread() as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)])
        instance.submit("bob@example.org")
        for fault in FAULTS.values():
            fault.do(directory)
            for command in (("sendmail", "carol@example.org"), ("pysendmail", "daemon")):
                done = instance.run(*command)
                assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), done.stderr
                assert str(directory).encode() in done.stderr and b"pysendmail check says what to do" in done.stderr
            assert fault.mend.format(directory) in instance.pysendmail("check", code=78)
            fault.undo(directory)
        with instance:
            instance.wait_for("outcome", status="sent")
            assert instance.stop() == 0
    assert [message.recipients for message in peer.messages] == [["<bob@example.org>"]]


@pytest.mark.parametrize(("call", "words"), [("flock", b"queue.lock cannot be locked"), ("fcntl", b"locked")])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, call: str, words: bytes) -> None:
    """As on some that come over the network: 75 and words, and nothing of the queue is lost."""
    strace = program("strace", "strace")
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    files = [f"--trace-path={instance.queue_directory}/{name}" for name in ("queue.db", "queue.lock")]
    wrapper = [strace, "-f", "-o", os.devnull, *files, f"--inject={call}:error=ENOLCK"]
    done = instance.under(wrapper, "sendmail", "carol@example.org")
    assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), done.stderr
    assert str(instance.queue_directory).encode() in done.stderr and words in done.stderr
    assert len(instance.mailq()) == 1


def test_what_a_damaged_page_leaves_is_saved_as_the_manual_says(tmp_path: Path) -> None:
    """A text lost a page: the daemon stops and says so, `check` too; what the manual says saves all others."""
    sqlite3 = program("sqlite3", "sqlite3")
    with PeerThread() as peer:
        damaged = Instance(tmp_path, smarthosts=[smarthost(peer)])
        damaged.submit("big@example.org", text=b"Subject: big\n\n" + (b"x" * 70 + b"\n") * 3000)
        damaged.submit("bob@example.org")
        with (damaged.queue_directory / "queue.db").open("r+b") as file:
            octets = file.read()
            file.seek(octets.index(b"x" * 70, len(octets) // 2) // PAGE * PAGE)
            file.write(b"\xff" * PAGE)
        damaged.launch()
        assert "malformed" in damaged.wait_for("broken")["error"]
        assert damaged.process is not None and damaged.process.wait() == 75
        assert "it is damaged" in damaged.pysendmail("check", code=78)
        (directory := damaged.queue_directory).rename(old := tmp_path / "old")
        directory.mkdir(mode=0o700)
        end = "sed 's/^ROLLBACK;.*/COMMIT;/'"
        save = f"{sqlite3} '{old}/queue.db' .dump | {end} | {sqlite3} '{directory}/queue.db'"
        subprocess.run(["sh", "-c", save], check=True)
        assert f"chmod 0600 {directory}/queue.db" in damaged.pysendmail("check", code=78)
        with damaged:
            damaged.wait_for("outcome", recipient="<bob@example.org>", status="sent")
            waits = damaged.wait_for("outcome", recipient="<big@example.org>", status="deferred")
            assert "octets early" in waits["reply"]
            assert damaged.stop() == 0
        assert [message.recipients for message in peer.messages] == [["<bob@example.org>"]]
