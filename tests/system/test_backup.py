"""pysendmail backup and restore: a consistent copy of a queue in use, and the way back without a surprise."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from rig.instance import BIN, Instance, smarthost
from rig.peer import Ordinary, PeerThread
from rig.tty import Tty

LATER = {"late@example.org": "451 4.2.1 mailbox is busy"}


def waiting(instance: Instance) -> dict[str, str]:
    return {entry["queue_id"]: entry["queue_name"] for entry in instance.mailq()}


def deferred(instance: Instance) -> str:
    before = len(instance.events)
    instance.submit("-f", "alice@example.com", "late@example.org", text=b"Subject: x\n\n" + b"body\n" * 100_000)
    return instance.wait_for("outcome", after=before, status="deferred")["queue_id"]


def test_a_copy_and_the_way_back(tmp_path: Path) -> None:
    """What waited when it was made waits again, with its body; the queue that was there is kept beside it."""
    file = tmp_path / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        first = deferred(instance)
        assert "1 message waiting in it" in instance.pysendmail("backup", str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db"]
        second = deferred(instance)
        assert set(waiting(instance)) == {first, second}

        refused = instance.run("pysendmail", "restore", str(file), "--yes")
        assert refused.returncode == 75 and b"stop the daemon" in refused.stderr
        assert instance.stop() == 0

        said = instance.pysendmail("restore", str(file), "--yes")
        assert "would be sent again" in said and "set aside" in said
        assert waiting(instance) == {first: "deferred"}
        (aside,) = instance.queue_directory.glob("queue.before-*.db")
        assert aside.stat().st_mode == (instance.queue_directory / "queue.db").stat().st_mode
        with sqlite3.connect(aside) as old:
            assert old.execute("SELECT count(*) FROM queue").fetchone() == (2,)
        old.close()
        assert not (instance.queue_directory / "restore").exists()
        peer.become(Ordinary())
        instance.start()
        instance.pysendmail("flush")
        instance.wait_for("outcome", queue_id=first, status="sent")
        assert peer.messages[-1].content.count(b"body\r\n") == 100_000


def test_restored_mail_can_be_held(tmp_path: Path) -> None:
    """With --hold nothing leaves before it is released, not even what was being attempted when the copy was made."""
    file = tmp_path / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        ids = [deferred(instance) for _ in range(2)]
        instance.pysendmail("backup", str(file))
        with sqlite3.connect(file) as copy:
            copy.execute("UPDATE recipient SET state = 'attempting', attempted_at = 1 WHERE id = 1")
        copy.close()
        assert instance.stop() == 0
        assert "and held" in instance.pysendmail("restore", str(file), "--hold", "--yes")
        peer.become(Ordinary())
        instance.start()
        instance.pysendmail("flush", "--wait")
        assert waiting(instance) == dict.fromkeys(ids, "hold")
        instance.pysendmail("queue", "release", "--all", "--yes")
        for queue_id in ids:
            instance.wait_for("outcome", queue_id=queue_id, status="sent")


def test_a_person_is_told_and_asked(tmp_path: Path) -> None:
    """On a terminal: how many wait, whether to hold them, whether it is meant; no leaves everything as it was."""
    file = tmp_path / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        queue_id = deferred(instance)
        instance.pysendmail("backup", str(file))
        assert instance.stop() == 0
        command = [BIN / "pysendmail", "-C", instance.config, "restore", file]
        for answer, state in (("n", "deferred"), ("y", "hold")):
            with Tty(command) as tty:
                assert "1 message waiting" in tty.wait_for("Hold all of it first? [y/N] ")
                tty.type("y\n")
                tty.wait_for("place? [y/N] ")
                tty.type(f"{answer}\n")
                assert tty.end() == 0
            assert waiting(instance) == {queue_id: state}


def test_one_copy_is_restored_at_a_time(tmp_path: Path) -> None:
    """While a person thinks it over, another restoration changes nothing of what he was told about: 75."""
    file, other = tmp_path / "copy.db", tmp_path / "other.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        first = deferred(instance)
        instance.pysendmail("backup", str(file))
        instance.pysendmail("queue", "remove", first)
        second = deferred(instance)
        instance.pysendmail("backup", str(other))
        assert instance.stop() == 0
    with Tty([BIN / "pysendmail", "-C", instance.config, "restore", file, "--hold"]) as tty:
        tty.wait_for("Put it in the queue's place?")
        done = instance.run("pysendmail", "restore", str(other), "--yes")
        assert done.returncode == 75 and b"another copy is being restored" in done.stderr
        assert set(waiting(instance)) == {second}
        tty.type("y\r")
        assert tty.end() == 0
    assert waiting(instance) == {first: "hold"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A backup takes no name that is taken, not even a dangling link's; a failed one leaves nothing behind."""
    with Instance(tmp_path) as instance:
        taken, link = tmp_path / "taken", tmp_path / "link"
        taken.write_text("mine")
        link.symlink_to(tmp_path / "elsewhere")
        for file in (taken, link, tmp_path / "no" / "directory"):
            done = instance.run("pysendmail", "backup", str(file))
            assert done.returncode == 73, done.stderr
        assert taken.read_text() == "mine" and not (tmp_path / "elsewhere").exists()
        assert list(tmp_path.glob(".*")) == []


