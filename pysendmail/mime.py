"""mime: re-encoding a message so that no line is longer than 998 octets and, on demand, no octet has the high bit.

The first is done once, at submission (promise 5); the second for a server without 8BITMIME (RFC 6152 §3). A
message is read twice: a Survey finds out which parts need it, a Recoder writes the message anew.

    survey = Survey(header, seven_bit=...); survey.feed(data) ...; plan = survey.finish()
    plan.header; recoder = plan.recoder(); recoder.feed(data) ...; recoder.finish()

or `reencode`, which does that over iterators. Bytes in, bytes out, in pieces of any size; no I/O. Memory: some
pieces, a part's header section, and one byte for each part. Input has CRLF line ends (`message`).

Promises: a message that needs nothing comes out identical (`changed` is false), so the result is a fixed point.
Decoding the result gives, for each leaf part, the bytes that decoding the original gives. Only what needs it is
touched: text parts become quoted-printable, others base64; base64 with long lines is wrapped anew and
quoted-printable with long or 8-bit lines gets soft breaks and escapes; 8bit and binary on what holds no 8-bit
octet any more become 7bit. What is no part's content cannot be encoded: in the header of a part, 8-bit words
become RFC 2047 encoded-words (which mail programs read in parameters, too) and long lines are folded; in preamble
and epilogue, which nobody is shown, 8-bit octets become "?" and long lines are broken. The top header keeps its
8-bit octets. Deterministic.

Sections: RFC 2045 §6, RFC 2046 §5.1, RFC 2047 §5. Followed are multipart/*, message/rfc822 and message/global, to
MAX_DEPTH levels and MAX_PARTS parts; what is not followed (a boundary that is missing or never comes, other
message types, an encoded message/rfc822) is a leaf. A changed part inside of multipart/signed breaks its
signature, unavoidably: `signed` tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pysendmail.transfer import MAX_LINE, Coder, Treatment, coder, longest_line

# Levels of multipart and message within one another; what is deeper is a leaf. Real mail has four or five.
MAX_DEPTH = 20
# Real mail has dozens of parts at most. What comes after so many belongs to the last: no message may hold the
# process up for minutes with 8-octet parts.
MAX_PARTS = 10_000
# The header section of a part. What goes on after that is the part's body; no mail program writes so much.
MAX_PART_HEADER = 64 * 1024
# A boundary has at most 70 octets (RFC 2046 §5.1.1); longer ones are seen. No longer line is looked at as one.
MAX_DELIMITER = 1000
_FIELD = re.compile(rb"[!-9;-~]*:|From |[ \t]")
_PARAMETER = re.compile(rb';[ \t]*([^\s=;"]+)[ \t]*=[ \t]*("(?:\\.|[^"\\])*"|[^;]*)', re.DOTALL)
_TOKEN = re.compile(rb"[ \t]*([^ \t;(]*)")
_BETWEEN_WORDS = re.compile(rb'([\x00-\x20"<>()@,;:/\[\]?=\\\x7f]+)')
_QUESTION_MARKS = bytes(range(128)) + b"?" * 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Reencoded:
    """`header` and `body` of the message to send. `signed`: a part of a multipart/signed was changed."""

    header: bytes
    body: Iterator[bytes]
    changed: bool
    signed: bool


def reencode(header: bytes, body: Callable[[], Iterable[bytes]], *, seven_bit: bool) -> Reencoded:
    """The message without lines over MAX_LINE, and with `seven_bit` without 8-bit octets in its body.

    `header` is the header section without the empty line; `body` gives the body from its start, each time it is
    called. It is called once here, and once more when the result's body is read.
    """
    survey = Survey(header, seven_bit=seven_bit)
    for data in body():
        survey.feed(data)
    plan = survey.finish()

    def recoded() -> Iterator[bytes]:
        if not plan.changed:
            yield from body()
            return
        recoder = plan.recoder()
        for data in body():
            if out := recoder.feed(data):
                yield out
        if out := recoder.finish():
            yield out

    return Reencoded(header=plan.header, body=recoded(), changed=plan.changed, signed=plan.signed)


# --- what a header section says ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entity:
    """A message or a body part, as far as its header section says what is in it."""

    number: int
    maintype: bytes
    subtype: bytes
    boundary: bytes | None  # only of a multipart
    encoding: bytes  # Content-Transfer-Encoding, lower case
    has_type: bool
    is_message: bool  # the top, or what is in a message/rfc822: it has a MIME-Version

    @property
    def textual(self) -> bool:
        return self.maintype in (b"text", b"message", b"multipart")

    @property
    def holds_message(self) -> bool:
        return self.maintype == b"message" and self.subtype in (b"rfc822", b"global")

    @property
    def plain(self) -> bool:
        return self.encoding in (b"", b"7bit", b"8bit", b"binary")


def _fields(section: bytes) -> list[bytes]:
    """A header section cut into fields, each with its continuation lines."""
    fields: list[bytes] = []
    for line in section.splitlines(keepends=True):
        if fields and line.startswith((b" ", b"\t")):
            fields[-1] += line
        else:
            fields.append(line)
    return fields


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip(b" \t").lower()


def _value(fields: list[bytes], name: bytes) -> bytes | None:
    for field in fields:
        if _name(field) == name:
            return field.partition(b":")[2].replace(b"\r", b"").replace(b"\n", b"")
    return None


def _token(value: bytes) -> bytes:
    match = _TOKEN.match(value)
    assert match is not None
    return match[1].strip().lower()


def _boundary(value: bytes) -> bytes | None:
    """The boundary parameter, whole or in pieces (RFC 2231 §3). One that is not ASCII cannot be kept: None."""
    pieces: dict[bytes, bytes] = {}
    for name, quoted in _PARAMETER.findall(value):
        text = quoted.strip()
        if text.startswith(b'"'):
            text = re.sub(rb"\\(.)", rb"\1", text[1:].removesuffix(b'"'), flags=re.DOTALL)
        pieces.setdefault(name.lower(), text)
    if b"boundary" not in pieces:
        whole, number = b"", 0
        while (piece := pieces.get(b"boundary*%d" % number)) is not None:
            whole, number = whole + piece, number + 1
        if not number:
            return None
        pieces[b"boundary"] = whole
    boundary = pieces[b"boundary"].rstrip(b" \t")
    return boundary if boundary.isascii() and len(boundary) < MAX_DELIMITER - 10 else None


def _read_header(section: bytes, number: int, *, default: bytes, is_message: bool) -> _Entity:
    fields = _fields(section)
    value = _value(fields, b"content-type")
    kind = _token(value or b"")
    # What is no type is text (RFC 2045 §5.2); no type at all is what the enclosing multipart says.
    main, _, sub = (kind if kind.count(b"/") == 1 else b"text/plain" if value else default).partition(b"/")
    return _Entity(
        number=number,
        maintype=main,
        subtype=sub,
        boundary=_boundary(value) if value and main == b"multipart" else None,
        encoding=_token(_value(fields, b"content-transfer-encoding") or b""),
        has_type=value is not None,
        is_message=is_message,
    )


# --- the walk through a message ---------------------------------------------------------------------------------


class _Kind(Enum):
    LEAF = "leaf"
    MULTIPART = "multipart"
    MESSAGE = "message"  # a part whose content is a message


class _Visitor(Protocol):
    def header(self, entity: _Entity, kind: _Kind, section: bytes, separator: bytes) -> None: ...
    def content(self, data: bytes) -> None: ...  # of the leaf whose header came last
    def end(self) -> None: ...  # of that leaf
    def filler(self, data: bytes) -> None: ...  # preamble and epilogue
    def delimiter(self, data: bytes) -> None: ...  # with the line end before it, which belongs to it
    def leave(self, entity: _Entity, kind: _Kind, *, empty: bool) -> None: ...  # no leaf; `empty`: had no delimiter


@dataclass(slots=True)
class _Frame:
    """An enclosing multipart, or the part that holds a message (which has no boundary)."""

    entity: _Entity
    kind: _Kind
    open: bool  # its boundary is still looked for
    empty: bool = True


class _Walker:
    """Cuts a body into headers, contents and delimiters; the same for any segmentation of the input.

    A delimiter of an outer multipart ends all that is within, also where an inner boundary is the same. The
    entities in `leaves`, by their number, are taken as leaves whatever their header says.
    """

    def __init__(self, header: bytes, visitor: _Visitor, leaves: bytes = b"") -> None:
        self._visitor = visitor
        self._leaves = leaves
        self._rest = b""  # a line without its end, or what a piece left over
        self._midline = False
        self._held = b""  # a line end of which only the next line says whether it is content
        self._frames: list[_Frame] = []
        self._needle = b""  # what a line end and the delimiters that are looked for have in common
        self._count = 0
        self._section: list[bytes] | None = None  # lines of a header section, while in one
        self._section_size = 0
        self._leaf = False
        self._enter(header, b"\r\n", is_message=True, default=b"text/plain")

    def feed(self, data: bytes) -> None:
        buffer = self._rest + data
        at = 0
        if self._midline:
            at = buffer.find(b"\n") + 1
            if not at:
                self._rest = self._piece(buffer)
                return
            self._lines(buffer[:at])
            self._midline = False
        end = buffer.rfind(b"\n") + 1
        while at < end:
            if self._section is not None:
                stop = buffer.index(b"\n", at) + 1
                self._header_line(buffer[at:stop])
            elif not self._needle or self._count >= MAX_PARTS:
                stop = end
                self._lines(buffer[at:stop])
            else:
                stop = self._body_lines(buffer, at, end)
            at = stop
        self._rest = buffer[max(at, end) :]
        if self._section is not None:
            if self._section_size + len(self._rest) <= MAX_PART_HEADER:
                return
            self._end_sections()
        if len(self._rest) > MAX_DELIMITER:
            self._midline = True
            self._rest = self._piece(self._rest)

    def finish(self) -> None:
        line, self._rest = self._rest, b""
        if line and self._midline:
            self._lines(line)
        elif line and self._section is not None:
            self._header_line(line)
        elif line and not self._delimiter(line):
            self._lines(line)
        self._end_sections()
        held = b""
        if any(frame.open for frame in self._frames):
            # The last delimiter is missing; readers take the line end before the place where it should be as its own.
            held, self._held = self._held, b""
        self._release()
        self._close_leaf()
        if held:
            self._visitor.delimiter(held)
        self._close(0)

    def _piece(self, data: bytes) -> bytes:
        """Hand on a part of a line; what could be half of a line end stays."""
        keep = 1 if data.endswith(b"\r") else 0
        if len(data) > keep:
            self._give(data[: len(data) - keep])
        return data[len(data) - keep :]

    def _body_lines(self, buffer: bytes, at: int, end: int) -> int:
        """Hand on the lines up to the next delimiter, and that; return where it ends."""
        search = at
        while True:
            if not buffer.startswith(self._needle[1:], search):
                found = buffer.find(self._needle, search, end)
                if found < 0:
                    self._lines(buffer[at:end])
                    return end
                search = found + 1
            stop = buffer.index(b"\n", search) + 1
            if (depth := self._match(buffer[search:stop])) is not None:
                self._lines(buffer[at:search])
                self._take_delimiter(buffer[search:stop], depth)
                return stop
            search = stop
            if search >= end:
                self._lines(buffer[at:end])
                return end

    def _header_line(self, line: bytes) -> None:
        assert self._section is not None
        if self._delimiter(line):
            return
        if line in (b"\r\n", b"\n"):
            self._end_section(line)
        elif not _FIELD.match(line) or self._section_size + len(line) > MAX_PART_HEADER:
            self._end_section(b"")
            if self._section is None:
                self._lines(line)
            else:  # the part holds a message, which begins with this line
                self._header_line(line)
        else:
            self._section.append(line)
            self._section_size += len(line)

    def _end_section(self, separator: bytes) -> None:
        assert self._section is not None
        section, self._section = b"".join(self._section), None
        frame = self._frames[-1]
        holder = frame.entity
        default = b"message/rfc822" if (holder.maintype, holder.subtype) == (b"multipart", b"digest") else b"text/plain"
        self._enter(section, separator, is_message=holder.holds_message, default=default)

    def _enter(self, section: bytes, separator: bytes, *, is_message: bool, default: bytes) -> None:
        entity = _read_header(section, self._count, default=default, is_message=is_message)
        self._count += 1
        number, follow = entity.number, len(self._frames) < MAX_DEPTH
        kind = _Kind.LEAF
        if follow and entity.boundary is not None and not (number < len(self._leaves) and self._leaves[number]):
            kind = _Kind.MULTIPART
        elif follow and entity.holds_message and entity.plain:
            kind = _Kind.MESSAGE
        self._visitor.header(entity, kind, section, separator)
        if kind is _Kind.LEAF:
            self._leaf = True
            return
        self._frames.append(_Frame(entity, kind, open=kind is _Kind.MULTIPART))
        self._find_needle()
        if kind is _Kind.MESSAGE:
            self._section, self._section_size = [], 0

    def _end_sections(self) -> None:
        """No header goes on here. A part that holds a message holds one without a header, then."""
        while self._section is not None:
            self._end_section(b"")

    def _match(self, line: bytes) -> int | None:
        """The depth of the outermost multipart of which this line is a delimiter."""
        if not line.startswith(b"--") or len(line) > MAX_DELIMITER or self._count >= MAX_PARTS:
            return None
        text = line[2:].rstrip(b" \t\r\n")
        for depth, frame in enumerate(self._frames):
            if frame.open and text in (frame.entity.boundary, (frame.entity.boundary or b"") + b"--"):
                return depth
        return None

    def _delimiter(self, line: bytes) -> bool:
        depth = self._match(line)
        if depth is None:
            return False
        self._end_sections()
        self._take_delimiter(line, depth)
        return True

    def _take_delimiter(self, line: bytes, depth: int) -> None:
        held, self._held = self._held, b""
        self._close(depth + 1)
        frame = self._frames[depth]
        frame.empty = False
        self._visitor.delimiter(held + line)
        if line[2:].rstrip(b" \t\r\n") == frame.entity.boundary:
            self._section, self._section_size = [], 0
        else:
            frame.open = False
        self._find_needle()

    def _find_needle(self) -> None:
        boundaries = [frame.entity.boundary or b"" for frame in self._frames if frame.open]
        self._needle = b""
        if boundaries:
            first, last = min(boundaries), max(boundaries)
            same = next((at for at in range(len(first)) if last[at : at + 1] != first[at : at + 1]), len(first))
            self._needle = b"\n--" + first[:same]

    def _close(self, depth: int) -> None:
        """The leaf ends, and so does all that is deeper than `depth` levels."""
        self._close_leaf()
        while len(self._frames) > depth:
            frame = self._frames.pop()
            self._visitor.leave(frame.entity, frame.kind, empty=frame.empty)

    def _close_leaf(self) -> None:
        if self._leaf:
            self._leaf = False
            self._visitor.end()

    def _lines(self, data: bytes) -> None:
        """Hand on what ends with a line end, and hold that one back."""
        if not data:
            return
        end = len(data) - (2 if data.endswith(b"\r\n") else 1 if data.endswith(b"\n") else 0)
        self._give(data[:end])
        self._held = data[end:]

    def _give(self, data: bytes) -> None:
        self._release()
        if data:
            (self._visitor.content if self._leaf else self._visitor.filler)(data)

    def _release(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            (self._visitor.content if self._leaf else self._visitor.filler)(held)


# --- first reading ----------------------------------------------------------------------------------------------


class _Findings:
    """Whether a stream of data has 8-bit octets or overlong lines."""

    def __init__(self) -> None:
        self.eight_bit = False
        self.overlong = False
        self._line = 0  # octets of the last line so far

    def line_ends(self) -> None:
        self._line = 0

    def look(self, data: bytes) -> None:
        self.eight_bit = self.eight_bit or not data.isascii()
        if self._line + len(data) > MAX_LINE and not self.overlong:
            first = data.find(b"\r\n")
            start = self._line + (len(data) if first < 0 else first)
            self.overlong = max(start, longest_line(data)) > MAX_LINE
        last = data.rfind(b"\n") + 1
        self._line = len(data) - last + (0 if last else self._line)


class Survey:
    """The first reading of a message: which parts need to be encoded."""

    def __init__(self, header: bytes, *, seven_bit: bool) -> None:
        self._header = header
        self._seven_bit = seven_bit
        self._treatments = bytearray()
        self._leaf: tuple[_Entity, _Findings] | None = None
        self._fillers: list[_Findings] = []  # of the multiparts that we are in
        self._signed_levels = 0
        self._changed = False
        self._signed = False
        self._eight_bit = False
        self._walker = _Walker(header, self)

    def feed(self, data: bytes) -> None:
        self._walker.feed(data)

    def finish(self) -> Plan:
        self._walker.finish()
        return Plan(
            original=self._header,
            treatments=bytes(self._treatments),
            seven_bit=self._seven_bit,
            eight_bit=self._eight_bit,
            changed=self._changed,
            signed=self._signed,
        )

    def header(self, entity: _Entity, kind: _Kind, section: bytes, separator: bytes) -> None:
        self._treatments.append(Treatment.KEEP)
        if entity.number > 0:
            findings = _Findings()
            findings.look(section)
            self._judge(findings)
        if kind is _Kind.LEAF:
            self._leaf = (entity, _Findings())
        elif kind is _Kind.MULTIPART:
            self._fillers.append(_Findings())
            self._signed_levels += entity.subtype == b"signed"

    def content(self, data: bytes) -> None:
        assert self._leaf is not None
        self._leaf[1].look(data)

    def end(self) -> None:
        assert self._leaf is not None
        self._treat(*self._leaf)

    def filler(self, data: bytes) -> None:
        self._fillers[-1].look(data)

    def delimiter(self, data: bytes) -> None:
        # It goes as it came: it is short and ASCII, or it would not be one.
        self._fillers[-1].line_ends()

    def leave(self, entity: _Entity, kind: _Kind, *, empty: bool) -> None:
        if kind is not _Kind.MULTIPART:
            return
        findings = self._fillers.pop()
        if empty:  # no preamble, then, but a body that does not keep what its header says: it is not thrown away
            self._treat(entity, findings)
        else:
            self._judge(findings)
        self._signed_levels -= entity.subtype == b"signed"

    def _treat(self, entity: _Entity, findings: _Findings) -> None:
        if not self._judge(findings):
            return
        if entity.encoding == b"base64":
            treatment = Treatment.WRAP
        elif entity.encoding == b"quoted-printable":
            treatment = Treatment.SOFT_BREAKS
        else:
            treatment = Treatment.QUOTED_PRINTABLE if entity.textual else Treatment.BASE64
        self._treatments[entity.number] = treatment
        self._eight_bit = self._eight_bit or (entity.number == 0 and findings.eight_bit)

    def _judge(self, findings: _Findings) -> bool:
        bad = findings.overlong or (findings.eight_bit and self._seven_bit)
        self._changed = self._changed or bad
        self._signed = self._signed or (bad and self._signed_levels > 0)
        return bad


# --- second reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a Survey found. Where `changed` is false the message is to be sent as it is."""

    original: bytes  # the header section
    treatments: bytes  # of the entities, in their order
    seven_bit: bool
    eight_bit: bool  # the top is a leaf and has 8-bit octets
    changed: bool
    signed: bool

    @property
    def header(self) -> bytes:
        if not self.changed:
            return self.original
        top = _read_header(self.original, 0, default=b"text/plain", is_message=True)
        header = _relabel(top, self.original, Treatment(self.treatments[0]), seven_bit=self.seven_bit)
        if self.eight_bit and not top.has_type:
            # RFC 1428: somebody knows the charset; we don't.
            header += b"Content-Type: text/plain; charset=unknown-8bit\r\n"
        return header

    def recoder(self) -> Recoder:
        return Recoder(self)


