"""The message: what Intake makes of bytes, and what submission does to the header."""

from __future__ import annotations

import contextlib
import email.header
import re
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysendmail.address import AddressError, parse_list
from pysendmail.message import (
    MAX_CR_RUN,
    MAX_FIELDS,
    MAX_HEADER_OCTETS,
    Completed,
    Field,
    Intake,
    MessageError,
    complete,
    fold,
    hops,
    received,
    recipients,
    rfc5322_date,
)
from rig.slow_reader import slowly

DATE = "Sun, 22 Nov 2026 01:02:03 +0100"


def read(pieces: Iterable[bytes], *, dot_ends: bool = True) -> tuple[Intake, bytes]:
    """An Intake that was fed these pieces, and the body it gave."""
    intake = Intake(dot_ends=dot_ends)
    body = []
    for piece in pieces:
        intake.feed(piece)
        body.append(intake.take())
    intake.finish()
    return intake, b"".join((*body, intake.take()))


def header_of(intake: Intake) -> bytes:
    return b"".join(field.raw for field in intake.fields)


def fields_of(header: bytes) -> list[Field]:
    return read([header], dot_ends=False)[0].fields


def completed(header: bytes, *, fix_up: bool = True, full_name: str = "") -> Completed:
    return complete(
        fields_of(header),
        sender_address="me@box.example",
        full_name=full_name,
        date=DATE,
        message_id="<1.box@box.example>",
        fix_up=fix_up,
    )


# name: (input, header, body)
MESSAGES = {
    "header and body": (b"To: a\nSubject: b\n\nhello\n", b"To: a\r\nSubject: b\r\n", b"hello\r\n"),
    "CRLF": (b"To: a\r\n\r\nhello\r\n", b"To: a\r\n", b"hello\r\n"),
    "mixed line ends": (
        b"To: a\r\nCc: b\n\r\r\nhello\r\r\nyou\n",
        b"To: a\r\nCc: b\r\n",
        b"hello\r\nyou\r\n",
    ),
    "empty": (b"", b"", b""),
    "only a line end": (b"\n", b"", b""),
    "two line ends": (b"\n\n", b"", b"\r\n"),
    "no final line end": (b"To: a\n\nhello", b"To: a\r\n", b"hello\r\n"),
    "only a header": (b"To: a\nCc: b\n", b"To: a\r\nCc: b\r\n", b""),
    "only a header without its line end": (b"To: a\n b", b"To: a\r\n b\r\n", b""),
    "no header": (b"hello you\nTo: a\n", b"", b"hello you\r\nTo: a\r\n"),
    "no blank line": (b"To: a\nhello you\nCc: b\n", b"To: a\r\n", b"hello you\r\nCc: b\r\n"),
    "a continuation first": (b" hello\nTo: a\n", b"", b" hello\r\nTo: a\r\n"),
    "folded": (b"To: a,\n\tb\n c\n\nx\n", b"To: a,\r\n\tb\r\n c\r\n", b"x\r\n"),
    "a blank continuation": (b"To: a\n \nBcc: b\n\nx\n", b"To: a\r\n \r\nBcc: b\r\n", b"x\r\n"),
    "obsolete spelling": (b"To \t: a\n\nx\n", b"To \t: a\r\n", b"x\r\n"),
    "empty field": (b"Subject:\n\nx\n", b"Subject:\r\n", b"x\r\n"),
    "no name": (b": a\n\nx\n", b"", b": a\r\n\r\nx\r\n"),
    "8-bit name": (b"T\xf6: a\n\nx\n", b"", b"T\xf6: a\r\n\r\nx\r\n"),
    "stray CR in a name": (b"Bcc\r: a\n\nx\n", b"Bcc : a\r\n", b"x\r\n"),
    "NUL in a field": (b"To: a\0b\n\nx\n", b"To: a b\r\n", b"x\r\n"),
    "stray CRs and NULs": (b"To: a\n\n\rx\0\ry\r", b"To: a\r\n", b" x  y \r\n"),
    "only CRs": (b"\r\r\r", b"", b"   \r\n"),
    "mbox separators": (b"From joe Sat\n>From jim\n>>From x\nTo: a\n\nFrom y\n", b"To: a\r\n", b"From y\r\n"),
    "mbox separator later": (b"To: a\nFrom joe Sat\n\nx\n", b"To: a\r\n", b"From joe Sat\r\n\r\nx\r\n"),
    "obsolete From field": (b"From : joe\n\nx\n", b"From : joe\r\n", b"x\r\n"),
    "dot": (b"To: a\n\nx\n.\ny\n", b"To: a\r\n", b"x\r\n"),
    "dot with CRLF": (b"To: a\r\n\r\nx\r\n.\r\ny\r\n", b"To: a\r\n", b"x\r\n"),
    "dot at the end without a line end": (b"To: a\n\nx\n.", b"To: a\r\n", b"x\r\n"),
    "dot first in the body": (b"To: a\n\n.\ny\n", b"To: a\r\n", b""),
    "dot in the header": (b"To: a\n.\nCc: b\n", b"To: a\r\n", b""),
    "dot first of all": (b".\nTo: a\n", b"", b""),
    "dots that end nothing": (
        b"To: a\n\n..\n.x\n .\n. \nx.\n",
        b"To: a\r\n",
        b"..\r\n.x\r\n .\r\n. \r\nx.\r\n",
    ),
    "dot and a stray CR": (b"To: a\n\n.\rx\n", b"To: a\r\n", b". x\r\n"),
}


