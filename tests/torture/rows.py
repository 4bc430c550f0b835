"""Rows: a queue whose rows hold whatever the input says, and what is made of them; the target `rows`.

Input is lines, each a damage: an octet that chooses the column, one that chooses what kind of value stands there, and
the value. It is done to a message of alice's that waits, beside one of carol's to which nothing is done. Then all of
it is listed, claimed, refused by the smarthost, bounced, and looked at again. All of that is undone at the end.

What is promised: nothing of it raises, a row that makes no sense is set aside (or its attempt deferred), and carol's
message leaves as if nothing were the matter. A report that is made is mail: CRLF, ASCII but for addresses, no line of
more than 998 octets, no Bcc, three parts.
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from pysendmail.aliases import Aliases
from pysendmail.envelope import Recipient
from pysendmail.listing import Past, bounces_page, history_page, waiting_page
from pysendmail.outcome import Outcome
from pysendmail.postmaster import Postmaster
from pysendmail.queue import Queue
from pysendmail.records import Claim, NewMessage, Settlement
from pysendmail.settling import Settling
from rig.store import NOW, config, new_message, settlement

MOST_DAMAGES = 8  # of one input
LANES = 20  # of which each is claimed from so often, at most
CAROL = "carol@example.net"
HEADER = (
    b"Received: by box.example.com; now\r\nFrom: Ann <alice@example.com>\r\nBcc: hidden@example.org\r\nSubject: x\r\n"
)
KINDS = ("text", "not UTF-8", "octets", "integer", "real", "null")
WORDS = (
    *(bytes((number,)) for number in range(40)),
    *(
        b"\n",
        b"bob@example.org",
        b"alice@example.com",
        b"full",
        b"never",
        b"queued",
        b"held",
        b"bounce",
        b"mail",
        b"\xff",
    ),
    *(
        b"inf",
        b"nan",
        b"-1",
        b"1e308",
        b"9" * 18,
        b"<>",
        b"\r",
        b"\0",
        b"Bcc: x",
        b"main",
        b"j\xc3\xbc@x.example",
        b"a" * 300,
    ),
    *(
        b"Bcc: s@e.example\r\n",
        b"X: y\r\n z\r\n",
        b"\xe2\x80\xae",
        b"success,delay",
        b"rfc822;a@b",
        b"--=_",
        b"a b",
        b".",
    ),
)
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_BCC = re.compile(rb"^(?:resent-)?bcc[ \t]*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of it: who was claimed, who was set aside, and the reports that were made."""

    claimed: Sequence[str]
    reports: Sequence[NewMessage]


class _Undo(Exception):
    """All of it was only a trial."""


@cache
def _opened() -> tuple[Queue, tempfile.TemporaryDirectory[str], Sequence[tuple[str, str]]]:
    directory = tempfile.TemporaryDirectory(prefix="torture-rows-")
    queue = Queue.open(Path(directory.name))
    queue.connection.execute("PRAGMA synchronous = OFF")
    columns = [
        (table, row["name"])
        for table in ("message", "recipient", "lane", "body")
        for row in queue.connection.execute(f"PRAGMA table_info({table})")
        if row["name"] != "id"
    ]
    return queue, directory, columns


_POLICY = Postmaster(config(), lambda: Aliases.load(""))
_serial = count()


def use(data: bytes) -> Found:
    queue, _, _ = _opened()
    found: list[Found] = []
    with suppress(_Undo), queue.transaction():
        found.append(_lived(queue, data))
        raise _Undo
    return found[0]


