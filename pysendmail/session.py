"""Session: one connection to a smarthost, over which messages go one after the other.

`Session.open` gives a session that is ready for MAIL, or raises SessionError with the Trouble. `send` makes one
attempt at one message and returns one Result for each recipient, always: a reply, a timeout, a broken connection
and an error of ours are Results, never exceptions. After a 421, a fault, or a refusal that concerns the smarthost,
the session is not `usable`; so it is when the server closes it, or says anything unasked, while it is idle.

With PIPELINING the envelope of the next message can travel behind the final dot of this one (RFC 2920 §3.1), which
saves its round trip. Only its envelope: that message begins when it is sent itself. A server that does not bear it
is noticed (`one_at_a_time`), and no message bounces for it: a MAIL that is refused with 5xx there is said again alone.

A message counts as sent only on a 2xx to the final dot. From the moment the last octet of that dot is handed to the
transport a lost answer is `uncertain`; before it, the message cannot have been accepted, since it never ended.

Each step has its deadline (RFC 5321 §4.5.3.2). The message is streamed: no more of it is in memory than the chunks
that are given plus the transport's buffer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace

from pysendmail.config import Smarthost, Timeout
from pysendmail.connection import Connection, Opener, SessionError, leave, redact
from pysendmail.envelope import Envelope
from pysendmail.gate import Trace, cut
from pysendmail.line import Line
from pysendmail.outcome import Fault, Result, Stage, Trouble
from pysendmail.secrets import Secrets
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import printable
from pysendmail.smtp.transaction import Ask, Transaction
from pysendmail.smtp.wire import DotStuffer
from pysendmail.tlspolicy import TlsPlan

__all__ = ["Body", "Outgoing", "Session", "SessionError"]

# What is gathered before it is written: a small message goes out with its dot in one segment.
WRITE_OCTETS = 64 * 1024
# How long a server may take to answer QUIT. It has our mail already.
QUIT_S = 5.0

Body = Callable[[], AsyncGenerator[bytes, None]]
Behind = Callable[[], "Outgoing | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message as it goes to one smarthost. Header and body are CRLF-normalised; nothing here is stuffed yet."""

    envelope: Envelope
    header: bytes  # the header section with our Received field; ends with CRLF, without the blank line
    body: bytes | Body  # all of it; or what gives a fresh iterator over it each time
    size: int  # octets of header, blank line and body
    eight_bit: bool = False  # an octet above 127 anywhere
    # Header and body without 8-bit octets in the body, for a server without 8BITMIME; None: it goes as it is.
    seven_bit: Callable[[], Awaitable[tuple[bytes, bytes | Body]]] | None = None


