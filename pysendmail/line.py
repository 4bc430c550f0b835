"""Line: a connection once aiosmtplib has handed it over: octets in, replies out, back-pressure, and deadlines.

One task at a time waits on it. A server that floods us, says what is no reply, or goes, leaves `trouble`, after which
nothing more comes; replies that were complete before are still there.
"""

from __future__ import annotations

import asyncio
from collections import deque

from pysendmail.connection import Connection
from pysendmail.deadline import Deadline
from pysendmail.gate import cut
from pysendmail.outcome import Fault
from pysendmail.smtp.reply import Reply, ReplyReader, printable

# More than a group's replies.
READ_OCTETS = 4096
# Replies that may wait while nobody reads them: a group's, and then some. More is a flood.
MAX_WAITING_REPLIES = 256


class Line(asyncio.BufferedProtocol):
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        self.replies: deque[Reply] = deque()
        self.trouble: tuple[Fault, str] | None = None  # why no more replies come
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._reader = ReplyReader()
        self._buffer = memoryview(bytearray(READ_OCTETS))
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = Deadline(self._time_over)

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody waits for."""
        return not self.replies and self._reader.empty and self.trouble is None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where octets come to. Else the loop sets up 256 KiB for each reply, which takes longer than all the rest."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Cut into replies; a server that floods us loses the connection."""
        self.replies.extend(self._reader.feed(bytes(self._buffer[:nbytes])))
        if self._reader.broken:
            self._end(Fault.GARBAGE, self._reader.broken)
        elif len(self.replies) > MAX_WAITING_REPLIES:
            self._end(Fault.GARBAGE, "more replies than commands")
        elif self.replies:
            self._tell()

    def eof_received(self) -> None:
        """A server that stops talking is gone for us, even if it went on reading."""
        self._end(Fault.CLOSED, "the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits; aiosmtplib hears of it as well."""
        reason = f": {exc.strerror or exc}" if isinstance(exc, OSError) else ""
        self._end(Fault.CLOSED, f"the server closed the connection{printable(reason, 200)}")
        self._connection.gate.connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The buffer has drained."""
        self._writable.set()

    def _end(self, fault: Fault, reason: str) -> None:
        if self.trouble is None:
            self.trouble = (fault, reason)
        self._deadline.close()
        self._tell()
        self._writable.set()
        cut(self._connection.transport)

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until there is a reply, or trouble instead; TimeoutError when there is neither after so long."""
        if self.replies or self.trouble is not None:
            return
        self._deadline.set(seconds)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline.clear()

    def _time_over(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    async def drained(self, stall_s: float) -> None:
        """Wait until more may be written; TimeoutError when the peer takes nothing for `stall_s` seconds."""
        while not self._writable.is_set():
            before = self._connection.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(stall_s):
                    await self._writable.wait()
            except TimeoutError:
                if self._connection.transport.get_write_buffer_size() >= before:
                    raise
