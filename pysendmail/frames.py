"""Frames: what a command and the daemon say to each other over the Unix socket, as bytes and back.

A frame is one type byte, the length of its payload as four bytes (big-endian), and the payload. A
conversation:

    to the daemon    V  version byte and a random 16-byte submission id: first, always
                     A  argv, each argument ended by a NUL, argv[0] included
                     E  the few environment variables that sendmail honours, each NAME=value ended by a NUL
                        (optional)
                     D  standard input, any number of frames of any size up to `MAX_CHUNK`
                     Z  standard input has ended; only now may anything be queued
                     Q  directly after V, in place of A E D Z: what became of that submission id?
    to the client    1  bytes for standard output      2  bytes for standard error
                     X  the exit code, one byte: the end
                     U  the answer to a Q whose id is unknown, so nothing was queued: the end

The daemon may answer X at any time, also before Z (a refusal; a lone dot that ended the message). To Q it
answers X with the code of that submission, waiting while it is being received or committed, or U. A client that
vanishes before Z leaves nothing behind. Between Z and X a client waits a minute from frame to frame: a daemon that
works for longer (-v, -qf) sends an empty 1 or 2 each `ALIVE_S`.

Versions: a daemon of version N takes N and N-1 and speaks the version that V named, and answers another one with
words and X; a client begins to speak N one release after daemons do. A change that an N-1 peer would misread makes a
new N; V, 2 and X stay as they are.

`Decoder` holds a conversation to this order and to the bounds below. `FrameError` leaves it for anything
else: that connection is to be closed, and nothing else happens (one malformed frame on a 0666 socket must
never end a service). No I/O here. `thin/client.py` has its own copy of the constants, because it may import
nothing; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VERSION = 1
VERSIONS = frozenset({1})  # what a daemon takes: N and, when there is one, N-1

HELLO, ARGV, ENVIRONMENT, DATA, END, ASK = b"V", b"A", b"E", b"D", b"Z", b"Q"
STDOUT, STDERR, EXIT, UNKNOWN = b"1", b"2", b"X", b"U"

HEADER_OCTETS = 5
ID_OCTETS = 16  # random, so that nobody can ask for, or collide with, another's submission
MAX_ARGV_OCTETS = 1 << 20  # half of what Linux passes to a program at the usual stack limit
MAX_ARGUMENTS = 10_000  # ten times the default max_recipients
MAX_ENVIRONMENT_OCTETS = 4096  # a full name
MAX_VARIABLES = 16
MAX_CHUNK = 256 << 10  # one chunk row of a body
ALIVE_S = 20.0  # a third of what the client waits


class FrameError(ValueError):
    """The peer does not speak this protocol. Close the connection."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: bytes  # one of the constants above
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The bound of each kind's payload, and which kinds may follow which (b"" is the beginning)."""

    bounds: Mapping[bytes, range]
    follow: Mapping[bytes, bytes]


_CHUNK = range(MAX_CHUNK + 1)
_NOTHING = range(1)

TO_DAEMON = Grammar(
    bounds={
        HELLO: range(1 + ID_OCTETS, 1 + ID_OCTETS + 1),
        ARGV: range(1, MAX_ARGV_OCTETS + 1),
        ENVIRONMENT: range(MAX_ENVIRONMENT_OCTETS + 1),
        DATA: _CHUNK,
        END: _NOTHING,
        ASK: _NOTHING,
    },
    follow={
        b"": HELLO,
        HELLO: ARGV + ASK,
        ARGV: ENVIRONMENT + DATA + END,
        ENVIRONMENT: DATA + END,
        DATA: DATA + END,
    },
)
TO_CLIENT = Grammar(
    bounds={STDOUT: _CHUNK, STDERR: _CHUNK, EXIT: range(1, 2), UNKNOWN: _NOTHING},
    follow={
        b"": STDOUT + STDERR + EXIT + UNKNOWN,
        STDOUT: STDOUT + STDERR + EXIT,
        STDERR: STDOUT + STDERR + EXIT,
    },
)


