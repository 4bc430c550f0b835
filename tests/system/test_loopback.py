"""[daemon] listen: SMTP on loopback addresses, with clients that others wrote, and with such as are none."""

from __future__ import annotations

import asyncio
import os
import signal
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from rig.activation import Activation
from rig.instance import BIN, OTHERS, PATIENCE_S, Instance, as_user, can_be, smarthost
from rig.peer import Ordinary, PeerThread


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def instance(tmp_path: Path, port: int) -> Iterator[Instance]:
    with Instance(tmp_path, daemon={"listen": [f"127.0.0.1:{port}"]}) as instance:
        instance.wait_for("listen", state="open")
        yield instance


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def all_of(sock: socket.socket) -> bytes:
    """What comes until the server closes."""
    said = b""
    while data := sock.recv(65536):
        said += data
    return said


def message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Alice <alice@example.com>", "bob@example.org", "smtp"
    message["Bcc"] = "hidden@example.org"
    message.set_content("one\n.two\n..three\n.\nünd vier\n")
    return message


BODY = b"one\r\n.two\r\n..three\r\n.\r\n"


def test_smtplib(tmp_path: Path, port: int) -> None:
    """Python's client, with text, with bytes whose lines end in LF, and with DSN: each arrives as it was written."""
    plain = b"Subject: bytes\n\n" + BODY.replace(b"\r", b"")
    with (
        PeerThread(Ordinary()) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], daemon={"listen": [f"127.0.0.1:{port}"]}) as instance,
    ):
        instance.wait_for("listen", state="open")
        with smtplib.SMTP("127.0.0.1", port, local_hostname="me.example") as client:
            client.send_message(message())
            client.sendmail("alice@example.com", "bob@example.org", plain)
            client.sendmail(
                "", ["bob@example.org"], plain, mail_options=["RET=FULL", "ENVID=x1"], rcpt_options=["NOTIFY=NEVER"]
            )
            with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
                client.sendmail("a@example.com", ["-oQ@example.org"], plain)
            assert caught.value.recipients["-oQ@example.org"][0] == 553
        instance.wait_for("outcome", count=4, status="sent")
        sent = sorted(peer.messages, key=lambda each: each.sender)
        assert {each.content.partition(b"\r\n\r\n")[2][: len(BODY)] for each in sent} == {BODY}
        assert sent[0].sender.startswith("<> ") and "RET=FULL ENVID=x1" in sent[0].sender
        assert sent[0].recipients == ["<bob@example.org> NOTIFY=NEVER"]
        for each in sent:
            words = (
                b"Received: from me.example by box.example.com (pysendmail, from uid %d) with ESMTP id " % os.geteuid()
            )
            assert each.content.startswith(words)
            assert b"hidden" not in each.content
        assert {event["uid"] for event in instance.matching("accepted")} == {str(os.geteuid())}


def test_aiosmtplib(instance: Instance, port: int) -> None:
    """The client that pysendmail itself builds on, many at a time."""

    async def send() -> None:
        await asyncio.gather(*(aiosmtplib.send(message(), hostname="127.0.0.1", port=port) for _ in range(10)))

    asyncio.run(send())
    assert len(instance.mailq()) == 10


def test_every_boundary_of_segments(instance: Instance, port: int) -> None:
    """A pipelined session, cut into two segments anywhere near the end of data: the same replies."""
    text = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nx\r\n.\n\r\n.\r\nQUIT\r\n"
    for cut in range(text.index(b"DATA"), len(text), 3):
        with connect(port) as sock:
            assert sock.recv(1000).startswith(b"220 ")
            sock.sendall(text[:cut])
            sock.sendall(text[cut:])
            codes = [line[:3] for line in all_of(sock).splitlines() if line[3:4] == b" "]
            assert codes == [b"250", b"250", b"250", b"354", b"250", b"221"]


