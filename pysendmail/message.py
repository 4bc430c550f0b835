"""Message: stdin to header fields and body, and what submission does to the header. Bytes stay bytes.

`Intake` reads, in pieces of any size and with bounded memory; the result does not depend on how the input was
cut. One rule for line ends: CR*LF is CRLF, a bare LF is CRLF, any other CR or NUL becomes one space, counted
in `stray`. So what leaves has only CRLF, and no CR, LF or NUL elsewhere. `complete` drops Bcc, Resent-Bcc,
Return-Path and Content-Length in every spelling of RFC 5322 (§4.5: white space before the colon), adds what
is missing (Date, From, Message-ID, the Resent- ones) on top, and never reorders the user's own fields.

Errors: MessageError, or AddressError from `recipients`; both mean that the message is refused (65).
Sizes are octets. Lines over 998 octets (RFC 5322 §2.1.1): a header line is folded, at white space if it can be, else
where the field's syntax has room for some; a word of text that is longer becomes encoded-words. A single token of a
structured field that is longer stays as it is, since cutting it would change what it says, and a server may then
refuse the message. A body line is only noticed (`overlong`); `mime` encodes it.
Not here: MIME, which recipients are allowed, aliases. The "for" clause of Received is never written: it could
name a Bcc.
"""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from pysendmail.address import parse_list
from pysendmail.origin import Origin
from pysendmail.smtp.reply import printable

# RFC 5322 §2.1.1, without CRLF.
MAX_LINE_OCTETS = 998
# Ten times what Postfix takes; it is held in memory, and each field costs some 200 octets more.
MAX_HEADER_OCTETS = 1 << 20
MAX_FIELDS = 20_000
# A field's name fits a line. White space between it and the colon has no limit of its own in RFC 5322 §4.5.8;
# beyond this a line is taken for body, so that one without a line end is decided on after a bounded look.
MAX_NAME_OCTETS = 998
MAX_GAP_OCTETS = 1 << 16
# CRs in a row; they are held until it is known whether a LF follows, and then may all become spaces at once.
MAX_CR_RUN = 1 << 20
# The name in a From field that we write, in characters; and a Message-ID in the log and the history.
MAX_FULL_NAME = 200
MAX_MESSAGE_ID = 250

_FIELD = re.compile(rb"([!-9;-~]{1,%d}+)[ \t]{0,%d}+:" % (MAX_NAME_OCTETS, MAX_GAP_OCTETS))
_FIELD_SO_FAR = re.compile(rb"[!-9;-~]{0,%d}+(?:[ \t]{1,%d}+)?+" % (MAX_NAME_OCTETS, MAX_GAP_OCTETS))
# mbox's separator, also quoted. "From :" is the obsolete spelling of the field, not a separator.
_FROM_LINE = re.compile(rb">{0,16}+From (?![ \t]{0,%d}+:)" % MAX_GAP_OCTETS)
_CR_LF = re.compile(rb"(?<!\r)\r++\n")
_LONE_DOT = re.compile(rb"\.\r*+\n")
_LONE_DOT_LATER = re.compile(rb"\n\.\r*+\n")
_STRAY_TO_SPACE = bytes.maketrans(b"\r\0", b"  ")
_BLANKS = b" \t"
_BLANK = re.compile(rb"[ \t]")
_TEXT = re.compile(rb"[^ \t]")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
# Fields in which white space may stand between any two tokens (RFC 5322 §3.2.2); all others are taken for text.
_STRUCTURED = re.compile(
    rb"(?:resent-)?(?:from|sender|to|cc|reply-to|message-id)|in-reply-to|references|received|list-.*|dkim-signature|arc-.*"
    rb"|authentication-results|content-(?:type|disposition)|errors-to|disposition-notification-to",
    re.IGNORECASE,
)
# What is in quotes, parentheses or brackets, where it is not closed to the end (so that it is looked at once); or else
# a comma, a semicolon or an "<".
_AROUND_GAPS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|\((?:[^()\\]|\\.)*+\)?|\[[^\[\]]*+\]?|[,;<]', re.DOTALL)
_RUN_OF_BLANKS = re.compile(rb"[ \t]++")
_BLANKS_AT_END = re.compile(rb"(?<=[^ \t\r\n]) (?=\r\n)")
_BLANKS_AND_FOLDS = re.compile(rb"([ \t\r\n]+)")
_NOT_CLAIMED = re.compile(r"[^A-Za-z0-9._:@+-]")  # anybody's words, in a comment
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DROPPED = frozenset({b"bcc", b"resent-bcc", b"return-path", b"content-length"})
_ADDED = frozenset({b"date", b"from", b"message-id"})
_RECIPIENTS = (b"to", b"cc", b"bcc")
_RESENT_RECIPIENTS = (b"resent-to", b"resent-cc", b"resent-bcc")


