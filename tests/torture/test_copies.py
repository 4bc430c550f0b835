"""Copies of one message, however they came about: a retry, a connection that was cut, a daemon that was killed."""

from __future__ import annotations

from pathlib import Path

from rig.instance import smarthost
from torture.evidence import Attempt
from torture.ledger import Ledger, Subject
from torture.recorder import Recorder
from torture.traffic import RETRY, settle, verdict


def test_promise_5_copies_are_identical_across_kills_and_retries(tmp_path: Path) -> None:
    """Put off at the dot, cut without an answer, taken and cut, taken and the daemon killed: octet for octet the same.

    One of them is large and has lines and 8-bit text that must stay as they are, and the daemon that sends the last
    copy is not the one that took the message.
    """
    with Recorder() as recorder:
        subject = Subject(tmp_path, smarthosts=[smarthost(recorder)], retry=RETRY)
        ledger = Ledger(subject)
        with subject:
            calls = [
                ledger.submit("dot4x2.1@example.org"),
                ledger.submit("cut.2@example.org", size=400_000),
                ledger.submit("lost.3@example.org", "ok.3@example.net", header=b"X-Long: a\n b\n\tc\n"),
                ledger.submit("slow.4@example.org", size=50_000),
            ]
            last = calls[-1].token
            recorder.wait_until(lambda: recorder.copies(last))  # which is not answered yet
            subject.kill()
            subject.start()
            recorder.wait_until(lambda: len(recorder.copies(last)) == 2)
            assert settle(ledger) == 0
            assert subject.stop() == 0
            subject.start()
            assert verdict(ledger, recorder) == []
    for call in calls:
        sent = [one for one in recorder.attempts if one.dot is not None and one.token == call.token]
        assert len(sent) >= 2
        assert len({stream(one) for one in sent}) == 1, f"copies for {call.recipients} differ"


def stream(attempt: Attempt) -> bytes:
    assert attempt.dot is not None
    return attempt.dot.stream


def test_promise_2_a_sendmail_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """Where nobody is left to be told: what has no end of input is no message, however much of it came."""
    with Recorder() as recorder:
        subject = Subject(tmp_path, smarthosts=[smarthost(recorder)], retry=RETRY)
        ledger = Ledger(subject)
        with subject:
            killed = [
                ledger.submit(f"ok.{octets}@example.org", size=octets, kill_at_octet=octets)
                for octets in (0, 1, 200, 2_000_000)
            ]
            ledger.submit("ok.2@example.org")
            assert verdict(ledger, recorder) == []
            assert all(one.killed for one in killed)
            assert [one.sender for one in recorder.accepted()] == [ledger.calls[-1].sender]
            assert len(subject.history()) == 1
