"""Reply: what a server said, and the reader that cuts a byte stream into replies (RFC 5321 §4.2).

Promises: a reply is only ever a complete, well-formed one; everything else breaks the reader, after which the
connection is of no more use. Memory is bounded whatever the server sends. Text of a reply is data: it is shown
through `Reply.text`, which is escaped and capped, and is never parsed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# RFC 5321 §4.5.3.1.5 allows 512 octets a line; real servers go beyond it. What a person needs fits well within.
MAX_LINE_OCTETS = 2048
MAX_LINES = 100
# Kept in the history, the log and the bounce.
MAX_TEXT = 1000

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\r?\Z")
_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s|\Z)")
# C0, DEL, C1, and the marks that turn the direction of writing: none of them may reach a terminal or a header.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class ReplyError(Exception):
    """The server broke the grammar of replies, or a bound on them. The text says how."""


def printable(data: bytes | str, limit: int = MAX_TEXT) -> str:
    """Text from the network or a user, safe to show: one line, controls as \\xNN, at most `limit` characters."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    if len(text) <= limit and text.isprintable():  # nothing that _UNPRINTABLE names is printable
        return text

    def escape(match: re.Match[str]) -> str:
        point = ord(match[0])
        if 0xDC80 <= point <= 0xDCFF:
            point -= 0xDC00
        return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"

    escaped = _UNPRINTABLE.sub(escape, text[: limit + 1])
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class Reply:
    """One complete reply: its code (200-599) and its lines as the server sent them, without code and CRLF."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def first_digit(self) -> int:
        return self.code // 100

    @property
    def positive(self) -> bool:
        return self.first_digit == 2

    @property
    def status(self) -> str:
        """The enhanced status code (RFC 2034), or x.0.0 of its class where there is none or it contradicts the code."""
        match = _STATUS.match(self.lines[0].decode("ascii", "replace")) if self.lines else None
        if match and int(match[1]) == self.first_digit:
            return f"{match[1]}.{int(match[2])}.{int(match[3])}"
        return f"{self.first_digit}.0.0"

    @property
    def text(self) -> str:
        """Code and text on one line, escaped and capped, as it stands in the log, the history and a bounce."""
        return printable(b" ".join((b"%d" % self.code, *self.lines)).strip())


class ReplyReader:
    """Bytes in, replies out; any segmentation gives the same replies and the same end.

    A bare LF ends a line as CRLF does, since it cannot be mistaken for anything else here. Everything else that
    RFC 5321 §4.2 does not allow breaks the reader: no digits, a code outside 200-599, another code on a
    continuation line, a line or a reply beyond its bound. `broken` then says how, and nothing more is read;
    what was complete before is still returned, since a 250 to the final dot counts whatever follows it.
    """

    def __init__(self) -> None:
        self.broken = ""
        self._rest = b""  # a line without its end
        self._code = 0
        self._lines: list[bytes] = []

    @property
    def empty(self) -> bool:
        """Whether nothing is left over: no fragment of a line and no unfinished reply."""
        return not self._rest and not self._lines and not self.broken

    def feed(self, data: bytes) -> list[Reply]:
        """Add what was received; return the replies that it completed, in order."""
        replies: list[Reply] = []
        if self.broken:
            return replies
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                code, last, text = _parsed(line)
                if last and not self._lines:
                    replies.append(Reply(code, (text,)))
                elif (reply := self._continued(code, last, text)) is not None:
                    replies.append(reply)
            _check_length(self._rest)
        except ReplyError as error:
            self.broken = str(error)
        return replies

    def _continued(self, code: int, last: bool, text: bytes) -> Reply | None:
        """A line of a reply of several."""
        if self._lines and code != self._code:
            raise ReplyError(f"a reply that begins with {self._code} and goes on with {code}")
        self._code = code
        self._lines.append(text)
        if len(self._lines) > MAX_LINES:
            raise ReplyError(f"a reply of more than {MAX_LINES} lines")
        if not last:
            return None
        reply = Reply(code, tuple(self._lines))
        self._lines = []
        return reply


@lru_cache(128)  # most are the same for each message
def _parsed(line: bytes) -> tuple[int, bool, bytes]:
    """A line without its LF: code, whether the reply ends with it, text."""
    _check_length(line)
    match = _LINE.match(line)
    if match is None:
        shown = printable(line.removesuffix(b"\r"), 80)
        raise ReplyError(f"not an SMTP reply: {shown}")
    return int(match[1]), match[2] != b"-", match[3] or b""


def _check_length(line: bytes) -> None:
    if len(line) > MAX_LINE_OCTETS + line.endswith(b"\r"):
        raise ReplyError(f"a reply line of more than {MAX_LINE_OCTETS} octets")
