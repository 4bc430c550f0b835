"""Wire: the octets of commands and of the message text, as they leave the machine (RFC 5321 §4.1, §4.5.2).

Promises: no control octet, no space outside quotes and no `<` or `>` reaches a command, whatever the caller passes,
so that no address or parameter can become a second one; on the wire there is only CRLF, and a line that begins
with a dot is stuffed, across any edge between chunks. What cannot be written so raises WireError, before a single
octet of it is written: that is a fault of ours, since `address` and `message` let nothing of the kind through.

Sources: RFC 1870 (SIZE), RFC 3461 §4 and §5 (DSN parameters, xtext), RFC 5891 (A-labels), RFC 6152 (BODY),
RFC 6531 §3.4 (SMTPUTF8), RFC 6533 §3 (utf-8 in ORCPT).
"""

from __future__ import annotations

import re
from functools import lru_cache
from io import IncrementalNewlineDecoder

from pysendmail.address import Address, AddressError, parse_path
from pysendmail.envelope import Recipient

# RFC 5321 §4.5.3.1.4 and the extensions' own additions make 512 + 26 + 17 + 10 + 500 + 1036; beyond is no mail of ours.
MAX_COMMAND_OCTETS = 2048

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_XTEXT_HEX = re.compile(r"\+([0-9A-F]{2})")
_NOT_XTEXT = re.compile(rb"[^!-*,-<>-~]")
_ONLY_CRLF = (None, "\r\n")  # what a text with no other line ends is known by
_NOT_UTF8_XTEXT = re.compile(r"[^!-*,-<>-\[\]-~]")


class WireError(ValueError):
    """Something that must not go on the wire. The text says what."""


def needs_smtputf8(address: str) -> bool:
    """Whether only a server with SMTPUTF8 can take it: a domain has an ASCII form, a local part has none."""
    return not address.isascii() and not _parsed(address).ascii_local


@lru_cache(1024)  # senders and recipients come again, and to be parsed is half of what a transaction costs
def path(address: str) -> bytes:
    """`<address>`, the domain in its ASCII form; "" is the null reverse-path `<>`."""
    if not address:
        return b"<>"
    mailbox = _parsed(address)
    if not mailbox.domain:
        return f"<{mailbox}>".encode()
    return f"<{str(mailbox).removesuffix(mailbox.domain)}{mailbox.ascii_domain}>".encode()


def _parsed(address: str) -> Address:
    try:
        return parse_path(address)
    except AddressError as error:
        raise WireError(str(error)) from None


def xtext(text: str) -> bytes:
    """RFC 3461 §4: printable ASCII but `+` and `=`, the rest as +XX. Only ASCII has such a form."""
    try:
        octets = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise WireError("a DSN parameter that is not ASCII") from error
    return _NOT_XTEXT.sub(lambda match: b"+%02X" % match[0][0], octets)


