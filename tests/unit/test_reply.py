"""Replies: what is one, in any segmentation, and what shows of it."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysendmail.smtp.reply import MAX_LINE_OCTETS, MAX_LINES, MAX_TEXT, Reply, ReplyReader, printable

PIECES = [
    b"250 ok\r\n",
    b"250-more\r\n",
    b"250",
    b" x",
    b"\r\n",
    b"\n",
    b"\r",
    b"354 \r\n",
    b"2500 x\r\n",
    b"550-a\r\n",
    b"-",
]
# Something like a conversation, with each kind of mistake in it.
streams = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    st.binary(max_size=60),
    st.integers(MAX_LINE_OCTETS - 3, MAX_LINE_OCTETS + 3).map(lambda n: b"250 " + b"x" * (n - 4) + b"\r\n250 ok\r\n"),
)


def read(stream: bytes, cuts: list[int]) -> tuple[list[Reply], bool]:
    reader = ReplyReader()
    replies = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        replies += reader.feed(stream[start:end])
    return replies, bool(reader.broken)


@given(stream=streams, cuts=st.lists(st.integers(0, 5000), max_size=8))
@example(stream=b"250 " + b"x" * (MAX_LINE_OCTETS - 4) + b"\r\n", cuts=[MAX_LINE_OCTETS + 1])
@example(stream=b"250 ok\r\nrubbish\r\n", cuts=[])
def test_segmentation_means_nothing(stream: bytes, cuts: list[int]) -> None:
    """However a stream is cut, the same replies come out and the reader ends the same way."""
    assert read(stream, []) == read(stream, cuts)
    assert read(stream, []) == read(stream, list(range(len(stream))))


@given(stream=st.binary(max_size=200))
def test_any_octets(stream: bytes) -> None:
    """No octets raise, and each reply that comes out has a code of SMTP."""
    replies, _ = read(stream, [])
    assert all(200 <= reply.code <= 599 for reply in replies)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"ok",
        b"25 ok",
        b"2500 ok",
        b"199 x",
        b"600 x",
        b"000 x",
        b"250_x",
        b"250\tx",
        b"\xb2\xb5\xb0 x",
        b"250 a\rb",
        b" 250 x",
    ],
)
def test_what_is_no_reply(line: bytes) -> None:
    """What RFC 5321 §4.2 does not allow breaks the reader, which then reads nothing more."""
    reader = ReplyReader()
    assert not reader.feed(line + b"\r\n250 ok\r\n")
    assert reader.broken
    assert not reader.empty
    assert not reader.feed(b"250 ok\r\n")


def test_what_was_complete_counts() -> None:
    """Replies before the mistake in one segment are returned."""
    reader = ReplyReader()
    assert [reply.code for reply in reader.feed(b"250 ok\r\n250-and\r\n550 not\r\n")] == [250]
    assert "begins with 250 and goes on with 550" in reader.broken
    reader = ReplyReader()
    reader.feed(b"rubbish\r\n")
    assert reader.broken == "not an SMTP reply: rubbish"


def test_replies_without_words() -> None:
    """A code alone is a reply, with and without its space, also as the first line of several; a bare LF ends it."""
    read = ReplyReader().feed(b"250\r\n250 \r\n250-\r\n250 ok\r\n354\n")
    assert read == [Reply(250, (b"",)), Reply(250, (b"",)), Reply(250, (b"", b"ok")), Reply(354, (b"",))]


@pytest.mark.parametrize("code", [200, 299, 300, 399, 400, 499, 500, 599])
def test_first_digit(code: int) -> None:
    """What becomes of the mail is decided by it, to the edges of each hundred; 2 alone is positive."""
    [reply] = ReplyReader().feed(b"%d x\r\n" % code)
    assert (reply.first_digit, reply.positive) == (int(str(code)[0]), code < 300)


def test_bounds() -> None:
    """A line and a reply have their greatest length."""
    assert [Reply(250, (b"x" * (MAX_LINE_OCTETS - 4),))] == ReplyReader().feed(
        b"250 " + b"x" * (MAX_LINE_OCTETS - 4) + b"\r\n"
    )
    for end in (b"", b"\r\n"):
        reader = ReplyReader()
        assert not reader.feed(b"250 " + b"x" * MAX_LINE_OCTETS + end)
        assert "octets" in reader.broken
    reader = ReplyReader()
    assert not reader.feed(b"x" * 100 + b"\r\n")
    assert reader.broken == f"not an SMTP reply: {'x' * 79}…"
    reader = ReplyReader()
    assert len(reader.feed(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n")) == 1
    reader = ReplyReader()
    assert not reader.feed(b"250-x\r\n" * (MAX_LINES + 1))
    assert "lines" in reader.broken


def test_empty() -> None:
    """A fragment or an unfinished reply is left over; nothing is after a whole one."""
    reader = ReplyReader()
    assert reader.empty
    for piece, empty in ((b"2", False), (b"50-x\r\n", False), (b"250 y\r\n", True)):
        reader.feed(piece)
        assert empty is reader.empty


@pytest.mark.parametrize(
    ("lines", "code", "status"),
    [
        ((b"2.1.5 ok",), 250, "2.1.5"),
        ((b"ok",), 250, "2.0.0"),
        ((b"5.1.1 no",), 450, "4.0.0"),
        ((b"2.1.5.6 ok",), 250, "2.0.0"),
        ((b"4.007.1 x", b"4.1.1 y"), 451, "4.7.1"),
        ((b"5.1.1",), 550, "5.1.1"),
        ((b"",), 550, "5.0.0"),
        ((b"\xff.1.1 x",), 550, "5.0.0"),
    ],
)
def test_status(lines: tuple[bytes, ...], code: int, status: str) -> None:
    """The enhanced status is the first line's, if it fits the code."""
    assert status == Reply(code, lines).status


def test_text_is_escaped_and_capped() -> None:
    """Nothing that a server says moves a cursor, turns the writing direction or fills a log."""
    assert printable(b"a\x1b[2J\r\n\0\xff\xe2\x80\xae\xc3\xa9") == "a\\x1b[2J\\x0d\\x0a\\x00\\xff\\u202e\xe9"
    assert printable(b"\x80") == "\\x80"
    assert printable("\udd00") == "\\udd00"
    assert Reply(550, (b"5.1.1 no", b"one")).text == "550 5.1.1 no one"
    assert len(Reply(550, (b"x" * 2000,) * 50).text) == MAX_TEXT
    assert [printable("\0six", limit) for limit in (6, 7, 8)] == ["\\x00s…", "\\x00six", "\\x00six"]
