"""The smarthost down and up again, the daemon stopped and started, the configuration broken: mail waits and flows."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

from rig.instance import Instance, smarthost
from rig.peer import Client, Ordinary, PeerThread


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def down(port: int) -> dict[str, object]:
    """The table of a smarthost that refuses connections until somebody listens at the port."""
    return {"name": "main", "host": "127.0.0.1", "port": port}


def test_mail_waits_while_the_smarthost_is_down_and_flows_when_it_is_up(tmp_path: Path) -> None:
    """Down: accepted, status 2 with the reason, mailq names it, attempts are not counted. Up: a flush and it flows."""
    port = free_port()
    with Instance(tmp_path, smarthosts=[down(port)]) as instance:
        instance.submit("one@example.org")
        instance.wait_for("trouble", smarthost="main")
        instance.submit("two@example.org")
        done = instance.run("pysendmail", "status", "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["health"], report["queued"]) == (2, "critical", 2)
        assert report["smarthosts"][0]["state"] == "trouble"
        assert "refused" in report["smarthosts"][0]["reason"]
        assert report["smarthosts"][0]["next_try_at"] is not None
        waiting = instance.mailq()
        assert [entry["recipients"][0]["address"] for entry in waiting] == ["one@example.org", "two@example.org"]
        assert all("refused" in entry["recipients"][0]["delay_reason"] for entry in waiting)
        assert [entry["attempts"] for entry in waiting] == [0, 0]
        listing = instance.run("mailq").stdout.decode()
        assert "refused" in listing and "-- " in listing
        with PeerThread(port=port) as peer:
            started = time.monotonic()
            instance.pysendmail("flush")
            instance.wait_for("outcome", count=2, status="sent")
            assert time.monotonic() - started < 10  # and not after the rest of 30 s
            assert len(peer.messages) == 2
        instance.wait_for("recovered", smarthost="main")
        done = instance.run("pysendmail", "status", "--json")
        assert (done.returncode, json.loads(done.stdout)["queued"]) == (0, 0)


def test_without_a_connection_there_is_nothing_in_clear(tmp_path: Path) -> None:
    """A password that cannot be read, or nobody who answers: address and tls of the attempt are null, not "none"."""
    for name, settings in {"refused": {}, "secret": {"username": "u", "password_file": str(tmp_path / "no")}}.items():
        (tmp_path / name).mkdir()
        with Instance(tmp_path / name, smarthosts=[down(free_port()) | settings]) as instance:
            instance.submit("bob@example.org")
            event = instance.wait_for("outcome", status="deferred")
            [attempt] = instance.history()[0]["recipients"][0]["attempts"]
            assert (event["tls"], attempt["tls"]) == ("", None)
            assert "in clear" not in instance.pysendmail("queue", "explain", "--all")


def test_the_next_smarthost_of_the_route_is_tried(tmp_path: Path) -> None:
    """The first is down: the mail goes to the second, and `history` shows both attempts."""
    with PeerThread() as peer:
        tables = [down(free_port()), smarthost(peer, "second")]
        with Instance(tmp_path, smarthosts=tables) as instance:
            instance.submit("bob@example.org")
            instance.wait_for("outcome", status="sent", smarthost="second")
            [entry] = instance.history()
            attempts = entry["recipients"][0]["attempts"]
            assert [(a["smarthost"], a["outcome"]) for a in attempts] == [("main", "deferred"), ("second", "sent")]


def test_a_restart_delivers_the_backlog(tmp_path: Path) -> None:
    """What was accepted while the smarthost was down is delivered by the next daemon, in full and once."""
    port = free_port()
    with Instance(tmp_path, smarthosts=[down(port)]) as instance:
        for number in range(5):
            instance.submit(f"r{number}@example.org")
        instance.wait_for("trouble")
        assert instance.stop() == 0
        with PeerThread(port=port) as peer:
            instance.start()
            instance.wait_for("outcome", count=5, status="sent")
        assert sorted(m.recipients[0] for m in peer.messages) == [f"<r{number}@example.org>" for number in range(5)]


def test_sigterm_gives_back_what_a_stuck_smarthost_holds(tmp_path: Path) -> None:
    """A smarthost that never greets: the daemon ends with 0, soon, and its mail is not uncertain."""

    async def silent(client: Client) -> None:
        await client.stall()

    with PeerThread(silent) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("bob@example.org")
        instance.submit("carol@example.org")
        peer.wait_until(lambda: peer.clients)
        started = time.monotonic()
        assert instance.stop() == 0
        assert time.monotonic() - started < 20
        peer.become(Ordinary())
        instance.start()
        instance.wait_for("outcome", count=2, status="sent")
        assert "uncertain" not in instance.log
        attempts = [a["outcome"] for entry in instance.history() for a in entry["recipients"][0]["attempts"]]
        assert attempts == ["sent", "sent"]


def test_sigterm_lets_the_answer_to_the_final_dot_come(tmp_path: Path) -> None:
    """Mail whose dot is on the wire is not cut off: the answer is waited for and recorded, nothing is sent twice."""

    async def slow(client: Client) -> None:
        await client.say("220 peer.example")
        await client.hear("EHLO")
        await client.say("250 peer.example")
        for verb in ("MAIL", "RCPT"):
            await client.hear(verb)
            await client.say("250 ok")
        await client.hear("DATA")
        await client.say("354 go ahead")
        await client.hear_message()
        assert instance.process is not None
        instance.process.terminate()
        await asyncio.to_thread(instance.wait_for, "stopping")
        await client.say("250 2.0.0 taken")
        await client.stall()

    with PeerThread(slow) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("bob@example.org")
        assert instance.process is not None
        assert instance.process.wait(30) == 0
        instance.wait_for("outcome", status="sent")
        assert peer.commands.count("DATA") == 1


def test_sighup_takes_a_new_configuration_over(tmp_path: Path) -> None:
    """Another smarthost in the file and SIGHUP: what waits goes to the new one, without a restart."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[down(free_port())]) as instance:
        instance.submit("bob@example.org")
        instance.wait_for("trouble")
        instance.configure(smarthosts=[smarthost(peer, "new")])
        assert instance.reload()["error"] == ""
        instance.wait_for("outcome", status="sent", smarthost="new")


