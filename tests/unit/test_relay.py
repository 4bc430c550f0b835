"""A smarthost as the daemon knows it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.config import Retry, Smarthost
from pysendmail.envelope import Recipient
from pysendmail.outcome import Fault, Stage, Trouble
from pysendmail.relay import FIRST_CONNECTIONS, GOOD_ANSWERS_TO_GROW, OFFLINE_S, Relay
from pysendmail.smtp.reply import Reply

RETRY = Retry(jitter=0.0)
REFUSED = Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, "refused")
OFFLINE = replace(REFUSED, offline=True)
CLAIM: Any = SimpleNamespace(message=1)


def relay(**settings: Any) -> Relay:
    return Relay(Smarthost(name="main", host="smtp.example.com", **settings))


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.AUTH])
def test_promise_14_its_trouble_names_nobodys_correspondents(stage: Stage) -> None:
    """All users are told why it rests; what it says to our own login is no mail of anybody's."""
    one = relay()
    reply = Reply(530, (b"5.7.0 <carol@example.org>: log in first, alice@example.com",))
    one.fail(Trouble.from_reply(stage, reply), RETRY, clock=0.0, now=0.0)
    assert one.trouble is not None
    told = "530 5.7.0 <[address]>: log in first, [address]"
    assert one.trouble.reason == (reply.text if stage is Stage.AUTH else told)


def test_it_starts_small() -> None:
    """Two connections at first, never more than the ceiling; two claims for each."""
    assert (relay().limit, relay().room(0)) == (FIRST_CONNECTIONS, 2 * FIRST_CONNECTIONS)
    assert (relay(connections=1).limit, relay(connections=1).room(0)) == (1, 2)


def test_room_counts_what_is_claimed_and_in_flight() -> None:
    """What is claimed and what is on a connection is room taken."""
    one = relay()
    one.claimed(CLAIM, 0)
    one.in_flight = [CLAIM]
    assert one.room(0) == 2
    one.in_flight = [CLAIM] * 9
    assert one.room(0) == 0


def test_it_grows_while_answers_are_good() -> None:
    """One connection more for every eight good answers, up to the ceiling; "too much" halves them, to one at least."""
    one = relay(connections=5)
    for _ in range(GOOD_ANSWERS_TO_GROW - 1):
        one.answered()
    assert one.limit == 2
    one.answered()
    assert one.limit == 3
    for _ in range(100):
        one.answered()
    assert one.limit == 5
    limits = []
    for _ in range(4):
        one.slow_down()
        limits.append(one.limit)
    assert limits == [2, 1, 1, 1]


def claim_to(address: str, uid: int = 0) -> Any:
    return SimpleNamespace(uid=uid or hash(address), recipients=[SimpleNamespace(recipient=Recipient(address=address))])


def test_a_stuck_message_is_beside_the_limit() -> None:
    """What takes long leaves the others their connections, up to the ceiling, unless the smarthost wants fewer."""
    one = relay(connections=5)
    one.stuck = [claim_to("a@slow.example"), claim_to("b@slow.example")]
    one.in_flight = one.stuck[:]
    assert (one.bearable, one.room(0)) == (4, 6)
    one.stuck *= 4
    assert one.bearable == 5
    one.slow_down()
    assert one.bearable == 1
    for _ in range(GOOD_ANSWERS_TO_GROW):
        one.answered()
    assert one.bearable == 5


def test_a_slow_destination_takes_half_of_the_connections() -> None:
    """A destination with stuck mail has no more turns once half of the connections, or the claims for them, are its."""
    one = relay(connections=8)
    one.claims.extend(claim_to(f"{n}@slow.example") for n in range(3))
    assert one.held_up() == set()
    one.stuck = one.in_flight = [claim_to("a@Slow.example"), claim_to("b@other.example")]
    assert one.held_up() == {"slow.example"}
    one.claims.pop()
    assert one.held_up() == set()


def test_a_user_of_slow_destinations_takes_three_quarters_of_the_connections() -> None:
    """However many destinations his stuck mail has: a quarter is for others; one leaves him his rest."""
    one = relay(connections=8)
    one.claims.extend(claim_to(f"x@{n}.example", uid=1000) for n in range(5))
    assert one.held_up() == set()
    one.stuck = one.in_flight = [claim_to("a@slow.example", uid=1000), claim_to("b@other.example", uid=1001)]
    assert one.held_up() == {1000}
    one.claims.pop()
    assert one.held_up() == set()