class Decoder:
    """Bytes in any pieces -> frames, in an order and of sizes that the grammar allows.

    Keeps at most one frame and one feed in memory: a length is judged before its payload is waited for.
    """

    def __init__(self, grammar: Grammar = TO_DAEMON) -> None:
        self._grammar = grammar
        self._buffer = bytearray()
        self._last = b""
        self._failed = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes; DATA that came together is one. Raises FrameError, then and ever after."""
        if self._failed:
            raise FrameError("this conversation has failed")
        self._buffer += data
        frames: list[Frame] = []
        pieces: list[bytearray] = []  # a frame costs its reader more than its octets: who sends small ones pays here
        start = 0
        try:
            while (size := self._next(start)) is not None:
                end = start + HEADER_OCTETS + size
                payload = self._buffer[start + HEADER_OCTETS : end]
                start = end
                if self._last == DATA:
                    pieces.append(payload)
                    continue
                if pieces:
                    frames.append(Frame(DATA, b"".join(pieces)))
                    pieces.clear()
                frames.append(Frame(self._last, bytes(payload)))
            if pieces:
                frames.append(Frame(DATA, b"".join(pieces)))
        except FrameError:
            self._failed = True
            self._buffer.clear()
            raise
        del self._buffer[:start]
        return frames

    @property
    def finished(self) -> bool:
        """The last frame of the conversation has been seen; a byte more is a FrameError."""
        return self._last not in self._grammar.follow

    @property
    def inside(self) -> bool:
        """Part of a frame is waiting for the rest: an end of the connection here has cut it."""
        return bool(self._buffer)

    def _next(self, start: int) -> int | None:
        """The payload's length of the whole frame at `start`, or None if it is not all there yet."""
        waiting = len(self._buffer) - start
        if not waiting:
            return None
        kind = bytes(self._buffer[start : start + 1])
        if self.finished:
            raise FrameError(f"a frame {kind!r} after the end")
        if kind not in self._grammar.bounds:
            raise FrameError(f"unknown frame type {kind!r}")
        if kind not in self._grammar.follow[self._last]:
            raise FrameError(f"a frame {kind!r} {'after ' + repr(self._last) if self._last else 'first'}")
        if waiting < HEADER_OCTETS:
            return None
        size = int.from_bytes(self._buffer[start + 1 : start + HEADER_OCTETS])
        if size not in self._grammar.bounds[kind]:
            raise FrameError(f"a frame {kind!r} of {size} octets")
        if waiting < HEADER_OCTETS + size:
            return None
        self._last = kind
        return size


def encode(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame. The bounds are the caller's concern, see `output` for text of any length."""
    return kind + len(payload).to_bytes(4) + payload


def output(kind: bytes, data: bytes) -> bytes:
    """`data` of any length as STDOUT or STDERR frames."""
    return b"".join(encode(kind, data[at : at + MAX_CHUNK]) for at in range(0, len(data), MAX_CHUNK))


def pack_hello(submission_id: bytes, version: int = VERSION) -> bytes:
    """The payload of V."""
    return bytes((version,)) + submission_id


def parse_hello(payload: bytes) -> tuple[int, bytes]:
    """V's payload -> (version, submission id); whether the version is one of `VERSIONS` is for the caller to say."""
    return payload[0], payload[1:]


def pack_strings(strings: Sequence[bytes]) -> bytes:
    """The payload of A or E. The strings come from the kernel, so there is no NUL in them."""
    return b"".join(string + b"\0" for string in strings)


def parse_argv(payload: bytes) -> tuple[bytes, ...]:
    """A's payload -> argv, at least argv[0]."""
    return _strings(payload, MAX_ARGUMENTS, "arguments")


def parse_environment(payload: bytes) -> dict[bytes, bytes]:
    """E's payload -> name and value."""
    environment: dict[bytes, bytes] = {}
    for string in _strings(payload, MAX_VARIABLES, "environment variables"):
        name, equals, value = string.partition(b"=")
        if not (name and equals):
            raise FrameError("an environment variable without a name or a value")
        environment[name] = value
    return environment


def _strings(payload: bytes, most: int, what: str) -> tuple[bytes, ...]:
    if payload and not payload.endswith(b"\0"):
        raise FrameError(f"{what} without a NUL at the end")
    if payload.count(b"\0") > most:
        raise FrameError(f"more than {most} {what}")
    return tuple(payload.split(b"\0")[:-1])