class Session:
    """See the module. One task at a time may use it."""

    def __init__(self, smarthost: Smarthost, connection: Connection, timeout: Timeout, trace: Trace | None) -> None:
        self.smarthost = smarthost
        self.address = connection.address
        self.certificate_until = connection.certificate_until
        self.tls = connection.tls  # "none", "TLSv1.2" or "TLSv1.3"
        self.extensions: Extensions = connection.extensions
        self.fallback = connection.fallback  # in clear because a handshake failed: status line `reason=fallback`
        self.tls_failed = connection.tls_failed  # the handshake that failed just now, to be remembered; or ""
        self.trace = trace
        self.messages = 0  # that were attempted over it
        self.in_doubt = False  # the final dot is on its way and not answered: cut off now, the message may have arrived
        self.stale = False  # a reused connection was dead when `send` came: that was no attempt
        self.one_at_a_time = False  # the server does not bear an envelope behind a final dot
        self._connection = connection
        self._timeout = timeout
        self._usable = True
        self._used = False
        self._begun: tuple[Outgoing, Transaction] | None = None  # its envelope went behind the last final dot
        self._line = Line(connection)
        self._transport = connection.transport
        self._transport.set_protocol(self._line)

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
        """Whether another message may go over this connection; if one was `begun`, that one."""
        in_step = self._line.quiet if self._begun is None else self._line.trouble is None
        return self._usable and in_step and not self._transport.is_closing()

    @property
    def begun(self) -> bool:
        """Whether the envelope that `behind` gave is on its way: that message is the next, or the session closes."""
        return self._begun is not None

    async def send(self, outgoing: Outgoing, behind: Behind | None = None) -> list[Result]:
        """One attempt at one message: one Result for each recipient, in their order.

        `behind` is asked, when the final dot is about to leave, for the message that will be sent next.
        Cancellation aborts the connection and is the only exception.
        """
        self.stale = self.in_doubt = False
        begun, self._begun = self._begun, None
        assert begun is None or begun[0] is outgoing, "another message's envelope is on its way"
        reused = self._used or not self.usable
        try:
            transaction, header, body = (
                (begun[1], outgoing.header, outgoing.body) if begun else await self._prepare(outgoing)
            )
        except Exception as error:  # nothing was written yet
            trouble = Trouble.from_fault(Stage.MAIL, Fault.INTERNAL, _internal(error))
            return [Result.from_trouble(each.address, trouble) for each in outgoing.envelope.recipients]
        await self._transact(transaction, header, body, behind)
        early = begun is not None and transaction.mail_refused and transaction.usable
        if early:
            transaction = self._transaction(outgoing)
            await self._transact(transaction, header, body, behind)
        self.stale = reused and transaction.untouched and not transaction.usable
        self._used = True
        self.in_doubt = False
        self.messages += 1
        if early and not transaction.mail_refused:
            self.one_at_a_time = True
        if not transaction.usable or not self.usable:
            goodbye = any(result.code == 421 for result in transaction.results)
            if not goodbye and (self._begun is not None or (begun is not None and self.stale)):
                self.one_at_a_time = True
            self.abort()
        return self._scrub(transaction.results)

    async def _prepare(self, outgoing: Outgoing) -> tuple[Transaction, bytes, bytes | Body]:
        """The transaction, and the message as this server takes it."""
        if self.extensions.eight_bit or not outgoing.eight_bit or outgoing.seven_bit is None:
            return self._transaction(outgoing), outgoing.header, outgoing.body
        header, body = await outgoing.seven_bit()
        return self._transaction(outgoing, declare_size=False), header, body

    def _transaction(self, outgoing: Outgoing, *, declare_size: bool = True) -> Transaction:
        return Transaction(
            outgoing.envelope,
            self.extensions,
            size=outgoing.size,
            eight_bit=outgoing.eight_bit,
            declare_size=declare_size,
        )

    async def _transact(
        self, transaction: Transaction, header: bytes, body: bytes | Body, behind: Behind | None
    ) -> None:
        """The transaction to its end, whatever happens; what it began with is on the wire already, or nothing is."""
        try:
            await self._take_replies(transaction)
            while self._heard_nothing(transaction) and (step := transaction.next()) is not None:
                if step is Ask.BODY:
                    await self._write_message(transaction, header, body, behind)
                else:
                    assert isinstance(step, bytes)
                    self._trace_lines(step)
                    self._transport.write(step)
                await self._take_replies(transaction)
        except Exception as error:
            # A bug of ours, or the store failing to give the body: this attempt failed, the daemon lives.
            transaction.fail(Fault.INTERNAL, _internal(error))
        except BaseException:
            self.abort()
            raise

    def _heard_nothing(self, transaction: Transaction) -> bool:
        """Whether we may write: what has come now was not asked for, and the transaction ends with that."""
        if self._begun is not None:
            pass  # what has come since the final dot was answered is for that one
        elif self._line.replies:
            transaction.receive(self._line.replies.popleft())
        elif self._line.trouble is not None:
            transaction.fail(*self._line.trouble)
        elif not self._usable or self._transport.is_closing():
            transaction.fail(Fault.CLOSED, "the connection was closed")
        return transaction.usable

    async def _take_replies(self, transaction: Transaction) -> None:
        """All that is awaited."""
        line = self._line
        while (stage := transaction.awaiting) is not None:
            if line.replies:
                reply = line.replies.popleft()
                if self.trace:
                    self.trace(f"< {redact(reply.text, self._connection.secrets)}")
                transaction.receive(reply)
            elif line.trouble is not None:
                transaction.fail(*line.trouble)
            else:
                seconds = self._deadline(stage)
                try:
                    await line.wait(seconds)
                except TimeoutError:
                    command = "the final dot" if stage is Stage.DOT else stage.upper()
                    transaction.fail(Fault.TIMEOUT, f"no answer to {command} in {seconds:g} s")

    def _deadline(self, stage: Stage) -> float:
        match stage:
            case Stage.DATA:
                return self._timeout.data
            case Stage.DOT:
                return self._timeout.data_done
            case _:
                return self._timeout.command

    async def _write_message(
        self, transaction: Transaction, header: bytes, body: bytes | Body, behind: Behind | None
    ) -> None:
        """The message and its final dot; a failure before that dot leaves the message unfinished for ever."""
        stuffer = DotStuffer()
        octets = 0
        ready = [stuffer.encode(header + b"\r\n")]
        if isinstance(body, bytes):
            ready.append(stuffer.encode(body))
        else:
            async with contextlib.aclosing(body()) as chunks:  # a store's cursor is given back when we stop half-way
                async for chunk in chunks:
                    ready.append(stuffer.encode(chunk))
                    waiting = sum(map(len, ready))
                    if waiting < WRITE_OCTETS:
                        continue
                    if not await self._has_room(transaction):
                        return
                    self._transport.write(b"".join(ready))
                    octets += waiting
                    ready = []
        if not await self._has_room(transaction):
            return
        octets += sum(map(len, ready))
        ready.append(stuffer.finish())
        behind_it = self._begin(behind) if behind is not None and self.extensions.pipelining else b""
        transaction.ending()
        self.in_doubt = True
        self._transport.write(b"".join([*ready, behind_it]))
        if self.trace:
            self.trace(f"> [{octets} octets]")
            self.trace("> .")
            self._trace_lines(behind_it)

    def _begin(self, behind: Behind) -> bytes:
        """The envelope of the next message, or nothing."""
        outgoing = behind()
        if outgoing is None or (outgoing.eight_bit and not self.extensions.eight_bit):
            return b""
        transaction = self._transaction(outgoing)
        group = transaction.next()
        if not isinstance(group, bytes):
            return b""
        self._begun = outgoing, transaction
        return group

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
        self._begun = None
        cut(self._transport)

    async def close(self) -> None:
        """QUIT, politely and briefly. Never raises but CancelledError."""
        connection = self._connection
        if self._begun is not None:
            self.abort()  # the server takes whatever comes now for that message
        if self.usable:
            self._usable = False
            if self.trace:
                self.trace("> QUIT")
            self._transport.write(b"QUIT\r\n")
            with contextlib.suppress(TimeoutError):
                await self._line.wait(min(QUIT_S, self._timeout.command))
            if self.trace and self._line.replies:
                self.trace(f"< {redact(self._line.replies[0].text, connection.secrets)}")
            if not self._transport.is_closing():  # closed twice, TLS of Python 3.11.2 cannot be aborted any more
                self._transport.close()
        self._usable = False
        await leave(connection)


def _internal(error: Exception) -> str:
    return printable(f"internal error: {type(error).__name__}: {error}", 300)