def from_xtext(text: str) -> str:
    """What xtext stands for, where that is printable ASCII: no encoded control character gets any further."""
    if not _XTEXT.fullmatch(text):
        raise WireError("not xtext (RFC 3461 §4)")
    decoded = _XTEXT_HEX.sub(lambda match: chr(int(match[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):
        raise WireError("xtext that does not stand for printable ASCII")
    return decoded


def command(*words: bytes) -> bytes:
    """One command line. The last gate before the wire, for whatever the functions above may have overlooked."""
    line = b" ".join(words)
    if _CONTROL.search(line):
        raise WireError("a control character in a command")
    if len(line) > MAX_COMMAND_OCTETS:
        raise WireError(f"a command of more than {MAX_COMMAND_OCTETS} octets")
    return line + b"\r\n"


def mail(
    sender: str,
    *,
    size: int | None = None,
    eight_bit: bool = False,
    smtputf8: bool = False,
    ret: str = "",
    envid: str = "",
) -> bytes:
    """MAIL. Each parameter is written when given: the caller knows what the server offers."""
    words = [b"MAIL", b"FROM:" + path(sender)]
    if size is not None:
        words.append(b"SIZE=%d" % size)
    if eight_bit:
        words.append(b"BODY=8BITMIME")
    if smtputf8:
        words.append(b"SMTPUTF8")
    elif needs_smtputf8(sender):
        raise WireError("a sender that needs SMTPUTF8")
    if ret:
        words.append(b"RET=" + _word(ret))
    if envid:
        words.append(b"ENVID=" + xtext(envid))
    return command(*words)


def rcpt(recipient: Recipient, *, smtputf8: bool = False, dsn: bool = False) -> bytes:
    """RCPT, with NOTIFY and ORCPT when the server offers DSN."""
    words = [b"RCPT", b"TO:" + path(recipient.address)]
    if not smtputf8 and needs_smtputf8(recipient.address):
        raise WireError("a recipient that needs SMTPUTF8")
    if dsn and recipient.notify:
        words.append(b"NOTIFY=" + b",".join(_word(word) for word in sorted(recipient.notify)))
    if dsn and recipient.orcpt:
        words.append(b"ORCPT=" + _orcpt(recipient.orcpt))
    return command(*words)


def _word(word: str) -> bytes:
    """A keyword of DSN: letters only."""
    if not (word.isascii() and word.isalpha()):
        raise WireError("a DSN keyword that is none")
    return word.upper().encode()


def _orcpt(orcpt: str) -> bytes:
    kind, semicolon, address = orcpt.partition(";")
    if not semicolon or not kind.isascii():
        raise WireError("an ORCPT without a type")
    if kind.lower() == "utf-8":  # RFC 6533 §3: utf-8-addr-xtext, right with and without SMTPUTF8
        return xtext(kind) + b";" + _NOT_UTF8_XTEXT.sub(lambda m: f"\\x{{{ord(m[0]):02X}}}", address).encode()
    return xtext(kind) + b";" + xtext(address)


def _has_lines_of_one_length(text: bytes) -> bool:
    """Whether CRLFs stand at equal distances, as in attachments, and there is no other CR or LF.

    To ask that takes a third of the time that it takes to look for line ends. False means nothing.
    """
    first = text.find(b"\r\n")
    length = text.find(b"\r\n", first + 2) - first
    if first < 0 or length < 0 or text.endswith(b"\r"):  # a CR at the end may stand where the next CRLF would
        return False
    if text[first::length].strip(b"\r") or text[first + 1 :: length].strip(b"\n"):
        return False
    others = bytearray(text)
    del others[first::length]
    del others[first :: length - 1]
    return b"\r" not in others and b"\n" not in others


class DotStuffer:
    """A message in CRLF form goes in, in chunks of any size; what goes between the 354 and the final reply comes out.

    A bare CR or LF raises WireError: normalisation happened at submission, and what is stored otherwise would be
    the seed of a smuggled message at the next server that is less strict than the first.
    """

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR at the end of a chunk, until we know what follows

    def encode(self, chunk: bytes) -> bytes:
        """The part of the text that is ready."""
        text = self._held + chunk
        self._held = b"\r" if text.endswith(b"\r") else b""
        if self._held:
            text = text[:-1]
        if not text:
            return b""
        if not _has_lines_of_one_length(text):
            # It says which line ends it saw, and looks at each octet once: three counts take several times as long.
            lines = IncrementalNewlineDecoder(None, translate=False)
            lines.decode(text.decode("latin-1"), final=True)
            if lines.newlines not in _ONLY_CRLF:
                raise WireError("a bare CR or LF in a stored message")
        # Attachments hardly ever have a dot, and to find that there is none costs next to nothing.
        stuffed = text.replace(b"\r\n.", b"\r\n..") if b"." in text else text
        if self._at_line_start and text.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = text.endswith(b"\r\n")
        return stuffed

    def finish(self) -> bytes:
        """The end of data; with the line end before it, should the message lack one."""
        if self._held:
            raise WireError("a bare CR or LF in a stored message")
        return b".\r\n" if self._at_line_start else b"\r\n.\r\n"
