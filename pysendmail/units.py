"""Units: durations, sizes and instants between text and number.

Durations are seconds (float), sizes are octets (int), instants are epoch seconds. Text needs a unit, since a
bare number has been read as minutes by one program and as seconds by the next; only 0 needs none. Text for
people is English and rounded, text for programs (`rfc3339`) is UTC. Errors: UnitError alone, with words.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache

# A hundred years: nobody means more, and sums with an epoch stay far from any overflow.
MAX_DURATION_S = 100 * 365 * 86400.0
# What SQLite's integers and Python's indices hold with ease.
MAX_SIZE_OCTETS = 1 << 60

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_OCTETS = {
    "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip
_DURATION = re.compile(r"(?:[0-9]{1,10}(?:\.[0-9]{1,6})?[smhdw]){1,5}")
_PART = re.compile(r"([0-9.]+)([smhdw])")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([kmgt]i?b|b)", re.IGNORECASE)
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2}))?"
)
_LAST_INSTANT = 253402300799.0  # the end of the year 9999


class UnitError(ValueError):
    """Text that is no duration, size or time. The words give an example of what is."""


def duration(text: str) -> float:
    """Seconds in "30s", "4h", "5d", "1h30m"; 0 in "0"."""
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise UnitError(f"{text[:40]!r} is no duration; write 30s, 15m, 4h, 5d or 2w")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds > MAX_DURATION_S:
        raise UnitError(f"{text!r} is more than a hundred years")
    return float(seconds)


def size(text: str) -> int:
    """Octets in "512B", "16KiB", "50MiB", "1GiB" (and decimal "10MB"); 0 in "0"."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if not match:
        raise UnitError(f"{text[:40]!r} is no size; write 512B, 100KiB, 50MiB or 1GiB")
    octets = int(float(match[1]) * _OCTETS[match[2].lower()])
    if octets > MAX_SIZE_OCTETS:
        raise UnitError(f"{text!r} is more than any disk holds")
    return octets


def rfc3339(epoch: float) -> str:
    """ "2026-11-22T01:02:03Z": the second that the instant is in, in UTC."""
    return _rfc3339(int(min(max(epoch, 0.0), _LAST_INSTANT)))


@lru_cache(maxsize=4096)
def _rfc3339(second: int) -> str:
    """A listing asks for those of one hour again and again."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def time_or_null(epoch: float | None) -> str | None:
    """The same for JSON, where there may be no time."""
    return None if epoch is None else rfc3339(epoch)


def parse_time(text: str, now: float) -> float:
    """The instant meant by a duration ("2d": two days before `now`), by RFC 3339 text, by a date."""
    if _DURATION.fullmatch(text):
        return now - duration(text)
    from datetime import UTC, datetime  # only for people's questions, never for a message

    if not _INSTANT.fullmatch(text):
        raise UnitError(f"{text[:40]!r} is no time; write 2h, 3d or 2026-11-22T01:02:03Z")
    try:
        instant = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise UnitError(f"{text!r} is no time: {error}") from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return instant.timestamp()


def words_for_duration(seconds: float) -> str:
    """ "45 s", "4 min", "1 h 30 min", "2 d 4 h": at most two units, rounded down; for people."""
    whole = int(max(seconds, 0.0))
    for unit, word, smaller, smaller_word in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {word}" + (f" {rest} {smaller_word}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"
