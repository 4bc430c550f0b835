"""Owners: how much of each user waits in the queue. Counted when it is first asked for, then kept beside the rows.

To count at each submission would make every one dearer by all that wait before it. What a step changed here is taken
back when the step is undone, so that this never disagrees with what is committed.
"""

from __future__ import annotations

from collections.abc import Callable

Waiting = tuple[int, int]  # messages, octets


class Owners:
    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}  # those who were asked for
        self._before: list[tuple[int, Waiting | None]] = []  # who was changed since the last commit, and from what

    def waiting(self, uid: int, count: Callable[[int], Waiting]) -> Waiting:
        """How much of this user waits; `count` says so the first time."""
        known = self._waiting.get(uid)
        if known is None:
            self._before.append((uid, None))  # what is undone may be in the count
            known = self._waiting[uid] = count(uid)
        return known

    def add(self, uid: int, messages: int, octets: int) -> None:
        """So much more of his waits; less, if it is negative."""
        known = self._waiting.get(uid)
        if known is not None:
            self._before.append((uid, known))
            self._waiting[uid] = known[0] + messages, known[1] + octets

    def forget(self) -> None:
        """Count anew: something changed that is not followed here."""
        self._before += [(uid, None) for uid in self._waiting]
        self._waiting.clear()

    def mark(self) -> int:
        """Where a step begins, for `undo`."""
        return len(self._before)

    def undo(self, mark: int = 0) -> None:
        """Take back what was changed since that mark, or since the last commit."""
        while len(self._before) > mark:
            uid, known = self._before.pop()
            if known is None:
                self._waiting.pop(uid, None)
            else:
                self._waiting[uid] = known

    def committed(self) -> None:
        self._before.clear()