@pytest.mark.parametrize(("data", "header", "body"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_read(data: bytes, header: bytes, body: bytes) -> None:
    """Header and body are found and have only CRLF, whole and byte by byte."""
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        intake, got = read(pieces)
        assert (header, body) == (header_of(intake), got)
        assert len(body) == intake.size
        assert intake.header_done


def test_a_lone_dot_is_data_when_told_so() -> None:
    """With -i a dot ends nothing."""
    intake, body = read([b"To: a\n\nx\n.\ny\n.\n"], dot_ends=False)
    assert body == b"x\r\n.\r\ny\r\n.\r\n"
    assert not intake.ended


def test_a_lone_dot_ends_at_once() -> None:
    """`ended` is known as soon as the dot's line is complete, and what comes then is ignored."""
    intake = Intake(dot_ends=True)
    intake.feed(b"To: a\n\nx\n.")
    assert not intake.ended
    intake.feed(b"\n")
    assert intake.ended
    intake.feed(b"y\n" * 10)
    intake.finish()
    intake.finish()
    assert intake.take() == b"x\r\n"


def test_stray_octets_are_counted() -> None:
    """Every CR and NUL that becomes a space is counted, those of line ends are not."""
    assert read([b"To: \0a\r\n\r\nx\ry\r\r\nz\0\0\r"])[0].stray == 5


@pytest.mark.parametrize("length", [0, 1, 997, 998, 999, 1000, 2048, 70_000])
@pytest.mark.parametrize("step", [1, 997, 998, 999, 4096])
def test_an_overlong_line_is_noticed(length: int, step: int) -> None:
    """A body line of more than 998 octets, wherever it is and however it is cut; one of 998 is none."""
    if step == 1 and length > 2048:
        step = 7
    for before, after in ((b"", b""), (b"x" * 998 + b"\n" + b"y\n" * 40, b"\n" + b"z" * 998)):
        data = b"To: a\n\n" + before + b"x" * length + after
        intake, body = read(data[i : i + step] for i in range(0, len(data), step))
        assert intake.overlong == (length > 998)
        assert len(before) + length <= len(body)


def test_eight_bit_is_noticed_apart() -> None:
    """8-bit in the header and in the body are two things to know."""
    flags = {
        data: (intake.header_eight_bit, intake.eight_bit)
        for data in (b"A: a\n\na", b"A: \xff\n\na", b"A: a\n\n\xff", b"A: a\n \xff\n\xff")
        for intake, _ in [read([data])]
    }
    assert list(flags.values()) == [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    "data",
    [
        b"To: a\n" * (MAX_HEADER_OCTETS // 6 + 1),
        b"To: " + b"a" * MAX_HEADER_OCTETS,
        b"To: a\n" + b" a\n" * (MAX_HEADER_OCTETS // 3),
        b"From " + b"x" * MAX_HEADER_OCTETS,
        b"a:\n" * (MAX_FIELDS + 1),
        b"\r" * (MAX_CR_RUN + 1),
        b"x y\n\n" + b"\r" * (MAX_CR_RUN + 1) + b"\n",
    ],
    ids=[
        "fields",
        "one line",
        "continuations",
        "mbox separator",
        "number of fields",
        "only CRs",
        "CRs in the body",
    ],
)
def test_a_header_beyond_its_bounds_is_refused(data: bytes) -> None:
    """More header than any message has is a MessageError, however it is cut."""
    for step in (len(data), 60_000):
        with pytest.raises(MessageError):
            read(data[i : i + step] for i in range(0, len(data), step))


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 3_000_000,
        b"x" + b" " * 3_000_000 + b"y",
        b"x y:" * 700_000,
        b">" * 2_000_000,
        b"\xff" * 2_000_000,
    ],
    ids=["a word", "white space", "no name", "quoting", "8-bit"],
)
def test_a_long_first_line_is_body(line: bytes) -> None:
    """What can be no field is body, also before its line end is seen, and is not held in memory."""
    for step in (len(line), 60_000):
        intake, body = read(line[i : i + step] for i in range(0, len(line), step))
        assert (intake.fields, len(line) + 2) == ([], len(body))


def test_a_body_is_not_held_back() -> None:
    """What was fed can be taken at once, but for CRs and a dot that wait for the next octet."""
    intake = Intake(dot_ends=True)
    intake.feed(b"\n" + b"x" * 100)
    assert intake.take() == b"x" * 100
    assert intake.take() == b""


PIECES = [
    b"\n",
    b"\r",
    b"\0",
    b".",
    b"a",
    b":",
    b" ",
    b"\r\n",
    b"From ",
    b"To: a\n",
    b"Bcc",
    b"\n.\n",
    b"\xff",
]
INPUT = st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))


