"""Alarms: mail cannot leave, or no longer in the way it should: which conditions hold, and what is to be told now.

    account  a smarthost does not take our account, or the password cannot be had
    tls      a smarthost does not meet its TLS policy
    age      the oldest message waits for longer than [alarm] oldest
    reserve  the disk is full and the reserve is used
    damage   a message cannot be read, and is set aside

A condition is told once when it has lasted, and once when it is over; one that comes back is not told again within
[alarm] interval of the last time. What was told is in a book, which outlives the daemon. A start knows nothing of its
smarthosts, so silence is no recovery: theirs are over when mail has left through them, or they are configured no more.

Pure: `conditions` and `over` say what is, `decide` what is to be told, `notice` and `letter` in which words. Times are
wall clock; one in the future, from before the clock was set back, counts as now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pysendmail.config import Alarm
from pysendmail.outcome import ACCOUNT_CODES, FAULT_STATUS, Fault, Stage, Trouble
from pysendmail.relay import Relay
from pysendmail.units import rfc3339

Kind = Literal["account", "tls", "age", "reserve", "damage"]
_NO_VERDICT = frozenset({FAULT_STATUS[Fault.TIMEOUT], FAULT_STATUS[Fault.GARBAGE]})  # the line is at fault
_NOTICE = "notice"  # in the book: no condition has this key
_UP = "mail does not leave as it should"
_WORDS: Mapping[str, str] = {
    "account": "smarthost {smarthost} does not take the account of this machine",
    "tls": "smarthost {smarthost} does not meet the TLS policy",
    "age": "the oldest message waits for too long",
    "reserve": "the disk of the queue is full",
    "damage": "mail in the queue cannot be read and is set aside",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that is wrong. It is told when it still is at `ripe_at`."""

    kind: Kind
    smarthost: str = ""
    since: float
    ripe_at: float
    reason: str = ""  # a server's words, escaped and capped; "" where the kind says it all

    @property
    def key(self) -> str:
        return f"{self.kind} {self.smarthost}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the book has of a condition."""

    since: float
    told_at: float
    over: bool = False  # and that was told, too


Book = Mapping[str, Told]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the daemon sees when it looks."""

    relays: Mapping[str, Relay]
    oldest_at: float | None  # of mail that waits and is not held
    reserve_used: bool
    damaged: bool  # something is set aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    raised: tuple[Condition, ...]
    cleared: tuple[str, ...]  # keys
    book: dict[str, Told]  # once that has been told
    look_at: float | None  # when time alone changes the decision


def conditions(sight: Sight, alarm: Alarm, now: float) -> list[Condition]:
    """What is wrong, or will be if nothing changes."""
    found: list[Condition] = []
    for relay in sight.relays.values():
        if relay.trouble is not None and (kind := kind_of(relay.trouble)) is not None:
            since = min(relay.since, now)
            found.append(
                Condition(
                    kind=kind,
                    smarthost=relay.name,
                    since=since,
                    ripe_at=since + alarm.after,
                    reason=relay.trouble.reason,
                )
            )
    if sight.oldest_at is not None and alarm.oldest:
        since = min(sight.oldest_at, now)
        found.append(Condition(kind="age", since=since, ripe_at=since + alarm.oldest))
    if sight.reserve_used:
        found.append(Condition(kind="reserve", since=now, ripe_at=now))
    if sight.damaged:
        found.append(Condition(kind="damage", since=now, ripe_at=now))
    return found


def kind_of(trouble: Trouble) -> Kind | None:
    """Of trouble with a smarthost that answers, and with which more than the line is wrong; None of any other."""
    if trouble.code == 421 or trouble.status in _NO_VERDICT:
        return None
    if trouble.stage is Stage.AUTH or trouble.code in ACCOUNT_CODES:
        return "account"
    return "tls" if trouble.stage in (Stage.STARTTLS, Stage.TLS) else None


def over(key: str, told: Told, sight: Sight, alarm: Alarm, now: float) -> bool:
    """Whether a condition that was told is known to be over."""
    kind, _, smarthost = key.partition(" ")
    if kind == "age":
        return sight.oldest_at is None or not alarm.oldest or sight.oldest_at + alarm.oldest > now
    if kind == "reserve":
        return not sight.reserve_used
    if kind == "damage":
        return not sight.damaged
    relay = sight.relays.get(smarthost)
    if relay is None:
        return True
    return relay.trouble is None and relay.last_sent_at is not None and relay.last_sent_at > min(told.told_at, now)


def decide(book: Book, sight: Sight, alarm: Alarm, now: float) -> Decision:
    """What is to be told now."""
    raised: list[Condition] = []
    new = dict(book)
    later: list[float] = []
    for condition in conditions(sight, alarm, now):
        told = book.get(condition.key)
        if told is not None and not told.over:
            continue
        due_at = max(condition.ripe_at, 0.0 if told is None else min(told.told_at, now) + alarm.interval)
        if due_at <= now:
            raised.append(condition)
            new[condition.key] = Told(since=condition.since, told_at=now)
        else:
            later.append(due_at)
    cleared: list[str] = []
    for key, told in book.items():
        if not told.over and over(key, told, sight, alarm, now):
            cleared.append(key)
            new[key] = Told(since=told.since, told_at=told.told_at, over=True)
        elif told.over and new[key].over and min(told.told_at, now) + alarm.interval <= now:
            del new[key]
    return Decision(raised=tuple(raised), cleared=tuple(cleared), book=new, look_at=min(later) if later else None)


# -- words --


def _words(key: str) -> str:
    kind, _, smarthost = key.partition(" ")
    return _WORDS.get(kind, kind).format(smarthost=smarthost)


def notice(book: Book, hostname: str) -> str:
    """What everybody who logs in may read, so nothing that a server said; "" when all is well."""
    lines = [f"  {_words(key)}, since {rfc3339(told.since)}\n" for key, told in book.items() if not told.over]
    if not lines:
        return ""
    return "".join([f"pysendmail on {hostname}: {_UP}\n", *lines, "  pysendmail status says more\n"])


def is_notice(text: bytes) -> bool:
    """Whether a file holds what `notice` wrote."""
    return text.startswith(b"pysendmail on ")


def letter(decision: Decision, hostname: str) -> bytes:
    """What the command reads: a line for people, then one for each change."""
    up = sum(not told.over for told in decision.book.values())
    lines = [f"pysendmail on {hostname}: {_UP if up else 'mail leaves again'}"]
    for one in decision.raised:
        reason = f": {one.reason}" if one.reason else ""
        lines.append(f"raised {one.key}: {_words(one.key)}, since {rfc3339(one.since)}{reason}")
    for key in decision.cleared:
        lines.append(f"cleared {key}: it is over; it began at {rfc3339(decision.book[key].since)}")
    return ("\n".join(lines) + "\n").encode()


# -- the book on disk --


def to_text(book: Book, notice: str) -> bytes:
    """`notice` is the file that says so to everybody, "" where there is none."""
    return json.dumps({**{key: asdict(told) for key, told in book.items()}, _NOTICE: notice}).encode()


def from_text(text: bytes) -> tuple[dict[str, Told], str]:
    """What `to_text` wrote. What cannot be read was never told: that costs one telling too many."""
    try:
        found: Any = json.loads(text)
        notice = str(found.pop(_NOTICE, ""))
        return {
            str(key): Told(since=float(one["since"]), told_at=float(one["told_at"]), over=bool(one["over"]))
            for key, one in found.items()
        }, notice
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}, ""