class MessageError(ValueError):
    """A message that cannot be taken as it is. The words say what is wrong and what the limit is."""


@dataclass(frozen=True, slots=True)
class Field:
    """One header field: `name` in lower case, `raw` all its lines with the final CRLF, as written."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What is after the colon, unfolded (RFC 5322 §2.2.3), without white space around it."""
        return self.raw.partition(b":")[2].replace(b"\r\n", b"").strip(_BLANKS)


# -- reading ------------------------------------------------------------------------------------------------


class Intake:
    """The message on stdin, fed in pieces: `fields` once `header_done`, the body from `take`.

    With `dot_ends`, a line with a lone dot ends the message (`ended`); what comes after is ignored. The
    header ends at the first line that is neither a field nor a continuation; if that line is not empty, it is
    the first of the body. Lines that separate messages in an mbox are dropped where they open the message.
    """

    def __init__(self, *, dot_ends: bool) -> None:
        self.header_done = False
        self.ended = False
        self.fields: list[Field] = []
        self.size = 0  # octets of body so far, with CRLF
        self.stray = 0  # CRs and NULs that became spaces
        self.eight_bit = False  # in the body
        self.header_eight_bit = False
        self.overlong = False  # a body line of more than MAX_LINE_OCTETS
        self._dot_ends = dot_ends
        self._finished = False
        self._held = bytearray()  # a dot that may be a lone one, CRs that may belong to a line end
        self._line_start = True
        self._header = _HeaderReader()
        self._ready: list[bytes] = []
        self._column = 0  # octets of the body's unfinished line

    def feed(self, data: bytes) -> None:
        """Take more input; raises MessageError when it is beyond a bound."""
        if self.ended or self._finished:
            return
        if self._held:
            self._held += data
            if not data.strip(b"\r"):
                self._check_held()
                return
            data = bytes(self._held)
            self._held.clear()
        self._lines(self._line_ends(self._hold(self._before_dot(data))))
        if self.ended:
            self._end_header()

    def finish(self) -> None:
        """End of input: what was held back is decided, and the last line gets the end that it may lack."""
        if self.ended or self._finished:
            return
        self._finished = True
        if self._held == b".":
            self.ended = True
        else:
            self._lines(self._line_ends(bytes(self._held)))
            if self._column if self.header_done else self._header.unfinished_line:
                self._lines(b"\n")
        self._end_header()

    def take(self) -> bytes:
        """The octets of the body that became ready since the last call."""
        ready = b"".join(self._ready)
        self._ready.clear()
        return ready

    def _before_dot(self, data: bytes) -> bytes:
        """What comes before a lone dot. Looked for first of all: what is after it must have no effect."""
        if not self._dot_ends:
            return data
        if self._line_start and _LONE_DOT.match(data):
            self.ended = True
            return b""
        if b"\n." in data and (match := _LONE_DOT_LATER.search(data)):
            self.ended = True
            return data[: match.start() + 1]
        return data

    def _hold(self, data: bytes) -> bytes:
        """All but the end that what comes next decides on."""
        kept = data.rstrip(b"\r")
        dot = self._dot_ends and (kept.endswith(b"\n.") or (self._line_start and kept == b"."))
        kept = kept[:-1] if dot else kept
        if len(kept) < len(data) and not self.ended:
            self._held += data[len(kept) :]
            self._check_held()
            return kept
        return data

    def _check_held(self) -> None:
        if len(self._held) - self._held.startswith(b".") > MAX_CR_RUN:
            raise _too_many_crs()

    def _line_ends(self, data: bytes) -> bytes:
        """Line ends become LF, other CRs and NULs spaces."""
        if b"\r" in data:
            if len(data) > MAX_CR_RUN and b"\r" * (MAX_CR_RUN + 1) in data:
                raise _too_many_crs()
            data = data.replace(b"\r\n", b"\n")
            if b"\r\n" in data:
                data = _CR_LF.sub(b"\n", data)
        if b"\r" in data or b"\0" in data:
            self.stray += data.count(b"\r") + data.count(b"\0")
            data = data.translate(_STRAY_TO_SPACE)
        return data

    def _lines(self, data: bytes) -> None:
        if not data:
            return
        self._line_start = data.endswith(b"\n")
        if self.header_done:
            self._body(data)
        elif (body := self._header.feed(data)) is not None:
            self._end_header()
            self._body(body)

    def _end_header(self) -> None:
        if not self.header_done:
            self.header_done = True
            self.fields = self._header.finish()
            self.header_eight_bit = any(not field.raw.isascii() for field in self.fields)

    def _body(self, data: bytes) -> None:
        self.eight_bit = self.eight_bit or not data.isascii()
        self._measure_lines(data)
        data = data.replace(b"\n", b"\r\n")
        self.size += len(data)
        self._ready.append(data)

    def _measure_lines(self, data: bytes) -> None:
        """Notice an overlong line by hopping from line end to line end, as far apart as is allowed."""
        position, room = 0, MAX_LINE_OCTETS - self._column
        while not self.overlong and len(data) - position > room:
            line_end = data.rfind(b"\n", position, position + room + 1)
            self.overlong = line_end < 0
            position, room = line_end + 1, MAX_LINE_OCTETS
        last = data.rfind(b"\n")
        self._column = len(data) - last - 1 if last >= 0 else self._column + len(data)


