"""The log's grammar: whatever an event holds, it is one line that reads back."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import events as events_module
from pysendmail.events import EVERY, MAX_REFUSALS, MAX_VALUE, Complaints, Events, Lines, line
from pysendmail.records import Ended
from pysendmail.smtp.reply import printable

_PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\["\\])*)"|([^ "\\]+))(?: |\Z)')

any_text = st.text(st.characters(), max_size=200) | st.text('"\\ =\n\r\t\x00\x1b\x85\u2028\u202e\ud800é', max_size=30)


def parse(text: str) -> dict[str, str]:
    """As pysendmail(8), LOG says; every character must belong to a pair."""
    found, at = {}, 0
    while at < len(text):
        match = _PAIR.match(text, at)
        assert match, text[at:]
        found[match[1]] = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
    return found


@given(st.dictionaries(st.sampled_from(["reply", "sender", "queue_id"]), any_text, max_size=5))
def test_any_text_is_one_line_that_reads_back(fields: dict[str, str]) -> None:
    """One line, whatever counts as an end of line anywhere; the values are those given, made printable."""
    text = line("outcome", dict(fields))
    assert len(text.splitlines()) == 1 and not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)
    assert parse(text) == {"event": "outcome", **{key: printable(value, MAX_VALUE) for key, value in fields.items()}}


def test_caps() -> None:
    """A value is cut off at 1000 characters, visibly."""
    value = parse(line("x", {"reply": "y" * 5000}))["reply"]
    assert len(value) == MAX_VALUE and value.endswith("…")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "key=plain"),
        ("", 'key=""'),
        ("two words", 'key="two words"'),
        ('say "hi"', 'key="say \\"hi\\""'),
        ("<a@b.example>", "key=<a@b.example>"),
        ("new\nline", 'key="new\\\\x0aline"'),
        (0, "key=0"),
        (1.5, "key=1.5"),
        (100.0, "key=100"),
        (0.0004, "key=0"),
        (None, ""),
    ],
)
def test_values(value: str | float | None, text: str) -> None:
    """Plain values stand as they are, all others in quotes; nothing is left out but what is not there."""
    assert line("x", {"key": value}) == f"event=x {text}".strip()


def test_one_user_cannot_fill_the_log() -> None:
    """Of one uid so many refusals a minute are written, the last of which says so; another's are still there."""
    stream = io.StringIO()
    events = Events(Lines(stream))
    for _ in range(MAX_REFUSALS * 3):
        events.refused(uid=1000, code=75, reason="too much")
    events.refused(uid=1001, code=65, reason="no")
    *his, others = [parse(text) for text in stream.getvalue().splitlines()]
    assert MAX_REFUSALS <= len(his) <= 2 * MAX_REFUSALS  # a minute may have ended meanwhile
    assert "not logged before the next minute" in his[MAX_REFUSALS - 1]["reason"] or len(his) > MAX_REFUSALS
    assert others["uid"] == "1001"


def test_a_closed_stderr_costs_the_line() -> None:
    """Where nobody reads the log the mail goes on."""
    stream = io.StringIO()
    stream.close()
    Events(Lines(stream)).emit("accepted", queue_id="Q")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Events(Lines(Full())).emit("accepted", queue_id="Q")


def test_a_pipe_that_nobody_reads_costs_the_line() -> None:
    """A full pipe holds nobody up; once it is read again, what comes stands on lines of its own."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as log, open(write, "w", encoding="utf-8") as stream:
        events = Events(Lines(stream))
        for number in range(200):
            events.emit("x", number=number, first="y" * 900, second="z" * 900, third="é" * 900, fourth="é" * 900)
        log.read(1 << 20)
        events.emit("again")
        lines = log.read(1 << 20).splitlines()
        assert lines[-1] == b"event=again"
        assert lines[0].startswith(b"event=lost lines=")


def test_no_stderr_costs_the_line() -> None:
    """Started with stderr closed, Python has none."""
    Events(Lines(None)).emit("accepted", queue_id="Q")


async def test_a_follower_who_does_not_read_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """He misses what comes then; whoever emits, and another who follows, notice nothing."""
    monkeypatch.setattr(events_module, "MAX_FOLLOWED", 2)
    events = Events(Lines(io.StringIO()))
    with events.follow(EVERY) as reads, events.follow(EVERY) as sleeps:
        for number in range(4):
            events.emit("held", queue_id=f"Q{number}")
            assert (await reads.get())[1]["queue_id"] == f"Q{number}"
        assert [sleeps.get_nowait()[1]["queue_id"] for _ in range(sleeps.qsize())] == ["Q0", "Q1"]


async def test_follow() -> None:
    """`sendmail -v` hears what happens to its message, and only to that, until it stops listening."""
    events = Events(Lines(io.StringIO()))
    with events.follow("Q1") as first, events.follow("Q1") as second:
        events.emit("attempt", queue_id="Q2")
        events.emit("attempt", queue_id="Q1", smarthost="main")
        events.emit("start", pid=1)
    events.emit("attempt", queue_id="Q1")
    assert first.get_nowait() == second.get_nowait() == ("attempt", {"queue_id": "Q1", "smarthost": "main"})
    with pytest.raises(asyncio.QueueEmpty):
        first.get_nowait()
    assert events._followers == {}


def test_outcome() -> None:
    """A recipient's outcome is one line with `status=`: who, what, why, where, when again."""
    stream = io.StringIO()
    ended = Ended(
        queue_id="Q1",
        message_id="<1@example.com>",
        sender="",
        uid=1000,
        recipient="bob@example.org",
        outcome="deferred",
        status="4.4.2",
        reply="no answer",
        code=None,
        attempts=2,
        delay_s=12.3456,
        next_attempt_s=60.0,
        uncertain=True,
    )
    Events(Lines(stream)).ended(ended, smarthost="main", tls="TLSv1.3", address="192.0.2.1")
    fields = parse(stream.getvalue().rstrip("\n"))
    expected = {
        "event": "outcome",
        "queue_id": "Q1",
        "recipient": "<bob@example.org>",
        "status": "deferred",
        "dsn": "4.4.2",
        "smarthost": "main",
        "address": "192.0.2.1",
        "tls": "TLSv1.3",
        "delay_s": "12.346",
        "attempt": "2",
        "next_attempt_s": "60",
        "uncertain": "yes",
        "sender": "<>",
        "message_id": "<1@example.com>",
        "uid": "1000",
        "reply": "no answer",
    }
    assert fields == expected


def test_a_bug_names_the_way_to_it() -> None:
    """An error of ours says where it happened, innermost first: what a cap takes away is the beginning of the way."""

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise LookupError("no such thing")

    stream = io.StringIO()
    try:
        deep(200)
    except LookupError as error:
        Events(Lines(stream)).bug(error, queue_id="Q1")
    fields = parse(stream.getvalue().rstrip("\n"))
    assert (fields["queue_id"], fields["error"]) == ("Q1", "LookupError('no such thing')")
    assert re.match(r"test_events\.py:\d+ deep < test_events\.py:\d+ deep < ", fields["traceback"])


def test_a_library_that_complains_is_an_event() -> None:
    """asyncio's warnings have no line of their own grammar in the log."""
    stream = io.StringIO()
    logger = logging.Logger("asyncio")
    logger.addHandler(Complaints(Events(Lines(stream))))
    logger.info("nothing to worry about")
    logger.warning("socket.send() raised %s", "exception\nevent=accepted")
    assert parse(stream.getvalue().rstrip("\n")) == {
        "event": "library",
        "name": "asyncio",
        "error": "socket.send() raised exception\\x0aevent=accepted",
    }
