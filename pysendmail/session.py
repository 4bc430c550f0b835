"""Session: one connection to a smarthost, over which messages go one after the other.

`Session.open` gives a session that is ready for MAIL, or raises SessionError with the Trouble. `send` makes one
attempt at one message and returns one Result for each recipient, always: a reply, a timeout, a broken connection
and an error of ours are Results, never exceptions. After a 421, a fault, or a refusal that concerns the smarthost,
the session is not `usable`; so it is when the server closes it, or says anything unasked, while it is idle.

A message counts as sent only on a 2xx to the final dot. From the moment the last octet of that dot is handed to the
transport a lost answer is `uncertain`; before it, the message cannot have been accepted, since it never ended.

Each step has its deadline (RFC 5321 §4.5.3.2). The message is streamed: no more of it is in memory than the chunks
that are given plus the transport's buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from pysendmail.config import Smarthost, Timeout
from pysendmail.connection import Connection, Opener, SessionError, leave, redact
from pysendmail.envelope import Envelope
from pysendmail.gate import Trace, cut
from pysendmail.outcome import Fault, Result, Stage, Trouble
from pysendmail.secrets import Secrets
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import Reply, ReplyReader, printable
from pysendmail.smtp.transaction import Ask, Transaction
from pysendmail.smtp.wire import DotStuffer
from pysendmail.tlspolicy import TlsPlan

__all__ = ["Body", "Outgoing", "Session", "SessionError"]

# What is gathered before it is written: a small message goes out with its dot in one segment.
WRITE_OCTETS = 64 * 1024
# How long a server may take to answer QUIT. It has our mail already.
QUIT_S = 5.0
# Replies that may wait while nobody reads them: a group's, and then some. More is a flood.
MAX_WAITING_REPLIES = 256

Body = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message as it goes to one smarthost. Header and body are CRLF-normalised; nothing here is stuffed yet."""

    envelope: Envelope
    header: bytes  # the header section with our Received field; ends with CRLF, without the blank line
    body: Body  # gives a fresh iterator over the body each time
    size: int  # octets of header, blank line and body
    eight_bit: bool = False  # an octet above 127 anywhere
    # Header and body without 8-bit octets in the body, for a server without 8BITMIME; None: it goes as it is.
    seven_bit: Callable[[], Awaitable[tuple[bytes, Body]]] | None = None