def _too_many_crs() -> MessageError:
    return MessageError(f"more than {MAX_CR_RUN} CRs in a row; is it a message?")


class _HeaderReader:
    """Lines that end with LF, cut into fields; what is left when the header is over goes back."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no LF before here
        self._look_at = MAX_LINE_OCTETS  # the length at which an unfinished line is looked at next
        self._octets = 0
        self._fields: list[Field] = []
        self._name = b""  # of the field being read
        self._lines: list[bytes] = []

    @property
    def unfinished_line(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: bytes) -> bytes | None:
        """None while the header goes on; else the start of the body."""
        self._buffer += data
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._searched)) + 1) > 0:
            line = bytes(self._buffer[start:end])
            if line == b"\n":
                return self._rest(end)
            if not self._take(line):
                return self._rest(start)
            start = end
        if start:
            del self._buffer[:start]
            self._look_at = MAX_LINE_OCTETS
        self._searched = len(self._buffer)
        if len(self._buffer) > self._look_at and not self._may_become_header():
            return self._rest(0)
        return None

    def _rest(self, start: int) -> bytes:
        rest = bytes(memoryview(self._buffer)[start:])
        self._buffer = bytearray()
        return rest

    def finish(self) -> list[Field]:
        self._end_field()
        return self._fields

    def _take(self, line: bytes) -> bool:
        """Whether the line belongs to the header."""
        if self._continues(line):
            self._lines.append(line)
        elif (field := _FIELD.match(line)) is not None:
            self._end_field()
            self._name = field[1].lower()
            self._lines.append(line)
        elif not self._separates(line):
            return False
        self._octets += len(line)
        self._check_octets(0)
        return True

    def _may_become_header(self) -> bool:
        """Look at a long line without end (at twice the length each time, so that it costs linear time)."""
        self._look_at = 2 * len(self._buffer)
        if self._belongs(self._buffer):
            self._check_octets(len(self._buffer))
            return True
        return _FIELD_SO_FAR.fullmatch(self._buffer) is not None

    def _belongs(self, line: bytes | bytearray) -> bool:
        """Decided by how the line begins, so that it holds for one whose end is yet to come."""
        return self._continues(line) or self._separates(line) or _FIELD.match(line) is not None

    def _continues(self, line: bytes | bytearray) -> bool:
        return bool(self._lines) and line.startswith((b" ", b"\t"))

    def _separates(self, line: bytes | bytearray) -> bool:
        # Only what opens the message: a field keeps its lines until the next one begins.
        return not self._lines and _FROM_LINE.match(line) is not None

    def _check_octets(self, more: int) -> None:
        if self._octets + more > MAX_HEADER_OCTETS:
            raise MessageError(f"the header is larger than {MAX_HEADER_OCTETS} octets; is it a message?")

    def _end_field(self) -> None:
        if not self._lines:
            return
        self._fields.append(Field(self._name, b"".join(self._lines).replace(b"\n", b"\r\n")))
        self._lines.clear()
        if len(self._fields) > MAX_FIELDS:
            raise MessageError(f"the header has more than {MAX_FIELDS} fields; is it a message?")


def split_header(header: bytes) -> list[Field]:
    """The fields of a header as it is stored. Together they are the header again; what is no field has no name."""
    lines = header.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if not number or not line.startswith((b" ", b"\t"))]
    raws = (b"".join(lines[start:end]) for start, end in pairwise((*starts, len(lines))))
    return [Field(match[1].lower() if (match := _FIELD.match(raw)) else b"", raw) for raw in raws]


# -- deciding -----------------------------------------------------------------------------------------------


def recipients(fields: Sequence[Field]) -> list[str]:
    """The addresses for `-t`, in order, repeated where they are: To, Cc, Bcc.

    Where a Resent- recipient field is anywhere, they come from the first Resent- block alone (RFC 5322
    §3.6.6): the others are somebody's earlier resending. Raises AddressError.
    """
    resent = any(field.name in _RESENT_RECIPIENTS for field in fields)
    chosen = newest_resent(fields) if resent else fields
    wanted = _RESENT_RECIPIENTS if resent else _RECIPIENTS
    return [address for field in chosen if field.name in wanted for address in parse_list(field.value)]


def hops(fields: Iterable[Field]) -> int:
    """How many servers it came through already: the number of Received fields (RFC 5321 §6.3)."""
    return sum(field.name == b"received" for field in fields)


def newest_resent(fields: Iterable[Field]) -> list[Field]:
    """The newest block: from the first Resent- field to a Received field below it or to a second block.

    A second block shows itself by a name that the first has had; the same name twice in a row is one long
    list, as the obsolete syntax has it (RFC 5322 §4.5.3).
    """
    block: list[Field] = []
    names: set[bytes] = set()
    for field in fields:
        if field.name == b"received" and block:
            break
        if not field.name.startswith(b"resent-"):
            continue
        if field.name in names and field.name != block[-1].name:
            break
        block.append(field)
        names.add(field.name)
    return block


# -- completing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The header to be sent, without Received; ends with the CRLF of its last field, no blank line."""

    header: bytes
    message_id: str  # the one in force, fit to be shown; "" if there is none (fix_up was off)


