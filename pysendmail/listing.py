"""Listing: what waits and what became of it, as JSON-able dictionaries (pysendmail(8), JSON).

Every key is always there, null where there is nothing. Times are RFC 3339 in UTC, but `arrival_time`, which is
Postfix's epoch number. Each function reads one page or one message: nobody holds a long transaction.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from typing import Any

from pysendmail.queue import Queue
from pysendmail.status import Obstacle
from pysendmail.units import rfc3339, time_or_null

PAGE = 200
WAITING = frozenset({"queued", "held", "attempting"})

Entry = dict[str, Any]
Row = dict[str, Any]
Page = tuple[list[Entry], int | None]  # and where the next begins; None: that was the last
ObstacleOn = Callable[[tuple[str, ...]], Obstacle | None]


_NUMBERS = frozenset({"size", "accepted_at", "expires_at", "held", "forced_expire", "uid", "attempts", "at"})
_NUMBERS_OR_NULL = frozenset({"next_attempt_at", "finished_at", "removed_by", "code", "duration_s"})


def _sound_row(row: Row | sqlite3.Row) -> Row:
    """A row that is fit to be listed: a damaged one must hide no other."""
    return {key: _sound(key, row[key]) for key in row.keys()}  # noqa: SIM118 - sqlite3.Row has no other way


def _sound(key: str, value: Any) -> Any:
    if key in _NUMBERS or key in _NUMBERS_OR_NULL:
        if isinstance(value, (int, float)) and math.isfinite(value):
            return value
        return 0 if key in _NUMBERS else None
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def waiting_page(
    queue: Queue, *, after: int, uid: int | None, obstacle: ObstacleOn, with_body_type: bool = False
) -> Page:
    """One page of the queue as `mailq --json` has it; with the body type of Sendmail's layout if that is wanted."""
    rows = queue.page(after, uid, PAGE)
    entries = [waiting_entry(queue, row, obstacle) for row in rows]
    if with_body_type:
        for entry, row in zip(entries, rows, strict=True):
            entry["body_type"] = "8BITMIME" if row["eight_bit"] else ""
    return entries, (rows[-1]["id"] if len(rows) == PAGE else None)


def waiting_entry(queue: Queue, row: Row | sqlite3.Row, obstacle: ObstacleOn) -> Entry:
    """One waiting message; its recipients are those that still wait."""
    row = _sound_row(row)
    recipients = [_sound_row(r) for r in queue.rows("page_recipients", message=row["id"]) if r["state"] in WAITING]
    first = recipients[0] if recipients else None
    in_the_way = {r["route"]: obstacle(_route(r["route"])) for r in recipients}
    reasons = {route: one.reason for route, one in in_the_way.items() if one is not None}
    due = [_due_at(r, in_the_way[r["route"]]) for r in recipients if r["next_attempt_at"] is not None]
    return {
        "queue_name": _queue_name(row, recipients),
        "queue_id": row["queue_id"],
        "arrival_time": int(row["accepted_at"]),
        "message_size": row["size"],
        "forced_expire": bool(row["forced_expire"]),
        "sender": row["sender"] or "MAILER-DAEMON",
        "recipients": [
            {"address": r["address"], "delay_reason": r["reply"] or reasons.get(r["route"])} for r in recipients
        ],
        "uid": row["uid"],
        "attempts": max((r["attempts"] for r in recipients), default=0),
        "next_attempt_at": None if _held(row) else time_or_null(min(due, default=None)),
        "smarthost": (first["smarthost"] or next(iter(_route(first["route"])), None)) if first else None,
    }


def _due_at(recipient: Row, in_the_way: Obstacle | None) -> float:
    """When it is tried next: its own due time, or the smarthost's next probe if that is later."""
    until = in_the_way.until if in_the_way is not None else None
    return max(float(recipient["next_attempt_at"]), until or 0.0)


def _queue_name(row: Row, recipients: list[Row]) -> str:
    if _held(row):
        return "hold"
    if any(r["state"] == "attempting" for r in recipients):
        return "active"
    return "deferred" if any(r["reply"] for r in recipients) else "incoming"


def _held(row: Row) -> bool:
    return bool(row["held"]) or row["state"] == "damaged"


def _route(text: str) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


def history_page(queue: Queue, *, after: int, uid: int | None, since: float, to: str | None) -> Page:
    """One page of what became of messages."""
    rows = queue.rows("history_page", after=after, uid=uid, since=since, recipient=to, limit=PAGE)
    return [history_entry(queue, row) for row in rows], (rows[-1]["id"] if len(rows) == PAGE else None)


def history_entry(queue: Queue, row: Row | sqlite3.Row) -> Entry:
    row = _sound_row(row)
    return {
        "queue_id": row["queue_id"],
        "message_id": row["message_id"],
        "sender": row["sender"],
        "uid": row["uid"],
        "accepted_at": rfc3339(row["accepted_at"]),
        "size": row["size"],
        "recipients": [
            _history_recipient(queue, _sound_row(r)) for r in queue.rows("page_recipients", message=row["id"])
        ],
    }


def removers(queue: Queue, row: sqlite3.Row) -> dict[str, int]:
    """Who removed which recipients of a message: address -> uid."""
    recipients = queue.rows("page_recipients", message=row["id"])
    return {r["address"]: r["removed_by"] for r in recipients if r["state"] == "removed"}


def _history_recipient(queue: Queue, row: Row) -> Entry:
    return {
        "address": row["address"],
        "outcome": row["state"] if row["state"] not in WAITING else None,
        "finished_at": time_or_null(row["finished_at"]),
        "attempts": [
            {
                "at": rfc3339(attempt["at"]),
                "smarthost": attempt["smarthost"],
                "address": attempt["address"],
                "tls": attempt["tls"],
                "code": attempt["code"],
                "status": attempt["status"],
                "reply": attempt["reply"],
                "outcome": attempt["outcome"],
                "duration_s": attempt["duration_s"],
            }
            for attempt in map(_sound_row, queue.rows("page_attempts", recipient=row["id"]))
        ],
    }


def bounces_page(queue: Queue, *, after: int, uid: int | None, since: float, to: str | None, about: str | None) -> Page:
    """One page of bounce records, also of those that no mail told of."""
    rows = queue.rows("bounces_page", after=after, uid=uid, since=since, recipient=to, about=about, limit=PAGE)
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
    return entries, (rows[-1]["id"] if len(rows) == PAGE else None)
