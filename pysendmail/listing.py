"""Listing: what waits and what became of it, as JSON-able dictionaries (pysendmail(8), JSON).

Every key is always there, null where there is nothing. Times are RFC 3339 in UTC, but `arrival_time`, which is
Postfix's epoch number. Each function reads one page or one message: nobody holds a long transaction, or the thread
that all look with. So a page has bounds of its own, whatever the messages are like: of messages, of recipients, and of
rows that are looked at.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pysendmail.queue import Queue
from pysendmail.status import Obstacle
from pysendmail.units import rfc3339, time_or_null

PAGE = 200
PAGE_RECIPIENTS = 5000  # with the attempts; a message is never cut, so that its own may be more
PAGE_LOOKED_AT = 2000  # rows, of which those that are asked for may be few
ATTEMPTS_AT_ONCE = 2000  # some 8 ms: others look meanwhile
ATTEMPTED = ("sent", "deferred", "bounced", "uncertain")
WAITING = frozenset({"queued", "held", "attempting"})

Entry = dict[str, Any]
Row = dict[str, Any]
Values = tuple[Any, ...]
Page = tuple[list[Entry], int | None]  # and where the next begins; None: that was the last
ObstacleOn = Callable[[tuple[str, ...]], Obstacle | None]


_NUMBERS = frozenset({"size", "accepted_at", "expires_at", "held", "forced_expire", "uid", "attempts", "at"})
_NUMBERS_OR_NULL = frozenset(
    {"pid", "next_attempt_at", "finished_at", "removed_by", "code", "duration_s", "body_until"}
)
# The types of what stands in a row of `page` and of `waiting_recipients`, unless it is damaged.
_MESSAGE = ("id", "queue_id", "uid", "sender", "size", "eight_bit", "accepted_at", "held", "forced_expire", "state")
_SOUND_MESSAGE = (int, str, int, str, int, int, float, int, int, str)
_SOUND_RECIPIENTS = frozenset(
    (int, int, str, int, int, due, reply, smarthost, int)
    for due in (float, type(None))
    for reply in (str, type(None))
    for smarthost in (str, type(None))
)


def _sound_row(row: Row | sqlite3.Row) -> Row:
    """A row that is fit to be listed: a damaged one must hide no other."""
    return {key: _sound(key, row[key]) for key in row.keys()}  # noqa: SIM118 - sqlite3.Row has no other way


def _sound(key: str, value: Any) -> Any:
    if key in _NUMBERS:
        return _number(value)
    return _number_or_null(value) if key in _NUMBERS_OR_NULL else _text(value)


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else 0


def _number_or_null(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def waiting_page(
    queue: Queue, *, after: int, uid: int | None, obstacle: ObstacleOn, with_body_type: bool = False
) -> Page:
    """One page of the queue as `mailq --json` has it; with the body type of Sendmail's layout if that is wanted."""
    rows = queue.page(after, uid, PAGE)
    more = len(rows) == PAGE
    recipients = queue.waiting_recipients([row["id"] for row in rows], PAGE_RECIPIENTS + 1)
    if len(recipients) > PAGE_RECIPIENTS:
        # Up to the message that not all recipients are here of; that is whole in the next page, or alone in this one.
        cut = recipients[-1]["message"]
        alone = recipients[0]["message"] == cut
        kept = [row for row in rows if row["id"] < cut + alone]
        rows, more = kept, more or len(kept) < len(rows)
        recipients = queue.waiting_recipients([cut]) if alone else [r for r in recipients if r["message"] != cut]
    entries = _waiting_entries(queue, rows, recipients, obstacle)
    if with_body_type:
        for entry, row in zip(entries, rows, strict=True):
            entry["body_type"] = "8BITMIME" if row["eight_bit"] else ""
    return entries, (rows[-1]["id"] if more else None)


def _waiting_entries(
    queue: Queue, rows: Sequence[Row | sqlite3.Row], all_found: Sequence[sqlite3.Row], obstacle: ObstacleOn
) -> list[Entry]:
    """Waiting messages, rows of `page`; their recipients are those that still wait."""
    recipients: dict[int, list[Values]] = {row["id"]: [] for row in rows}
    ways: dict[int, _Way] = {}
    for found in all_found:
        recipient = tuple(found)
        if tuple(map(type, recipient)) not in _SOUND_RECIPIENTS:
            recipient = tuple(_sound_row(found).values())
        recipients[recipient[0]].append(recipient)
        if (lane := recipient[-1]) not in ways:
            ways[lane] = _way(queue.route_of(lane), obstacle)
    return [_waiting_entry(row, recipients[row["id"]], ways) for row in rows]


