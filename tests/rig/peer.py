"""A smarthost for tests, on a real socket: ordinary, or behaving as a few lines of Python or a script say.

    async with Peer() as peer:                      # an ordinary server with PIPELINING, DSN, SIZE, ...
        ... connect to peer.host, peer.port ...
    peer.messages                                   # what it accepted: sender, recipients, content (unstuffed)
    peer.clear                                      # every octet that clients sent it outside TLS

    Peer(Ordinary(rcpt={"b@example.org": "550 5.1.1 unknown"}, dot="451 later"))    # an ordinary one, replies changed
    Peer(Ordinary(tls=context)), Peer(tls=context)  # STARTTLS, implicit TLS

    async def behaviour(client: Client) -> None:    # anything else
        await client.say("220 peer.example")
        await client.hear("EHLO")
        client.reset()
    Peer(behaviour)
    Peer(first, second)                             # the first connection, and all others

Outside asyncio (a subprocess under test): `with PeerThread(...) as peer:` has the same attributes.

Nothing here uses code of pysendmail, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import email
import email.policy
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Unexpected(Exception):
    """The client did not send what the behaviour waited for."""


@dataclass
class Message:
    """A message as the peer accepted it."""

    sender: str  # MAIL's argument whole, e.g. "<a@example.org> SIZE=100"
    recipients: list[str]  # RCPT's arguments whole
    content: bytes  # dots unstuffed, without the end of data
    tls: bool


class Client:
    """One connection, from the peer's side."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.encrypted = writer.get_extra_info("ssl_object") is not None
        self.clear = bytearray()
        feed = reader.feed_data

        def record(data: bytes) -> None:
            if not self.encrypted:
                self.clear += data
            feed(data)

        reader.feed_data = record  # type: ignore[method-assign]

    async def say(self, *lines: str | bytes) -> None:
        """Lines with their CRLF, in one write."""
        await self.send(b"".join((line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines))

    async def send(self, octets: bytes) -> None:
        """Octets as they are; in pieces of one when the peer dribbles."""
        if not self.peer.dribble:
            self.writer.write(octets)
        for octet in octets if self.peer.dribble else b"":
            self.writer.write(bytes([octet]))
            await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def hear(self, start: str = "") -> str:
        """The next line, which must begin so (case ignored). Unexpected when it does not, or there is none."""
        line = (await self.reader.readline()).decode("utf-8", "replace")
        if not line.endswith("\r\n") or not line.upper().startswith(start.upper()):
            raise Unexpected(f"wanted {start!r}, got {line!r}")
        self.peer.commands.append(line[:-2])
        self.peer.changed()
        return line[:-2]

    async def hear_message(self) -> bytes:
        """The content up to the final dot."""
        lines = []
        while (line := await self.reader.readline()) != b".\r\n":
            if not line.endswith(b"\r\n"):
                raise Unexpected(f"the message breaks off, or has a line too long: {line[-80:]!r}")
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """The handshake, as the server."""
        self.encrypted = True  # from here on only what was decrypted comes to the reader
        await self.writer.start_tls(context)

    async def stall(self) -> None:
        """Say nothing more until the client goes away."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def close(self) -> None:
        """FIN."""
        self.writer.close()

    def reset(self) -> None:
        """RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _abort(self.writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """At once. A TLS transport of Python 3.11.2 that was closed twice raises here, and is closed."""
    with contextlib.suppress(AttributeError):
        writer.transport.abort()


def enter(network: Path) -> None:
    """This thread's new sockets are in that network from now on (os.setns came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with network.open() as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"setns {network}")


Behaviour = Callable[[Client], Awaitable[None]]


async def leaves_at_mail(client: Client) -> None:
    """A server that drops each connection there."""
    await client.say("220 peer")
    await client.hear("EHLO")
    await client.say("250 peer")
    await client.hear("MAIL")
    client.close()


@dataclass
class Ordinary:
    """A server that does everything right, but for the replies given here."""

    keywords: tuple[str, ...] = (
        "PIPELINING",
        "SIZE 10000000",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "ENHANCEDSTATUSCODES",
    )
    tls: ssl.SSLContext | None = None
    auth: str = ""  # mechanisms, offered under TLS and in clear alike
    users: Mapping[str, str] = field(default_factory=dict)  # decoded AUTH exchange, see `_authenticate`
    greeting: str = "220 peer.example ESMTP"
    mail: str = "250 2.1.0 ok"
    rcpt: Mapping[str, str] = field(default_factory=dict)  # by address
    data: str = "354 go ahead"
    dot: str = "250 2.0.0 queued"
    starttls: str = "220 2.0.0 go ahead"
    only: str = ""  # the one address that may send here, in envelope and From, as at a provider

    async def __call__(self, client: Client) -> None:
        """The whole conversation."""
        await client.say(self.greeting)
        sender, recipients, mail = "", list[str](), ""
        while True:
            line = await client.hear()
            verb, _, argument = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    lines = ["peer.example", *self.offers(client)]
                    await client.say(*[f"250-{text}" for text in lines[:-1]], f"250 {lines[-1]}")
                case "STARTTLS":
                    await self.secure(client)
                case "AUTH":
                    await self._authenticate(client, argument)
                case "MAIL":
                    sender, recipients = argument[5:], []
                    mail = self.mail
                    if self.only and not sender.startswith((f"<{self.only}>", "<>")):
                        mail = "553 5.7.1 Sender address rejected: not owned by user box"
                    await client.say(mail)
                case "RCPT":
                    address = argument[4:].partition(">")[0].removeprefix("<")
                    reply = self.rcpt.get(address, "250 2.1.5 ok")
                    if reply.startswith("2") and mail.startswith("2"):
                        recipients.append(argument[3:])
                    await client.say(reply)
                case "DATA":
                    if not recipients:
                        await client.say("554 5.5.1 no valid recipients")
                        continue
                    await client.say(self.data)
                    if not self.data.startswith("354"):
                        continue
                    content = await client.hear_message()
                    if self.only and self._authors(content) != [self.only]:
                        await client.say("554 5.2.252 SendAsDenied")
                        continue
                    if self.dot.startswith("2"):
                        client.peer.messages.append(Message(sender, recipients, content, client.encrypted))
                        client.peer.changed()
                    await client.say(self.dot)
                case "RSET":
                    await client.say("250 2.0.0 ok")
                case "QUIT":
                    await client.say("221 2.0.0 bye")
                    client.close()
                    return
                case _:
                    await client.say("502 5.5.2 not understood")

    def offers(self, client: Client) -> list[str]:
        """What EHLO is told."""
        starttls = ["STARTTLS"] * (self.tls is not None and not client.encrypted)
        return [*self.keywords, *starttls, *([f"AUTH {self.auth}"] if self.auth else [])]

    async def secure(self, client: Client) -> None:
        """STARTTLS."""
        await client.say(self.starttls)
        if self.tls and self.starttls.startswith("220"):
            await client.start_tls(self.tls)

    @staticmethod
    def _authors(content: bytes) -> list[str]:
        """The addresses of all From fields, as Python's own parser reads them."""
        fields = email.message_from_bytes(content, policy=email.policy.SMTP).get_all("From", [])
        return [address.addr_spec for field in fields for address in field.addresses]

    async def _authenticate(self, client: Client, argument: str) -> None:
        """Keep the exchange, without judging it: `users` maps it whole to the reply; else it is accepted."""
        exchange = argument
        if argument.split(" ")[0] in ("LOGIN", "CRAM-MD5"):
            await client.say("334 " + ("UGFzc3dvcmQ6" if argument.startswith("LOGIN") else "PDFAcGVlci5leGFtcGxlPg=="))
            exchange += " " + await client.hear()
        client.peer.exchanges.append(exchange)
        await client.say(self.users.get(exchange, "235 2.7.0 welcome"))


class Peer:
    """See the module. Behaviours apply to connections in their order, the last to all that follow."""

    host = "127.0.0.1"

    def __init__(
        self, *behaviours: Behaviour, dribble: bool = False, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        """`dribble`: octets leave one by one. `tls`: implicit TLS on every connection. `port`: 0 is any free one."""
        self.behaviours = behaviours or (Ordinary(),)
        self.dribble = dribble
        self.port = port
        self.changed: Callable[[], None] = lambda: None  # called after each command and message
        self.messages: list[Message] = []
        self.commands: list[str] = []
        self.exchanges: list[str] = []  # what AUTH carried
        self.clients: list[Client] = []
        self.errors: list[Exception] = []  # Unexpected and worse; a test may want none
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def clear(self) -> bytes:
        """What all clients sent outside TLS."""
        return b"".join(bytes(client.clear) for client in self.clients)

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(
            self._connected,
            self.host,
            self.port,
            ssl=self._tls,
            limit=1 << 20,
            ssl_handshake_timeout=10 if self._tls else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            _abort(client.writer)
        await asyncio.sleep(0)

    async def settled(self) -> None:
        """Wait until every connection's behaviour has come to its end."""
        await asyncio.gather(*self._tasks)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(self, reader, writer)
        behaviour = self.behaviours[min(len(self.clients), len(self.behaviours) - 1)]
        self.clients.append(client)
        self.changed()
        task = asyncio.get_running_loop().create_task(self._behave(behaviour, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _behave(self, behaviour: Behaviour, client: Client) -> None:
        try:
            await behaviour(client)
        except (Unexpected, OSError) as error:  # the client went its way, or TLS failed: tests look at both
            self.errors.append(error)
            _abort(client.writer)


class PeerThread:
    """A Peer with a loop of its own in a thread. The arguments and attributes are Peer's.

    `network`: it listens in that network namespace (a file as in /proc/PID/ns/net), and the rest of us stays out.
    """

    def __init__(self, *behaviours: Behaviour, network: Path | None = None, **options: Any) -> None:
        self._peer = Peer(*behaviours, **options)
        self._ready = threading.Event()
        self._news = threading.Condition()
        self._peer.changed = self._changed
        self._network = network
        self._thread = threading.Thread(target=self._live, daemon=True)

    def _live(self) -> None:
        try:
            if self._network:
                enter(self._network)
            asyncio.run(self._run())
        finally:
            self._ready.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)

    def _changed(self) -> None:
        with self._news:
            self._news.notify_all()

    def wait_until(self, true: Callable[[], Any], seconds: float = 30.0) -> None:
        """Wait until this holds; it is looked at after each connection, command and message."""
        with self._news:
            assert self._news.wait_for(true, seconds), f"the peer heard {self._peer.commands[-20:]}"

    def become(self, *behaviours: Behaviour) -> None:
        """Behave so on every connection from now on."""
        self._peer.behaviours = tuple(behaviours)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._peer:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> PeerThread:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
