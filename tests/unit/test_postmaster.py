"""Who is told what: kind of message, sender and NOTIFY against what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysendmail.aliases import Aliases
from pysendmail.config import BounceSection
from pysendmail.postmaster import NOTICE_FAILED, NOTIFY_FORBIDS, NULL_SENDER, Postmaster
from pysendmail.records import Decision, Failed, Original
from rig.store import NOW, config

NEVER, FAILURE, DELAY, SUCCESS = (frozenset({word}) for word in ("never", "failure", "delay", "success"))
NONE: frozenset[str] = frozenset()


def failed(address: str = "bob@example.org", notify: frozenset[str] = NONE, outcome: str = "bounced") -> Failed:
    return Failed(
        address=address,
        original=address,
        orcpt="",
        notify=notify,
        outcome=outcome,
        status={"deferred": "4.3.0", "relayed": "2.0.0"}.get(outcome, "5.1.1"),
        reply="550 5.1.1 unknown",
        code=550,
        attempts=1,
        smarthost="main",
        last_attempt_at=NOW,
    )


def original(kind: str = "mail", sender: str = "alice@example.com", ret: str = "", size: int = 100) -> Original:
    return Original(
        queue_id="ORIGINAL",
        kind=kind,
        uid=1000,
        sender=sender,
        message_id="<1@example.com>",
        envid="",
        ret=ret,
        smtputf8=False,
        eight_bit=False,
        size=size,
        accepted_at=NOW - 60,
        expires_at=NOW + 60,
        header=b"From: alice@example.com\r\nSubject: test\r\n",
        about="EARLIER" if kind != "mail" else None,
        body=lambda: b"the text\r\n",
    )


def postmaster(**section: str) -> Postmaster:
    return Postmaster(config(Path("/q"), bounce=BounceSection(**section)), lambda: Aliases.load(""))


def decide(kind: str, about: Original, *of: Failed, **section: str) -> list[Decision]:
    ids = iter(f"NEW{n}" for n in range(9))
    return list(postmaster(**section).report(kind, about, of, lambda: next(ids), NOW))


OUTCOMES = {"bounce": "bounced", "delay": "deferred", "relayed": "relayed"}


@pytest.mark.parametrize(
    ("kind", "about", "notify", "told"),
    [
        ("bounce", original(), NONE, "alice@example.com"),
        ("bounce", original(), FAILURE, "alice@example.com"),
        ("bounce", original(), FAILURE | DELAY, "alice@example.com"),
        ("bounce", original(), NEVER, NOTIFY_FORBIDS),
        ("bounce", original(), SUCCESS, NOTIFY_FORBIDS),
        ("bounce", original(), DELAY, NOTIFY_FORBIDS),
        ("bounce", original(sender=""), NONE, NULL_SENDER),
        ("bounce", original(sender=""), FAILURE, NULL_SENDER),
        ("bounce", original("bounce", ""), NONE, "root@example.com"),
        ("bounce", original("bounce", "reports@example.com"), NONE, "root@example.com"),
        ("bounce", original("postmaster", ""), NONE, NOTICE_FAILED),
        ("bounce", original("postmaster", "reports@example.com"), NONE, NOTICE_FAILED),
        ("bounce", original("delay", ""), NONE, NOTICE_FAILED),
        ("bounce", original("relayed", ""), NONE, NOTICE_FAILED),
        ("delay", original(), NONE, "alice@example.com"),
        ("delay", original(), DELAY, "alice@example.com"),
        ("delay", original(), FAILURE, NOTIFY_FORBIDS),
        ("delay", original(), NEVER, NOTIFY_FORBIDS),
        ("delay", original(sender=""), NONE, NULL_SENDER),
        ("delay", original("bounce", ""), NONE, None),
        ("relayed", original(), SUCCESS, "alice@example.com"),
        ("relayed", original(), FAILURE, NOTIFY_FORBIDS),
        ("relayed", original(), NONE, NOTIFY_FORBIDS),
        ("relayed", original(sender=""), SUCCESS, NULL_SENDER),
        ("relayed", original("bounce", ""), NONE, None),
    ],
)
def test_who_is_told(kind: str, about: Original, notify: frozenset[str], told: str | None) -> None:
    """One decision a case: whom a mail goes to, or why there is none, or nothing to record at all."""
    decisions = decide(kind, about, failed(notify=notify, outcome=OUTCOMES[kind]))
    assert [decision.reported_to or decision.silence for decision in decisions] == ([told] if told else [])
    assert all((decision.message is None) is (decision.reported_to is None) for decision in decisions)


def test_a_bounce_never_bounces() -> None:
    """Promise: a bounce that fails is one note to postmaster, of a kind that makes none; [bounce] sender or not."""
    (bounce,) = decide("bounce", original(), failed(), sender="reports@example.com")
    assert bounce.message is not None
    assert (bounce.message.kind, bounce.message.envelope.sender) == ("bounce", "reports@example.com")
    (note,) = decide("bounce", original("bounce", "reports@example.com"), failed(), sender="reports@example.com")
    assert note.message is not None
    assert (note.message.kind, note.kind, note.reported_to) == ("postmaster", "postmaster", "root@example.com")
    (last,) = decide("bounce", original("postmaster", "reports@example.com"), failed())
    assert (last.message, last.kind) == (None, "postmaster")


def test_notify_splits_the_recipients() -> None:
    """Of two who failed together only the one who may be reported is in the mail; both are in the record."""
    never, wanted = failed("never@example.org", NEVER), failed("wanted@example.org")
    decisions = decide("bounce", original(), never, wanted)
    assert [(d.failed, d.silence) for d in decisions] == [((never,), NOTIFY_FORBIDS), ((wanted,), None)]
    message = decisions[1].message
    assert message is not None and b"never@example.org" not in message.body


def test_the_bounce_as_a_message() -> None:
    """It goes from the null sender to the reverse-path, belongs to the same user, and says what it is about."""
    (decision,) = decide("bounce", original(), failed())
    message = decision.message
    assert message is not None
    assert (message.queue_id, message.kind, message.uid, message.about) == ("NEW0", "bounce", 1000, "ORIGINAL")
    assert (message.envelope.sender, [r.address for r in message.envelope.recipients]) == ("", ["alice@example.com"])
    assert message.warn_after == 0
    assert message.header.startswith(b"Received: by box.example.com") and b"\r\n\r\n" not in message.header
    assert b"Auto-Submitted: auto-replied" in message.header
    assert b"550 5.1.1 unknown" in message.body and b"the text" not in message.body


@pytest.mark.parametrize(
    ("kind", "about", "returned"),
    [
        ("bounce", original(ret="full"), True),
        ("bounce", original(ret="hdrs"), False),
        ("bounce", original(ret="full", size=2 << 20), False),
        ("delay", original(ret="full"), False),
    ],
)
def test_what_is_returned(kind: str, about: Original, returned: bool) -> None:
    """The text comes back only with RET=FULL, within max_return, and in a bounce."""
    (decision,) = decide(kind, about, failed(outcome=OUTCOMES[kind]))
    assert decision.message is not None
    assert (b"the text" in decision.message.body) is returned


def test_nowhere_to_go() -> None:
    """A reverse-path that is no address sends the bounce to postmaster; that is none either: the record says so."""
    (decision,) = decide("bounce", original(sender="not an address"), failed())
    assert decision.reported_to == "root@example.com"
    (decision,) = decide("bounce", original(sender="not an address"), failed(), postmaster="not one either")
    assert (decision.message, decision.silence) == (None, "not an address: no address to send it to")


def test_a_bounce_takes_the_aliases(tmp_path: Path) -> None:
    """Recipients of bounces have aliases, as all others."""
    file = tmp_path / "aliases"
    file.write_text("root: admin@example.net, second@example.net\n")
    aliases = Aliases.load(file)
    one = Postmaster(config(tmp_path), lambda: aliases)
    (note,) = one.report("bounce", original("bounce", ""), [failed()], lambda: "NEW", NOW)
    assert note.reported_to == "admin@example.net, second@example.net"


def test_next_attempt_and_keeping() -> None:
    """The queue's questions on time are answered from [retry] and [queue]."""
    one = postmaster()
    assert NOW + 27 <= one.next_attempt_at(NOW, 1, "Q") <= NOW + 33
    assert one.kept_until(NOW) == NOW + 5 * 86400
