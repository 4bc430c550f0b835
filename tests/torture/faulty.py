"""A smarthost that does everything right but for one thing, at one stage of its first connection, once.

`WHATS` are the things, `STAGES` the stages; MATRIX.md says what has to become of the mail. It stands on `rig.peer` and
uses no code of pysendmail.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
from collections.abc import Sequence
from contextlib import suppress

from rig.peer import Client, Message

STAGES = (
    "banner", "EHLO", "STARTTLS", "handshake", "EHLO again", "AUTH", "MAIL", "RCPT", "DATA", "body", "dot", "QUIT",
)  # fmt: skip
LINES = 10_000
ENDLESS = 1 << 20  # octets: as good as endless
DRIP_S = 0.2  # between two octets of the tarpit
READ_BUFFER = 16_384
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ODD = "\0\x1b[2J\x07\x9b31m\u202e\u2028"
# One reply instead of the right one, whose code is {code}; "": what else is to be done stands in `_spoilt`.
REPLIES = {
    "as it should be": "",
    "another 2xx": "",
    "another 3xx": "",
    "4xx": "451 4.3.0 not now",
    "421": "421 4.3.2 going down",
    "5xx": "554 5.7.1 no",
    "1xx": "150 1.0.0 wait",
    "6xx": "650 6.0.0 what",
    "000": "000 what",
    "four digits": "{code}0 ok",
    "no digits": "well, all right",
    "the code alone": "{code}",
    "several lines": "",
    "codes that change": "{code}-2.0.0 yes\r\n451 4.0.0 no",
    "lines that break off": "{code}-2.0.0 yes",
    "10,000 lines": "{code}-2.0.0 yes\r\n" * LINES + "{code} 2.0.0 so",
    "a line without end": "{code} " + "x" * ENDLESS,
    "control characters": "",
    "octet by octet": "",
    "twice": "",
    "bare LF": "",
    "another's status": "",
    "one more before it": "",
}
GONE = "route gone"
SILENT = ("silence", "an octet at a time", "zero window")
FAULTS = ("FIN", "RST", "half-close", *SILENT, GONE)
WHATS = (*REPLIES, *FAULTS)
UNASKED = "250 2.0.0 by the way"


def loopback(*, up: bool) -> None:
    """The loopback of this thread's network: without it, nothing arrives and nobody is told."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP if up else 0))


class Over(Exception):
    """This connection is at its end."""