def cut(data: bytes, at: Iterable[int]) -> Iterator[bytes]:
    edges = [0, *sorted(index % (len(data) + 1) for index in at), len(data)]
    return (data[a:b] for a, b in pairwise(edges))


@given(INPUT, st.lists(st.integers(0, 1000), max_size=30), st.booleans())
@example(b"From : a\n", [5], True)
def test_any_segmentation_gives_the_same(data: bytes, at: list[int], dot_ends: bool) -> None:
    """However the input is cut, header, body and counters are those of the rules read slowly."""
    whole, body = read([data], dot_ends=dot_ends)
    intake, other = read(cut(data, at), dot_ends=dot_ends)
    assert slowly(data, dot_ends=dot_ends) == ([field.raw for field in whole.fields], body)
    assert (whole.fields, body) == (intake.fields, other)
    for name in ("size", "stray", "eight_bit", "header_eight_bit", "overlong", "ended", "header_done"):
        assert getattr(whole, name) == getattr(intake, name)


@given(INPUT, st.booleans())
def test_only_crlf_leaves(data: bytes, dot_ends: bool) -> None:
    """No bare CR, bare LF or NUL is in what Intake gives, and every line has its end."""
    intake, body = read([data], dot_ends=dot_ends)
    for octets in (body, completed(data).header, header_of(intake)):
        assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", octets) is None
        assert not octets or octets.endswith(b"\r\n")


# -- recipients and hops


