"""Deadline: one that is set for each message and hardly ever reached.

A timer of the event loop for each costs more than the message's own reply. Here one timer goes on from deadline to
deadline: it is set anew when it has run out too early, which is once in many messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# The event loop may call a timer so much too early: its clock's resolution.
EARLY_S = 0.001


class Deadline:
    """`ring` is called when the deadline is over that was set last, unless it was put off or cleared before."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None  # no later than the deadline; it outlives it

    def set(self, seconds: float) -> None:
        """Ring after so long, and at no other time."""
        self._at = at = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._over)

    def clear(self) -> None:
        """Don't ring, for now."""
        self._at = None

    def close(self) -> None:
        """Don't ring any more; whoever was to be called is not held either."""
        self._at = None
        self._ring = _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._loop.time() + EARLY_S < self._at:  # it was put off
            self._timer = self._loop.call_at(self._at, self._over)
            return
        self._at = None
        self._ring()


def _nothing() -> None: ...
