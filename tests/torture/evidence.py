"""Evidence: what was seen of pysendmail from outside, in plain values. The checker knows nothing else.

    Call        one run of `sendmail`: what went in, and the exit code that came out
    Connection  one connection at the recorder, every octet of it
    Attempt     one MAIL transaction on a connection: who was asked about, what was answered
    Dot         the message of an attempt, when its data came to an end
    Stop        the end of one daemon process, however it came
    Excuse      a time in which something was broken on purpose: a full disk, failing I/O
    Sample      what anybody on the machine may read of a process: its arguments, its environment
    Rest        what a daemon takes of the machine while it has nothing to do

Times are `time.time()` of the machine that runs all of it. Nothing here reads the queue's database.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rig.instance import Event

HEADER = 8192  # octets in which the header of a report ends
TOKEN = re.compile(rb"tk[0-9a-f]{6}n\d+")  # a message's mark: in its Message-ID, its body and, mostly, its sender


def token_in(text: bytes | str) -> str:
    """The first token in a text, or ""."""
    found = TOKEN.search(text.encode() if isinstance(text, str) else text)
    return found[0].decode() if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One `sendmail`. `recipients` are those of the envelope, `text` is what it read on standard input."""

    token: str
    uid: int
    argv: tuple[str, ...]
    sender: str  # "" is the null sender
    recipients: tuple[str, ...]
    text: bytes
    started: float
    ended: float
    code: int | None  # None when we killed it
    stderr: str = ""

    @property
    def killed(self) -> bool:
        return self.code is None

    @property
    def accepted(self) -> bool:
        return self.code == 0


@dataclass(slots=True, kw_only=True)
class Asked:
    """One RCPT and its reply; `reply` is b"" when there was none."""

    at: float
    argument: str
    address: str
    reply: bytes = b""

    @property
    def code(self) -> int:
        return int(self.reply[:3] or 0)


@dataclass(slots=True, kw_only=True)
class Dot:
    """Data that came to its end. `accepted`: the recorder has it for good, whatever the client was told."""

    at: float
    stream: bytes  # as it was sent, with dots stuffed and the end of data
    accepted: bool
    answer: bytes | None = None  # None: cut without one
    answered_at: float | None = None
    told: bool = False  # the whole answer was with the kernel before any cut
    _content: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def content(self) -> bytes:
        """The message, dots unstuffed, without the end of data."""
        if self._content is None:
            lines = self.stream.removesuffix(b".\r\n").split(b"\n")
            self._content = b"\n".join(line.removeprefix(b".") for line in lines)
        return self._content

    @property
    def code(self) -> int:
        return int((self.answer or b"")[:3] or 0)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One MAIL transaction. Its token is its sender's, or its content's."""

    connection: int
    at: float
    argument: str  # of MAIL, e.g. "<a@example.org> SIZE=100"
    sender: str
    clear: bool
    mail_reply: bytes = b""
    asked: list[Asked] = field(default_factory=list)
    data_reply: bytes = b""
    dot: Dot | None = None
    cut: bool = False  # the recorder reset the connection meanwhile: what it had answered may never have been read
    # The client ended the connection meanwhile, without a word: so, too. An envelope on its way behind a message that
    # takes long is left where it is, and begun elsewhere.
    left: bool = False
    ended: float | None = None  # its last reply left, or the connection was gone

    @property
    def token(self) -> str:
        """ "" for a report, and for mail from a sender without a token that broke off before its Message-ID."""
        if token := token_in(self.sender):
            return token
        if self.dot is None or self.is_report:
            return ""
        return token_in(self.dot.content)

    @property
    def is_report(self) -> bool:
        """A bounce or another report: a message that nobody submitted."""
        return self.dot is not None and self.sender == "" and b"multipart/report" in self.dot.content[:HEADER]

    @property
    def recipients(self) -> list[str]:
        """The accepted ones: who has the message when the dot is accepted."""
        return [one.address for one in self.asked if one.code // 100 == 2]


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Octets as they came or went. `clear`: outside TLS."""

    at: float
    sent: bool  # by the recorder
    octets: bytes
    clear: bool


@dataclass(slots=True, kw_only=True)
class Command:
    at: float
    line: str
    clear: bool

    @property
    def verb(self) -> str:
        return self.line.partition(" ")[0].upper()


@dataclass(slots=True, kw_only=True)
class Connection:
    """One connection at the recorder. `certificate` is the kind it showed ("good", "wrong name", ...)."""

    id: int
    opened: float
    closed: float | None = None
    chunks: list[Chunk] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    offered_starttls: bool = False
    starttls_reply: bytes = b""
    handshake: bool | None = None  # None: never tried
    handshake_at: float | None = None
    certificate: str = "good"

    def clear_octets(self) -> bytes:
        """What the client sent outside TLS."""
        return b"".join(chunk.octets for chunk in self.chunks if chunk.clear and not chunk.sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The end of a daemon process. `how` is "SIGKILL", "SIGTERM", ... or its exit code."""

    at: float
    how: str
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """From `begun` to `ended` this was broken on purpose: "disk full", "failing I/O"."""

    kind: str
    begun: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What /proc showed of a process, or a core file."""

    what: str
    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What a daemon took of the machine while nothing was in its queue."""

    pid: int
    memory: int  # octets, at most at any time until then
    descriptors: int
    wake_ups: float  # a second, of all its threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration under test promises, as far as an invariant speaks of it. Seconds."""

    first: float = 0.2
    factor: float = 1.0
    maximum: float = 3600.0
    jitter: float = 0.0
    lifetime: float = 5 * 86400.0
    tls: str = "none"  # the smarthost's level
    tls_memory: float = 86400.0
    secrets: tuple[str, ...] = ()  # passwords and tokens: none may be seen anywhere
    auth_in_clear: bool = False  # the administrator wants it so: secrets may be seen on the wire
    postmaster: str = ""  # may get notes about bounces that failed
    max_received: int = 50
    quiet_s: float = 30.0  # with something due and the smarthost accepting, some mail moves in such a time
    answer_s: float = 30.0  # a submission has its answer
    memory: int = 256 << 20  # of a daemon at its largest
    descriptors: int = 64  # open in a daemon that has nothing to do
    wake_ups: float = 10.0  # of such a daemon, a second
    record_s: float = 10.0  # from the answer to the dot to the durable record of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was seen of one run, from the first submission until the queue was quiet or the run was over."""

    calls: Sequence[Call]
    connections: Sequence[Connection] = ()
    attempts: Sequence[Attempt] = ()
    stops: Sequence[Stop] = ()
    log: Sequence[Event] = ()
    text_log: str = ""  # the log's raw text
    mailq: Sequence[Mapping[str, Any]] = ()  # `mailq --json` at the end
    history: Sequence[Mapping[str, Any]] = ()  # `pysendmail history --json`: a record for each, and `uncertain`
    settings: Settings = Settings()
    excuses: Sequence[Excuse] = ()
    samples: Sequence[Sample] = ()
    rests: Sequence[Rest] = ()
    ended: float = 0.0  # when the run was looked at


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Violation:
    """An invariant that did not hold, and how that shows."""

    invariant: str  # "I1" ... "I16"
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"