# name: (header, recipients)
RECIPIENTS: dict[str, tuple[bytes, list[str]]] = {
    "none": (b"Subject: x\n", []),
    "To, Cc, Bcc in the header's order": (b"Bcc: c@e\nTo: A <a@e>\nCC: b@e\n", ["c@e", "a@e", "b@e"]),
    "more than one To": (b"To: a\nTo: b\n", ["a", "b"]),
    "repeated addresses": (b"To: a, a\nCc: a\n", ["a", "a", "a"]),
    "folded, with a group": (b"To: g: a@e,\n b@e;,\n\tc@e\n", ["a@e", "b@e", "c@e"]),
    "obsolete spelling": (b"TO : a@e\nbCc\t: b@e\n", ["a@e", "b@e"]),
    "empty Bcc": (b"To: a\nBcc:\n", ["a"]),
    "not Apparently-To": (b"Apparently-To: a\nReply-To: b\n", []),
    "resent": (b"Resent-To: r@e\nResent-Bcc: s@e\nTo: a@e\nBcc: b@e\n", ["r@e", "s@e"]),
    "resent without recipients": (b"Resent-From: r@e\nTo: a@e\n", ["a@e"]),
    "only the first block, by repetition": (
        b"Resent-From: x\nResent-To: r\nResent-From: y\nResent-To: old\nResent-Cc: old\nTo: a\n",
        ["r"],
    ),
    "only the first block, by Received": (
        b"Resent-To: r\nReceived: by x\nResent-Cc: old\nTo: a\n",
        ["r"],
    ),
    "a block with another field inside": (b"Resent-To: r\nX-Mailer: m\nResent-Cc: s\nTo: a\n", ["r", "s"]),
    "a block under Received": (b"Received: by x\nResent-To: r\nTo: a\n", ["r"]),
    "two Resent-To in a row": (b"Resent-To: r\nResent-To: s\n", ["r", "s"]),
}


@pytest.mark.parametrize(("header", "expected"), RECIPIENTS.values(), ids=RECIPIENTS)
def test_recipients_are_found_in_the_header(header: bytes, expected: list[str]) -> None:
    """-t takes To, Cc and Bcc, or those of the first Resent- block alone."""
    assert expected == recipients(fields_of(header))


def test_recipients_that_are_garbage_are_refused() -> None:
    """One field that cannot be read refuses the message: some recipients would be forgotten."""
    with pytest.raises(AddressError):
        recipients(fields_of(b"To: a@e\nCc: joe public\n"))


def test_hops_are_received_fields() -> None:
    """Every Received field counts, whatever its case and spelling."""
    assert hops(fields_of(b"Received: a\nreceived : b\nX-Received: c\nRECEIVED:\n d\n")) == 3


# -- completing


def test_what_is_missing_is_added_on_top() -> None:
    """Date, From and Message-ID go above the user's fields, which keep their order and bytes."""
    assert completed(b"To: a\nX:  y \n z\n").header == (
        b"Date: Sun, 22 Nov 2026 01:02:03 +0100\r\nFrom: me@box.example\r\n"
        b"Message-ID: <1.box@box.example>\r\nTo: a\r\nX:  y \r\n z\r\n"
    )
    assert completed(b"").message_id == "<1.box@box.example>"


def test_what_is_there_stays() -> None:
    """Nothing is added to a complete header, in whatever spelling it is."""
    header = b"DATE : x\r\nfrom:\r\n y\r\nMessage-Id: <u@e>\r\nTo: a\r\n"
    assert completed(header) == Completed(header=header, message_id="<u@e>")


@pytest.mark.parametrize("name", [b"Date", b"From", b"Message-ID"])
def test_an_empty_field_is_replaced(name: bytes) -> None:
    """A Date, From or Message-ID with nothing in it is as good as none, and there must not be two."""
    header = completed(name + b" : \n \t\nTo: a\n").header
    assert header.count(name) == 1
    assert header.endswith(b"\r\nTo: a\r\n")


def test_without_fix_up_nothing_is_added() -> None:
    """-G leaves the header as it is, but Bcc goes."""
    assert completed(b"To: a\nBcc: b\nDate:\n", fix_up=False) == Completed(header=b"To: a\r\nDate:\r\n", message_id="")