def waiting_entry(queue: Queue, row: Row | sqlite3.Row, obstacle: ObstacleOn) -> Entry:
    """One of them."""
    return _waiting_entries(queue, [row], queue.waiting_recipients([row["id"]]), obstacle)[0]


_Way = tuple[str | None, float, str | None]  # what is in the way, until when, the first smarthost


def _way(route: tuple[str, ...], obstacle: ObstacleOn) -> _Way:
    found = obstacle(route)
    first = route[0] if route else None
    return (None, 0.0, first) if found is None else (found.reason, found.until or 0.0, first)


def _waiting_entry(row: Row | sqlite3.Row, recipients: list[Values], ways: Mapping[int, _Way]) -> Entry:
    # Tens of thousands of these are made for one listing: what is as it should be is taken as it is, and by its place.
    values = tuple(row)
    if tuple(map(type, values)) != _SOUND_MESSAGE or math.isinf(values[6]):
        row = _sound_row(row)
        values = tuple([row[name] for name in _MESSAGE])
    _, queue_id, uid, sender, size, _, accepted_at, held, forced_expire, state = values
    if len(recipients) > 1:
        recipients.sort(key=itemgetter(1))
    each: list[Entry] = []
    attempts, due, smarthost = 0, math.inf, None
    name = "incoming"
    for _, _, address, under_way, made, due_at, reply, last, lane in recipients:
        reason, until, first = ways[lane]
        if not each:
            smarthost = last or first
        each.append({"address": address, "delay_reason": reply or reason})
        if under_way:
            name = "active"
        elif reply and name == "incoming":
            name = "deferred"
        if made > attempts:
            attempts = made
        if due_at is not None:
            # Its own due time, or the smarthost's next probe if that is later.
            at = due_at if due_at > until else until
            if at < due:
                due = at
    if held or state == "damaged":
        name = "hold"
    return {
        "queue_name": name,
        "queue_id": queue_id,
        "arrival_time": int(accepted_at),
        "message_size": size,
        "forced_expire": bool(forced_expire),
        "sender": sender or "MAILER-DAEMON",
        "recipients": each,
        "uid": uid,
        "attempts": attempts,
        "next_attempt_at": None if name == "hold" or due == math.inf else rfc3339(due),
        "smarthost": smarthost,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What of the past is asked for. `to` and `sender` are an address or @domain, `reason` a part of the last reply.

    `outcome` is one of a recipient's, or `waiting`.
    """

    uid: int | None
    since: float = 0.0
    until: float | None = None
    to: str | None = None
    sender: str | None = None
    outcome: str | None = None
    reason: str | None = None

    @property
    def names(self) -> dict[str, Any]:
        """For the statements."""
        sender = "" if self.sender == "<>" else self.sender
        names = {"uid": self.uid, "since": self.since, "until": self.until, "recipient": self.to, "sender": sender}
        return {**names, "outcome": self.outcome, "reason": self.reason}


def history_page(queue: Queue, *, after: int, past: Past) -> Page:
    """One page of what became of messages."""
    looked_at = {"after": after, "looked_at": PAGE_LOOKED_AT}
    rows = queue.rows("history_page", limit=PAGE, **looked_at, **past.names)
    entries: list[Entry] = []
    weight = 0
    for row in rows:
        entries.append(entry := history_entry(queue, row))
        weight += sum(1 + len(recipient["attempts"]) for recipient in entry["recipients"])
        if weight >= PAGE_RECIPIENTS:
            return entries, row["id"]
    return entries, _end(rows, queue.one("history_page_end", **looked_at))


def history_of(queue: Queue, *, row: sqlite3.Row, past: Past) -> list[Entry]:
    """The entry of one message, if it fits."""
    only = {"after": row["id"] - 1, "looked_at": 1, "limit": 1}
    if past != Past(uid=past.uid) and not queue.rows("history_page", **only, **past.names):
        return []
    return [history_entry(queue, row)]


def _end(rows: Sequence[sqlite3.Row], last: sqlite3.Row) -> int | None:
    """Where the next page begins: behind what was found, or behind what was looked at."""
    if len(rows) == PAGE:
        return int(rows[-1]["id"])
    return int(last["id"]) if last["looked_at"] == PAGE_LOOKED_AT else None


def history_entry(queue: Queue, row: Row | sqlite3.Row) -> Entry:
    """One message; of each of its recipients the last attempts, all of them unless the recipients are many."""
    row = _sound_row(row)
    recipients = queue.rows("page_recipients", message=row["id"])
    most = max(PAGE_RECIPIENTS // max(len(recipients), 1), 1)
    return {
        "queue_id": row["queue_id"],
        "message_id": row["message_id"],
        "sender": row["sender"],
        "uid": row["uid"],
        "accepted_at": rfc3339(row["accepted_at"]),
        "size": row["size"],
        "recipients": [_history_recipient(queue, _sound_row(recipient), most) for recipient in recipients],
        "pid": row["pid"],
        "command": row["command"],
        "unit": row["unit"],
        "kind": row["kind"],
        "about": row["about"],
    }


def header(queue: Queue, row: sqlite3.Row) -> str:
    """The header section of a message, as far as it can be read."""
    found = queue.one("header", message=row["id"])["header"]
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def removers(queue: Queue, row: sqlite3.Row) -> dict[str, int]:
    """Who removed which recipients of a message: address -> uid."""
    recipients = queue.rows("page_recipients", message=row["id"])
    return {r["address"]: r["removed_by"] for r in recipients if r["state"] == "removed"}


def routes(queue: Queue, row: sqlite3.Row) -> set[tuple[str, ...]]:
    """By which smarthosts the recipients who wait are to be reached."""
    return {queue.route_of(one["lane"]) for one in queue.waiting_recipients([row["id"]])}


def _history_recipient(queue: Queue, row: Row, most: int) -> Entry:
    attempts = [_attempt(one) for one in reversed(queue.rows("page_attempts", recipient=row["id"], limit=most))]
    if row["state"] == "attempting":
        attempts.append(_attempt({**_UNDER_WAY, "at": row["attempted_at"], "smarthost": row["smarthost"]}))
    return {
        "address": row["address"],
        "outcome": row["state"] if row["state"] not in WAITING else None,
        "finished_at": time_or_null(row["finished_at"]),
        "attempts": attempts,
    }


_ATTEMPT = ("at", "smarthost", "address", "tls", "code", "status", "reply", "outcome", "duration_s")
_UNDER_WAY: Row = dict.fromkeys(_ATTEMPT)


def _attempt(row: Row | sqlite3.Row) -> Entry:
    sound = _sound_row(row)
    return {**sound, "at": rfc3339(sound["at"])}


def bounces_page(queue: Queue, *, after: int, past: Past, about: str | None) -> Page:
    """One page of bounce records, also of those that no mail told of."""
    looked_at = {"after": after, "looked_at": PAGE_LOOKED_AT}
    rows = queue.rows("bounces_page", about=about, limit=PAGE, **looked_at, **past.names)
    entries = [
        {
            "queue_id": row["about"],
            "at": rfc3339(row["at"]),
            "kind": row["kind"],
            "sender": row["sender"],
            "uid": row["uid"],
            "recipient": row["recipient"],
            "outcome": row["outcome"],
            "status": row["status"],
            "reply": row["reply"],
            "report_queue_id": row["queue_id"],
            "reported_to": row["reported_to"],
            "silence": row["silence"],
        }
        for row in map(_sound_row, rows)
    ]
    return entries, _end(rows, queue.one("bounces_page_end", **looked_at))


def traffic_page(
    queue: Queue, *, before: int, uid: int | None, since: float, width: float
) -> tuple[list[Row], int | None]:
    """What one page of attempts gave, the newest first, and where the next begins; None: what is wanted is complete."""
    found = queue.rows("attempts_page", before=before, uid=uid, since=since, width=width, limit=ATTEMPTS_AT_ONCE)
    full = sum(row["rows"] for row in found) == ATTEMPTS_AT_ONCE
    more = full and max(row["latest"] for row in found) >= since
    return [_sound_row(row) for row in found if row["wanted"]], min(row["first"] for row in found) if more else None


def traffic(rows: Sequence[Row], *, since: float, width: float, slots: int) -> list[Entry]:
    """Stretches of time and what the attempts that ended in each gave, of all pages."""
    found: list[list[Row]] = [[] for _ in range(slots)]
    for row in rows:
        if 0 <= row["slot"] < slots:  # or it ended after the question
            found[row["slot"]].append(row)
    return [_slot(each, since + at * width, width) for at, each in enumerate(found)]


def _slot(rows: Sequence[Row], at: float, width: float) -> Entry:
    sent = [row for row in rows if row["outcome"] == "sent"]
    number = sum(row["number"] for row in sent)
    return {
        "at": rfc3339(at),
        "seconds": width,
        **_outcomes(rows),
        "delay_mean_s": round(sum(row["delay_s"] for row in sent) / number, 1) if number else None,
        "delay_longest_s": round(max(row["longest_s"] for row in sent), 1) if number else None,
        "smarthosts": [
            {"name": name, **_outcomes([row for row in rows if row["smarthost"] == name])}
            for name in sorted({row["smarthost"] for row in rows if row["number"]})
        ],
    }


def _outcomes(rows: Sequence[Row]) -> dict[str, int]:
    return {outcome: sum(row["number"] for row in rows if row["outcome"] == outcome) for outcome in ATTEMPTED}