def test_trouble_rest_probe() -> None:
    """In trouble nothing is claimed until the rest is over; then one probe, and only one."""
    one = relay()
    one.fail(REFUSED, RETRY, clock=100, now=5000)
    assert (one.since, one.next_try_at, one.wait(110)) == (5000, 5030, 20)
    assert [one.room(clock) for clock in (100, 129, 130)] == [0, 0, 1]
    one.claimed(CLAIM, 0)
    assert one.room(130) == 0
    one.claims.clear()
    one.connections = 1
    assert (one.room(130), one.wait(130)) == (0, None)
    one.connections = 0
    one.fail(REFUSED, RETRY, clock=130, now=5030)
    assert (one.since, one.failed_at, one.wait(130)) == (5000, 5030, 60)


def test_rests_end_at_five_minutes() -> None:
    """However long it is down, it is probed every five minutes; up again, it starts from the beginning."""
    one = relay()
    waits, clock = [], 0.0
    for _ in range(6):
        one.fail(REFUSED, RETRY, clock=clock, now=0)
        waits.append(wait := one.wait(clock) or 0.0)
        clock += wait
    assert waits == [30, 60, 120, 240, 300, 300]
    one.recover()
    assert (one.trouble, one.next_try_at, one.wait(0), one.room(0)) == (None, None, None, 4)
    one.fail(REFUSED, RETRY, clock=0, now=7)
    assert (one.since, one.wait(0)) == (7, 30)


def test_connections_that_fail_together_are_one_failure() -> None:
    """Twenty connections lose the smarthost at once: it rests as after one failure, not for five minutes."""
    one = relay()
    for number in range(20):
        one.fail(REFUSED, RETRY, clock=number / 10, now=5000 + number / 10)
    assert (one.failures, one.wait(2), one.failed_at, one.next_try_at) == (1, 28, 5001.9, 5030)


def test_a_machine_without_a_network_expires_nothing_at_first() -> None:
    """Right after a boot there is no way to anybody: mail past its lifetime waits for that, but not for ever."""
    one = relay()
    clock = 0.0
    while clock < OFFLINE_S:
        one.fail(OFFLINE, RETRY, clock=clock, now=5000 + clock)
        assert one.failed_at == 0
        clock = one.next_try
    one.fail(OFFLINE, RETRY, clock=clock, now=5000 + clock)
    assert one.failed_at == 5000 + clock
    one.probe_now(clock, 5000 + clock)
    one.fail(OFFLINE, RETRY, clock=clock + 1, now=6000 + clock)
    assert one.failed_at == 5000 + clock
    one.fail(REFUSED, RETRY, clock=clock + 2, now=7000 + clock)
    assert one.failed_at == 7000 + clock


def test_flush_ends_the_rest() -> None:
    """A flush makes the probe due now."""
    one = relay()
    one.fail(REFUSED, RETRY, clock=100, now=5000)
    one.probe_now(101, 5001)
    assert (one.room(101), one.wait(101), one.next_try_at) == (1, 0, 5001)


def test_rate() -> None:
    """In no span of its time more than so many messages, also not after a burst; then as the oldest leave that span."""
    one = relay(connections=20, rate=(3, 60.0))
    one.limit = 20
    assert one.room(1000) == 3
    for clock in (1000, 1000, 1030):
        one.claimed(CLAIM, clock)
        one.claims.clear()
    assert (one.room(1031), one.wait(1031)) == (0, 29)
    assert (one.room(1059.9), one.room(1060), one.wait(1060)) == (0, 2, None)
    assert one.room(1090) == 3


def test_what_was_not_sent_counts_for_no_rate() -> None:
    """A claim that came to nothing makes room for another one; what it did not count for stays counted."""
    one = relay(rate=(2, 60.0))
    other: Any = SimpleNamespace(message=2)
    one.claimed(CLAIM, 1000)
    one.claimed(other, 1030)
    one.claims.clear()
    one.unused(CLAIM)
    one.unused(CLAIM)
    assert (one.room(1031), one.room(1090)) == (1, 2)


@given(st.lists(st.integers(0, 50), max_size=60))
def test_rate_holds_in_every_span(waits: list[int]) -> None:
    """Whoever claims all the room there is, whenever: no 60 s hold more than three messages."""
    one = relay(rate=(3, 60.0))
    clock, sent = 0, list[int]()
    for wait in waits:
        clock += wait
        for _ in range(one.room(clock)):
            one.claimed(CLAIM, clock)
            sent.append(clock)
        one.claims.clear()
    assert all(later - earlier >= 60 for earlier, later in zip(sent, sent[3:], strict=False))
