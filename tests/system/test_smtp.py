"""`sendmail -bs` as programs use it: SMTP on its standard input and output, with a daemon and without."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Self

import pytest

from rig.instance import BIN, OTHERS, PATIENCE_S, Instance, as_user, can_be, smarthost
from rig.peer import Ordinary, PeerThread

SESSION = (
    b"EHLO me.example\r\nMAIL FROM:<alice@example.com> RET=HDRS ENVID=Q1\r\n"
    b"RCPT TO:<bob@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Bob@example.net\r\nRCPT TO:<root>\r\nDATA\r\n"
    b"From: Alice <alice@example.com>\r\nBcc: hidden@example.org\r\nSubject: smtp\r\n\r\n..dot\r\nend\r\n.\r\nQUIT\r\n"
)


class Client:
    """A program that starts `sendmail -bs` and talks to it over two pipes, one command at a time."""

    def __init__(self, instance: Instance, *arguments: str, uid: int | None = None) -> None:
        self.process = subprocess.Popen(
            [*as_user(uid), str(BIN / "sendmail"), "-C", str(instance.config), "-bs", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        assert self.reply().startswith("220 ")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def reply(self) -> str:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().decode()) and line[3] == "-":
            pass
        return line.rstrip("\r\n")

    def send(self, octets: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(octets)
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        self.send(command.encode() + b"\r\n")
        return self.reply()

    def submit(self, recipient: str = "bob@example.org") -> str:
        """One message; the reply to its end."""
        assert self.ask("MAIL FROM:<alice@example.com>").startswith("250 ")
        assert self.ask(f"RCPT TO:<{recipient}>").startswith("250 ")
        assert self.ask("DATA").startswith("354 ")
        return self.ask("Subject: x\r\n\r\nhello\r\n.")

    def end(self) -> tuple[int, bytes]:
        """The end of input; exit code and standard error."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr


def test_a_message_arrives_with_all_that_was_asked_for(tmp_path: Path) -> None:
    """Pipelined into -bs, through the queue, to a smarthost: envelope, DSN parameters, header and body."""
    with (
        PeerThread(Ordinary()) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        (tmp_path / "aliases").write_text("root: admin@example.org\n")
        done = instance.run("sendmail", "-bs", "-odb", "-oem", stdin=SESSION)
        queue_id = instance.wait_for("accepted")["queue_id"]
        assert f"\r\n250 2.0.0 queued as {queue_id}\r\n".encode() in done.stdout
        assert (done.returncode, done.stderr) == (0, b"")
        instance.wait_for("outcome", count=2, status="sent")
        (message,) = peer.messages
        assert message.sender.startswith("<alice@example.com> ")
        assert " RET=HDRS ENVID=Q1" in message.sender
        assert message.recipients == [
            "<bob@example.org> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;Bob@example.net",
            "<admin@example.org>",
        ]
        header, _, body = message.content.partition(b"\r\n\r\n")
        assert body == b".dot\r\nend\r\n"
        received = (
            rb"Received: from me\.example by box\.example\.com \(pysendmail, from uid \d+\) with ESMTP id %s;\r\n "
        )
        assert re.match(received % queue_id.encode(), header)
        assert b"hidden" not in header


SMUGGLED = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: owned\r\n\r\nowned\r\n"
ENDS = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\n.\r\r\n",
)


