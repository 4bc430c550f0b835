"""The gate on a socket of its own: what lies behind the reply to STARTTLS, and whose time each reply has."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import aiosmtplib
import pytest

from pysendmail.gate import Gate, words
from pysendmail.outcome import Fault

PATIENT = 30.0
Opened = Callable[[float], Awaitable[tuple[Gate, socket.socket]]]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Makes a gate with that timeout for commands, and the server's end: what is sent there stays with the kernel."""
    ours, theirs = socket.socketpair()
    transports: list[asyncio.Transport] = []

    async def make(command_timeout: float) -> tuple[Gate, socket.socket]:
        gate = Gate(ours, None, command_timeout)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: gate, sock=ours)
        transport.pause_reading()
        transports.append(transport)
        return gate, theirs

    yield make
    for transport in transports:
        transport.abort()
    theirs.close()


async def hear(gate: Gate, reply: bytes) -> int:
    """The reply comes while it is waited for; its code."""
    reading = asyncio.ensure_future(gate.read_response(timeout=PATIENT))
    await asyncio.sleep(0)
    gate.data_received(reply)
    return (await reading).code


@pytest.mark.parametrize("leftover", [b"250 injected\r\n", b"2"])
async def test_octets_with_the_kernel_behind_the_220_to_starttls(opened: Opened, leftover: bytes) -> None:
    """They were sent in clear, and would be read as if they had come under TLS: the connection ends."""
    gate, server = await opened(PATIENT)
    await hear(gate, b"220 hello\r\n")
    gate.write(b"STARTTLS\r\n")
    server.send(leftover)
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await hear(gate, b"220 2.0.0 go ahead\r\n")
    assert isinstance(gate.trouble, tuple)
    assert gate.trouble[0] is Fault.GARBAGE


async def test_octets_with_the_kernel_behind_other_replies(opened: Opened) -> None:
    """Behind a greeting, a refusal or a 220 to something else they are none of the handshake's: they are read."""
    gate, server = await opened(PATIENT)
    server.send(b"421 4.3.2 going down\r\n")
    assert await hear(gate, b"220 hello\r\n") == 220
    for command, reply in ((b"STARTTLS\r\n", b"454 not now\r\n"), (b"NOOP\r\n", b"220 well\r\n")):
        gate.write(command)
        assert await hear(gate, reply) == int(reply[:3])
    assert gate.trouble is None


async def test_nothing_behind_the_220_to_starttls(opened: Opened) -> None:
    """Then the handshake may begin."""
    gate, _ = await opened(PATIENT)
    await hear(gate, b"220 hello\r\n")
    gate.write(b"STARTTLS\r\n")
    assert await hear(gate, b"220 2.0.0 go ahead\r\n") == 220
    assert gate.trouble is None


async def test_the_time_of_each_reply(opened: Opened) -> None:
    """The greeting has the time that is given; the reply to STARTTLS that of a command, whatever the handshake has."""
    gate, _ = await opened(0.0)
    assert await hear(gate, b"220 hello\r\n") == 220
    gate.write(b"STARTTLS\r\n")
    with pytest.raises(aiosmtplib.SMTPReadTimeoutError):
        await gate.read_response(timeout=PATIENT)


def said(gate: Gate) -> str:
    """Why the gate ended the connection, in words."""
    trouble = gate.trouble
    return "" if trouble is None else trouble[1] if isinstance(trouble, tuple) else trouble.text


@pytest.mark.parametrize(
    ("reply", "trouble"), [(b"250 injected\r\n", "unasked: 250 injected"), (b"421 4.3.2 bye\r\n", "421 4.3.2 bye")]
)
async def test_what_nobody_asked_for(opened: Opened, reply: bytes, trouble: str) -> None:
    """A reply too many is garbage, but for the 421 that any server may say at any time; then nothing more is read."""
    gate, _ = await opened(PATIENT)
    await hear(gate, b"220 hello\r\n")
    assert said(gate) == ""
    gate.data_received(reply)
    assert said(gate) == trouble
    gate.data_received(b"250 more\r\n" * 3)
    assert said(gate) == trouble
    assert gate.last is not None
    assert gate.last.code == 220
    await gate.closed.wait()


async def test_a_reply_in_pieces(opened: Opened) -> None:
    """The first octets of a reply that is due are waited for; behind the reply that was due they end the connection."""
    gate, _ = await opened(PATIENT)
    for piece in (b"2", b"20 he", b"llo\r"):
        gate.data_received(piece)
        assert gate.trouble is None
    assert gate.last is None
    assert await hear(gate, b"\n") == 220
    gate.write(b"NOOP\r\n")
    gate.data_received(b"250 well\r\n2")
    assert gate.trouble == (Fault.GARBAGE, "octets after the reply that was due")


async def test_what_is_no_reply(opened: Opened) -> None:
    """It ends the connection, and says what it was."""
    gate, _ = await opened(PATIENT)
    gate.data_received(b"SSH-2.0-OpenSSH\r\n")
    assert isinstance(gate.trouble, tuple)
    assert gate.trouble[0] is Fault.GARBAGE
    assert gate.last is None
    await gate.closed.wait()


async def test_the_trace_of_commands(opened: Opened) -> None:
    """Each command and each reply to the letter, without line ends; of what is secret only the mechanism."""
    lines: list[str] = []
    gate, _ = await opened(PATIENT)
    gate._trace = lines.append
    await hear(gate, b"220 hello\r\n")
    gate.write(b"HELO moon\r\n")
    gate.authenticating = True
    for secret in (b"AUTH PLAIN c2VjcmV0\r\n", b"c2VjcmV0\r\n", b"AUTH LOGIN\r\n"):
        gate.write(secret)
    assert lines == ["< 220 hello", "> HELO moon", "> AUTH PLAIN ***", "> ***", "> AUTH LOGIN"]


async def test_why_a_connection_was_lost(opened: Opened) -> None:
    """The first reason stays; an orderly end has none."""
    reset = ConnectionResetError(errno.ECONNRESET, "asyncio's own words")
    for errors, reason in (((None,), ""), ((reset, OSError("later")), os.strerror(errno.ECONNRESET))):
        gate, _ = await opened(PATIENT)
        for error in errors:
            gate.connection_lost(error)
        assert gate.close_reason == reason
        assert gate.closed.is_set()


async def test_a_connection_that_is_lost_while_a_reply_is_due(opened: Opened) -> None:
    """Whoever waits for the reply learns of it then and there: it is no server that takes its time."""
    gate, server = await opened(PATIENT)
    await hear(gate, b"220 hello\r\n")
    gate.write(b"NOOP\r\n")
    server.close()  # with the command unread, which makes it a reset
    assert isinstance(gate.transport, asyncio.Transport)
    gate.transport.resume_reading()
    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await gate.read_response(timeout=PATIENT)
    assert gate.close_reason == os.strerror(errno.ECONNRESET)


def of_tls(reason: str | None) -> ssl.SSLError:
    """As OpenSSL's errors come, with the name of the error or without one."""
    error = ssl.SSLError(1, "[SSL] failed (_ssl.c:1006)")
    error.reason = reason  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (of_tls("WRONG_VERSION_NUMBER"), "wrong version number"),
        (of_tls(None), "[ssl] failed ( ssl.c:1006)"),
        (OSError(errno.EPIPE, "asyncio's own words"), os.strerror(errno.EPIPE)),
        (OSError("words without a number"), "words without a number"),
        (ValueError("words"), "words"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=repr,
)
def test_errors_in_words(error: Exception, text: str) -> None:
    """What a person reads of an exception: never nothing, and no names of constants."""
    assert words(error) == text