def test_who_speaks_first_is_closed(instance: Instance, port: int) -> None:
    """Octets before the greeting: 521, an event, and nothing of them is read."""
    assert instance.process is not None
    instance.process.send_signal(signal.SIGSTOP)
    with connect(port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n\r\nMAIL FROM:<a@example.com>\r\n")
        instance.process.send_signal(signal.SIGCONT)
        assert all_of(sock) == b"521 box.example.com you spoke before the greeting\r\n"
    assert instance.wait_for("refused")["reason"] == "SMTP: the client spoke before the greeting"


def test_a_browser_is_closed(instance: Instance, port: int) -> None:
    """A request after the greeting: one 421, an event, and its body is no mail."""
    with connect(port) as sock:
        assert sock.recv(1000).startswith(b"220 ")
        sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nEHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        assert all_of(sock) == b"421 4.7.0 box.example.com this is SMTP, not HTTP\r\n"
    assert "POST is HTTP" in instance.wait_for("refused")["reason"]


def test_who_looks_whether_it_is_there(instance: Instance, port: int) -> None:
    """Connections that are closed or reset at once cost nothing, not even a line in the log."""
    for _ in range(50):
        connect(port).close()
    with connect(port) as sock:
        assert sock.recv(1000).startswith(b"220 ")
    assert instance.matching("refused") == instance.matching("bug") == []


def test_a_reload_adds_and_removes(instance: Instance, port: int) -> None:
    """Addresses come and go with the configuration; a session under way stays."""
    other = free_port()
    with connect(port) as before:
        assert before.recv(1000).startswith(b"220 ")
        instance.configure(daemon={"listen": [f"127.0.0.1:{other}"]})
        instance.reload()
        instance.wait_for("listen", address=f"127.0.0.1:{port}", state="closed")
        with connect(other) as sock:
            assert sock.recv(1000).startswith(b"220 ")
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        before.sendall(b"NOOP\r\n")
        assert before.recv(1000) == b"250 2.0.0 ok\r\n"


def test_an_address_in_use_is_said_and_stops_nothing(tmp_path: Path) -> None:
    """The daemon starts without it; event, status and check name it; a reload binds it once it is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Instance(tmp_path, daemon={"listen": [address]}) as instance:
            assert instance.wait_for("listen", state="failed")["error"] == "Address already in use"
            instance.submit("bob@example.org")
            warnings = instance.status()["warnings"]
            assert any(f"nothing listens on {address} " in warning for warning in warnings)
            instance.stop()
            assert f"daemon.listen: {address} cannot be bound: Address already in use" in instance.pysendmail(
                "check", code=None
            )
            instance.start()
            taken.close()
            assert f"nothing listens on {address}; reload the daemon" in instance.pysendmail("check", code=None)
            instance.reload()
            instance.wait_for("listen", state="open")
            assert "listen" not in instance.pysendmail("check", code=None)
            assert not any("listens" in warning for warning in instance.status()["warnings"])


def test_an_address_that_was_handed_over(tmp_path: Path) -> None:
    """A socket from the service manager is answered on, with [daemon] listen or without; who waits is served next."""
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    for tables in ({}, {"daemon": {"listen": [f"127.0.0.1:{port}"]}}):
        directory = tmp_path / str(len(tables))
        directory.mkdir()
        instance = Instance(directory, **tables)
        instance.activation = Activation(instance.socket, sock.dup())
        with connect(port) as early, instance:
            assert early.recv(1000).startswith(b"220 ")
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.send_message(message())
            assert len(instance.mailq()) == 1
            assert instance.matching("listen") == [instance.wait_for("listen", state="open")]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "a second reply waits for the client's ACK"
        instance.activation.close()
    sock.close()


def test_the_daemon_stops(instance: Instance, port: int) -> None:
    """Whoever waits gets 421; the exit is clean."""
    with connect(port) as sock:
        assert sock.recv(1000).startswith(b"220 ")
        assert instance.stop() == 0
        assert all_of(sock).startswith(b"421 4.3.2 box.example.com ")


def test_ipv6(tmp_path: Path) -> None:
    """[::1] is loopback, too."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
            port = sock.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no ::1 here: {error}")
    with Instance(tmp_path, daemon={"listen": [f"[::1]:{port}"]}) as instance:
        instance.wait_for("listen", state="open")
        with smtplib.SMTP("::1", port) as client:
            client.send_message(message())
        assert instance.mailq()[0]["uid"] == os.geteuid()


ANOTHER = """
import smtplib, sys
port = int(sys.argv[1])
first, second = smtplib.SMTP("127.0.0.1", port), smtplib.SMTP()
print(*second.connect("127.0.0.1", port))
first.sendmail("x@example.com", ["b@example.org"], b"Subject: x\\n\\nhello\\n")
"""


@pytest.mark.skipif(not can_be(OTHERS[0]), reason="needs root, setpriv, and commands that everybody may read")
def test_another_user_is_named_and_limited(tmp_path: Path, port: int) -> None:
    """The message is his by the kernel's word, and he has no more connections than [access] allows him."""
    with Instance(tmp_path, daemon={"listen": [f"127.0.0.1:{port}"]}, access={"connections": 1}) as instance:
        instance.wait_for("listen", state="open")
        command = [*as_user(OTHERS[0]), str(BIN / "python"), "-c", ANOTHER, str(port)]
        run = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
        assert (run.returncode, run.stderr) == (0, b"")
        assert run.stdout.startswith(b"421 b'box.example.com uid %d has 1 connections already" % OTHERS[0])
        assert instance.wait_for("accepted")["uid"] == str(OTHERS[0])
        assert instance.mailq()[0]["uid"] == OTHERS[0]
