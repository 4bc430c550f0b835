"""Work on many messages at once: chosen by filters, asked about on a terminal, elsewhere refused without --yes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rig.instance import BIN, Instance, smarthost
from rig.peer import Ordinary, PeerThread
from rig.tty import Tty

LATER = {"late@example.org": "451 4.2.1 mailbox is busy", "full@example.net": "452 4.2.2 mailbox full"}


def waiting(instance: Instance) -> set[str]:
    return {entry["queue_id"] for entry in instance.mailq()}


def deferred(instance: Instance, sender: str, recipient: str) -> str:
    before = len(instance.events)
    instance.submit("-f", sender, recipient)
    return instance.wait_for("outcome", after=before, status="deferred")["queue_id"]


def test_filters_choose(tmp_path: Path) -> None:
    """--to, --from, --older and --reason choose, alone and together; a domain is an address with nothing before it."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        late = deferred(instance, "alice@example.com", "late@example.org")
        full = deferred(instance, "carol@example.com", "full@example.net")

        def listed(*options: str) -> set[str]:
            output = instance.pysendmail("queue", "list", "--json", *options)
            return {queue_id for queue_id in (late, full) if queue_id in output}

        assert listed("--to", "LATE@example.org") == {late}
        assert listed("--to", "@example.net") == {full}
        assert listed("--to", "example.net") == set()
        assert listed("--from", "carol@example.com") == {full}
        assert listed("--from", "@example.com") == {late, full}
        assert listed("--reason", "Mailbox FULL") == {full}
        assert listed("--older", "1h") == set()
        assert listed("--older", "2100-01-01") == {late, full}
        assert listed("--from", "@example.com", "--reason", "busy") == {late}

        instance.pysendmail("queue", "hold", "--to", "@example.net", "--yes")
        assert {e["queue_id"]: e["queue_name"] for e in instance.mailq()} == {late: "deferred", full: "hold"}
        instance.pysendmail("queue", "release", "--reason", "full", "--yes")
        before = len(instance.events)
        assert instance.pysendmail("flush", "--from", "alice@example.com") == "1 message due now.\n"
        instance.wait_for("outcome", after=before, queue_id=late)
        instance.pysendmail("queue", "remove", "--from", "alice@example.com", "--yes")
        assert waiting(instance) == {full}


def test_many_need_consent(tmp_path: Path) -> None:
    """Without a terminal and without --yes nothing is done, and it says so; queue ids and filters don't go together."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        queue_id = deferred(instance, "alice@example.com", "late@example.org")
        for verb, chosen in (
            *((verb, "--all") for verb in ("hold", "release", "remove", "retry", "expire")),
            ("remove", "--to=late@example.org"),
        ):
            done = instance.run("pysendmail", "queue", verb, chosen)
            assert done.returncode == 64 and b"nothing was done" in done.stderr and b"--yes" in done.stderr
        assert instance.run("pysendmail", "queue", "remove", queue_id, "--all", "--yes").returncode == 64
        assert instance.run("pysendmail", "queue", "remove", "--yes").returncode == 64
        assert [entry["queue_name"] for entry in instance.mailq()] == ["deferred"]


def test_streams_that_are_closed_are_no_terminal(tmp_path: Path) -> None:
    """As some who start programs leave them: what was said is done, and the exit code says so."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        deferred(instance, "alice@example.com", "late@example.org")
        for command in (["list"], ["hold", "--all", "--yes"]):
            words = [str(BIN / "pysendmail"), "-C", str(instance.config), "queue", *command]
            done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&-', "sh", *words], stderr=subprocess.PIPE, check=False)
            assert (done.returncode, done.stderr) == (0, b""), command
        assert [entry["queue_name"] for entry in instance.mailq()] == ["hold"]