def _text(file: Path) -> None:
    file.write_bytes(b"Subject: no database\n" * 100)


def _torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8192])


def _of_another_program(file: Path) -> None:
    file.unlink()
    with sqlite3.connect(file) as other:
        other.executescript("CREATE TABLE message (id); PRAGMA user_version = 2;")
    other.close()


def _from_the_future(file: Path) -> None:
    with sqlite3.connect(file) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()


def _with_a_trigger(file: Path) -> None:
    with sqlite3.connect(file) as crafted:
        crafted.execute("CREATE TRIGGER t AFTER UPDATE ON recipient BEGIN DELETE FROM message; END")
    crafted.close()


def _with_a_journal(file: Path) -> None:
    Path(f"{file}-wal").write_bytes(b"x")


@pytest.mark.parametrize(
    "spoil", [_text, _torn, _of_another_program, _from_the_future, _with_a_trigger, _with_a_journal]
)
def test_what_is_no_sound_copy_is_refused(tmp_path: Path, spoil: object) -> None:
    """65, with words; the queue is as it was."""
    file = tmp_path / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        queue_id = deferred(instance)
        instance.pysendmail("backup", str(file))
        assert instance.stop() == 0
    assert callable(spoil)
    spoil(file)
    done = instance.run("pysendmail", "restore", str(file), "--yes")
    assert done.returncode == 65 and str(file).encode() in done.stderr
    assert waiting(instance) == {queue_id: "deferred"}
    assert sorted(path.name for path in instance.queue_directory.glob("*restor*")) == []


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """66 for a directory, and for a FIFO, which nobody may ever write to."""
    os.mkfifo(tmp_path / "fifo")
    instance = Instance(tmp_path)
    for name in ("fifo", "."):
        done = instance.run("pysendmail", "restore", str(tmp_path / name), "--yes")
        assert (done.returncode, b"it is not a file" in done.stderr) == (66, True)


def test_a_damaged_queue_makes_way(tmp_path: Path) -> None:
    """The reason for most restorations: the queue that cannot be read is kept as it is."""
    file = tmp_path / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        queue_id = deferred(instance)
        instance.pysendmail("backup", str(file))
        assert instance.stop() == 0
    database = instance.queue_directory / "queue.db"
    database.write_bytes(b"no database" * 1000)
    instance.pysendmail("restore", str(file), "--yes")
    assert waiting(instance) == {queue_id: "deferred"}
    (aside,) = instance.queue_directory.glob("queue.before-*.db")
    assert aside.read_bytes() == b"no database" * 1000


def test_a_queue_in_use_is_not_moved(tmp_path: Path) -> None:
    """Another program that has it open would write to what is no longer the queue: 75, and nothing is done."""
    file = tmp_path / "copy.db"
    with Instance(tmp_path) as instance:
        instance.submit("late@example.org")
        instance.pysendmail("backup", str(file))
        assert instance.stop() == 0
    reader = sqlite3.connect(instance.queue_directory / "queue.db")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM message").fetchone()
    done = instance.run("pysendmail", "restore", str(file), "--yes")
    reader.close()
    assert done.returncode == 75 and b"has it open" in done.stderr
    assert len(waiting(instance)) == 1


def test_root_leaves_the_queue_its_owner(open_path: Path, other: int) -> None:
    """Root's copy is root's and lies where only root may write; every file of the queue stays its owner's."""
    private = open_path / "private"
    private.mkdir(0o700)
    file = private / "copy.db"
    with PeerThread(Ordinary(rcpt=LATER)) as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)])
        instance.queue_directory.mkdir(0o700)
        os.chown(instance.queue_directory, other, other)
        with instance:
            queue_id = deferred(instance)
            instance.pysendmail("backup", str(file))
            assert instance.stop() == 0
    instance.pysendmail("backup", str(private / "without.db"))
    assert {path.stat().st_uid for path in private.iterdir()} == {0}
    instance.pysendmail("restore", str(file), "--hold", "--yes")
    assert waiting(instance) == {queue_id: "hold"}
    assert {path.stat().st_uid for path in instance.queue_directory.rglob("*")} == {other}
    stranger = other + 1
    assert instance.run("pysendmail", "backup", "/tmp/never.db", uid=stranger).returncode == 77
    assert instance.run("pysendmail", "restore", str(file), "--yes", uid=stranger).returncode == 77