def test_promise_6_no_message_is_smuggled(tmp_path: Path) -> None:
    """Every odd end of data with a second message after it: one message leaves, and its text cannot end it either."""
    text = b"".join(b"text" + end + SMUGGLED for end in ENDS)
    with (
        PeerThread(Ordinary()) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        stdin = SESSION[: SESSION.index(b"From:")] + b"Subject: one\r\n\r\n" + text + b".\r\nQUIT\r\n"
        done = instance.run("sendmail", "-bs", stdin=stdin)
        assert done.stdout.count(b"queued as") == 1
        assert done.stdout.endswith(b"221 2.0.0 box.example.com goodbye\r\n")
        instance.wait_for("outcome", count=2, status="sent")
        wire = peer.clear
        assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", wire) is None
        assert wire.count(b"\r\n.\r\n") == 1
        assert len(peer.messages) == len(instance.matching("accepted")) == 1
        assert peer.messages[0].content.count(b"Subject: owned") == len(ENDS)


def test_one_command_at_a_time(tmp_path: Path) -> None:
    """Each reply is there before the next command is sent; two messages in one session; the end of input is no QUIT."""
    with Instance(tmp_path) as instance, Client(instance) as client:
        assert client.ask("HELO me.example") == "250 box.example.com"
        first, second = client.submit(), client.submit("carol@example.org")
        assert first.startswith("250 2.0.0 queued as ") and second.startswith("250 2.0.0 queued as ")
        assert client.end() == (0, b"")
        assert [each["queue_id"] for each in instance.mailq()] == [first.split()[-1], second.split()[-1]]


def test_the_client_is_gone_before_the_end(tmp_path: Path) -> None:
    """Killed in the middle of the text: nothing is queued."""
    with Instance(tmp_path) as instance:
        with Client(instance) as client:
            for command in ("EHLO x", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA"):
                assert client.ask(command)[0] in "23"
            client.send(b"Subject: half\r\n\r\n" + b"x" * 3_000_000 + b"\r\n.\r")
        instance.submit("after@example.org")
        assert [each["recipients"][0]["address"] for each in instance.mailq()] == ["after@example.org"]


def test_the_daemon_is_killed_in_between(tmp_path: Path) -> None:
    """75, saying that what was acknowledged is queued; and it is."""
    with Instance(tmp_path) as instance, Client(instance) as client:
        client.ask("EHLO x")
        queue_id = client.submit().split()[-1]
        instance.kill()
        code, stderr = client.end()
        assert (code, b"only what it has acknowledged is queued" in stderr) == (75, True)
        instance.start()
        assert [each["queue_id"] for each in instance.mailq()] == [queue_id]


def test_the_daemon_stops(tmp_path: Path) -> None:
    """A session that waits is told so at once, and holds nothing up."""
    with Instance(tmp_path) as instance, Client(instance) as client:
        client.ask("EHLO x")
        assert instance.stop() == 0
        assert client.reply().startswith("421 4.3.2 box.example.com ")
        assert client.end() == (75, b"")


@pytest.mark.parametrize("arguments", [("-t",), ("bob@example.org",), ("-C", "/nonexistent", "-t")])
def test_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Recipients have no place beside -bs: 64, or 78 where the configuration is not there, and not a word of SMTP."""
    with Instance(tmp_path) as instance:
        done = instance.run("sendmail", "-bs", *arguments, stdin=b"EHLO x\r\n")
        assert (done.returncode, done.stdout) == (78 if len(arguments) > 1 else 64, b"")
        assert done.stderr.count(b"\n") == 1


# -- without a daemon --


def test_without_a_daemon(tmp_path: Path) -> None:
    """The same dialogue in the command's own process; the next daemon finds the message."""
    instance = Instance(tmp_path)
    done = instance.run("sendmail", "-bs", stdin=SESSION)
    assert (done.returncode, done.stderr) == (0, b"")
    queue_id = done.stdout.split(b"queued as ")[1].split()[0].decode()
    with instance:
        (waiting,) = instance.mailq()
        assert waiting["queue_id"] == queue_id
        assert [each["address"] for each in waiting["recipients"]] == ["bob@example.org", "root@example.com"]


def test_without_a_daemon_the_queue_is_free_between_messages(tmp_path: Path) -> None:
    """Another command, then a daemon, get it while a session is open; the session is told to connect again."""
    instance = Instance(tmp_path)
    with Client(instance) as client:
        client.ask("EHLO x")
        assert client.submit().startswith("250 2.0.0 queued as ")
        instance.submit("other@example.org")
        assert client.submit().startswith("250 2.0.0 queued as ")
        with instance:
            assert client.ask("MAIL FROM:<a@example.com>").startswith("451 4.3.0 ")
            assert len(instance.mailq()) == 3
        assert client.ask("QUIT").startswith("221 ")
        assert client.end() == (0, b"")


def test_without_a_daemon_and_without_the_end(tmp_path: Path) -> None:
    """Input that ends in the text: nothing is queued, large or small."""
    instance = Instance(tmp_path)
    for text in (b"Subject: x\r\n\r\nhalf", b"x" * 70 + b"\r\n" * 2_000_000):
        done = instance.run("sendmail", "-bs", stdin=SESSION[: SESSION.index(b"From:")] + text)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"\r\n250 2.0.0") == 0
    assert instance.mailq() == []


# -- another user --


@pytest.mark.skipif(not can_be(OTHERS[0]), reason="needs root, setpriv, and commands that everybody may read")
def test_another_user_is_named_and_held_to_the_policy(tmp_path: Path) -> None:
    """The uid is the kernel's word: in Received, in the log, and where a sender that is not his own is refused."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        parent.chmod(parent.stat().st_mode | 0o011)
    uid = OTHERS[0]
    with Instance(tmp_path, access={"messages": 1}) as instance:
        instance.config.chmod(0o644)
        assert b"250 2.0.0 queued" in instance.run("sendmail", "-bs", stdin=SESSION, uid=uid).stdout
        accepted = instance.wait_for("accepted", uid=str(uid))
        shown = instance.pysendmail("queue", "show", accepted["queue_id"])
        assert f"(pysendmail, from uid {uid}) with ESMTP id" in shown
        again = instance.run("sendmail", "-bs", stdin=SESSION, uid=uid)
        assert b"\r\n452 4.3.1 uid %d has 1 messages" % uid in again.stdout
        instance.configure(access={"sender_policy": "enforce"})
        instance.config.chmod(0o644)
        instance.reload()
        enforced = instance.run("sendmail", "-bs", stdin=SESSION, uid=uid)
        assert b"\r\n550 5.7.1 user " in enforced.stdout
        assert enforced.returncode == 0


def test_who_gets_no_service_is_told_so_in_smtp(open_path: Path, other: int) -> None:
    """421 instead of a greeting, where he has his connections already and where there is no daemon: then 75."""
    instance = Instance(open_path, access={"connections": 1})

    def refused() -> None:
        done = instance.run("sendmail", "-bs", stdin=SESSION, uid=other)
        assert (done.returncode, done.stderr.count(b"\n")) == (75, 1)
        assert done.stdout == b"421 4.3.0 no service now; standard error says why\r\n"

    with instance, Client(instance, uid=other):
        refused()
    refused()


@pytest.mark.parametrize("before", [True, False], ids=["renamed", "first"])
def test_a_message_across_a_reload(tmp_path: Path, before: bool) -> None:
    """Mail that began before a reload goes the new way: the route it had then may be no more."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer, "old")] if before else []) as instance:
        with Client(instance) as client:
            assert client.ask("EHLO me.example").startswith("250 ")
            assert client.ask("MAIL FROM:<alice@example.com>").startswith("250 ")
            assert client.ask("RCPT TO:<bob@example.org>").startswith("250 ")
            assert client.ask("DATA").startswith("354 ")
            client.send(b"Subject: large\r\n\r\n" + (b"x" * 700 + b"\r\n") * 4000)
            instance.configure(smarthosts=[smarthost(peer, "new")])
            instance.reload()
            assert client.ask(".").startswith("250 ")
        instance.wait_for("outcome", status="sent", smarthost="new")
