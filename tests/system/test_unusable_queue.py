"""A queue that cannot be opened or read: 75 and words that name the place and the mend, and the mail in it waits.

Network file systems are not at hand here. What makes them one is that locks fail, which strace does as well.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rig.damage import PAGE, overwrite
from rig.debian import program
from rig.instance import OTHERS, Instance, can_be, smarthost
from rig.peer import PeerThread


def put_a_directory_there(directory: Path) -> None:
    (directory / "queue.db").rename(directory / "aside")
    (directory / "queue.db").mkdir()


def take_it_away(directory: Path) -> None:
    (directory / "queue.db").rmdir()
    (directory / "aside").rename(directory / "queue.db")


# What somebody did to the queue's directory, and how he takes it back.
FAULTS: Sequence[tuple[Callable[[Path], object], Callable[[Path], object]]] = (
    (lambda directory: (directory / "queue.db").chmod(0), lambda directory: (directory / "queue.db").chmod(0o600)),
    (put_a_directory_there, take_it_away),
)


def test_a_queue_that_cannot_be_opened_waits(open_path: Path) -> None:
    """Whatever bars the way: one line and 75, and when it is out of the way the mail leaves."""
    uid = os.geteuid()
    if uid == 0 and not can_be(uid := OTHERS[0]):
        pytest.skip("for root no mode is in the way, and we cannot run commands as anybody else")
    (directory := open_path / "queue").mkdir(mode=0o700)
    os.chown(directory, uid, -1)  # root becomes him
    with PeerThread() as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)])
        instance.submit("bob@example.org")
        for do, undo in FAULTS:
            do(directory)
            for command in (("sendmail", "carol@example.org"), ("pysendmail", "daemon")):
                done = instance.run(*command)
                assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), done.stderr
                assert str(directory).encode() in done.stderr and b"pysendmail check says what to do" in done.stderr
            undo(directory)
        with instance:
            instance.wait_for("outcome", status="sent")
            assert instance.stop() == 0
    assert [message.recipients for message in peer.messages] == [["<bob@example.org>"]]


def test_a_file_system_without_locks_is_refused(tmp_path: Path) -> None:
    """As on some that come over the network: 75 and words, and nothing of the queue is lost."""
    strace = program("strace", "strace")
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    lock = f"--trace-path={instance.queue_directory}/queue.lock"
    wrapper = [strace, "-f", "-o", os.devnull, lock, "--inject=flock:error=ENOLCK"]
    done = instance.under(wrapper, "sendmail", "carol@example.org")
    assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), done.stderr
    assert f"{instance.queue_directory}/queue.lock cannot be locked".encode() in done.stderr
    assert len(instance.mailq()) == 1


BODY, HEADER = b"x" * 70, b"y" * 70
BIG = b"Subject: big\n" + (b"X-Long: " + HEADER + b"\n") * 90 + b"\n" + (BODY + b"\n") * 3000


@pytest.mark.parametrize("what", [BODY, HEADER], ids=["a body", "a header"])
def test_promise_15_a_damaged_page_costs_its_message_alone(tmp_path: Path, what: bytes) -> None:
    """It is set aside, told in the log and as an alarm; all others leave, also after a restart, and are listed."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.submit("big@example.org", text=BIG)
        instance.submit("bob@example.org")
        overwrite(instance.queue_directory / "queue.db", what)
        with instance:
            told = instance.wait_for("damaged")
            assert "malformed" in told["error"] and "RECOVERY" in told["advice"]
            instance.wait_for("alarm", kind="damage", state="raised")
            instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
            instance.pysendmail("flush")
            instance.pysendmail("queue", "remove", "--all", "--yes", code=None)  # nothing that a user asks for ends it
            instance.submit("carol@example.org")
            instance.wait_for("outcome", recipient="<carol@example.org>", status="sent")
            assert instance.stop() == 0
            seen = len(instance.events)
            instance.start()
            instance.submit("dave@example.org")
            instance.wait_for("outcome", after=seen, recipient="<dave@example.org>", status="sent")
            assert [one["recipients"][0]["address"] for one in instance.mailq()] in ([], ["big@example.org"])
            assert instance.status()["queued"] in (0, 1)
            assert instance.stop() == 0
        assert [message.recipients for message in peer.messages] == [
            [f"<{name}@example.org>"] for name in ("bob", "carol", "dave")
        ]
        assert "event=bug" not in instance.log


def test_what_a_damaged_page_leaves_is_saved_as_the_manual_says(tmp_path: Path) -> None:
    """A text lost a page: what the manual says saves what can be saved, and the rest of the message bounces."""
    shell = program("sqlite3", "sqlite3")
    with PeerThread() as peer:
        damaged = Instance(tmp_path, smarthosts=[smarthost(peer)])
        damaged.submit("big@example.org", text=b"Subject: big\n\n" + (b"x" * 70 + b"\n") * 3000)
        damaged.submit("bob@example.org")
        with (damaged.queue_directory / "queue.db").open("r+b") as file:
            octets = file.read()
            file.seek(octets.index(b"x" * 70, len(octets) // 2) // PAGE * PAGE)
            file.write(b"\xff" * PAGE)
        (directory := damaged.queue_directory).rename(old := tmp_path / "old")
        directory.mkdir(mode=0o700)
        end = "sed 's/^ROLLBACK;.*/COMMIT;/'"
        save = f"{shell} '{old}/queue.db' .dump | {end} | {shell} '{directory}/queue.db'"
        subprocess.run(["sh", "-c", save], check=True)
        with damaged:
            damaged.wait_for("outcome", recipient="<bob@example.org>", status="sent")
            waits = damaged.wait_for("outcome", recipient="<big@example.org>", status="deferred")
            assert "octets early" in waits["reply"]
            assert damaged.stop() == 0
        assert [message.recipients for message in peer.messages] == [["<bob@example.org>"]]
