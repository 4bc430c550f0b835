"""The promises of ARCHITECTURE.md that have no file of their own here, one test with the name of each.

1-5: tests/torture (test_kill_sweep, test_power_cut, test_copies); 1, 4: test_parallel; 3: test_reports;
8, 9: test_tls_levels; 11: test_writer, and all of it in tests/torture (full_disks, limits); 12: all of it in
tests/torture (clocks); 14: test_queue_work.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.clock import WallClock
from rig.instance import BIN, PATIENCE_S, Instance, smarthost
from rig.mounts import MIB, TMPFS, CannotMount, fill, mounted
from rig.peer import Client, Ordinary, PeerThread

DAY = 86400.0
NASTY = b"first\n.\n..\n.dot\nbare \r cr\n\0nul\r\n.\r\nX\r\r\n" + bytes(range(128, 256)) + b"\nFrom here\n.\r\nno end"


@pytest.mark.parametrize("settings", [{}, {"from_": "force", "force_from": "box@provider.example"}], ids=["", "force"])
def test_promise_5_copies_are_identical_and_bodies_unchanged(tmp_path: Path, settings: dict[str, str]) -> None:
    """Two copies of one message, sent at different times: the same bytes; the body is what was submitted."""

    class Once(dict[str, str]):
        def get(self, address: str, default: str = "") -> str:  # type: ignore[override]
            return self.pop(address, default)

    body = b"caf\xe9 \t trailing  \n\n\n" + b"y" * 998 + b"\nlast line\n"
    with (
        PeerThread(Ordinary(rcpt=Once({"late@example.org": "451 4.2.0 not now"}))) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, **settings)], retry={"first": "0.2s"}) as instance,
    ):
        instance.submit("bob@example.org", "late@example.org", text=b"Subject: same\n\n" + body)
        instance.wait_for("outcome", recipient="<late@example.org>", status="sent")
        first, second = (message.content for message in peer.messages)
        assert first == second
        assert first.partition(b"\r\n\r\n")[2] == body.replace(b"\n", b"\r\n")
        header = first.partition(b"\r\n\r\n")[0]
        for name in (b"Received", b"Date", b"Message-ID", b"From"):
            assert len(re.findall(rb"(?m)^%s:" % name, header)) == 1
        assert b" for " not in header


def test_promise_6_only_crlf_one_end_of_data_and_stuffed_dots(tmp_path: Path) -> None:
    """A body full of line-end tricks: seen octet by octet, the wire has one message with one end, and nothing bare."""
    with (
        PeerThread(Ordinary(keywords=("8BITMIME",))) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        instance.submit("-i", "bob@example.org", text=b"Subject: nasty\n\n" + NASTY)
        instance.submit("bob@example.org", text=b"Subject: dot\n\nbefore\n.\nafter\n")
        instance.wait_for("outcome", count=2, status="sent")
        wire = peer.clear
        assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", wire) is None
        assert wire.count(b"\r\n.\r\n") == wire.count(b"DATA\r\n") == 2
        nasty, dot = peer.messages
        assert nasty.content.partition(b"\r\n\r\n")[2].startswith(
            b"first\r\n.\r\n..\r\n.dot\r\nbare   cr\r\n nul\r\n.\r\n"
        )
        assert nasty.content.endswith(b"\r\nno end\r\n")
        assert b"before" in dot.content and b"after" not in dot.content
        assert peer.errors == []


@pytest.mark.parametrize(
    "field",
    [
        b"Bcc: eve@example.org\n",
        b"BCC:eve@example.org\n",
        b"bcc : eve@example.org\n",
        b"Bcc\t:\n eve@example.org\n",
        b"Bcc: a@example.org,\n\teve@example.org,\n b@example.org\n",
        b"Resent-To: r@example.org\nResent-Bcc: eve@example.org\n",
        b"RESENT-BCC  : eve@example.org\n",
    ],
)
def test_promise_7_bcc_never_leaves(bcc: tuple[PeerThread, Instance], field: bytes) -> None:
    """However it is spelt, the field is gone, from the message and from a bounce that returns all of it."""
    peer, instance = bcc
    peer.messages.clear()
    seen = len(instance.events)
    text = b"To: bob@example.org\n" + field + b"Subject: hush\n\nhello\n"
    instance.submit("-t", "-f", "alice@example.com", "-R", "full", text=text)
    instance.wait_for("outcome", after=seen, recipient="<eve@example.org>", status="sent")
    instance.submit("-f", "alice@example.com", "-R", "full", "no@example.org", text=text)
    instance.wait_for("outcome", after=seen, recipient="<alice@example.com>", status="sent")
    assert len(peer.messages) >= 2
    for message in peer.messages:
        assert b"eve@" not in message.content
        assert re.search(rb"(?im)^(resent-)?bcc", message.content) is None


@pytest.fixture(scope="module")
def bcc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PeerThread, Instance]]:
    """One daemon for all the spellings."""
    with (
        PeerThread(Ordinary(rcpt={"no@example.org": "550 5.1.1 no"})) as peer,
        Instance(tmp_path_factory.mktemp("bcc"), smarthosts=[smarthost(peer)]) as instance,
    ):
        yield peer, instance


def test_promise_10_nobody_holds_up_the_others(tmp_path: Path) -> None:
    """A silent smarthost, a client that says nothing, one that breaks off in a large message: others' mail flows."""

    async def silent(client: Client) -> None:
        await client.stall()

    with PeerThread(silent) as stuck, PeerThread() as peer:
        tables = [smarthost(stuck, "stuck"), smarthost(peer, "main")]
        routes = [{"recipient": "*@stuck.example", "smarthost": ["stuck"]}, {"recipient": "*", "smarthost": ["main"]}]
        with Instance(tmp_path, smarthosts=tables, route=routes) as instance:
            for number in range(10):
                instance.submit(f"r{number}@stuck.example")
            with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as rude:
                idle.connect(str(instance.socket))
                rude.connect(str(instance.socket))
                rude.sendall(b"V\xff\xff\xff\xff nonsense")
                instance.submit("bob@example.org", "carol@stuck.example")
                instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
            assert [m.recipients for m in peer.messages] == [["<bob@example.org>"]]
            assert len(instance.mailq()) == 11