def complete(
    fields: Sequence[Field],
    *,
    sender_address: str,
    full_name: str,
    date: str,
    message_id: str,
    fix_up: bool = True,
) -> Completed:
    """Drop what must not leave, add what is missing on top, fold what is too long.

    `sender_address` is for a From that is missing, and must not be empty then; `message_id` comes with its
    angle brackets. A Date, From or Message-ID without a value is replaced. Without `fix_up` nothing is added
    (`-G`), but Bcc and its like go all the same.
    """
    kept = [field for field in fields if field.name not in _DROPPED]
    added: list[bytes] = []
    ours = ""
    if fix_up:
        kept = [field for field in kept if field.name not in _ADDED or field.value]
        present = {field.name for field in kept}
        if resent := {field.name for field in _resent_by_us(kept)}:
            added += _missing("Resent-", resent, sender_address, full_name, date, f"<resent.{message_id[1:]}")
        added += _missing("", present, sender_address, full_name, date, message_id)
        ours = message_id
    in_force = next((field.value for field in kept if field.name == b"message-id" and field.value), ours)
    header = b"".join((*added, *(fold(field.raw) for field in kept)))
    return Completed(header=header, message_id=printable(in_force, MAX_MESSAGE_ID))


def _missing(
    prefix: str, present: set[bytes], sender_address: str, full_name: str, date: str, message_id: str
) -> Iterator[bytes]:
    def missing(name: str) -> bool:
        return (prefix + name).lower().encode() not in present

    if missing("Date"):
        yield _field(prefix + "Date", date)
    if missing("From"):
        yield _field(prefix + "From", *mailbox(full_name, sender_address))
    if missing("Message-ID"):
        yield _field(prefix + "Message-ID", message_id)