def test_a_message_id_is_fit_to_be_shown() -> None:
    """The Message-ID in force is for logs: escaped and capped; in the header it stays as it was."""
    made = completed(b"Message-ID: <\x1b[2J\xff" + b"x" * 400 + b">\n")
    assert made.message_id.startswith("<\\x1b[2J\\xff")
    assert len(made.message_id) == 250
    assert b"\x1b[2J\xff" in made.header


def test_a_resent_block_is_completed() -> None:
    """A resending lacks nothing either; its Message-ID is another than the message's."""
    header = completed(b"Resent-To: r\nFrom: a\nDate: b\n").header
    assert header == (
        b"Resent-Date: Sun, 22 Nov 2026 01:02:03 +0100\r\nResent-From: me@box.example\r\n"
        b"Resent-Message-ID: <resent.1.box@box.example>\r\nMessage-ID: <1.box@box.example>\r\n"
        b"Resent-To: r\r\nFrom: a\r\nDate: b\r\n"
    )


@pytest.mark.parametrize(
    "resent",
    [b"Resent-To: r\nResent-Date: x\nResent-From: y\nResent-Message-ID: z\n", b"Received: x\nResent-To: r\n"],
    ids=["complete", "older than this submission"],
)
def test_a_resent_block_may_need_nothing(resent: bytes) -> None:
    """A complete block, and one that another server has seen, stay as they are."""
    header = resent + b"From: a\nDate: b\nMessage-ID: c\n"
    assert completed(header).header == header.replace(b"\n", b"\r\n")


def any_case(name: bytes) -> st.SearchStrategy[bytes]:
    letters = (st.sampled_from([name[i : i + 1].lower(), name[i : i + 1].upper()]) for i in range(len(name)))
    return st.tuples(*letters).map(b"".join)


DROPPED = st.sampled_from([b"Bcc", b"Resent-Bcc", b"Return-Path", b"Content-Length"]).flatmap(any_case)
GAP = st.text(" \t\r\0", max_size=5).map(str.encode)
VALUE = st.lists(
    st.sampled_from([b"secret@e", b"\n\t", b"\r\n secret", b"\n \n ", b" ", b"\0", b"\r\r\n "]), max_size=8
).map(b"".join)
LINE_END = st.sampled_from([b"\n", b"\r\n", b"\r\r\n"])


@given(
    st.lists(st.tuples(DROPPED, GAP, VALUE), min_size=1, max_size=4),
    LINE_END,
    st.integers(1, 9),
    st.booleans(),
)
def test_bcc_never_survives(spelled: list[tuple[bytes, bytes, bytes]], end: bytes, step: int, fix_up: bool) -> None:
    """Bcc and its like go in every case, spelling, folding and cut; what is around them stays."""
    fields = b"".join(name + gap + b":" + value + b"secret" + end for name, gap, value in spelled)
    data = b"To: a" + end + fields + b"Subject: Bcc: public" + end + end + b"body" + end
    intake, body = read(data[i : i + step] for i in range(0, len(data), step))
    made = complete(intake.fields, sender_address="me@e", full_name="", date=DATE, message_id="<1@e>", fix_up=fix_up)
    assert b"secret" not in made.header
    assert (body, made.header.endswith(b"To: a\r\nSubject: Bcc: public\r\n")) == (b"body\r\n", True)
    assert not re.search(rb"(?im)^(bcc|resent-bcc|return-path|content-length)\s*:", made.header)


