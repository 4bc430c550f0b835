"""Channel: the octets to and from somebody who has connected to us, on a socket that was accepted.

What a stream of asyncio does costs more than taking a message, and most say all they have to say at once: so nothing
here is set up before it is needed. What nobody asks for stays with the kernel, and whoever sends it waits.

The first `read` gives what is there already; each further one lets the loop go on first, so that somebody who never
stops sending keeps nobody else waiting. TimeoutError when nothing has come, or nothing was taken, for `patience`
seconds; ConnectionError when nobody is there any more.
"""

from __future__ import annotations

import asyncio
import socket

from pysendmail.deadline import Deadline

READ_OCTETS = 64 * 1024  # what a pipe holds; more at a time only makes others wait


class Channel:
    """`sock` does not block, and is closed with this. One coroutine reads and writes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes] | None = None
        self._watched = False  # the loop tells us when something comes
        self._begun = False
        self._deadline = Deadline(self.interrupt)

    async def read(self, patience: float) -> bytes:
        """What has come, at most READ_OCTETS; b"" when nothing more will."""
        if not self._begun:
            self._begun = True
            try:
                return self._sock.recv(READ_OCTETS)
            except BlockingIOError:
                pass
        if not self._watched:
            self._loop.add_reader(self._sock.fileno(), self._come)
            self._watched = True
        self._waiting = self._loop.create_future()
        self._deadline.set(patience)
        try:
            return await self._waiting
        finally:
            self._waiting = None
            self._deadline.clear()

    def _come(self) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done():
            self._unwatch()
            return
        try:
            waiting.set_result(self._sock.recv(READ_OCTETS))
        except BlockingIOError:
            pass
        except OSError as error:
            waiting.set_exception(error)

    async def write(self, octets: bytes, patience: float | None = None) -> None:
        """All of it, at the pace of him who reads."""
        try:
            sent = self._sock.send(octets)
        except BlockingIOError:
            sent = 0
        if sent < len(octets):
            async with asyncio.timeout(patience):
                await self._loop.sock_sendall(self._sock, memoryview(octets)[sent:])

    def interrupt(self) -> None:
        """End a `read` that waits, as if its time were over."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(TimeoutError())

    def write_eof(self) -> None:
        """No more will be written."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """For good, and once more is no harm. What was written still arrives."""
        self._unwatch()
        self._deadline.close()
        self._sock.close()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._sock.fileno())
