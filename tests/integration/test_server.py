"""What a client hears at the end of its conversation, whatever happens in the daemon."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from pysendmail import frames
from pysendmail.channel import Channel
from pysendmail.control import Right
from pysendmail.events import Events, Lines
from pysendmail.server import Conversation
from pysendmail.writer import StoreBroken, StoreFull


class Control:
    """It changes one message, and then no more."""

    directory = "/nowhere"

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, right: Right, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"queue_id": "Q1", "done": "held"}
        raise self._error

    async def flush(self, right: Right, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        raise self._error
        yield {}


async def said(error: Exception, *argv: bytes) -> bytes:
    """All that comes back for this command line."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        hello = frames.encode(frames.HELLO, frames.pack_hello(b"i" * 16))
        theirs.sendall(hello + frames.encode(frames.ARGV, frames.pack_strings(argv)))
        desk: Any = SimpleNamespace(control=Control(error), events=Events(Lines(None)))
        nobody: Any = None
        right = Right(uid=1000, all=False)
        await Conversation(desk, Channel(ours), nobody, 1, right, {}, under_way=nobody).run()
        return theirs.recv(65536)


@pytest.mark.parametrize("error", [StoreFull("full"), StoreBroken("broken"), ValueError("a bug")], ids=repr)
async def test_work_on_the_queue_that_breaks_off(error: Exception) -> None:
    """What was done is said, and that it was not all; nobody hears of a message that he did not hand in."""
    answer = await said(error, b"pysendmail", b'{"verb": "hold", "all": true}')
    assert b'"Q1"' in answer and b"not all of it was done" in answer and b"queued" not in answer
    answer = await said(error, b"runq")
    assert b"not all of it was done" in answer and b"queued" not in answer