# name: (full name, From field)
FULL_NAMES = {
    "none": ("", b"From: me@box.example\r\n"),
    "atoms": ("Joe Public", b"From: Joe Public <me@box.example>\r\n"),
    "specials": ('Joe "J." Public', b'From: "Joe \\"J.\\" Public" <me@box.example>\r\n'),
    "backslash": ("Joe\\", b'From: "Joe\\\\" <me@box.example>\r\n'),
    "address in it": ("root <a@b>", b'From: "root <a@b>" <me@box.example>\r\n'),
    "not ASCII": ("Jürgen", b"From: =?utf-8?b?SsO8cmdlbg==?= <me@box.example>\r\n"),
    "looks encoded": ("=?utf-8?b?SsO8?=", b'From: "=?utf-8?b?SsO8?=" <me@box.example>\r\n'),
    "another field": ("x\r\nBcc: y", b'From: "x Bcc: y" <me@box.example>\r\n'),
    "controls": ("x\0\x1b", b'From: "x\\\\x00\\\\x1b" <me@box.example>\r\n'),
    "not UTF-8": ("x\udcff", b'From: "x\\\\xff" <me@box.example>\r\n'),
    "white space": ("  \t ", b"From: me@box.example\r\n"),
    "long": ("ab " * 24, b"From: " + b" ".join([b"ab"] * 24) + b"\r\n <me@box.example>\r\n"),
}


@pytest.mark.parametrize(("full_name", "line"), FULL_NAMES.values(), ids=FULL_NAMES)
def test_a_full_name_is_hostile_text(full_name: str, line: bytes) -> None:
    """-F is shown as it is where that is safe, quoted, encoded or escaped elsewhere."""
    assert line in completed(b"", full_name=full_name).header


@given(st.text(max_size=300))
def test_no_full_name_breaks_the_header(full_name: str) -> None:
    """Whatever the name, From is one ASCII field of lines that fit, and the address is whole."""
    lines = completed(b"Date: x\nMessage-ID: y\n", full_name=full_name).header.split(b"\r\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(b"From: "))
    assert start == 0
    end = next(i for i, line in enumerate(lines) if line.startswith(b"Date"))
    assert all(line.startswith(b" ") for line in lines[1:end])
    assert all(len(line) < 500 and line.isascii() and b"\n" not in line for line in lines[:end])
    assert b"".join(lines[:end]).endswith((b"<me@box.example>", b"From: me@box.example"))


def test_text_that_is_not_fit_for_a_field_is_a_bug() -> None:
    """What the program itself passes is checked too: nothing of it can begin another field."""
    with pytest.raises(ValueError, match="Date"):
        complete([], sender_address="a@e", full_name="", date="x\r\nBcc: y", message_id="<1@e>")
    with pytest.raises(ValueError, match="address"):
        complete([], sender_address="", full_name="", date="x", message_id="<1@e>")


# -- folding


def shown(raw: bytes) -> str:
    """What a reader shows of an unstructured field: unfolded, decoded, runs of white space as one."""
    decoded = "".join(
        piece.decode(charset or "ascii") if isinstance(piece, bytes) else piece
        for piece, charset in email.header.decode_header(Field(b"x", raw).value.decode("ascii"))
    )
    return " ".join(decoded.split())


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.sampled_from([b" ", b"\t", b"  ", b" " * 1200])), max_size=8),
    st.booleans(),
)
@example([(92, b" "), (900, b" ")], True)  # a line that is too long by the blank at its end
def test_folding_changes_nothing_that_is_shown(words: list[tuple[int, bytes]], twice: bool) -> None:
    """No line is blank, none too long, and what is shown is the same; the octets, too, where white space is enough."""
    line = b"X: y" + b"".join(b"w" * length + gap for length, gap in words) + b"\r\n"
    raw = line + b" " + line if twice else line
    folded = fold(raw)
    assert shown(raw) == shown(folded)
    pieces = folded.removesuffix(b"\r\n").split(b"\r\n")
    assert all(piece.strip() for piece in pieces)
    assert all(len(piece) <= 998 for piece in pieces)
    if all(length <= 900 and len(gap) < 3 for length, gap in words):
        assert Field(b"x", raw).value == Field(b"x", folded).value
    assert fold(folded) == folded


