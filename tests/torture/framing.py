"""Framing: a message as it goes over the wire and comes off it, in pieces of any size.

    octets = stuffed(pieces)             # by the encoder that every message leaves through
    text = received([octets])            # by the reader of our own SMTP server, which is another piece of code

`cuts` says in which pieces a text may come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pysendmail.smtp.service import Add, Begin, Finish, Limits, Service, Take
from pysendmail.smtp.wire import DotStuffer

SHORT = 12  # a text of so many octets is cut at each place, and at all of them
_LIMITS = Limits(hostname="box.example.com", message_octets=1 << 30, recipients=10)
_ENVELOPE = b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"


def stuffed(pieces: Sequence[bytes]) -> bytes:
    """From the 354 to the end of data. Raises WireError."""
    stuffer = DotStuffer()
    return b"".join([*map(stuffer.encode, pieces), stuffer.finish()])


def received(pieces: Sequence[bytes]) -> bytes:
    """The one message that a server takes these octets for. AssertionError where they are not exactly one."""
    service = Service(_LIMITS)
    text: list[bytes] = []
    ends = 0
    for piece in (_ENVELOPE, *pieces):
        service.feed(piece)
        while (step := service.next()) is not None:
            match step:
                case Begin() | Add():
                    service.accept("ok")
                case Finish():
                    ends += 1
                    service.accept("ok")
                case Take(octets=octets):
                    assert not ends, "text behind the end of data"
                    text.append(octets)
    assert not service.closed, "the rest of a message was taken for commands"
    assert ends == 1, f"{ends} ends of data"
    return b"".join(text)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """A short text cut at each place, and every text octet by octet or, if it is long, in pieces of odd sizes."""
    if len(data) <= SHORT:
        yield from ([data[:place], data[place:]] for place in range(1, len(data)))
    size = 1 if len(data) <= 20 * SHORT else 7 + len(data) // 50
    yield [data[start : start + size] for start in range(0, len(data), size)]
