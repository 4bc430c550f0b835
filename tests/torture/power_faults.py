"""Faults for the power cut's negative controls, put into a real daemon before it starts.

    python -P power_faults.py FAULT /path/to/pysendmail [argument...]

The daemon is whole otherwise, and without a power cut nobody can tell it from a sound one.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pysendmail import cli, store, writer


def seldom_synced() -> None:
    """PRAGMA synchronous=NORMAL: SQLite syncs when it writes the log back, not when it commits."""
    set_up = store._set_up

    def normal(connection: sqlite3.Connection, *rest: Any, **more: Any) -> None:
        set_up(connection, *rest, **more)
        connection.execute("PRAGMA synchronous = NORMAL")

    store._set_up = normal


def answered_early() -> None:
    """Whoever waits for a commit is told of it first, and has told others."""
    transact = writer.Writer._transact

    def early(self: writer.Writer, steps: Sequence[Any]) -> None:
        commit = self._queue.commit

        def late() -> None:
            self._finish(steps)
            told = threading.Event()
            self._loop.call_soon_threadsafe(self._loop.call_later, 0.02, told.set)
            told.wait(1.0)
            commit()

        self._queue.commit = late  # type: ignore[method-assign]
        try:
            transact(self, steps)
        finally:
            del self._queue.commit

    writer.Writer._transact = early  # type: ignore[method-assign]


def start_unsynced() -> None:
    """What a killed daemon wrote and did not sync is read at the start, believed, and not synced either."""
    store._make_durable = lambda path: None


ASKED_AGAIN = "start unsynced"
FAULTS: dict[str, Callable[[], None]] = {
    "synchronous=NORMAL": seldom_synced,
    "answer before commit": answered_early,
    ASKED_AGAIN: start_unsynced,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.argv = sys.argv[2:]
    sys.exit(cli.run())