@pytest.mark.parametrize("gap", [1, 990, 5000])
@pytest.mark.parametrize("name", [b"X", b"Subject", b"n" * 900])
def test_no_field_is_folded_before_its_colon(name: bytes, gap: int) -> None:
    """However much white space stands there: a name alone on its line would be the end of the header."""
    folded = fold(name + b" " * gap + b": " + b"word " * 300 + b"\r\n")
    assert folded.startswith((name + b":", name + b" :"))
    assert [field.raw for field in fields_of(folded)] == [folded]
    assert shown(folded) == " ".join(["word"] * 300)


LONG_TEXT = {
    "a word": b"X: a " + b"w" * 1500 + b" b\r\n",
    "glued to the colon": b"X-Long:" + b"w" * 1500 + b"\r\n",
    "between encoded-words": b"Subject: =?utf-8?Q?a?= " + b"w" * 1500 + b" =?utf-8?Q?b?=\r\n",
    "two of them": b"Subject: " + b"v" * 1500 + b" " + b"w" * 1500 + b"\r\n",
}


@pytest.mark.parametrize("raw", LONG_TEXT.values(), ids=LONG_TEXT)
def test_a_word_of_text_that_is_too_long_becomes_encoded_words(raw: bytes) -> None:
    """It is neither cut nor refused: a reader shows the same."""
    folded = fold(raw)
    assert all(len(line) <= 998 for line in folded.split(b"\r\n"))
    assert shown(raw) == shown(folded)
    assert fold(folded) == folded


def test_an_8_bit_word_that_is_too_long_becomes_encoded_words() -> None:
    """In UTF-8 if it is that, else in a charset that nobody claims to know."""
    assert shown(fold(f"Subject: {'ü' * 700}\r\n".encode())) == "ü" * 700
    unknown = fold(b"Subject: " + b"\xfc" * 1500 + b"\r\n").split()[1:]
    assert all(word.startswith(b"=?unknown-8bit?b?") and len(word) <= 75 for word in unknown)


STRUCTURED = {
    "addresses": b"To:" + b",".join(b"user%d@example.org" % n for n in range(200)),
    "names in quotes": b"Cc: " + b",".join(b'"a,b;<c"<u%d@example.org>' % n for n in range(200)),
    "message ids": b"References:" + b"".join(b"<%d@example.org>" % n for n in range(200)),
    "comments": b"To: a@example.org(" + b"c," * 400 + b"),b@example.org,<c@example.org>(" + b"d," * 200 + b")",
    "a group": b"Resent-To: g:" + b",".join(b"u%d@example.org" % n for n in range(200)) + b";",
    "tags": b"DKIM-Signature:v=1;" + b"".join(b"t%d=%d;" % (n, n) for n in range(300)),
}


@pytest.mark.parametrize("raw", STRUCTURED.values(), ids=STRUCTURED)
def test_a_long_structured_field_is_folded_between_its_tokens(raw: bytes) -> None:
    """White space is put where it means nothing, and nowhere else."""
    folded = fold(raw + b"\r\n")
    assert all(len(line) <= 998 and line.strip() for line in folded.removesuffix(b"\r\n").split(b"\r\n"))
    assert folded.replace(b"\r\n ", b"").replace(b": ", b":") == raw.replace(b": ", b":") + b"\r\n"
    assert fold(folded) == folded
    if not raw.startswith((b"DKIM", b"References")):
        [before, after] = [parse_list(each.partition(b":")[2]) for each in (raw, folded.removesuffix(b"\r\n"))]
        assert before == after


def test_a_token_that_is_too_long_stays_whole() -> None:
    """A single token of a structured field is not cut: that would change what it says."""
    raw = b"Message-ID: <" + b"w" * 1500 + b"@example.org>\r\n"
    assert raw.split(b" ")[1] in fold(raw)
    assert fold(b"X: " + b" " * 1500 + b"\r\n").strip() == b"X:"


