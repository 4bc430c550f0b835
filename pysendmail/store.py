"""Store: the open queue.db, its settings, its transactions, and the statements of queue.sql by name.

WAL with synchronous=FULL: when a commit has returned, what it holds survives kill -9 and power loss. What is read
is data like any other: `text_of`, `octets_of`, `time_of` and `time_or_none` refuse what a damaged file put there.

Raises sqlite3.Error as it comes; QueueError where the file system cannot do what is needed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from pysendmail.spool import QueueError, sync

T = TypeVar("T")
INCREMENTAL = 2  # of PRAGMA auto_vacuum
END_OF_TIME = 253_402_300_800.0  # the year 10000: neither a Date field nor SQLite's own functions go so far
ROWS_AT_ONCE = (16, 4, 1)  # few sizes: each is a statement that SQLite keeps
_NUMBER = struct.Struct("=I")


class Damaged(str):
    """Text from queue.db that is not UTF-8, fit to be shown. Nothing is sent to it or for it."""


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return Damaged(octets.decode("utf-8", "backslashreplace"))


class Statement:
    """One of queue.sql. Values are bound by position, which takes a third of the time of binding them by name."""

    def __init__(self, text: str) -> None:
        """`text` names its values, `:name`; the same name is the same value. `[...]` stands once for each row."""
        self._text = text
        before, _, rest = text.partition("[")
        self._each, _, after = rest.partition("]")
        self.row_names = _names(self._each)
        self.names = tuple(name for name in _names(before + after) if name not in self.row_names)
        self._sql: dict[int, str] = {}  # by the number of rows

    def sql(self, rows: int = 1) -> str:
        if rows not in self._sql:
            first = len(self.names) + 1  # the rows' values are behind those that are there once
            each = ", ".join(
                _numbered(self._each, self.row_names, first + at * len(self.row_names)) for at in range(rows)
            )
            whole = self._text.replace(f"[{self._each}]", each) if self._each else self._text
            self._sql[rows] = _numbered(whole, self.names, 1)
        return self._sql[rows]

    def values(self, names: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        values = [names[name] for name in self.names]
        if self.row_names:
            values += [row[name] for row in rows for name in self.row_names]
        return values


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r":(\w+)", text)))


def _numbered(text: str, names: tuple[str, ...], first: int) -> str:
    return re.sub(r":(\w+)", lambda found: f"?{first + names.index(found[1])}" if found[1] in names else found[0], text)


def _read_statements() -> dict[str, Statement]:
    text = (Path(__file__).parent / "queue.sql").read_text(encoding="utf-8")
    return {
        match[1]: Statement(re.sub(r"^--.*\n", "", match[2], flags=re.MULTILINE).strip())
        for match in re.finditer(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", text, re.MULTILINE | re.DOTALL)
    }


SQL = _read_statements()


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection with our settings. The writer's holds no transaction open between steps."""
    if not readonly:
        # Made by us, for the mode; SQLite gives -wal and -shm the same.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        _make_durable(path)
    connection = _opened(path, "ro" if readonly else "rw")
    try:
        _set_up(connection, path, readonly=readonly)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_beside(path: Path) -> sqlite3.Connection:
    """Another connection of the process that writes: for checkpoints, which are no writing of its own.

    No file is opened here but by SQLite: to close one would take away all locks that this process has on it.
    """
    connection = _opened(path, "rw")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)


def _make_durable(path: Path) -> None:
    """Sync what the last owner wrote and did not live to sync.

    SQLite believes the WAL that it finds and syncs only what it writes itself. So without this a client that asks
    again would be told of a message that the next power cut takes away.
    """
    with suppress(FileNotFoundError):
        sync(path.with_name(f"{path.name}-wal"))
    sync(path.parent)


def _set_up(connection: sqlite3.Connection, path: Path, *, readonly: bool) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA trusted_schema = OFF")
    if readonly:
        connection.execute("PRAGMA query_only = ON")
        return
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:  # setting it is a commit, each time
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise QueueError(f"{path}: this file system cannot do SQLite's WAL (journal_mode is {mode}): use a local disk")
    connection.execute("PRAGMA temp_store = MEMORY")  # no part of a message ever lies in /tmp
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA journal_size_limit = 16777216")


