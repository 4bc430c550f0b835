"""Alarms, decided: what is told, once, when it has lasted; again when it is over; never twice within the interval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pysendmail.alarms import Decision, Sight, Told, decide, from_text, letter, notice, to_text
from pysendmail.config import Alarm, Retry, Smarthost
from pysendmail.outcome import Fault, Outcome, Scope, Stage, Trouble, Verdict
from pysendmail.relay import Relay
from pysendmail.smtp.reply import Reply

NOW = 1_700_000_000.0
ALARM = Alarm(after=120.0, oldest=3600.0, interval=600.0)
REFUSED = Trouble.from_reply(Stage.AUTH, Reply(535, (b"5.7.8 bad \x1b[2J password",)))
UNTRUSTED = Trouble.from_fault(Stage.TLS, Fault.CERTIFICATE, "the certificate has expired")
# How the daemon hands on what an answer to MAIL says of the smarthost.
NOT_PAID = Trouble(
    stage=Stage.MAIL,
    verdict=Verdict(Scope.SMARTHOST, Outcome.DEFERRED),
    reason="530 pay first",
    status="4.7.0",
    code=530,
)


def sight(
    trouble: Trouble | None = None,
    *,
    since: float = NOW,
    sent_at: float | None = None,
    oldest_at: float | None = None,
    reserve_used: bool = False,
    damaged: bool = False,
) -> Sight:
    relay = Relay(Smarthost(name="main", host="smtp.example.com"), last_sent_at=sent_at)
    if trouble is not None:
        relay.fail(trouble, Retry(), clock=0.0, now=since)
    return Sight(relays={"main": relay}, oldest_at=oldest_at, reserve_used=reserve_used, damaged=damaged)


def keys(decision: Decision) -> tuple[list[str], list[str]]:
    return [one.key for one in decision.raised], list(decision.cleared)


@pytest.mark.parametrize(
    ("trouble", "key"),
    [
        (REFUSED, "account main"),
        (NOT_PAID, "account main"),
        (Trouble.from_fault(Stage.AUTH, Fault.SECRET, "no password"), "account main"),
        (Trouble.from_fault(Stage.AUTH, Fault.POLICY, "no common AUTH mechanism"), "account main"),
        (UNTRUSTED, "tls main"),
        (Trouble.from_fault(Stage.STARTTLS, Fault.POLICY, "the server does not offer STARTTLS"), "tls main"),
        (Trouble.from_fault(Stage.TLS, Fault.HANDSHAKE, "no shared cipher"), "tls main"),
        (Trouble.from_reply(Stage.STARTTLS, Reply(454, (b"not now",))), "tls main"),
        (Trouble.from_reply(Stage.AUTH, Reply(421, (b"later",))), None),
        (Trouble.from_fault(Stage.AUTH, Fault.TIMEOUT, "no answer"), None),
        (Trouble.from_fault(Stage.STARTTLS, Fault.CLOSED, "the server closed the connection"), None),
        (Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, "connection refused"), None),
        (Trouble.from_fault(Stage.CONNECT, Fault.NAME, "no such name"), None),
    ],
    ids=lambda value: value.reason if isinstance(value, Trouble) else str(value),
)
def test_which_trouble_is_one(trouble: Trouble, key: str | None) -> None:
    """The account and TLS are a person's to mend; a line that is down is not, unless mail waits for too long."""
    decision = decide({}, sight(trouble, since=NOW - 120), ALARM, NOW)
    assert keys(decision) == ([key] if key else [], [])


def test_it_is_told_when_it_has_lasted() -> None:
    """What a smarthost says in a bad minute is no alarm, and the time to look again is known."""
    early = decide({}, sight(REFUSED), ALARM, NOW)
    assert (keys(early), early.book, early.look_at) == (([], []), {}, NOW + 120)
    ripe = decide({}, sight(REFUSED), ALARM, NOW + 120)
    assert keys(ripe) == (["account main"], [])
    assert decide({}, sight(), ALARM, NOW + 120).look_at is None


def test_it_is_told_once_and_again_when_it_is_over() -> None:
    """A condition that holds is silent after the first time; mail that left is its end, told once."""
    told = decide({}, sight(REFUSED), ALARM, NOW + 120).book
    still = decide(told, sight(REFUSED), ALARM, NOW + 90_000)
    assert (keys(still), still.book) == (([], []), told)
    ended = decide(told, sight(sent_at=NOW + 130), ALARM, NOW + 131)
    assert keys(ended) == ([], ["account main"])
    assert keys(decide(ended.book, sight(sent_at=NOW + 130), ALARM, NOW + 132)) == ([], [])


def test_a_restart_is_no_recovery() -> None:
    """A daemon that has just started knows of no trouble: what was told stays, until mail has left or it comes back."""
    told, _ = from_text(to_text(decide({}, sight(REFUSED), ALARM, NOW + 120).book, "/run/notice"))
    assert keys(decide(told, sight(sent_at=NOW - 5), ALARM, NOW + 200)) == ([], [])
    assert keys(decide(told, sight(REFUSED, since=NOW + 201), ALARM, NOW + 900)) == ([], [])
    assert keys(decide(told, sight(UNTRUSTED, since=NOW + 201), ALARM, NOW + 900)) == (["tls main"], [])
    assert keys(decide(told, sight(sent_at=NOW + 121), ALARM, NOW + 900)) == ([], ["account main"])