def test_a_broken_configuration_keeps_the_last_good_one(tmp_path: Path) -> None:
    """SIGHUP with an unknown key: status names file, line and key; mail flows, also after a restart."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        good = instance.config.read_text()
        instance.config.write_text(good + "[retry]\nfrist = '1s'\n")
        assert "frist" in instance.reload()["error"]
        line = str(instance.config.read_text().count("\n"))
        for restart in (False, True):
            if restart:
                assert instance.stop() == 0
                instance.start()
            done = instance.run("pysendmail", "status", "--json")
            [warning] = [w for w in json.loads(done.stdout)["warnings"] if "last good" in w]
            assert done.returncode == 1
            assert str(instance.config) in warning and "frist" in warning and line in warning
            instance.submit("bob@example.org")
            instance.wait_for("outcome", count=1 + restart, status="sent")
        instance.config.write_text(good)
        assert instance.reload()["error"] == ""
        assert instance.status()["health"] == "ok"
        assert len(peer.messages) == 2


def test_no_configuration_at_all_is_78(tmp_path: Path) -> None:
    """A first start with a broken file: exit 78, naming file and key; so for a command without daemon."""
    instance = Instance(tmp_path)
    instance.config.write_text(instance.config.read_text() + "[queue2]\n")
    for done in (instance.run("pysendmail", "daemon"), instance.sendmail("bob@example.org"), instance.run("mailq")):
        assert done.returncode == 78, done
        assert b"queue2" in done.stderr and str(instance.config).encode() in done.stderr
    assert not (instance.queue_directory / "queue.db").exists()


def test_a_second_daemon_is_refused_and_leaves_the_sockets_alone(tmp_path: Path) -> None:
    """Exit 75 and words; the first daemon goes on taking mail."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        started = time.monotonic()
        second = instance.run("pysendmail", "daemon")
        assert second.returncode == 75
        assert time.monotonic() - started < 8  # it does not wait for the lock: a daemon answers
        assert len(second.stderr.splitlines()) == 1
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")


def test_once_drains_what_is_due_and_exits(tmp_path: Path) -> None:
    """`daemon --once`: what a command queued is delivered, bounces too; no socket; 0 with nothing to do."""
    with PeerThread(Ordinary(rcpt={"nobody@example.org": "550 5.1.1 no"})) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.submit("-f", "alice@example.com", "bob@example.org", "nobody@example.org")
        for _ in range(2):
            assert instance.run("pysendmail", "daemon", "--once").returncode == 0
            assert not instance.socket.exists()
            assert [m.recipients for m in peer.messages] == [["<bob@example.org>"], ["<alice@example.com>"]]
        assert instance.mailq() == []