def _resent_by_us(fields: Sequence[Field]) -> list[Field]:
    """The first Resent- block, if it is this submission's own: one below a Received field is older."""
    for field in fields:
        if field.name == b"received":
            return []
        if field.name.startswith(b"resent-"):
            return newest_resent(fields)
    return []


def _field(name: str, *lines: str) -> bytes:
    """A field of ours. All text that we put into a header passes here; none of it can begin another field."""
    for line in lines:
        if not line.strip() or printable(line, len(line)) != line:
            raise ValueError(f"not fit for the field {name}: {printable(line, 80)!r}")
    return f"{name}: ".encode() + "\r\n ".join(lines).encode() + b"\r\n"


def mailbox(full_name: str, address: str) -> list[str]:
    """`Full Name <address>` for a header, as lines. The name is any text and is made fit to be shown."""
    if not address:
        raise ValueError("a From field needs an address")
    name = printable(" ".join(full_name.split()), MAX_FULL_NAME)
    if not name:
        return [address]
    lines = [_phrase(name)] if name.isascii() else [word.decode() for word in _encoded_words(name.encode())]
    if len(f"Resent-From: {lines[-1]} <{address}>") > 78:
        return [*lines, f"<{address}>"]
    return [*lines[:-1], f"{lines[-1]} <{address}>"]


def _phrase(name: str) -> str:
    # What looks like an encoded word must be quoted, lest a reader decodes it (RFC 2047 §5).
    if _ATOMS.fullmatch(name) and "=?" not in name:
        return name
    return '"' + re.sub(r'["\\]', r"\\\g<0>", name) + '"'


def _encoded_words(text: bytes) -> Iterator[bytes]:
    """RFC 2047 §2: an encoded word has at most 75 characters, and §5: whole characters."""
    try:
        text.decode("utf-8")
        charset, most = b"utf-8", 45
    except UnicodeDecodeError:
        charset, most = b"unknown-8bit", 42  # RFC 1428: somebody knows the charset; we don't
    start = 0
    while start < len(text):
        end = min(start + most, len(text))
        while charset == b"utf-8" and end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
        yield b"=?%b?b?%b?=" % (charset, binascii.b2a_base64(text[start:end], newline=False))
        start = end


def fold(raw: bytes, width: int = MAX_LINE_OCTETS) -> bytes:
    """A field with its lines of more than `width` octets folded at white space, where there is any.

    Where that leaves a line of more than MAX_LINE_OCTETS, a run of white space becomes one space, and one is put where
    the syntax of a structured field allows it; in any other field the word that is too long becomes encoded-words,
    which say the same (RFC 2047 §5).
    """
    if len(raw) <= width:
        return raw
    if raw.find(b"\r\n") > width and (match := _FIELD.match(raw)):
        raw = match[1] + raw[match.end() - 1 :]  # cut before the colon, its name alone would end the header
    folded = _fold_at_blanks(raw, width)
    if _is_short(folded):
        return folded
    name, colon, text = folded.partition(b":")
    text = b" " + _BLANKS_AT_END.sub(b"", _RUN_OF_BLANKS.sub(b" ", text)).removeprefix(b" ")
    match = _FIELD.match(folded)
    if match is not None and _STRUCTURED.fullmatch(match[1]):
        lines = (name + colon + text).split(b"\r\n")[:-1]
        folded = b"".join(piece + b"\r\n" for line in lines for piece in _parted(line))
    else:
        folded = name + colon + _encode_long_words(text)
    return _fold_at_blanks(folded, width)


def _is_short(raw: bytes) -> bool:
    return max(map(len, raw.split(b"\r\n"))) <= MAX_LINE_OCTETS