def test_a_smarthost_that_is_gone_is_no_condition() -> None:
    """Who takes it out of the configuration has mended it."""
    told = decide({}, sight(REFUSED), ALARM, NOW + 120).book
    assert keys(decide(told, replace(sight(), relays={}), ALARM, NOW + 130)) == ([], ["account main"])


def test_what_comes_and_goes_is_told_once_in_an_interval() -> None:
    """It comes back at once: silence until the interval is over, then one word if it still is."""
    told = decide({}, sight(REFUSED), ALARM, NOW + 120).book
    over = decide(told, sight(sent_at=NOW + 130), ALARM, NOW + 130).book
    back = sight(REFUSED, since=NOW + 140, sent_at=NOW + 130)
    again = decide(over, back, ALARM, NOW + 300)
    assert (keys(again), again.look_at) == (([], []), NOW + 720)
    assert keys(decide(over, back, ALARM, NOW + 720)) == (["account main"], [])
    assert decide(over, sight(sent_at=NOW + 130), ALARM, NOW + 720).book == {}


def test_old_mail() -> None:
    """The oldest message waits for longer than the limit, whatever the reason; over when it is gone; 0: never."""
    waiting = sight(oldest_at=NOW)
    assert decide({}, waiting, ALARM, NOW).look_at == NOW + 3600
    raised = decide({}, waiting, ALARM, NOW + 3600)
    assert keys(raised) == (["age"], [])
    assert keys(decide(raised.book, sight(), ALARM, NOW + 3700)) == ([], ["age"])
    assert keys(decide(raised.book, sight(oldest_at=NOW + 1000), ALARM, NOW + 3700)) == ([], ["age"])
    never = replace(ALARM, oldest=0.0)
    assert keys(decide({}, waiting, never, NOW + 1e6)) == ([], [])


def test_damage() -> None:
    """What cannot be read is told at once, and once more when nothing is set aside any more."""
    raised = decide({}, sight(damaged=True), ALARM, NOW)
    assert keys(raised) == (["damage"], [])
    assert keys(decide(raised.book, sight(), ALARM, NOW + 1)) == ([], ["damage"])


def test_the_reserve() -> None:
    """Told at once: it is the last warning."""
    raised = decide({}, sight(reserve_used=True), ALARM, NOW)
    assert keys(raised) == (["reserve"], [])
    assert keys(decide(raised.book, sight(), ALARM, NOW + 1)) == ([], ["reserve"])


def test_a_clock_that_was_set_back() -> None:
    """A book from the future neither silences what is new nor makes anything be told twice."""
    book = {
        "account main": Told(since=NOW + 1e6, told_at=NOW + 1e6),
        "reserve": Told(since=0, told_at=NOW + 1e6, over=True),
    }
    assert keys(decide(book, sight(REFUSED, since=NOW + 1e6), ALARM, NOW)) == ([], [])
    assert decide(book, sight(reserve_used=True), ALARM, NOW).look_at == NOW + 600
    assert keys(decide(book, sight(sent_at=NOW + 1), ALARM, NOW + 2)) == ([], [])


def test_words() -> None:
    """The letter has the server's words, escaped; the notice, which everybody may read, has none."""
    decision = decide({}, sight(REFUSED, reserve_used=True), ALARM, NOW + 120)
    assert letter(decision, "box.example.com").decode() == (
        "pysendmail on box.example.com: mail does not leave as it should\n"
        "raised account main: smarthost main does not take the account of this machine, since 2023-11-14T22:13:20Z: "
        "535 5.7.8 bad \\x1b[2J password\n"
        "raised reserve: the disk of the queue is full, since 2023-11-14T22:15:20Z\n"
    )
    assert notice(decision.book, "box.example.com") == (
        "pysendmail on box.example.com: mail does not leave as it should\n"
        "  smarthost main does not take the account of this machine, since 2023-11-14T22:13:20Z\n"
        "  the disk of the queue is full, since 2023-11-14T22:15:20Z\n"
        "  pysendmail status says more\n"
    )
    over = decide(decision.book, sight(sent_at=NOW + 130), ALARM, NOW + 140)
    assert letter(over, "box.example.com").decode().splitlines() == [
        "pysendmail on box.example.com: mail leaves again",
        "cleared account main: it is over; it began at 2023-11-14T22:13:20Z",
        "cleared reserve: it is over; it began at 2023-11-14T22:15:20Z",
    ]
    assert notice(over.book, "box.example.com") == ""


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"age": 1}', b'{"age": {"since": "x"}}', b"\xff"])
def test_a_book_that_cannot_be_read(text: bytes) -> None:
    """It is empty: one telling too many, never a daemon that does not start."""
    assert from_text(text) == ({}, "")