def test_long_fields_are_folded_when_completed() -> None:
    """complete() folds the user's fields; short ones keep their bytes."""
    header = completed(b"Subject: " + b"word " * 300 + b"end\nTo: a\n").header
    assert all(len(line) <= 998 for line in header.split(b"\r\n"))
    assert header.replace(b"\r\n ", b" ").count(b"word ") == 300


# -- Received and Date


# name: (arguments, field)
RECEIVED = {
    "full": ({"uid": 1000, "style": "full"}, "by h.example (pysendmail, from uid 1000) id Q1; DATE"),
    "minimal": ({"uid": 1000, "style": "minimal"}, "by h.example (pysendmail) id Q1; DATE"),
    "uid unknown": ({"uid": None, "style": "full"}, "by h.example (pysendmail) id Q1; DATE"),
    "SMTP client": (
        {"uid": 0, "style": "full", "helo": "c.example", "esmtp": True},
        "from c.example by h.example (pysendmail, from uid 0) with ESMTP id Q1; DATE",
    ),
    "SMTP client with HELO": (
        {"uid": None, "style": "full", "helo": "[192.0.2.1]"},
        "from [192.0.2.1] by h.example (pysendmail) with SMTP id Q1; DATE",
    ),
    "hostile HELO": (
        {"uid": None, "style": "full", "helo": "x for <a@b>\r\nBcc: (y"},
        "from x?for??a?b???Bcc:??y by h.example (pysendmail) with SMTP id Q1; DATE",
    ),
    "minimal hides the client": (
        {"uid": 0, "style": "minimal", "helo": "c.example", "esmtp": True},
        "by h.example (pysendmail) with ESMTP id Q1; DATE",
    ),
}


@pytest.mark.parametrize(("arguments", "value"), RECEIVED.values(), ids=RECEIVED)
def test_received_says_where_from(arguments: dict[str, object], value: str) -> None:
    """The trace field, in the words of its style, and never with a recipient."""
    raw = received(host="h.example", queue_id="Q1", date="DATE", **arguments)  # type: ignore[arg-type]
    assert value.encode() == Field(b"received", raw).value
    assert raw.startswith(b"Received: ") and raw.count(b"\r\n") == 2


def test_received_can_be_left_out() -> None:
    """The style "none" writes no field."""
    assert received(host="h", queue_id="Q", date="D", uid=1, style="none") == b""


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC0", "Sun, 22 Nov 2026 01:02:03 +0000"),
        ("CET-1", "Sun, 22 Nov 2026 02:02:03 +0100"),
        ("NST3:30", "Sat, 21 Nov 2026 21:32:03 -0330"),
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_a_date_is_local_with_its_offset(expected: str) -> None:
    """Local time, numeric zone, English names (RFC 5322 §3.3)."""
    assert rfc5322_date(1795309323.9) == expected


@given(INPUT)
def test_no_bytes_give_another_exception(data: bytes) -> None:
    """From stdin to the header that is stored, only MessageError and AddressError leave."""
    with contextlib.suppress(MessageError, AddressError):
        fields = fields_of(data)
        hops(fields)
        completed(data)
        recipients(fields)


def test_a_few_crs_cost_no_memory() -> None:
    """Each of a thousand small pieces with CRs in a row is looked at in the memory of a small piece."""
    intake = Intake(dot_ends=False)
    tracemalloc.start()
    try:
        intake.feed(b"\n")
        intake.feed(b"a\r\r\n")
        assert tracemalloc.get_traced_memory()[1] < MAX_CR_RUN // 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "unit", [b"\r", b"\0", b"\n.", b".", b"a:\n", b"a: b\n c\n", b"a", b" ", b"From ", b">", b"\r\na"]
)
def test_reading_takes_linear_time(unit: bytes) -> None:
    """Two megabytes of anything, in small pieces, are read in a moment."""
    data = unit * (2_000_000 // len(unit))
    for prefix in (b"", b"\n", b"a:"):
        with contextlib.suppress(MessageError):
            read((prefix, *(data[i : i + 100] for i in range(0, len(data), 100))))
