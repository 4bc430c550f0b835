"""Events in systemd's journal: fields that can be asked for, right priorities, and never in the mail's way."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from pysendmail.events import Lines
from pysendmail.journal import ERROR, INFO, MAX_WAITING, NOTICE, WARNING, Journal, entry, priority, sender, sink


def fields(pairs: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


def test_fields_are_the_logs_keys() -> None:
    """QUEUE_ID=, RECIPIENT=, ... can be asked for; an address stands as people write it; nothing is a field twice."""
    pairs = entry(
        "outcome", {"queue_id": "Q1", "recipient": "<bob@example.org>", "status": "sent", "tls": None, "delay_s": 0.25}
    )
    assert len(pairs) == len(fields(pairs))
    assert fields(pairs) == {
        "MESSAGE": "event=outcome queue_id=Q1 recipient=<bob@example.org> status=sent delay_s=0.25",
        "PRIORITY": str(INFO),
        "SYSLOG_IDENTIFIER": "pysendmail",
        "EVENT": "outcome",
        "QUEUE_ID": "Q1",
        "RECIPIENT": "bob@example.org",
        "STATUS": "sent",
        "DELAY_S": "0.25",
    }


def test_text_from_the_network_is_one_field() -> None:
    """A reply with a line break adds no field and no line of its own."""
    pairs = entry("outcome", {"reply": "550 no\nPRIORITY=0\x00"})
    assert all("\n" not in pair and "\x00" not in pair for pair in pairs)
    assert fields(pairs)["PRIORITY"] == str(INFO)


@pytest.mark.parametrize(
    ("event", "detail", "level"),
    [
        ("bug", {}, ERROR),
        ("broken", {}, ERROR),
        ("trouble", {}, WARNING),
        ("refused", {}, NOTICE),
        ("accepted", {}, INFO),
        ("outcome", {"status": "sent"}, INFO),
        ("outcome", {"status": "deferred"}, NOTICE),
        ("outcome", {"status": "bounced"}, WARNING),
        ("reload", {}, INFO),
        ("alarm", {"state": "raised"}, ERROR),
        ("alarm", {"state": "cleared"}, NOTICE),
        ("reload", {"error": "line 3"}, WARNING),
    ],
)
def test_priorities(event: str, detail: dict[str, str], level: int) -> None:
    """`journalctl -p warning` shows what a person should look at, and no everyday mail."""
    assert priority(event, detail) == level


def test_a_stalled_journal_costs_events_not_time() -> None:
    """While journald does not answer nothing waits; what it missed is counted once it answers again."""
    answers, asked = threading.Event(), threading.Event()
    taken: list[dict[str, str]] = []

    def send(pairs: list[str]) -> None:
        asked.set()
        answers.wait()
        taken.append(fields(pairs))

    journal = Journal(send)
    journal.write("accepted", {"queue_id": "first"})
    assert asked.wait(10)
    for number in range(MAX_WAITING + 5):
        journal.write("accepted", {"queue_id": str(number)})
    answers.set()
    while len(taken) < MAX_WAITING + 1:
        asked.clear()
        assert asked.wait(10) or len(taken) >= MAX_WAITING + 1
    journal.write("accepted", {"queue_id": "last"})
    journal.close()
    assert [one["QUEUE_ID"] for one in taken[:2]] == ["first", "0"]
    assert (taken[-2]["EVENT"], taken[-2]["LINES"]) == ("lost", "5")
    assert taken[-1]["QUEUE_ID"] == "last"


def test_a_journal_that_does_not_read_stops_no_other_thread(tmp_path: Path) -> None:
    """Its socket is full: whoever sends waits, and holds no lock meanwhile (systemd-python keeps the interpreter's)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journal = Journal(sender(str(tmp_path / "socket")))
        sent = 3000  # more than a socket holds
        for number in range(sent):
            journal.write("accepted", {"queue_id": str(number)})
        got = [journald.recv(4096).decode() for _ in range(sent)]
        journal.close()
    assert [f"QUEUE_ID={number}" in text.splitlines() for number, text in enumerate(got)] == [True] * sent
    assert got[0].endswith("\n")


def test_a_journal_that_is_gone_stops_nothing() -> None:
    """journald died: events are lost, the daemon ends as usual."""

    def send(pairs: list[str]) -> None:
        raise ConnectionRefusedError

    journal = Journal(send)
    journal.write("accepted", {})
    journal.close()


def test_a_stderr_that_is_not_the_journal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children inherit JOURNAL_STREAM although their stderr may go elsewhere: only the stream that it names counts."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert isinstance(sink(), Lines)
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}0")
    assert isinstance(sink(), Lines)