class Store:
    """The connection. Not safe for more than one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._cursor = connection.cursor()  # one for all: to make one takes as long as many a statement
        self._index = -1  # the WAL-index, once it was wanted

    def close(self) -> None:
        self.connection.close()
        if self._index >= 0:
            os.close(self._index)  # not before: it takes away this process' locks
            self._index = -1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One durable step of a command that owns the queue by itself."""
        self.begin()
        try:
            yield
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def apart(self, step: Callable[[Self], T]) -> T:
        """Run a step in the open transaction so that its error undoes it alone; one of the disk is for the caller."""
        mark = self._mark()
        self.connection.execute("SAVEPOINT step")
        try:
            done = step(self)
        except BaseException as error:
            if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError):
                self.connection.execute("ROLLBACK TO step")
                self.connection.execute("RELEASE step")
                self._undo(mark)
            raise
        self.connection.execute("RELEASE step")
        return done

    def _mark(self) -> Any:
        """For `_undo`: what is kept in memory of the rows, as it is now."""

    def _undo(self, mark: Any) -> None:
        """What was written since then is undone."""

    def begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Write the WAL back and empty it: room on a full disk, and a small file for the next start."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def write_back(self) -> None:
        """Write back as much of the WAL as nobody needs any more; it does not wait for anybody."""
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def wal(self) -> tuple[int, int]:
        """How many pages the WAL has, and how many of them are not written back: as its index says.

        There is no other way to ask without a checkpoint. The index is documented (sqlite.org/walformat.html, 2).
        """
        if self._index < 0:
            file = self.connection.execute("PRAGMA database_list").fetchone()[2]
            self._index = os.open(f"{file}-shm", os.O_RDONLY | os.O_CLOEXEC)
        octets = os.pread(self._index, 100, 0)
        (pages,), (done,) = _NUMBER.unpack_from(octets, 16), _NUMBER.unpack_from(octets, 96)
        return pages, pages - done

    def spare_pages(self) -> int:
        """How many pages of the file hold nothing any more."""
        return int(self.connection.execute("PRAGMA freelist_count").fetchone()[0])

    def vacuum(self, pages: int) -> None:
        """Give so many of them back to the file system; the file is shorter when the WAL is written back."""
        for _ in range(min(self.spare_pages(), pages)):
            # One page each: Python's sqlite3 runs this pragma for one step only, whatever number is given.
            self.connection.execute("PRAGMA incremental_vacuum(1)")

    def run(self, statement: str, **names: Any) -> sqlite3.Cursor:
        """The cursor is the same each time: what is wanted of it is to be taken before the next statement."""
        found = SQL[statement]
        return self._cursor.execute(found.sql(), found.values(names, (names,)))

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]], **names: Any) -> int:
        """A statement that stands for many rows, for these; returns how many it changed.

        Python's lock changes hands at each execution, so that a few large ones leave the event loop in peace.
        """
        found = SQL[statement]
        changed = at = 0
        while at < len(rows):
            size = next(size for size in ROWS_AT_ONCE if size <= len(rows) - at)
            changed += self._cursor.execute(found.sql(size), found.values(names, rows[at : at + size])).rowcount
            at += size
        return changed

    def rows(self, statement: str, **names: Any) -> list[sqlite3.Row]:
        try:
            return self.run(statement, **names).fetchall()
        except sqlite3.OperationalError as error:
            with self._careful(error):
                return self.run(statement, **names).fetchall()

    def first(self, statement: str, **names: Any) -> sqlite3.Row | None:
        rows = self.rows(statement, **names)  # all of them: what is not read to its end keeps its view of the database
        return rows[0] if rows else None

    @contextmanager
    def _careful(self, error: sqlite3.OperationalError) -> Iterator[None]:
        """Read again what cannot be read because some text in it is not UTF-8; any other error stays what it is.

        SQLite hands out whatever stands in the file, and Python's own way to decode it fails the whole listing for one
        row; ours does not, but takes several times as long.
        """
        if "decode" not in str(error).lower():
            raise error
        self.connection.text_factory = _decoded
        try:
            yield
        finally:
            self.connection.text_factory = str

    def one(self, statement: str, **names: Any) -> sqlite3.Row:
        row = self.first(statement, **names)
        if row is None:
            raise KeyError(f"{statement}: no such row")
        return row


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a page of the file holds what it cannot hold. All else in the file may be sound."""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT")


def notify(text: str) -> frozenset[str]:
    return frozenset(text_of(text).split(",")) if text else frozenset()


def time_or_none(value: object) -> float | None:
    return value if isinstance(value, float) else None


def time_of(value: object) -> float:
    """One that a calendar has."""
    if not isinstance(value, float) or not 0 <= value < END_OF_TIME:
        raise TypeError("a damaged row: a time expected")
    return value


def number_of(value: object) -> int:
    if not isinstance(value, int):  # int() would read one from text and octets, and C2 could not count on
        raise TypeError("a damaged row: a number expected")
    return value


def text_of(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, Damaged):
        raise TypeError("a damaged row: text expected")
    return value


def octets_of(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a damaged row: octets expected")
    return value