def _lived(queue: Queue, data: bytes) -> Found:
    bob, dan = (Recipient(address=f"{name}@example.org", notify=frozenset({"failure"})) for name in ("bob", "dan"))
    serial = next(_serial)
    for new in (
        new_message(bob, dan, queue_id=f"A{serial:011}", header=HEADER, ret="full"),
        new_message(CAROL, uid=2000, sender=CAROL, queue_id=f"C{serial:011}"),
    ):
        queue.accept(new, submission=None, now=NOW)
    queue.owners.forget()
    message = queue.connection.execute("SELECT max(id) - 1 FROM message").fetchone()[0]
    for damage in data.split(b"\n")[:MOST_DAMAGES]:
        _damage(queue, message, damage)
    queue._forget_lanes()
    _listed(queue)
    claimed: list[str] = []
    for lane in queue.lanes():
        for _ in range(LANES):
            if (claim := queue.claim(lane, "main", NOW + 1)) is None:
                break
            claimed.append(claim.envelope.sender)
            _ended(queue, claim)
    Settling(queue, _POLICY, NOW + 2).recover(3600.0)
    overdue = queue.overdue(("main",), NOW + 10_000)
    Settling(queue, _POLICY, NOW + 10_000).expire(overdue, reason="too old", status="4.4.7", smarthost="main")
    _listed(queue)
    return Found(claimed=claimed, reports=queue.take_reports())


def _damage(queue: Queue, message: int, damage: bytes) -> None:
    if len(damage) < 2:
        return
    columns = _opened()[2]
    table, column = columns[damage[0] % len(columns)]
    kind, value = KINDS[damage[1] % len(KINDS)], damage[2:]
    written = "CAST(? AS TEXT)" if kind == "not UTF-8" else "?"
    whose = {
        "message": "id = ?",
        "lane": "id IN (SELECT lane FROM recipient WHERE message = ?)",
        "recipient": "message = ?",
        "body": "message = ?",
    }[table]
    with suppress(sqlite3.IntegrityError):  # the schema has no room for that: nor has any file
        queue.connection.execute(
            f"UPDATE {table} SET {column} = {written} WHERE {whose}", (_value(kind, value), message)
        )


def _value(kind: str, value: bytes) -> Any:
    if kind == "null":
        return None
    if kind == "integer":
        return int.from_bytes(value[:8], "big", signed=True)
    if kind == "real":
        try:
            return float(value)
        except ValueError:
            return float(len(value))
    return value.decode("utf-8", "replace") if kind == "text" else value


def _listed(queue: Queue) -> None:
    """As people and programs see it, down to the JSON."""
    past = Past(uid=None)
    pages = [
        waiting_page(queue, after=0, uid=None, obstacle=lambda route: None, with_body_type=True),
        history_page(queue, after=0, past=past),
        bounces_page(queue, after=0, past=past, about=None),
    ]
    json.dumps([entries for entries, _ in pages], allow_nan=False).encode()
    queue.counts(None)


def _ended(queue: Queue, claim: Claim) -> None:
    """Carol's is taken, the others are refused; what cannot be settled is deferred, as the delivery does it."""
    outcome = Outcome.SENT if claim.envelope.sender == CAROL else Outcome.BOUNCED
    given: Settlement = settlement(claim, outcome)
    try:
        queue.apart(lambda queue: Settling(queue, _POLICY, NOW + 1).settle(given))
    except Exception:  # whatever it is: the delivery takes it for an error of ours
        queue.apart(lambda queue: Settling(queue, _POLICY, NOW + 1).defer(claim, "an error of ours", NOW + 5000))


def judge(data: bytes, found: Found) -> None:
    assert CAROL in found.claimed, "a damaged row has hidden another's mail"
    for report in found.reports:
        whole = report.header + b"\r\n" + report.body
        assert not _BARE.search(whole), "a CR, LF or NUL alone in a report"
        assert whole.endswith(b"\r\n")
        assert max(map(len, whole.split(b"\r\n"))) <= 998, "a line too long in a report"
        assert not _BCC.search(whole) and b"hidden@" not in whole, "a Bcc in a report"
        read = email.message_from_bytes(whole, policy=email.policy.default)
        assert read.get_content_type() == "multipart/report" and len(read.get_payload()) == 3, "not a report"
        assert read["Auto-Submitted"] == "auto-replied"
