"""transfer: the content transfer encodings, piece by piece (RFC 2045 §6).

A Coder takes the content of a part in pieces of any size and gives it back as its Treatment wants it: in
quoted-printable or base64, or in the same encoding with lines that keep the limits. What is written so is ASCII; the
lines that are made here have at most WIDTH octets and never begin with "--", so that none becomes a delimiter.
Pieces of input must not end between CR and LF. Memory: a line, up to MAX_PIECE and a piece.
"""

from __future__ import annotations

import binascii
import re
from enum import IntEnum
from typing import Protocol, assert_never

# RFC 5322 §2.1.1, without CRLF.
MAX_LINE = 998
# Encoded lines (RFC 2045 §6.7, §6.8).
WIDTH = 76
# A line without an end is handed on in pieces of about this size.
MAX_PIECE = 32 * 1024

# In quoted-printable: "=" that begins no escape and no soft break. Readers take it, or two of them, for one "=".
_STRAY_EQUALS = re.compile(rb"==|=(?![0-9A-Fa-f]{2}|[ \t]*\Z)")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))


class Treatment(IntEnum):
    """What happens to the content of a part. KEEP is 0: a bytearray holds them."""

    KEEP = 0
    QUOTED_PRINTABLE = 1
    BASE64 = 2
    SOFT_BREAKS = 3  # it is quoted-printable, with lines that are not
    WRAP = 4  # it is base64, with lines that are not


def longest_line(data: bytes) -> int:
    """The length of the longest line, without its line end. `data` has CRLF line ends."""
    return max(map(len, data.split(b"\r\n")))


class Coder(Protocol):
    """Content in, encoded content out. Pieces never end between CR and LF."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


def coder(treatment: Treatment) -> Coder:
    match treatment:
        case Treatment.KEEP:
            return _Keep()
        case Treatment.QUOTED_PRINTABLE:
            return _QuotedPrintable()
        case Treatment.SOFT_BREAKS:
            return _SoftBreaks()
        case Treatment.BASE64:
            return _Base64(encoded=False)
        case Treatment.WRAP:
            return _Base64(encoded=True)
        case _:
            assert_never(treatment)


class _Keep:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Base64:
    """Lines of WIDTH, of content that is to be encoded or (`encoded`) is so already. The last has no line end."""

    def __init__(self, *, encoded: bool) -> None:
        self._encoded = encoded
        self._block = WIDTH if encoded else WIDTH // 4 * 3
        self._rest = b""
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        # What is outside the alphabet has no meaning in base64 (RFC 2045 §6.8), line ends among it.
        data = self._rest + (data.translate(None, _NOT_BASE64) if self._encoded else data)
        end = len(data) - len(data) % self._block
        self._rest = data[end:]
        return self._lines(data[:end])

    def finish(self) -> bytes:
        return self._lines(self._rest)

    def _lines(self, data: bytes) -> bytes:
        if not data:
            return b""
        text = data if self._encoded else binascii.b2a_base64(data, newline=False)
        out = b"\r\n".join(text[at : at + WIDTH] for at in range(0, len(text), WIDTH))
        if self._begun:
            out = b"\r\n" + out
        self._begun = True
        return out


def quoted_printable(text: bytes) -> bytes:
    """Text with CRLF line ends in quoted-printable (RFC 2045 §6.7). No line begins with "--" or is over WIDTH."""
    out = binascii.b2a_qp(text, istext=True)
    if b"\n" not in text:  # then binascii breaks lines as Unix does
        out = out.replace(b"\n", b"\r\n")
    # It lets a line become one too long, for a space at its end; and no encoded line may look like a delimiter.
    if out.startswith(b"--") or b"\n--" in out or longest_line(out) > WIDTH:
        out = b"\r\n".join(map(_narrow, out.split(b"\r\n")))
    return out


def _narrow(line: bytes) -> bytes:
    """A quoted-printable line as one or several of at most WIDTH, none of which begins with "--"."""
    lines, at = [], 0
    while len(line) - at > WIDTH - (2 if line.startswith(b"--", at) else 0):
        cut = at + WIDTH - 6
        cut -= 1 if line[cut - 1] == 0x3D else 2 if line[cut - 2] == 0x3D else 0  # not within =XX
        lines.append(_undashed(line[at:cut]) + b"=")
        at = cut
    return b"\r\n".join([*lines, _undashed(line[at:])])


def _undashed(line: bytes) -> bytes:
    return b"=2D" + line[1:] if line.startswith(b"--") else line


class _QuotedPrintable:
    def __init__(self) -> None:
        self._rest = b""  # a line without its end

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        out = quoted_printable(data[:end])
        if len(self._rest) > MAX_PIECE:
            *lines, last = quoted_printable(self._rest).split(b"\r\n")
            out += b"\r\n".join([*lines, _narrow(last + b"="), b""])
            self._rest = b""
        return out

    def finish(self) -> bytes:
        return quoted_printable(self._rest)


class _SoftBreaks:
    """Quoted-printable whose lines are too long, or not 7-bit, made into such as are neither."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False  # what is in `rest` follows a soft break of ours

    def feed(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        out = []
        for line in lines:
            out.append(self._line(line) + b"\r\n")
            self._begun = False
        if len(self._rest) > MAX_PIECE:
            end = self._piece()
            out.append(self._line(self._rest[:end]) + b"=\r\n")
            self._rest = self._rest[end:]
            self._begun = True
        return b"".join(out)

    def finish(self) -> bytes:
        return self._line(self._rest)

    def _piece(self) -> int:
        """How much of `rest` can be taken without cutting an escape, or a run of "=" that may be one."""
        end = len(self._rest) // 2 * 2
        if (equals := self._rest.find(b"=", end - 2, end)) >= 0:
            end = len(self._rest[:equals].rstrip(b"=")) or end
        return end

    def _line(self, line: bytes) -> bytes:
        if len(line) <= MAX_LINE and line.isascii() and not self._begun:
            return line
        line = _STRAY_EQUALS.sub(b"=3D", line)
        return _narrow(_EIGHT_BIT.sub(lambda octet: b"=%02X" % octet[0][0], line))
