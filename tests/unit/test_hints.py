"""hints: the words that help, for replies as servers really give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.hints import HINTS, hint

REPLIES = [
    (
        "5.1.1",
        "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown",
        "does not exist there",
    ),
    (
        "5.1.10",
        "556 5.1.10 Recipient address rejected: Domain example.org does not accept mail (nullMX)",
        "no mail at all",
    ),
    ("5.0.0", "550 No such user here", "does not exist there"),
    ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied.", "does not exist there"),
    ("5.2.2", "552 5.2.2 Mailbox full", "mailbox is full"),
    ("5.0.0", "552 Quota exceeded", "mailbox is full"),
    ("5.7.60", "550 5.7.60 SMTP; Client does not have permissions to send as this sender", "[rewrite]"),
    ("5.7.1", "553 5.7.1 <x@y>: Sender address rejected: not owned by user box", "[rewrite]"),
    ("5.7.1", "554 5.7.1 <bob@example.org>: Relay access denied", "user name and password"),
    ("5.0.0", "550 relaying not permitted", "user name and password"),
    ("5.7.26", "550-5.7.26 This mail has been blocked because the sender is unauthenticated.", "SPF"),
    (
        "5.7.1",
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
        "unwanted",
    ),
    ("5.3.4", "552 5.3.4 Message size exceeds fixed limit", "too large"),
    ("5.6.7", "the server does not offer SMTPUTF8", "SMTPUTF8"),
    ("5.7.1", "550 5.7.1 Message rejected", "A rule of the server"),
    ("5.0.0", "550 Go away", "no more than the server's words"),
    ("4.7.1", "451 4.7.1 Greylisted, please come back", "pysendmail does by itself"),
    ("4.4.1", "connection refused", "passing one"),
]


@pytest.mark.parametrize(("status", "reply", "expected"), REPLIES)
def test_replies_of_real_servers_get_the_words_that_help(status: str, reply: str, expected: str) -> None:
    """The hint follows the status where it is precise, else the server's own words."""
    assert expected in hint(status, reply)


@given(status=st.text(max_size=12), reply=st.text(max_size=1000))
def test_there_is_always_a_hint(status: str, reply: str) -> None:
    """No status and no reply leaves the sender without a word."""
    assert hint(status, reply)


def test_a_row_can_be_reached_by_its_own_status() -> None:
    """No row with a precise status is hidden behind an earlier one."""
    for status, pattern, words in HINTS:
        if status and not pattern:
            assert words == hint(status, "")
