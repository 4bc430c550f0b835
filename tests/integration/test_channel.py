"""A channel on a real socket: what is read and written, and how waiting ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pysendmail.channel import READ_OCTETS, Channel

LONG_S, NO_TIME_S = 60.0, 0.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, which does not block, and the peer's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


async def test_what_comes_is_read_to_its_end(pair: Pair) -> None:
    """What is there already, what comes while it is waited for, and b"" when nothing more will."""
    ours, theirs = pair
    theirs.sendall(b"one")
    channel = Channel(ours)
    assert await channel.read(LONG_S) == b"one"
    for piece in (b"two", b"three"):
        asyncio.get_running_loop().call_soon(theirs.sendall, piece)
        assert await channel.read(LONG_S) == piece
    theirs.shutdown(socket.SHUT_WR)
    assert await channel.read(LONG_S) == b""
    channel.close()
    channel.close()


async def test_what_nobody_asks_for_stays_with_the_kernel(pair: Pair) -> None:
    """Whoever sends without end comes to a stop, and nothing of it is lost."""
    ours, theirs = pair
    channel = Channel(ours)
    theirs.setblocking(False)
    theirs.send(b"begin")
    assert await channel.read(LONG_S) == b"begin"
    asyncio.get_running_loop().call_soon(theirs.send, b"wait")
    assert await channel.read(LONG_S) == b"wait"
    sent = 0
    with suppress(BlockingIOError):  # which it comes to, or this test would not end
        while True:
            sent += theirs.send(bytes(READ_OCTETS))
            await asyncio.sleep(0)
    while sent:
        sent -= len(await channel.read(LONG_S))
    assert sent == 0
    channel.close()


async def test_each_read_has_its_own_patience(pair: Pair) -> None:
    """TimeoutError for a short one after a long one, and a long one after that still waits."""
    ours, theirs = pair
    channel = Channel(ours)
    loop = asyncio.get_running_loop()
    loop.call_soon(theirs.sendall, b"a")
    assert await channel.read(LONG_S) == b"a"
    with pytest.raises(TimeoutError):
        await channel.read(NO_TIME_S)
    loop.call_soon(theirs.sendall, b"b")
    assert await channel.read(LONG_S) == b"b"
    loop.call_soon(channel.interrupt)
    with pytest.raises(TimeoutError):
        await channel.read(LONG_S)
    channel.close()


async def test_a_large_answer_is_written_as_it_is_read(pair: Pair) -> None:
    """All of it arrives, however little the kernel takes at a time; and who reads nothing is waited for no longer."""
    ours, theirs = pair
    octets = bytes(range(256)) * 10_000
    theirs.setblocking(False)
    channel, reader = Channel(ours), Channel(theirs)
    writing = asyncio.ensure_future(channel.write(octets, LONG_S))
    got = b""
    while len(got) < len(octets):
        got += await reader.read(LONG_S)
    await writing
    assert got == octets
    with pytest.raises(TimeoutError):
        await channel.write(octets, NO_TIME_S)
    channel.close()


async def test_nobody_is_there_any_more(pair: Pair) -> None:
    """ConnectionError for who writes to him; b"" for who reads."""
    ours, theirs = pair
    channel = Channel(ours)
    theirs.close()
    assert await channel.read(LONG_S) == b""
    with pytest.raises(ConnectionError):
        await channel.write(b"hello")
    channel.close()
