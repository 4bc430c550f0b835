"""The queue as monitoring scripts parse it: Postfix's long-id layout and Sendmail's, to the column."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysendmail import mailq

ARRIVED = 1_763_766_526  # Fri Nov 21 23:08:46 2025 UTC


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Arrival times are shown in local time."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def entry(queue_id: str = "0uZ4M1qZabcd", **changes: Any) -> dict[str, Any]:
    return {
        "queue_name": "deferred",
        "queue_id": queue_id,
        "arrival_time": ARRIVED,
        "message_size": 1234,
        "forced_expire": False,
        "sender": "alice@example.com",
        "recipients": [{"address": "bob@example.org", "delay_reason": "451 4.3.0 later"}],
        "uid": 1000,
        "attempts": 1,
        "next_attempt_at": "2025-11-21T23:09:16Z",
        "smarthost": "main",
        **changes,
    }


async def listed(layout: Callable[[AsyncIterator[Any], str], AsyncIterator[str]], *entries: dict[str, Any]) -> str:
    """The entries come in pages of two, the last of which is empty: a filter may leave nothing of one."""

    async def pages() -> AsyncIterator[list[dict[str, Any]]]:
        for at in range(0, len(entries) + 1, 2):
            yield list(entries[at : at + 2])
        yield []

    return "".join([text async for text in layout(pages(), "/var/spool/queue")])


THREE = (
    entry(queue_name="active"),
    entry(
        "0uZ4M1qZabce",
        queue_name="hold",
        message_size=123456789,
        sender="MAILER-DAEMON",
        recipients=[
            {"address": "a@example.org", "delay_reason": "451 4.3.0 later"},
            {"address": "b@example.org", "delay_reason": "451 4.3.0 later"},
            {"address": "c@example.org", "delay_reason": "x" * 100},
            {"address": "d@example.org", "delay_reason": None},
        ],
    ),
    entry("0uZ4M1qZabcf", forced_expire=True, recipients=[{"address": "e@example.org", "delay_reason": None}]),
)

POSTFIX = f"""\
----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
0uZ4M1qZabcd*         1234 Fri Nov 21 23:08:46 alice@example.com
                                                             (451 4.3.0 later)
                                               bob@example.org

0uZ4M1qZabce!     123456789 Fri Nov 21 23:08:46 MAILER-DAEMON
                                                             (451 4.3.0 later)
                                               a@example.org
                                               b@example.org
({"x" * 100})
                                               c@example.org
                                               d@example.org

0uZ4M1qZabcf#         1234 Fri Nov 21 23:08:46 alice@example.com
                                               e@example.org

-- 120565 Kbytes in 3 Requests.
"""

SENDMAIL = """\
		/var/spool/queue (3 requests)
-----Q-ID----- --Size-- -----Q-Time----- ------------Sender/Recipient-----------
 0uZ4M1qZabcd*    1234 Fri Nov 21 23:08 <alice@example.com>
                 (451 4.3.0 later)
					 <bob@example.org>
 0uZ4M1qZabce 123456789 Fri Nov 21 23:08 <>
                 (451 4.3.0 later)
					 <a@example.org>
					 <b@example.org>
					 <c@example.org>
					 <d@example.org>
 0uZ4M1qZabcf     1234 Fri Nov 21 23:08 <alice@example.com>
					 <e@example.org>
		Total requests: 3
"""  # noqa: E101


async def test_postfix() -> None:
    """Columns, marks, reasons before the recipients they cover, a blank line between messages, the sum at the end."""
    assert await listed(mailq.postfix, *THREE) == POSTFIX


async def test_postfix_one() -> None:
    """One message is "1 Request"; awk with RS="" finds sender and recipient where Postfix' manual says."""
    text = await listed(mailq.postfix, entry(recipients=[{"address": "b@example.org", "delay_reason": None}]))
    assert text.endswith("\n-- 1 Kbytes in 1 Request.\n")
    fields = text.split("\n\n")[0].split("\n", 1)[1].split()
    assert (fields[6], fields[7]) == ("alice@example.com", "b@example.org")


async def test_sendmail() -> None:
    """Sendmail's columns: id and state, size, time, sender; the reason; five tabs and a space before a recipient."""
    assert await listed(mailq.sendmail, *({**one, "body_type": ""} for one in THREE)) == SENDMAIL


async def test_empty() -> None:
    """An empty queue in the words that scripts look for."""
    assert await listed(mailq.postfix) == "Mail queue is empty\n"
    assert await listed(mailq.sendmail) == "/var/spool/queue is empty\n\t\tTotal requests: 0\n"
    assert await listed(mailq.jsonl) == ""
    assert "empty" in await listed(mailq.table)


async def test_table() -> None:
    """One line a recipient, with what it waits for."""
    lines = (await listed(mailq.table, *THREE)).splitlines()
    assert len(lines) == 1 + 6
    assert lines[1].split() == [
        "0uZ4M1qZabcd", "1234", "Nov", "21", "23:08", "alice@example.com", "bob@example.org", "active:", "451", "4.3.0",
        "later",
    ]  # fmt: skip


async def test_jsonl() -> None:
    """One object a line, as it is."""
    text = await listed(mailq.jsonl, *THREE)
    assert [json.loads(line) for line in text.splitlines()] == list(THREE)


GOLDEN = Path(__file__).parents[1] / "golden" / "mailq"  # from the real programs: make.py there says how
LONG = "with.a.very.long.local.part.that.goes.on.and.on@a.very.long.domain.name.example"


def golden(name: str) -> str:
    return (GOLDEN / name).read_text("utf-8")


async def test_postfix_prints_what_postfix_does() -> None:
    """Given what `postqueue -j` says of a queue, every byte of what `postqueue -p` prints of it."""
    entries = [json.loads(line) for line in golden("postfix.json").splitlines()]
    assert await listed(mailq.postfix, *entries) == golden("postfix.txt")
    assert await listed(mailq.postfix) == golden("postfix_empty.txt")


async def test_sendmail_prints_what_sendmail_does() -> None:
    """Every byte of `sendmail -bp`, for the messages that make.py wrote into its queue."""

    def message(
        queue_id: str, sender: str, recipients: list[str], reason: str | None, size: int, body_type: str = ""
    ) -> dict[str, Any]:
        waiting = [{"address": address, "delay_reason": reason} for address in recipients]
        facts = {"arrival_time": 1_795_910_926, "message_size": size, "sender": sender, "recipients": waiting}
        return entry(queue_id, body_type=body_type, **facts)

    deferred = "Deferred: 451 4.3.0 later"
    messages = {
        one["queue_id"]: one
        for one in (
            message("0uZ4M1qZabcd", "alice@example.com", ["bob@example.org", "carol@example.org"], deferred, 12),
            message("0uZ4M1qZabce", "MAILER-DAEMON", ["bob@example.org"], None, 123456789),
            message("0uZ4M1qZabcf", f"alice.{LONG}", [f"bob.{LONG}"], "x" * 90, 3, "8BITMIME"),
            message("0uZ4M1qZabcg", "alice@example.com", ["bob@example.org"], None, 7, "8BITMIME"),
        )
    }
    order = [line.split()[0] for line in golden("sendmail.txt").splitlines() if line.startswith(" 0uZ")]
    assert await listed(mailq.sendmail, *(messages[queue_id] for queue_id in order)) == golden("sendmail.txt")
    assert await listed(mailq.sendmail) == golden("sendmail_empty.txt")