class _Line(asyncio.Protocol):
    """The connection once aiosmtplib has handed it over: octets in, replies out, and back-pressure."""

    def __init__(self, connection: Connection) -> None:
        self.replies: deque[Reply] = deque()
        self.trouble: tuple[Fault, str] | None = None  # why no more replies come
        self._connection = connection
        self._reader = ReplyReader()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody waits for."""
        return not self.replies and self._reader.empty and self.trouble is None

    def data_received(self, data: bytes) -> None:
        """Cut into replies; a server that floods us loses the connection."""
        self.replies.extend(self._reader.feed(data))
        if self._reader.broken:
            self._end(Fault.GARBAGE, self._reader.broken)
        elif len(self.replies) > MAX_WAITING_REPLIES:
            self._end(Fault.GARBAGE, "more replies than commands")
        self._news.set()

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
        self._news.set()
        self._writable.set()
        cut(self._connection.transport)

    async def wait(self) -> None:
        """Until there is a reply, or trouble instead."""
        while not self.replies and self.trouble is None:
            self._news.clear()
            await self._news.wait()

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


class Session:
    """See the module. One task at a time may use it."""

    def __init__(self, smarthost: Smarthost, connection: Connection, timeout: Timeout, trace: Trace | None) -> None:
        self.smarthost = smarthost
        self.address = connection.address
        self.tls = connection.tls  # "none", "TLSv1.2" or "TLSv1.3"
        self.extensions: Extensions = connection.extensions
        self.fallback = connection.fallback  # in clear because a handshake failed: status line `reason=fallback`
        self.tls_failed = connection.tls_failed  # the handshake that failed just now, to be remembered; or ""
        self.trace = trace
        self.sent = 0  # transactions whose final dot was answered with 2xx
        self.in_doubt = False  # the final dot is on its way and not answered: cut off now, the message may have arrived
        self.stale = False  # a reused connection was dead when `send` came: that was no attempt
        self._connection = connection
        self._timeout = timeout
        self._usable = True
        self._used = False
        self._line = _Line(connection)
        connection.transport.set_protocol(self._line)

    @classmethod
    async def open(
        cls,
        smarthost: Smarthost,
        *,
        hostname: str,
        timeout: Timeout,  # noqa: ASYNC109 - the seconds of each step
        plan: TlsPlan,
        secrets: Secrets | None = None,
        trace: Trace | None = None,
    ) -> Session:
        """A session ready for MAIL; SessionError when there is none. `secrets` is needed only with credentials."""
        opener = Opener(
            smarthost,
            hostname=hostname,
            timeout=timeout,
            plan=plan,
            secrets=secrets,
            trace=trace,
        )
        return cls(smarthost, await opener.open(), timeout, trace)

    @property
    def usable(self) -> bool:
        """Whether another message may go over this connection."""
        return self._usable and self._line.quiet and not self._connection.transport.is_closing()

    async def send(self, outgoing: Outgoing) -> list[Result]:
        """One attempt at one message: one Result for each recipient, in their order.

        Cancellation aborts the connection and is the only exception.
        """
        self.stale = self.in_doubt = False
        reused = self._used or not self.usable
        try:
            transaction, header, body = await self._begin(outgoing)
        except Exception as error:  # nothing was written yet
            trouble = Trouble.from_fault(Stage.MAIL, Fault.INTERNAL, _internal(error))
            return [Result.from_trouble(each.address, trouble) for each in outgoing.envelope.recipients]
        try:
            await self._run(transaction, header, body)
            self.stale = reused and transaction.untouched and not transaction.usable
        except Exception as error:
            # A bug of ours, or the store failing to give the body: this attempt failed, the daemon lives.
            transaction.fail(Fault.INTERNAL, _internal(error))
        except BaseException:
            self.abort()
            raise
        self._used = True
        self.in_doubt = False
        self.sent += transaction.sent
        if not transaction.usable or not self._line.quiet:
            self.abort()
        return self._scrub(transaction.results)

    async def _begin(self, outgoing: Outgoing) -> tuple[Transaction, bytes, Body]:
        header, body, eight_bit = outgoing.header, outgoing.body, outgoing.eight_bit
        reencode = None if self.extensions.eight_bit or not eight_bit else outgoing.seven_bit
        if reencode is not None:
            header, body = await reencode()
        transaction = Transaction(
            outgoing.envelope,
            self.extensions,
            size=outgoing.size,
            eight_bit=eight_bit,
            declare_size=reencode is None,
        )
        return transaction, header, body

    async def _run(self, transaction: Transaction, header: bytes, body: Body) -> None:
        while self._heard_nothing(transaction) and (step := transaction.next()) is not None:
            if step is Ask.BODY:
                await self._write_body(transaction, header, body)
            else:
                assert isinstance(step, bytes)
                self._trace_lines(step)
                self._connection.transport.write(step)
            while (stage := transaction.awaiting) is not None:
                await self._take_reply(transaction, stage)

    def _heard_nothing(self, transaction: Transaction) -> bool:
        """Whether we may write: what has come now was not asked for, and the transaction ends with that."""
        if self._line.replies:
            transaction.receive(self._line.replies.popleft())
        elif self._line.trouble is not None:
            transaction.fail(*self._line.trouble)
        elif not self._usable or self._connection.transport.is_closing():
            transaction.fail(Fault.CLOSED, "the connection was closed")
        return transaction.usable

    async def _take_reply(self, transaction: Transaction, stage: Stage) -> None:
        seconds = self._deadline(stage)
        try:
            async with asyncio.timeout(seconds):
                await self._line.wait()
        except TimeoutError:
            command = "the final dot" if stage is Stage.DOT else stage.upper()
            transaction.fail(Fault.TIMEOUT, f"no answer to {command} in {seconds:g} s")
            return
        if self._line.replies:
            reply = self._line.replies.popleft()
            if self.trace:
                self.trace(f"< {redact(reply.text, self._connection.secrets)}")
            transaction.receive(reply)
        else:
            assert self._line.trouble is not None
            transaction.fail(*self._line.trouble)

    def _deadline(self, stage: Stage) -> float:
        match stage:
            case Stage.DATA:
                return self._timeout.data
            case Stage.DOT:
                return self._timeout.data_done
            case _:
                return self._timeout.command

    async def _write_body(self, transaction: Transaction, header: bytes, body: Body) -> None:
        """The message and its final dot; a failure before that dot leaves the message unfinished for ever."""
        stuffer = DotStuffer()
        octets = 0
        ready = [stuffer.encode(header + b"\r\n")]
        waiting = len(ready[0])
        chunks = body()
        try:
            async for chunk in chunks:
                ready.append(stuffer.encode(chunk))
                waiting += len(ready[-1])
                if waiting < WRITE_OCTETS:
                    continue
                if not await self._has_room(transaction):
                    return
                self._connection.transport.write(b"".join(ready))
                octets += waiting
                ready, waiting = [], 0
        finally:
            if (aclose := getattr(chunks, "aclose", None)) is not None:
                await aclose()  # a store's cursor is given back when we stop half-way
        ready.append(stuffer.finish())
        if not await self._has_room(transaction):
            return
        transaction.ending()
        self.in_doubt = True
        if self.trace:
            self.trace(f"> [{octets + waiting} octets]")
            self.trace("> .")
        self._connection.transport.write(b"".join(ready))

    async def _has_room(self, transaction: Transaction) -> bool:
        """Wait for room in the transport's buffer. False: the server has spoken, stalled or gone."""
        try:
            await self._line.drained(self._timeout.data_block)
        except TimeoutError:
            transaction.fail(Fault.TIMEOUT, f"the server took no data for {self._timeout.data_block:g} s")
            return False
        return self._heard_nothing(transaction)

    def _trace_lines(self, commands: bytes) -> None:
        if self.trace:
            for line in commands.splitlines():
                self.trace(f"> {printable(line)}")

    def _scrub(self, results: list[Result]) -> list[Result]:
        secrets = self._connection.secrets
        if not secrets:
            return results
        return [replace(result, reply=redact(result.reply, secrets)) for result in results]

    def abort(self) -> None:
        """End the connection at once."""
        self._usable = False
        cut(self._connection.transport)

    async def close(self) -> None:
        """QUIT, politely and briefly. Never raises but CancelledError."""
        connection = self._connection
        if self.usable:
            self._usable = False
            if self.trace:
                self.trace("> QUIT")
            connection.transport.write(b"QUIT\r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(QUIT_S, self._timeout.command)):
                    await self._line.wait()
            if self.trace and self._line.replies:
                self.trace(f"< {redact(self._line.replies[0].text, connection.secrets)}")
            if not connection.transport.is_closing():  # closed twice, TLS of Python 3.11.2 cannot be aborted any more
                connection.transport.close()
        self._usable = False
        await leave(connection)


def _internal(error: Exception) -> str:
    return printable(f"internal error: {type(error).__name__}: {error}", 300)
