"""Without a daemon: who may write the queue commits by himself, root as its owner; who may not is told so."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from pysendmail.thin import client
from rig.ca import Authority
from rig.instance import BIN, Instance, as_user, smarthost
from rig.peer import Ordinary, PeerThread


def test_a_command_queues_by_itself_and_the_next_daemon_delivers(tmp_path: Path) -> None:
    """No socket: sendmail commits, exit 0; mailq, status, history and explain work; a daemon started later delivers."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        assert instance.mailq() == []
        instance.submit("bob@example.org")
        instance.submit("big@example.org", text=b"Subject: big\n\n" + b"x" * 72 * 40_000)
        entries = instance.mailq()
        assert [e["recipients"][0]["address"] for e in entries] == ["bob@example.org", "big@example.org"]
        assert [e["uid"] for e in entries] == [os.getuid()] * 2
        done = instance.run("pysendmail", "status")
        assert done.returncode == 2 and b"no daemon" in done.stdout
        assert len(instance.history()) == 2
        assert entries[0]["queue_id"] in instance.pysendmail("queue", "explain", "--all")
        instance.pysendmail("queue", "remove", entries[0]["queue_id"])
        with instance:
            instance.wait_for("outcome", status="sent")
            assert instance.stop() == 0
        assert [m.recipients[0] for m in peer.messages] == ["<big@example.org>"]
        assert peer.messages[0].content.count(b"x") >= 72 * 40_000


@pytest.mark.parametrize("old", sorted((Path(__file__).parents[1] / "golden" / "queue").glob("*.sql")), ids=str)
def test_an_older_queue_is_looked_at_before_a_daemon_was_there(old: Path, tmp_path: Path) -> None:
    """After an upgrade: history, explain and show answer at once, though an older version wrote that queue."""
    instance = Instance(tmp_path)
    instance.queue_directory.mkdir(mode=0o700)
    with closing(sqlite3.connect(instance.queue_directory / "queue.db")) as database:
        database.executescript(old.read_text())
    assert "OLD000000001" in instance.pysendmail("history")
    assert "deferred" in instance.pysendmail("queue", "explain", "OLD000000003")
    assert "Subject" in instance.pysendmail("queue", "show", "OLD000000009")


def test_root_leaves_the_queues_files_to_their_owner(open_path: Path, other: int) -> None:
    """Root's submission, listing, flush and daemon --once in another's directory: every file is his, the uid root's."""
    with PeerThread() as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)])
        instance.queue_directory.mkdir(mode=0o700)
        os.chown(instance.queue_directory, other, other)
        instance.submit("bob@example.org")
        [entry] = instance.mailq()
        assert entry["uid"] == 0
        instance.pysendmail("flush")
        assert {file.stat().st_uid for file in instance.queue_directory.iterdir()} == {other}
        assert instance.run("pysendmail", "daemon", "--once").returncode == 0
        assert {file.stat().st_uid for file in instance.queue_directory.iterdir()} == {other}
        assert b"from uid 0)" in peer.messages[0].content
        # and the owner himself finds all that he needs
        instance.submit("carol@example.org", uid=other)
        assert [e["uid"] for e in instance.mailq(uid=other)] == [other]