def _fold_at_blanks(raw: bytes, width: int) -> bytes:
    return b"".join(piece + b"\r\n" for line in raw.split(b"\r\n")[:-1] for piece in _folded(line, width))


def _folded(line: bytes, width: int) -> Iterator[bytes]:
    """Pieces that begin with the white space they are cut at. None is blank: that could end a header."""
    text_end = len(line.rstrip(_BLANKS))
    start = 0
    while len(line) - start > width:
        text = _TEXT.search(line, start)
        if text is None:
            break
        cut = max(line.rfind(blank, text.end(), min(start + width + 1, text_end)) for blank in (b" ", b"\t"))
        if cut < 0:
            blank = _BLANK.search(line, text.end(), text_end)
            if blank is None:
                break
            cut = blank.start()
        yield line[start:cut]
        start = cut
    yield line[start:]


def _parted(line: bytes) -> Iterator[bytes]:
    """Pieces of a line that is too long, cut where white space may stand."""
    if len(line) <= MAX_LINE_OCTETS:
        yield line
        return
    start = end = 0
    space = b""
    for place in [*_gaps(line), len(line)]:
        if len(space) + place - start > MAX_LINE_OCTETS and line[start:end].strip(_BLANKS):
            yield space + line[start:end]
            start, space = end, b" "
        end = place
    yield space + line[start:]


def _gaps(line: bytes) -> Iterator[int]:
    """Behind each comma and semicolon, and before each "<" and comment."""
    for match in _AROUND_GAPS.finditer(line):
        if match[0] in (b",", b";"):
            yield match.end()
        elif match[0].startswith((b"<", b"(")):
            yield match.start()


def _encode_long_words(text: bytes) -> bytes:
    """Unstructured text with encoded-words for each word that fits no line."""
    pieces = _BLANKS_AND_FOLDS.split(text)  # words at even places
    for number in range(0, len(pieces), 2):
        word = pieces[number]
        if len(word) >= MAX_LINE_OCTETS:
            # White space between two encoded-words is not shown, so it goes into one of them (RFC 2047 §6.2).
            before = b" " if number and pieces[number - 2].endswith(b"?=") else b""
            after = b" " if number + 2 < len(pieces) and pieces[number + 2].startswith(b"=?") else b""
            pieces[number] = b"\r\n ".join(_encoded_words(before + word + after))
    return b"".join(pieces)


def received(
    *,
    host: str,
    queue_id: str,
    date: str,
    uid: int | None,
    style: Literal["full", "minimal", "none"],
    origin: Origin | None = None,
    helo: str = "",
    esmtp: bool = False,
) -> bytes:
    """Our Received field (RFC 5321 §4.4), or nothing with the style "none".

    "minimal" shows neither the uid nor what the client called itself. `helo` is whatever a client said: only
    what a name is made of gets into the field. `origin` is what it may show of a process. Never a "for" clause: it
    could name a Bcc.
    """
    if style == "none":
        return b""
    full = style == "full"
    client = f"from {_NOT_IN_A_NAME.sub('?', helo)[:255]} " if helo and full else ""
    who = f", from uid {uid}" if uid is not None and full else ""
    if origin is not None and full:
        claims = {"process": origin.pid, "command": origin.command, "unit": origin.unit}
        who += "".join(f", {what} {_NOT_CLAIMED.sub('?', str(claim))}" for what, claim in claims.items() if claim)
    protocol = f" with {'ESMTP' if esmtp else 'SMTP'}" if helo else ""
    return _field("Received", f"{client}by {host} (pysendmail{who}){protocol} id {queue_id};", date)


def rfc5322_date(epoch: float) -> str:
    """An instant as a Date field has it (RFC 5322 §3.3), in local time; English whatever the locale."""
    local = time.localtime(epoch)
    minutes = (local.tm_gmtoff or 0) // 60
    sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
    return (
        f"{_DAYS[local.tm_wday]}, {local.tm_mday} {_MONTHS[local.tm_mon - 1]} {local.tm_year:04}"
        f" {local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {sign}{minutes // 60:02}{minutes % 60:02}"
    )
