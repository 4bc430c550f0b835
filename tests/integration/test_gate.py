"""The gate on a socket of its own: what lies behind the reply to STARTTLS, and whose time each reply has."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiosmtplib
import pytest

from pysendmail.gate import Gate
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