def has_open(pid: int, path: Path) -> bool:
    """Whether this process has the file open now; what it closes meanwhile does not count."""
    try:
        return any(os.path.realpath(fd) == str(path) for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:
        return False


def test_root_is_still_root_when_a_daemon_comes_back(open_path: Path, other: int) -> None:
    """While root waits for queue.lock a daemon starts and takes the message: from root, not from the queue's owner."""
    instance = Instance(open_path)
    instance.queue_directory.mkdir(mode=0o700)
    instance.socket.parent.mkdir()
    lock = instance.queue_directory / "queue.lock"
    with lock.open("w") as held, socket.socket(socket.AF_UNIX) as daemon:
        for path in (instance.queue_directory, lock):
            os.chown(path, other, other)
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [str(BIN / "sendmail"), "-C", str(instance.config), "bob@example.org"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not has_open(process.pid, lock):
                assert process.poll() is None
            daemon.bind(str(instance.socket))
            instance.socket.chmod(0o666)
            daemon.listen()
            uids = []
            while True:
                peer, _ = daemon.accept()
                with peer:
                    uids.append(struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
                    if peer.recv(1):  # not only a look whether somebody listens
                        break
            process.kill()
    assert uids[-1] == 0


def test_who_cannot_own_the_queue_waits_for_a_restart_without_the_package(open_path: Path, other: int) -> None:
    """Another's dead socket: its users try to connect until it is 75, and load nothing to hear that it is not theirs.

    Fifty who did kept both cores busy for seconds, and with them the daemon that was starting again.
    """
    program = f"""
import posix, sys
sys.path.insert(0, {str(Path(client.__file__).parent)!r})
import client
client.RESTART_S = 0.2
client.load_package = lambda: posix._exit(99)
sys.argv[:] = ["sendmail", "-C", {str(open_path / "pysendmail.toml")!r}, "bob@example.org"]
client.main()
"""
    instance = Instance(open_path)
    instance.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(instance.socket))
        instance.socket.chmod(0o666)
        instance.socket.with_name("control").touch(0o600)  # its owner is the queue's
        command = [*as_user(other), str(BIN / "python"), "-IS", "-c", program]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    words = f"sendmail: the daemon at {instance.socket}: it does not run; nothing was queued, try again later\n"
    assert (done.returncode, done.stderr.decode()) == (75, words)


def test_the_daemon_of_root_becomes_the_queues_owner(open_path: Path, other: int) -> None:
    """Process, sockets and files are the owner's; he may use `control`, others may not."""
    with PeerThread() as peer:
        instance = Instance(open_path, smarthosts=[smarthost(peer)])
        instance.queue_directory.mkdir(mode=0o700)
        os.chown(instance.queue_directory, other, other)
        with instance:
            assert instance.process is not None
            status = Path(f"/proc/{instance.process.pid}/status").read_text()
            assert f"Uid:\t{other}\t{other}\t{other}" in status
            assert f"Groups:\t{other}" in status or "Groups:\t \n" in status
            assert instance.socket.stat().st_uid == instance.socket.with_name("control").stat().st_uid == other
            instance.submit("bob@example.org", uid=other + 1)
            instance.wait_for("outcome", status="sent")
            assert len(instance.history()) == 1
            assert instance.pysendmail("history", uid=other).count("bob@example.org") == 1
            assert instance.stop() == 0
        assert {file.stat().st_uid for file in instance.queue_directory.iterdir()} == {other}


def test_who_may_not_write_the_queue_is_told_which_socket_was_tried(open_path: Path, other: int) -> None:
    """No daemon, no right: sendmail 75 "nothing was queued", mailq and friends 69, each with one line."""
    instance = Instance(open_path)
    instance.submit("bob@example.org")
    done = instance.sendmail("bob@example.org", uid=other)
    assert done.returncode == 75
    assert str(instance.socket).encode() in done.stderr and b"nothing was queued" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for command in (("mailq",), ("pysendmail", "history"), ("pysendmail", "queue", "list"), ("pysendmail", "flush")):
        done = instance.run(*command, uid=other)
        assert (command, done.returncode) == (command, 69)
        assert len(done.stderr.splitlines()) == 1
    assert instance.run("pysendmail", "status", uid=other).returncode == 2
    assert len(instance.mailq()) == 1


def test_a_dead_daemons_socket_is_no_obstacle(tmp_path: Path) -> None:
    """After kill -9 the socket is still there: who may write the queue does so at once."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.kill()
        assert instance.socket.exists()
        instance.submit("bob@example.org")
        instance.start()
        instance.wait_for("outcome", status="sent")


@pytest.mark.parametrize("name", ["missing/deep/queue"])
def test_the_queues_directory_is_made_when_it_is_missing(tmp_path: Path, name: str) -> None:
    """First use of a fresh machine: the directory appears, closed to others."""
    instance = Instance(tmp_path, queue={"directory": str(tmp_path / name)})
    instance.submit("bob@example.org")
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_damaged_database_is_words_and_an_exit_code(tmp_path: Path) -> None:
    """Never a traceback: 75 and one line for each command, `status` says critical, `check` what to do."""
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    (instance.queue_directory / "queue.db").write_bytes(b"no database" * 1000)
    commands = [("sendmail", "bob@example.org"), ("pysendmail", "daemon"), ("pysendmail", "queue", "list")]
    for name, *arguments in [*commands, ("pysendmail", "history"), ("pysendmail", "flush")]:
        done = instance.run(name, *arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), (arguments, done.stderr)
        assert b"queue.db" in done.stderr
    instance.pysendmail("status", code=2)
    assert "queue.db" in instance.pysendmail("check", code=78)


def test_a_newer_queue_is_words_that_help(tmp_path: Path) -> None:
    """Whoever looks at it, writes to it or copies it hears which file that is, and what to do."""
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    file = instance.queue_directory / "queue.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 99")
    commands = [("sendmail", "bob@example.org"), ("pysendmail", "queue", "list"), ("pysendmail", "history")]
    for name, *arguments in [*commands, ("pysendmail", "backup", str(tmp_path / "copy"))]:
        done = instance.run(name, *arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (75, 1), (arguments, done.stderr)
        assert f"{file} was written by a newer pysendmail (schema 99".encode() in done.stderr
        assert b"install that version again" in done.stderr
    assert "newer" in json.loads(instance.pysendmail("status", "--json", code=2))["warnings"][0]


def test_status_is_one_json_object_for_whoever_may_not_look(open_path: Path, other: int) -> None:
    """No daemon and no right to the queue: critical, with the keys that the object always has."""
    instance = Instance(open_path, smarthosts=[{"name": "main", "host": "127.0.0.1"}])
    whole, bare = instance.status(), json.loads(instance.pysendmail("status", "--json", uid=other, code=2))
    assert list(bare) == list(whole)
    assert (bare["health"], bare["queued"]) == ("critical", None)
    assert "no daemon" in bare["warnings"][0]


def test_status_without_a_daemon_knows_what_the_queue_knows(tmp_path: Path) -> None:
    """When TLS was seen and mail was sent, as with a daemon; and that the last good configuration is in use."""
    with (
        PeerThread(Ordinary(tls=Authority(tmp_path).server())) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, tls="may")]) as instance,
    ):
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        running = instance.status()
        assert instance.stop() == 0
    with instance.config.open("a") as file:
        file.write('frobnicate = "yes"\n')
    stopped = instance.status()
    assert stopped["last_sent_at"] == running["last_sent_at"] is not None
    assert stopped["smarthosts"][0]["tls_seen"] == running["smarthosts"][0]["tls_seen"] is not None
    assert any("frobnicate" in warning for warning in stopped["warnings"])
