"""Queue id: the name of a message in every log line, 12 of [0-9A-Za-z], never given twice.

Nine characters of microseconds and three of chance: ids sort by the time of acceptance, and a clock that was set
back does not bring an old one back.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(slots=True)
class QueueIds:
    """Gives ids out; told of the newest one in the queue at start."""

    last_us: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, now: float) -> str:
        with self._lock:  # submissions take theirs on the event loop, bounces on the writer's thread
            self.last_us = max(self.last_us + 1, int(now * 1_000_000))
        return _base62(self.last_us, 9) + _base62(secrets.randbelow(62**3), 3)

    def seen(self, queue_id: str) -> None:
        value = 0
        for character in queue_id[:-3]:
            value = value * 62 + ALPHABET.index(character)
        self.last_us = max(self.last_us, value)


def _base62(number: int, width: int) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits)).rjust(width, "0")