class Faulty:
    """See the module. `at`: which RCPT it is, of this connection's. "" as the stage: nothing goes wrong.

    `texts`: each message that came to its final dot, with the recipients that were accepted, whatever the answer was,
    and whether it left or not. What was taken for good, and answered, is among the peer's `messages`, too.
    """

    def __init__(
        self,
        stage: str,
        what: str,
        *,
        at: int = 0,
        pipelining: bool = True,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
    ) -> None:
        self._stage = stage
        self._what = what
        self._at = at
        self._tls = tls
        self._implicit = implicit
        self._keywords = ["PIPELINING"] * pipelining + ["8BITMIME", "SIZE 100000000", "DSN", "ENHANCEDSTATUSCODES"]
        self._done = False
        self._rcpts = -1
        self.texts: list[Message] = []

    async def __call__(self, client: Client) -> None:
        with suppress(Over):
            if self._implicit:
                await self._handshake(client)
            await self._answer(client, "banner", "220 peer.example ESMTP")
            while True:
                await self._command(client, await client.hear())

    async def _command(self, client: Client, line: str) -> None:
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                again = client.encrypted and not self._implicit
                offers = [*self._keywords, "AUTH PLAIN"]
                if self._tls is not None and not client.encrypted:
                    offers.append("STARTTLS")
                lines = ["peer.example", *offers]
                reply = [*(f"250-{text}" for text in lines[:-1]), f"250 {lines[-1]}"]
                await self._answer(client, "EHLO again" if again else "EHLO", *reply)
            case "STARTTLS":
                assert self._tls is not None
                if await self._answer(client, "STARTTLS", "220 2.0.0 go ahead"):
                    await self._handshake(client)
            case "AUTH":
                await self._answer(client, "AUTH", "235 2.7.0 welcome")
            case "MAIL":
                self._sender, self._recipients = argument, list[str]()
                self._open = await self._answer(client, "MAIL", "250 2.1.0 ok")
            case "RCPT" if not self._open:
                await client.say("503 5.5.1 MAIL first")
            case "RCPT":
                self._rcpts += 1
                if await self._answer(client, "RCPT", "250 2.1.5 ok"):
                    self._recipients.append(argument)
            case "DATA" if not self._recipients:
                await client.say("554 5.5.1 no valid recipients")
            case "DATA":
                if await self._answer(client, "DATA", "354 go ahead"):
                    await self._text(client)
            case "RSET":
                await client.say("250 2.0.0 ok")
            case "QUIT":
                await self._answer(client, "QUIT", "221 2.0.0 bye")
                client.close()
                raise Over
            case _:
                await client.say("502 5.5.2 not understood")

    async def _handshake(self, client: Client) -> None:
        assert self._tls is not None
        if self._stage == "handshake" and not self._done and self._what != "as it should be":
            self._done = True
            await client.reader.read(1)
            await self._misbehave(client, ("220 2.0.0 go ahead",))
            await client.stall()
            raise Over
        await client.start_tls(self._tls)
        if self._stage == "EHLO again" and self._what == "one more before it":
            await client.say(UNASKED)

    async def _text(self, client: Client) -> None:
        if self._stage == "body" and not self._done:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            if self._what != "as it should be":
                self._done = True
                await self._misbehave(client, ("250 2.0.0 taken",))
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        content = await client.hear_message()
        self.texts.append(text := Message(self._sender, self._recipients, content, client.encrypted))
        if await self._answer(client, "dot", "250 2.0.0 taken"):
            client.peer.messages.append(text)
            client.peer.changed()

    # -- what goes wrong --

    async def _answer(self, client: Client, stage: str, *lines: str) -> bool:
        """The answer at a stage: the right one, or what is to go wrong; whether the right one was given."""
        here = stage == self._stage and not self._done and (stage != "RCPT" or self._rcpts == self._at)
        if here and self._what != "one more before it":
            self._done = True
            return await self._misbehave(client, lines)
        await client.say(*lines)
        if self._what == "one more before it" and not self._done and self._is_next(stage):
            self._done = True
            await client.say(UNASKED)
        return True

    def _is_next(self, stage: str) -> bool:
        """Whether what was just answered is the last thing before the stage."""
        before = {"EHLO": "banner", "STARTTLS": "EHLO", "handshake": "STARTTLS", "AUTH": "EHLO", "MAIL": "AUTH"}
        before |= {"RCPT": "MAIL", "DATA": "RCPT", "QUIT": "dot"}
        if self._tls is not None and not self._implicit:
            before["AUTH"] = "EHLO again"
        if self._stage == "RCPT" and self._at:
            return stage == "RCPT" and self._rcpts == self._at - 1
        return before.get(self._stage) == stage

    async def _misbehave(self, client: Client, lines: Sequence[str]) -> bool:
        """Do it; whether the client still got what it waited for."""
        if self._what in FAULTS:
            await self._vanish(client)
            raise Over
        if self._what == "octet by octet":
            for octet in _octets(lines):
                await client.send(bytes([octet]))
                await asyncio.sleep(0)
            return True
        octets = _spoilt(self._what, lines)
        await client.send(octets)
        if self._what in ("421", "lines that break off"):
            client.close()
            raise Over
        return octets[:1] == lines[0][:1].encode()

    async def _vanish(self, client: Client) -> None:
        sock = client.writer.get_extra_info("socket")
        match self._what:
            case "FIN":
                client.close()
            case "RST":
                client.reset()
            case "half-close":
                sock.shutdown(socket.SHUT_WR)
                await client.stall()
            case "an octet at a time":
                for octet in b"250-" + b"x" * 1000:
                    await client.send(bytes([octet]))
                    await asyncio.sleep(DRIP_S)
            case "zero window":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BUFFER)
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                await asyncio.get_running_loop().create_future()
            case "route gone":
                loopback(up=False)
                await asyncio.get_running_loop().create_future()
            case _:
                await client.stall()


def _octets(lines: Sequence[str], end: str = "\r\n") -> bytes:
    return "".join(line + end for line in lines).encode()


def _spoilt(what: str, lines: Sequence[str]) -> bytes:
    """The right reply, spoilt."""
    code = lines[0][:3]
    match what:
        case "as it should be":
            return _octets(lines)
        case "another 2xx" | "another 3xx":
            other = {"another 2xx": "252", "another 3xx": "334" if code == "354" else "354"}[what]
            return _octets([other + line[3:] for line in lines])
        case "several lines":
            return _octets([f"{code}-2.0.0 yes", f"{code}-2.0.0 and"]) + _octets(lines)
        case "control characters":
            return _octets([f"{code}-{ODD}"]) + _octets(lines)
        case "twice":
            return _octets(lines) + _octets(lines)
        case "bare LF":
            return _octets(lines, "\n")
        case "another's status":
            return _octets([f"{code} 5.7.1 yes"])
        case _:
            return _octets([REPLIES[what].format(code=code)])