class Recoder:
    """The second reading: the body as it is to be sent."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._out: list[bytes] = []
        self._treatment = Treatment.KEEP
        self._coder: Coder = coder(self._treatment)
        self._filler = _FillerMender(seven_bit=plan.seven_bit)
        self._unfinished = False  # the last line has no end yet; a delimiter would bring it
        self._walker = _Walker(plan.original, self, plan.treatments)

    def feed(self, data: bytes) -> bytes:
        self._walker.feed(data)
        return self._take()

    def finish(self) -> bytes:
        self._walker.finish()
        if self._unfinished:
            self._out.append(b"\r\n")
        return self._take()

    def _take(self) -> bytes:
        out, self._out = b"".join(self._out), []
        return out

    def header(self, entity: _Entity, kind: _Kind, section: bytes, separator: bytes) -> None:
        treatment = Treatment(self._plan.treatments[entity.number])
        self._treatment, self._coder = treatment, coder(treatment)
        if entity.number == 0:
            return
        seven_bit = self._plan.seven_bit
        mended = b"".join(_mend_field(field, seven_bit=seven_bit) for field in _fields(section))
        if treatment in (Treatment.QUOTED_PRINTABLE, Treatment.BASE64):
            # Encoded content may look like a field, so that the line between must not be missing any more.
            separator = b"\r\n"
        self._out += (_relabel(entity, mended, treatment, seven_bit=seven_bit), separator)

    def content(self, data: bytes) -> None:
        self._out.append(self._coder.feed(data))

    def end(self) -> None:
        self._out.append(self._coder.finish())
        self._unfinished = self._treatment in (Treatment.BASE64, Treatment.WRAP)

    def filler(self, data: bytes) -> None:
        self._out.append(self._filler.feed(data))

    def delimiter(self, data: bytes) -> None:
        self._out.append(data)
        self._unfinished = False
        self._filler = _FillerMender(seven_bit=self._plan.seven_bit)

    def leave(self, entity: _Entity, kind: _Kind, *, empty: bool) -> None:
        """Nothing is written where a multipart ends."""


def _relabel(entity: _Entity, section: bytes, treatment: Treatment, *, seven_bit: bool) -> bytes:
    """The header section with the Content-Transfer-Encoding that now holds."""
    if treatment is Treatment.QUOTED_PRINTABLE:
        encoding = b"quoted-printable"
    elif treatment is Treatment.BASE64:
        encoding = b"base64"
    elif seven_bit and entity.encoding in (b"8bit", b"binary"):
        encoding = b"7bit"
    else:
        return section
    fields = [field for field in _fields(section) if _name(field) != b"content-transfer-encoding"]
    if entity.is_message and _value(fields, b"mime-version") is None:
        fields.append(b"MIME-Version: 1.0\r\n")
    fields.append(b"Content-Transfer-Encoding: %b\r\n" % encoding)
    return b"".join(fields)


# --- what is no content ------------------------------------------------------------------------------------------


class _FillerMender:
    def __init__(self, *, seven_bit: bool) -> None:
        self._seven_bit = seven_bit
        self._column = 0

    def feed(self, data: bytes) -> bytes:
        if self._seven_bit:
            data = data.translate(_QUESTION_MARKS)
        out = []
        for number, line in enumerate(data.split(b"\r\n")):
            if number:
                out.append(b"\r\n")
                self._column = 0
            while self._column + len(line) > MAX_LINE:
                room = MAX_LINE - self._column
                out.append(line[:room] + b"\r\n ")  # the space: no line of ours may look like a delimiter
                line, self._column = line[room:], 1
            out.append(line)
            self._column += len(line)
        return b"".join(out)


def _mend_field(field: bytes, *, seven_bit: bool) -> bytes:
    """A header field of a part, with encoded-words for its 8-bit words, and folded."""
    if seven_bit and not field.isascii():
        field = _encode_words(field)
    if longest_line(field) <= MAX_LINE:
        return field
    return b"\r\n".join(map(_fold, field.removesuffix(b"\r\n").split(b"\r\n"))) + b"\r\n"


def _fold(line: bytes) -> bytes:
    lines = []
    line = line.rstrip(b" \t")
    while len(line) > MAX_LINE:
        cut = max(line.rfind(b" ", 1, MAX_LINE), line.rfind(b"\t", 1, MAX_LINE))
        if cut > 0 and line[:cut].strip(b" \t"):
            lines.append(line[:cut])
            line = line[cut:]
        else:
            lines.append(line[: MAX_LINE - 10])
            line = b" " + line[MAX_LINE - 10 :]
    return b"\r\n".join([*lines, line])


def _encode_words(field: bytes) -> bytes:
    """8-bit words, and the spaces between two of them (which a reader drops there), as encoded-words."""
    out: list[bytes] = []
    run = gap = b""
    for number, piece in enumerate(_BETWEEN_WORDS.split(field)):
        if number % 2 and run and not piece.strip(b" \t\r\n"):
            gap = piece
        elif number % 2 or piece.isascii():
            out += (_encoded_words(run), gap, piece)
            run = gap = b""
        else:
            run += (b" " if b"\n" in gap else gap) + piece
            gap = b""
    return b"".join([*out, _encoded_words(run), gap])


def _encoded_words(text: bytes) -> bytes:
    """RFC 2047 §2 and §4.2: at most 75 octets each, whole characters."""
    if not text:
        return b""
    try:
        characters = [character.encode() for character in text.decode()]
        opening = b"=?utf-8?Q?"
    except UnicodeDecodeError:
        characters = [text[at : at + 1] for at in range(len(text))]
        opening = b"=?unknown-8bit?Q?"
    words = [opening]
    for character in characters:
        safe = character.isalnum()  # of bytes: ASCII only
        encoded = b"_" if character == b" " else character if safe else b"".join(b"=%02X" % c for c in character)
        if len(words[-1]) + len(encoded) > 73:
            words.append(opening)
        words[-1] += encoded
    return b"\r\n ".join(word + b"?=" for word in words)
