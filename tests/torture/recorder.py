"""The recording smarthost: a real server in threads that keeps every octet and every time, and errs on request.

    with Recorder() as recorder:                        # .host and .port, as a peer of the rig
        ...
        recorder.wait_until(lambda: recorder.copies(token))
    recorder.connections, recorder.attempts             # evidence

What it does is said by the recipients' local parts, so that it is the same whatever is killed in between. To RCPT:

    ok.7      250                       no.7     550 (always)
    later2.7  451 twice, then 250       busy.7   451 (always)
    drop.7    once: the connection is reset in place of an answer

and to the final dot, by the first recipient of the transaction:

    dot4x1.7  451 once, then 250        dot5.7   554 (always)
    cut.7     once: not accepted, and the connection is reset without an answer
    lost.7    once: accepted, and reset before the answer leaves
    slow.7    250, SLOW_S later         eat.7    250 and forgotten: a lying server, for the checker's own test

A `Plan` with a rate does such things at random, as `(seed, token, attempt)` say. Nothing here uses code of
pysendmail or asyncio, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from torture.evidence import Asked, Attempt, Chunk, Command, Connection, Dot, token_in

SLOW_S = 0.3
SILENCE_S = 120.0  # a client that says nothing for so long is gone
PATIENCE_S = 30.0
KEYWORDS = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
_MOOD = re.compile(r"(ok|no|later|busy|drop|dot4x|dot5|cut|lost|slow|eat)(\d*)\.")
_END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """What the recorder does, and how often before it is ordinary again; `times` 0 is always."""

    name: str = "ok"
    times: int = 0

    def holds(self, seen: int) -> bool:
        """For something seen so often before?"""
        return self.times == 0 or seen < self.times


def mood_of(address: str) -> Mood:
    """What a recipient's local part asks for."""
    match = _MOOD.match(address)
    if match is None:
        return Mood()
    once = match[1] in ("drop", "cut", "lost")
    return Mood(name=match[1], times=int(match[2] or (1 if once else 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Random trouble: of the first `attempts` attempts of each message, `rate` go wrong, each as the seed says."""

    seed: int = 0
    rate: float = 0.0
    attempts: int = 5
    moods: tuple[str, ...] = ("later", "drop", "dot4x", "cut", "lost", "slow")

    def mood(self, key: str, attempt: int) -> str:
        """For the `attempt`-th attempt (0, 1, ...) of a message; "" leaves it to the recipients."""
        if attempt >= self.attempts or not self.rate:
            return ""
        digest = hashlib.sha256(f"{self.seed}/{key}/{attempt}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.rate:
            return ""
        return self.moods[digest[8] % len(self.moods)]


class _Gone(Exception):
    """This connection is over."""


class Recorder:
    """See the module. `certificate` says what kind of certificate `tls` shows, for the evidence."""

    host = "127.0.0.1"

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        certificate: str = "good",
        starttls: str = "220 2.0.0 go ahead",
        auth: str = "",
        keywords: Sequence[str] = KEYWORDS,
    ) -> None:
        self.plan = plan or Plan()
        self.tls = tls
        self.implicit = implicit
        self.certificate = certificate
        self.starttls = starttls
        self.auth = auth
        self.keywords = tuple(keywords)
        self.meanwhile: Callable[[str], object] = lambda verb: None  # before the answer to "DATA" or to the "dot"
        self.connections: list[Connection] = []
        self.attempts: list[Attempt] = []
        self.seen: Counter[tuple[str, str]] = Counter()  # how often (message, recipient or stage) was met
        self._news = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((self.host, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._over = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._news:
            left = list(self._sockets)
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    # -- what tests ask --

    def copies(self, token: str) -> list[Attempt]:
        """The accepted copies of a submitted message."""
        with self._news:
            return [one for one in self.attempts if one.dot is not None and one.dot.accepted and one.token == token]

    def accepted(self) -> list[Attempt]:
        """All that was accepted, reports too."""
        with self._news:
            return [one for one in self.attempts if one.dot is not None and one.dot.accepted]

    def wait_until(self, true: Callable[[], object], seconds: float = PATIENCE_S) -> None:
        """Wait until this holds; it is looked at after each command, dot and end of a connection."""
        with self._news:
            if not self._news.wait_for(true, seconds):
                last = [command.line for one in self.connections[-3:] for command in one.commands[-10:]]
                raise AssertionError(f"the recorder heard {last}")

    # -- for the conversations --

    def changed(self) -> None:
        with self._news:
            self._news.notify_all()

    def meet(self, key: str, what: str) -> int:
        """How often this was met before."""
        with self._news:
            self.seen[key, what] += 1
            return self.seen[key, what] - 1

    def _accept(self) -> None:
        while not self._over:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._news:
                connection = Connection(id=len(self.connections), opened=time.time(), certificate=self.certificate)
                self.connections.append(connection)
                self._sockets.add(sock)
            threading.Thread(target=self._talk, args=(sock, connection), daemon=True).start()

    def _talk(self, sock: socket.socket, connection: Connection) -> None:
        conversation = _Conversation(self, sock, connection)
        try:
            conversation.run()
        except (_Gone, OSError, ValueError):  # ValueError: the socket was closed under us
            pass
        finally:
            conversation.close()
            with self._news:
                self._sockets.discard(sock)
                connection.closed = time.time()
                self._news.notify_all()


class _Conversation:
    """One connection, from the greeting to its end."""

    def __init__(self, recorder: Recorder, sock: socket.socket, connection: Connection) -> None:
        self.recorder = recorder
        self.sock = sock
        self.connection = connection
        self.buffer = bytearray()
        self.clear = True
        self.attempt: Attempt | None = None
        self.mood = Mood()  # for the dot of this attempt
        self.key = ""  # whose counts these are

    def run(self) -> None:
        self.sock.settimeout(SILENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.recorder.implicit:
            self._handshake()
        self._say("220 recorder.example ESMTP")
        while True:
            line = self._line()
            self.connection.commands.append(Command(at=time.time(), line=line, clear=self.clear))
            verb, _, argument = line.partition(" ")
            answer = getattr(self, f"_on_{verb.lower()}", None) if verb.isalpha() else None
            if answer is None:
                self._say("502 5.5.2 not understood")
            else:
                answer(argument)
            self.recorder.changed()

    def close(self) -> None:
        if self.attempt is not None:
            self.attempt.left = not self.attempt.cut
        self._end_attempt()
        with contextlib.suppress(OSError):
            self.sock.close()

    # -- octets --

    def _read(self) -> None:
        octets = self.sock.recv(1 << 18)
        if not octets:
            raise _Gone
        self.connection.chunks.append(Chunk(at=time.time(), sent=False, octets=octets, clear=self.clear))
        self.buffer += octets

    def _line(self) -> str:
        while (end := self.buffer.find(b"\n")) < 0:
            self._read()
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        return line.removesuffix(b"\r\n").decode("utf-8", "backslashreplace")  # a bare LF stays to be seen

    def _say(self, *lines: str) -> bytes:
        octets = "".join(f"{line}\r\n" for line in lines).encode()
        self.sock.sendall(octets)
        self.connection.chunks.append(Chunk(at=time.time(), sent=True, octets=octets, clear=self.clear))
        return octets

    def _reset(self) -> None:
        """Cut: nothing more arrives at the client, not even a farewell."""
        if self.attempt is not None:
            self.attempt.cut = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        raise _Gone

    def _handshake(self) -> None:
        assert self.recorder.tls is not None
        self.connection.handshake_at = time.time()
        try:
            self.sock = self.recorder.tls.wrap_socket(self.sock, server_side=True)
        except OSError:
            self.connection.handshake = False
            raise
        self.connection.handshake = True
        self.clear = False

    # -- commands --

    def _on_ehlo(self, _: str) -> None:
        offers = ["recorder.example", *self.recorder.keywords]
        if self.recorder.tls and self.clear:
            offers.append("STARTTLS")
            self.connection.offered_starttls = True
        if self.recorder.auth:
            offers.append(f"AUTH {self.recorder.auth}")
        self._end_attempt()
        self._say(*[f"250-{offer}" for offer in offers[:-1]], f"250 {offers[-1]}")

    def _on_helo(self, _: str) -> None:
        self._say("250 recorder.example")

    def _on_starttls(self, _: str) -> None:
        self.connection.starttls_reply = self._say(self.recorder.starttls)
        if self.recorder.tls and self.recorder.starttls.startswith("220"):
            self._handshake()

    def _on_auth(self, argument: str) -> None:
        words = argument.split(" ")
        prompts = {"LOGIN": ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"][len(words) - 1 :], "CRAM-MD5": ["PDFAcmVjb3JkZXI+"]}
        for prompt in prompts.get(words[0], [""][len(words) - 1 :]):
            self._say(f"334 {prompt}")
            self._line()
        self._say("235 2.7.0 welcome")

    def _on_mail(self, argument: str) -> None:
        self._end_attempt()
        sender = argument[5:].partition(">")[0].removeprefix("<")
        self.attempt = Attempt(
            connection=self.connection.id, at=time.time(), argument=argument[5:], sender=sender, clear=self.clear
        )
        self.recorder.attempts.append(self.attempt)
        self.mood = Mood()
        self.key = ""
        self.attempt.mail_reply = self._say("250 2.1.0 ok")

    def _on_rcpt(self, argument: str) -> None:
        if self.attempt is None:
            self._say("503 5.5.1 MAIL first")
            return
        address = argument[3:].partition(">")[0].removeprefix("<")
        first = not self.attempt.asked
        asked = Asked(at=time.time(), argument=argument[3:], address=address)
        self.attempt.asked.append(asked)
        mood = mood_of(address)
        if first:
            self.mood = mood = self._decide(address, mood)
        seen = self.recorder.meet(self.key, address)
        if mood.name == "drop" and mood.holds(seen):
            self._reset()
        if mood.name == "no":
            reply = "550 5.1.1 no such user"
        elif mood.name in ("later", "busy") and mood.holds(seen):
            reply = "451 4.3.0 not now"
        else:
            reply = "250 2.1.5 ok"
        asked.reply = self._say(reply)

    def _decide(self, address: str, mood: Mood) -> Mood:
        """The first recipient, or the plan, decides about the whole message."""
        assert self.attempt is not None
        self.key = self.attempt.sender or token_in(address) or address
        planned = self.recorder.plan.mood(self.key, self.recorder.meet(self.key, "attempt"))
        return Mood(name=planned) if planned else mood

    def _on_data(self, _: str) -> None:
        attempt = self.attempt
        if attempt is None or not attempt.recipients:
            reply = self._say("554 5.5.1 no valid recipients")
            if attempt is not None:
                attempt.data_reply = reply
            return
        self.recorder.meanwhile("DATA")
        attempt.data_reply = self._say("354 go ahead")
        dot = Dot(at=0.0, stream=self._stream(), accepted=False)
        dot.at = time.time()
        mood = self.mood.name if self.mood.holds(self.recorder.meet(self.key, "dot")) else "ok"
        dot.accepted = mood not in ("dot4x", "dot5", "cut", "eat")
        attempt.dot = dot  # only now: what is seen of it by others is whole
        self.recorder.changed()
        self.recorder.meanwhile("dot")
        if mood in ("cut", "lost"):
            self._reset()
        if mood == "slow":
            time.sleep(SLOW_S)
        dot.answer = {"dot4x": b"451 4.3.0 not now\r\n", "dot5": b"554 5.6.0 not wanted\r\n"}.get(
            mood, b"250 2.0.0 taken\r\n"
        )
        dot.answered_at = time.time()
        self._say(dot.answer[:-2].decode())
        dot.told = True
        self._end_attempt()

    def _stream(self) -> bytes:
        """Everything up to the end of data, in the strict reading: CRLF.CRLF and nothing else."""
        looked = 0
        while True:
            if self.buffer.startswith(_END[2:]):
                end = 3
                break
            found = self.buffer.find(_END, max(looked - len(_END), 0))
            if found >= 0:
                end = found + len(_END)
                break
            looked = len(self.buffer)
            self._read()
        stream = bytes(self.buffer[:end])
        del self.buffer[:end]
        return stream

    def _on_rset(self, _: str) -> None:
        self._end_attempt()
        self._say("250 2.0.0 ok")

    def _on_noop(self, _: str) -> None:
        self._say("250 2.0.0 ok")

    def _on_quit(self, _: str) -> None:
        self._end_attempt()
        self._say("221 2.0.0 bye")
        raise _Gone

    def _end_attempt(self) -> None:
        if self.attempt is not None:
            self.attempt.ended = time.time()
            self.attempt = None