@pytest.mark.parametrize(("output", "code"), [("| true", 0), (">/dev/full", 74)])
@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_what_is_done_does_not_depend_on_who_reads_it(tmp_path: Path, output: str, code: int, buffered: str) -> None:
    """A reader that has gone, or a full disk, stops no work half-way and changes no health; no traceback either."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for _ in range(3):
            deferred(instance, "alice@example.com", "late@example.org")

        def run(*words: str) -> tuple[int, bytes]:
            script = f'{{ {{ "$@"; echo $? >&3; }} {output}; }} 3>&1'
            command = ["sh", "-c", script, "sh", str(BIN / "pysendmail"), "-C", str(instance.config), *words]
            environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
            done = subprocess.run(command, capture_output=True, env=environment, check=False)
            return int(done.stdout), done.stderr

        for words in (["queue", "list", "--json"], ["queue", "hold", "--all", "--yes", "--json"]):
            ended, said = run(*words)
            assert ended in (0, code) and b"Traceback" not in said and (b"could not be written" in said) == bool(code)
        assert [entry["queue_name"] for entry in instance.mailq()] == ["hold"] * 3
        assert instance.stop() == 0
        assert run("status")[0] == 2


def test_a_person_is_asked(tmp_path: Path) -> None:
    """On a terminal the number of messages is named; anything but yes leaves them alone."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for _ in range(3):
            deferred(instance, "alice@example.com", "late@example.org")
        command = [BIN / "pysendmail", "-C", instance.config, "queue", "remove", "--to", "@example.org"]
        for answer, left in (("n", 3), ("", 3), ("y", 0)):
            with Tty(command) as tty:
                tty.wait_for("Remove 3 messages? [y/N] ")
                tty.type(f"{answer}\n")
                assert tty.end() == 0
            assert len(waiting(instance)) == left
        with Tty(command) as tty:
            tty.wait_for("No message that waits is chosen.")


def test_flush_and_wait(tmp_path: Path) -> None:
    """flush --wait comes back when all was tried, and says what came of it; with a daemon or without."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        first = deferred(instance, "alice@example.com", "late@example.org")
        deferred(instance, "alice@example.com", "full@example.net")
        assert instance.pysendmail("flush", "--wait") == "Recipients: 2; 2 deferred\n"
        peer.become(Ordinary())
        assert instance.stop() == 0  # with the connection that the peer met otherwise
        instance.start()
        assert instance.pysendmail("flush", "--wait", "--to", "@example.org") == "Recipients: 1; 1 sent\n"
        assert [entry["queue_id"] for entry in instance.mailq()] != [first]
        assert instance.stop() == 0
        instance.pysendmail("flush", "--wait")
        assert instance.mailq() == []


def test_a_person_sees_how_far_it_is(tmp_path: Path) -> None:
    """On a terminal a bar, then the sum; thousands of lines would tell nobody anything."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        queue_id = deferred(instance, "alice@example.com", "late@example.org")
        command = [BIN / "pysendmail", "-C", instance.config]
        with Tty([*command, "flush", "--wait"]) as tty:
            assert tty.end() == 0
            assert "Trying" in tty.text and tty.text.endswith("Recipients: 1; 1 deferred\r\n")
        with Tty([*command, "queue", "remove", "--all", "--yes"]) as tty:
            assert tty.end() == 0
            assert tty.text.endswith("Remove: 1 message\r\n") and queue_id not in tty.text


def test_text_from_anywhere_is_escaped(tmp_path: Path) -> None:
    """Nothing that a user or a server wrote moves a terminal's cursor: header, reply and reason come out as \\xNN."""
    busy = {"late@example.org": "451 4.2.1 busy \x1b[2J"}
    with PeerThread(Ordinary(rcpt=busy)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("late@example.org", text=b"Subject: \x1b]0;owned\x07\n\nhello\n")
        queue_id = instance.wait_for("outcome", status="deferred")["queue_id"]
        for command in (["queue", "show", queue_id], ["queue", "explain", queue_id], ["queue", "list"], ["history"]):
            output = instance.pysendmail(*command)
            assert "\x1b" not in output and "\x07" not in output and "\\x1b" in output