def test_promise_10_a_log_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    """The pipe behind standard error is full: mail flows; once it is read, the log says what it lost."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.submit("bob@example.org")
        read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
        os.write(write_end, b"\n" * 4000)
        command = [str(BIN / "pysendmail"), "-C", str(instance.config), "daemon"]
        daemon = subprocess.Popen(command, stderr=write_end, stdin=subprocess.DEVNULL)
        try:
            os.close(write_end)
            peer.wait_until(lambda: peer.messages)
            for number in range(5):
                instance.submit(f"r{number}@example.org")
            peer.wait_until(lambda: len(peer.messages) == 6)
            os.read(read_end, 4096)
            daemon.terminate()
            assert daemon.wait(30) == 0
            assert b"event=lost lines=" in os.read(read_end, 65536)
        finally:
            daemon.kill()
            daemon.wait()
            os.close(read_end)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    try:
        with mounted(TMPFS, tmp_path / "disk", 32 * MIB) as disk:
            yield disk
    except CannotMount as why:
        pytest.skip(f"a full disk: {why}")


def test_promise_11_a_full_disk_refuses_remembers_and_recovers(tmp_path: Path, small_disk: Path) -> None:
    """Full while a message is on the wire: its answer is recorded, others get 75; with room all goes on by itself."""
    accepted = []

    async def fills(client: Client) -> None:
        await client.say("220 peer.example")
        await client.hear("EHLO")
        await client.say("250 peer.example")
        for verb in ("MAIL", "RCPT"):
            await client.hear(verb)
            await client.say("250 ok")
        await client.hear("DATA")
        await client.say("354 go ahead")
        accepted.append(await client.hear_message())
        fill(small_disk)
        await client.say("250 2.0.0 taken")
        client.close()

    queue = {"directory": str(small_disk / "queue"), "reserve": "4MiB"}
    with PeerThread(fills) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)], queue=queue) as instance:
        instance.submit("bob@example.org", text=b"Subject: big\n\n" + b"x" * 72 * 1000)
        instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
        assert instance.history()[0]["recipients"][0]["outcome"] == "sent"
        refused = instance.sendmail("carol@example.org")
        assert refused.returncode == 75 and b"nothing was queued" in refused.stderr
        assert instance.pysendmail("status", code=1)
        peer.become(Ordinary())
        (small_disk / "filler").unlink()
        instance.submit("dave@example.org")
        instance.wait_for("outcome", recipient="<dave@example.org>", status="sent")
        instance.kill()  # and even now nothing is forgotten
        instance.start()
        assert [e["recipients"][0]["outcome"] for e in instance.history()] == ["sent", "sent"]
        assert len(accepted) == 1 and len(peer.messages) == 1


def test_promise_11_a_start_on_a_full_disk_refuses_and_goes_on_by_itself(tmp_path: Path, small_disk: Path) -> None:
    """An attempt to put right, no reserve, and a log that was written back, so that not even that gives room.

    Who submits is told 75, who stops the daemon need not kill it, and with room all goes on by itself.
    """
    taken = threading.Event()

    async def never_answers(client: Client) -> None:
        taken.set()
        await client.stall()

    queue = {"directory": str(small_disk / "queue"), "reserve": "0"}
    with PeerThread(never_answers) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)], queue=queue) as instance:
        instance.submit("bob@example.org")
        assert taken.wait(PATIENCE_S)
        instance.kill()
        peer.become(Ordinary())
        with contextlib.closing(sqlite3.connect(small_disk / "queue" / "queue.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            filler = fill(small_disk)
            for ends in (True, False):
                instance.start()
                assert instance.matching("full")
                refused = instance.sendmail("carol@example.org")
                assert refused.returncode == 75 and b"nothing was queued" in refused.stderr
                assert not instance.matching("outcome")
                assert not ends or instance.stop() == 0
        filler.unlink()
        instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
        instance.submit("dave@example.org")
        instance.wait_for("outcome", recipient="<dave@example.org>", status="sent")


def test_promise_11_a_reload_on_a_full_disk_waits_in_words(tmp_path: Path, small_disk: Path) -> None:
    """What waits has to change its route, and there is no room for that: who submits is told 75; a stop is quiet."""
    queue = {"directory": str(small_disk / "queue"), "reserve": "0"}
    nobody = {"name": "old", "host": "127.0.0.1", "port": 1}
    with Instance(tmp_path, smarthosts=[nobody], queue=queue) as instance:
        instance.submit("bob@example.org")
        instance.wait_for("trouble", smarthost="old")
        with contextlib.closing(sqlite3.connect(small_disk / "queue" / "queue.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            fill(small_disk)
            instance.configure(smarthosts=[{**nobody, "name": "new"}], queue=queue)
            assert instance.reload()["error"] == ""
            assert instance.sendmail("carol@example.org").returncode == 75
            assert instance.stop() == 0
        assert instance.matching("library") == instance.matching("bug") == []
        assert "Traceback" not in instance.log


def test_promise_11_a_disk_too_small_for_the_reserve_still_carries_mail(tmp_path: Path, small_disk: Path) -> None:
    """The ballast does not fit: what there is has half of the room, and mail is taken and delivered all the same."""
    queue = {"directory": str(small_disk / "queue"), "reserve": "20MiB"}
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)], queue=queue) as instance:
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        instance.pysendmail("status", code=0)
        assert 0 < (small_disk / "queue" / "reserve").stat().st_size < 20 * 1024 * 1024


def test_promise_12_a_clock_jump_expires_and_stops_nothing(tmp_path: Path) -> None:
    """30 days forward, then a day back: the mail is neither expired nor late, and the daemon does not spin."""
    clock = WallClock(tmp_path)
    later = {"late@example.org": "451 4.2.0 not now"}
    with PeerThread(Ordinary(rcpt=later)) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)], retry={"first": "1s", "factor": 1.0})
        try:
            instance.start(environment=clock.environment)
            instance.submit("late@example.org")
            instance.wait_for("outcome", status="deferred")
            for ahead in (30 * DAY, -DAY):
                seen = len(instance.events)
                clock.set(ahead)
                instance.wait_for("clock", after=seen)
                instance.wait_for("outcome", after=seen, status="deferred", count=2)
            assert instance.matching("outcome", fields={"status": "expired"}) == []
            assert len(instance.mailq()) == 1
            assert len(instance.events) < 100
        finally:
            instance.__exit__()


ODD_ANSWERS = (
    b"",  # nothing, and the connection ends
    b"hello\r\n",
    b"250\n",
    b"2500 ok\r\n",
    b"199 hm\r\n",
    b"354 go on\r\n",
    b"600 what\r\n",
    b"250-ok\r\n",  # never ends
    b"250-ok\r\n550 no\r\n",
    b"250 \x00\x1b[31m\xff" + b"A" * 3000 + b"\r\n",
    b"250 " + b"A" * 2_000_000,
    b"250-x\r\n" * 200_000,
)


def test_promise_13_odd_answers_to_the_dot_are_no_acceptance(tmp_path: Path) -> None:
    """Each odd answer defers the message, as uncertain; the daemon lives, stays small, and delivers in the end."""

    def odd(answer: bytes) -> object:
        async def behaviour(client: Client) -> None:
            await client.say("220 peer.example")
            await client.hear("EHLO")
            await client.say("250 peer.example")
            for verb in ("MAIL", "RCPT"):
                await client.hear(verb)
                await client.say("250 ok")
            await client.hear("DATA")
            await client.say("354 go ahead")
            await client.hear_message()
            await client.send(answer)
            client.close()

        return behaviour

    quick = {"first": "0.05s", "factor": 1.0, "jitter": 0.0}
    with (
        PeerThread(*map(odd, ODD_ANSWERS), Ordinary()) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry=quick) as instance,
    ):
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        assert instance.process is not None
        status = Path(f"/proc/{instance.process.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
        assert peak < 120_000
        [entry] = instance.history()
        outcomes = [attempt["outcome"] for attempt in entry["recipients"][0]["attempts"]]
        assert len(outcomes) == len(peer.clients)
        assert outcomes[-1] == "sent" and "sent" not in outcomes[:-1]
        assert all(attempt["reply"] for attempt in entry["recipients"][0]["attempts"])
        assert "\x1b" not in instance.log and "\0" not in instance.log
        assert "event=bug" not in instance.log


def test_promise_15_a_damaged_row_is_set_aside_and_hides_nothing(tmp_path: Path) -> None:
    """One message's row makes no sense: the others are delivered, status and mailq show it, mailq keeps working."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        for name in ("one", "two", "three"):
            instance.submit(f"{name}@example.org")
        with sqlite3.connect(instance.queue_directory / "queue.db") as database:
            database.execute("UPDATE message SET header = 42 WHERE id = 2")
        database.close()
        with instance:
            instance.wait_for("outcome", status="sent", count=2)
            done = instance.run("pysendmail", "status")
            assert done.returncode == 1 and b"damaged" in done.stdout
            [entry] = instance.mailq()
            assert entry["recipients"][0]["address"] == "two@example.org"
            instance.submit("four@example.org")
            instance.wait_for("outcome", status="sent", count=3)
            assert instance.stop() == 0
        assert len(peer.messages) == 3


def test_promise_15_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """After a downgrade: 75 and words for daemon and commands, listings too; nothing is touched, and back it works."""
    instance = Instance(tmp_path)
    instance.submit("bob@example.org")
    database = sqlite3.connect(instance.queue_directory / "queue.db")
    [(version,)] = database.execute("PRAGMA user_version")
    database.execute("PRAGMA user_version = 999")
    database.close()
    refused = [("pysendmail", "daemon"), ("sendmail", "carol@example.org"), ("mailq",), ("pysendmail", "history")]
    for done in (instance.run(*command) for command in refused):
        assert (done.returncode, done.stdout) == (75, b"")
        assert str(instance.queue_directory).encode() in done.stderr
        assert b"newer" in done.stderr and len(done.stderr.splitlines()) == 1
    assert instance.status()["health"] == "critical"
    database = sqlite3.connect(instance.queue_directory / "queue.db")
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    assert len(instance.mailq()) == 1
