"""Checkpoints: queue.db-wal is written back into queue.db by a thread of its own, so that no commit waits for it.

Left alone, SQLite has the commit that makes the WAL long write all of it back, and everybody behind that commit waits
for a thousand pages and two syncs. Here another connection does that beside the writer. Only the writer can have the
WAL begin anew: when it is long and all but a little of it is written back, it does that little between two commits. It
does all where the thread does not keep up, so that the file stays within bounds. Who reads for long keeps the WAL as it
was when he began: then it grows, and is tried again only when it has grown by a good piece.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

from pysendmail.spool import free_octets
from pysendmail.store import Store, connect_beside

LONGEST = 8000  # pages of the WAL: 32 MiB
LONGEST_ON_A_SMALL_DISK = 1000
SMALL_DISK = 1024 * 1024 * 1024  # free octets


class Turn(Enum):
    """What is to be done after a commit."""

    NOTHING = auto()
    BESIDE = auto()  # the thread writes back
    BETWEEN = auto()  # the writer does, before its next commit


class Pace:
    """Decides whose turn it is, from how many pages the WAL has and how many of them are left to write back."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._piece = longest // 8
        self._beside = self._between = 0  # how long it was when it was last somebody's turn

    def turn(self, pages: int, left: int) -> Turn:
        if pages < max(self._beside, self._between):
            self._beside = self._between = 0  # it has begun anew
        nearly = pages >= self._longest // 2 and left <= self._piece // 4
        if pages >= self._longest or nearly:
            if not self._between or pages >= self._between + self._piece:
                self._between = pages
                return Turn.BETWEEN
        elif left >= self._piece and pages >= self._beside + self._piece:
            self._beside = pages
            return Turn.BESIDE
        return Turn.NOTHING


class Checkpoints:
    """The writer says `committed` after each commit. Errors of the thread go to `on_error`, on the thread."""

    def __init__(self, store: Store, directory: Path, on_error: Callable[[sqlite3.Error], None]) -> None:
        store.connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._store = store
        self._file = directory / "queue.db"
        self._on_error = on_error
        self._pace = Pace(LONGEST if free_octets(directory) >= SMALL_DISK else LONGEST_ON_A_SMALL_DISK)
        self._wanted = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()  # now, not when it is first wanted: see `threads`

    def committed(self) -> None:
        """On the writer's thread, between two commits."""
        match self._pace.turn(*self._store.wal()):
            case Turn.BETWEEN:
                self._store.write_back()
            case Turn.BESIDE:
                self._wanted.set()

    def stop(self) -> None:
        """When nobody commits any more. What is not written back is when the database is closed."""
        self._ending = True
        self._wanted.set()
        self._thread.join()

    def _work(self) -> None:
        store: Store | None = None
        while self._wanted.wait() and not self._ending:
            self._wanted.clear()
            try:
                store = store or Store(connect_beside(self._file))
                store.write_back()
            except sqlite3.Error as error:
                self._on_error(error)
        if store is not None:
            store.close()
