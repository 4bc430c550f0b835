"""Gate: aiosmtplib's protocol behind a strict reader of replies.

aiosmtplib takes any three digits for a code and drops what comes unasked. Here every octet of the server passes a
ReplyReader first, and each reply is held against what was asked: a reply too many, a part of one behind the reply
that was due, or what is no reply ends the connection, and `trouble` says why. Only public names of aiosmtplib are
used. The gate also writes the trace, without the secrets.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from pysendmail.outcome import Fault
from pysendmail.smtp.reply import Reply, ReplyReader, printable

Trace = Callable[[str], None]


class Gate(SMTPProtocol):
    """See the module. `last` is the last complete reply, as our reader saw it."""

    def __init__(self, sock: socket.socket, trace: Trace | None, command_timeout: float) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.trouble: tuple[Fault, str] | Reply | None = None  # why we ended the connection
        self.last: Reply | None = None
        self.closed = asyncio.Event()
        self.close_reason = ""
        self.authenticating = False  # what we write is secret
        self.redact: Callable[[str], str] = str
        self._sock = sock
        self._trace = trace
        self._command_timeout = command_timeout
        self._reader = ReplyReader()
        self._due = 1  # the greeting
        self._upgrading = False

    def write(self, data: bytes) -> None:
        """A command: the only thing that may call forth a reply."""
        self._due += 1
        self._upgrading = data == b"STARTTLS\r\n"
        if self._trace:
            line = printable(data.rstrip(b"\r\n"))
            if self.authenticating:
                verb, mechanism, *secret = line.split(" ") if line.startswith("AUTH ") else ("", "", line)
                line = " ".join(filter(None, (verb, mechanism, "***" if secret else "")))
            self._trace(f"> {line}")
        super().write(data)

    def data_received(self, data: bytes) -> None:
        """Octets of the server: aiosmtplib gets to see them only if they are an answer, or a part of one."""
        if self.trouble is not None:
            return
        for reply in self._reader.feed(data):
            if self._trace:
                self._trace(f"< {self.redact(reply.text)}")
            self._due -= 1
            if self._due < 0:
                self._break(reply if reply.code == 421 else (Fault.GARBAGE, f"unasked: {reply.text}"))
                return
            self.last = reply
        if self._reader.broken:
            self._break((Fault.GARBAGE, self._reader.broken))
        elif self._due == 0 and not self._reader.empty:
            self._break((Fault.GARBAGE, "octets after the reply that was due"))
        else:
            super().data_received(data)

    async def read_response(self, timeout: float | None = None) -> aiosmtplib.SMTPResponse:  # noqa: ASYNC109
        """As aiosmtplib's. For STARTTLS the reply has the time of a command, and nothing may lie behind it.

        aiosmtplib gives `timeout` to the reply and again to the handshake; and it throws away what came with
        the 220, where we want to know of it. Between this return and the handshake the loop does not run, so
        what the kernel holds now was sent before the server could have seen our ClientHello.
        """
        if not self._upgrading:
            return await super().read_response(timeout)
        response = await super().read_response(self._command_timeout)
        if response.code == 220 and self._peek():
            self._break((Fault.GARBAGE, "octets between the reply to STARTTLS and the handshake"))
            raise aiosmtplib.SMTPServerDisconnected("octets before the handshake")
        return response

    def _peek(self) -> bool:
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there; a broken connection shows in the handshake
            return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Remembers why, and lets aiosmtplib know."""
        if exc is not None and not self.close_reason:
            self.close_reason = words(exc)
        super().connection_lost(exc)
        self.closed.set()

    def _break(self, trouble: tuple[Fault, str] | Reply) -> None:
        self.trouble = trouble
        assert self.transport is not None
        cut(self.transport)


def cut(transport: asyncio.BaseTransport) -> None:
    """End a connection at once, also one that is ending already."""
    # Python 3.11.2, Debian 12's: a TLS transport that was closed twice has no protocol any more to abort.
    with suppress(AttributeError):
        cast(asyncio.Transport, transport).abort()


def words(error: BaseException) -> str:
    """An exception in words, without its number and its place in OpenSSL's source."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # asyncio puts words of its own into strerror
    return str(error) or type(error).__name__
