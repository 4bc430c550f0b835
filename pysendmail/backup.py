"""Backup: the queue as one file, copied while it is in use, and the way back (pysendmail(8), RECOVERY).

`copy` is one look at the database (SQLite's backup API inside one read transaction), whatever is written meanwhile; the
file is 0600, checked, and synced before it has its name, and never replaces another. `Restoration` checks a copy for
integrity and schema and brings it up to date beside the queue; only `finish` takes queue.lock, sets the queue that was
there aside as a whole, and puts the copy in its place with one rename.

Root reads and writes FILE as root, and the queue as its owner. BackupError has the exit code and the words. What was
delivered since a copy was made is in no copy: it is sent again, unless all is held first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

from pysendmail import schema
from pysendmail.config import Config
from pysendmail.exits import EX_CANTCREAT, EX_DATAERR, EX_NOINPUT, EX_NOPERM, EX_TEMPFAIL
from pysendmail.queue import Queue
from pysendmail.spool import QueueBusy, QueueLock, acting_as, become, directory_owner, may_write, sync
from pysendmail.store import Store, connect

PAGES = 2048  # copied between two looks at the time: 8 MiB
HELD_AT_ONCE = 1000
BUSY_S = 2.0  # another command is done by then, a daemon is not
FREE_FACTOR = 2  # of a copy's size: itself, and what bringing it up to date may write
STAGE = "restore"
_JOURNALS = ("-wal", "-shm", "-journal")


class BackupError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


# -- there --


def copy(config: Config, file: Path, on_pages: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Write the queue to a new file; returns how many messages wait in it. `on_pages` hears how far that is."""
    directory = config.queue.directory
    _check_right(directory)
    if not (directory / "queue.db").exists():
        raise BackupError(EX_NOINPUT, f"{directory}: no queue is there: nothing to copy")
    owner = directory.stat()
    try:
        with acting_as(owner.st_uid, owner.st_gid):
            queue = Queue.open_readonly(directory)
        with closing(queue), _new_file(file) as path, closing(sqlite3.connect(path, isolation_level=None)) as target:
            with acting_as(owner.st_uid, owner.st_gid):
                queue.connection.execute("BEGIN")  # all that follows sees the queue as it is with the first look
                waiting = int(queue.counts(None)[0])
            target.execute("PRAGMA synchronous = OFF")  # it is synced as a whole, before it gets its name
            target.execute("PRAGMA journal_mode = OFF")
            queue.connection.backup(
                target, pages=PAGES, progress=lambda _status, left, total: on_pages(total - left, total)
            )
            target.execute("PRAGMA journal_mode = DELETE")  # one file: nothing beside it belongs to it
            _check_integrity(target, file)
    except schema.SchemaError as error:
        raise BackupError(EX_TEMPFAIL, f"{error}: no copy was made") from None
    except sqlite3.Error as error:
        raise BackupError(EX_TEMPFAIL, f"{directory}/queue.db to {file}: {error}: no copy was made") from None
    return waiting


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A file to write to that becomes `file`, whole and durable, or nothing."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    made: list[Path] = []
    try:
        for path in (file, unfinished):  # the name is ours from now on, with nothing in it
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            made.append(path)
        yield unfinished
        sync(unfinished)
        unfinished.rename(file)
        made.clear()
        sync(file.absolute().parent)
    except FileExistsError as error:
        raise BackupError(EX_CANTCREAT, f"{error.filename}: is there already, and a backup replaces nothing") from None
    except OSError as error:
        raise BackupError(EX_CANTCREAT, f"{error.filename or file}: {error.strerror}: no copy was made") from None
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _check_right(directory: Path) -> None:
    if not may_write(directory):
        raise BackupError(EX_NOPERM, f"{directory}: only root and the queue's owner may do that")


def _check_integrity(connection: sqlite3.Connection, file: Path) -> None:
    found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(1)")]
    if found != ["ok"]:
        raise BackupError(EX_DATAERR, f"{file}: is damaged: {found[0]}")


# -- and back --


class Restoration:
    """A copy on its way back. Until `finish` nothing has changed; it has to be closed.

    There is one at a time: what was checked, and what a person agreed to, is what is put in the queue's place.
    """

    def __init__(self, config: Config, file: Path) -> None:
        """Copy the file beside the queue, check it, bring it up to date. From here on root is the queue's owner."""
        self._directory = config.queue.directory
        self._stage = self._directory / STAGE
        self._file = file
        self._alone = -1
        _check_right(self._directory)
        with self._open() as source:
            uid, gid = directory_owner(self._directory)
            if os.geteuid() == 0:
                become(uid, gid)
            self._lock().release()  # who has to stop a daemon first hears that first
            try:
                self._be_alone()
                shutil.rmtree(self._stage, ignore_errors=True)  # what a restoration that was killed has left
                self._stage_copy(source)
                self._look()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._alone >= 0:
            shutil.rmtree(self._stage, ignore_errors=True)
            os.close(self._alone)
            self._alone = -1

    def _be_alone(self) -> None:
        """The lock is the directory's own, which no one else locks; the kernel frees it when we end."""
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BackupError(
                EX_TEMPFAIL, f"{self._directory}: another copy is being restored there; nothing was done"
            ) from None
        self._alone = handle

    @contextmanager
    def _open(self) -> Iterator[int]:
        if any(Path(f"{self._file}{ending}").exists() for ending in _JOURNALS):
            raise BackupError(
                EX_DATAERR,
                f"{self._file}: has a journal of SQLite's beside it: it is no file of pysendmail backup, or in use",
            )
        try:
            handle = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # in case it is a FIFO
        except OSError as error:
            raise BackupError(EX_NOINPUT, f"{self._file}: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BackupError(EX_NOINPUT, f"{self._file}: it is not a file")
            yield handle
        finally:
            os.close(handle)

    def _lock(self) -> QueueLock:
        lock = QueueLock(self._directory)
        try:
            lock.acquire(BUSY_S)
        except QueueBusy as error:
            raise BackupError(
                EX_TEMPFAIL, f"{error}: stop the daemon first, and its sockets; nothing was done"
            ) from None
        return lock

    def _stage_copy(self, source: int) -> None:
        wanted = os.fstat(source).st_size * FREE_FACTOR
        if wanted > shutil.disk_usage(self._directory).free:
            raise BackupError(EX_TEMPFAIL, f"{self._directory}: has no room for {wanted} octets: nothing was done")
        self._stage.mkdir(mode=0o700)
        handle = os.open(self._stage / "queue.db", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as target, os.fdopen(source, "rb", closefd=False) as octets:
            shutil.copyfileobj(octets, target, 1 << 20)

    def _look(self) -> None:
        try:
            with closing(connect(self._stage / "queue.db", readonly=True)) as connection:
                _check_integrity(connection, self._file)
                if not connection.execute("PRAGMA user_version").fetchone()[0]:
                    raise BackupError(EX_DATAERR, f"{self._file}: is no queue of pysendmail's")
            with closing(Queue.open(self._stage)) as queue:
                self._check_schema(queue.connection)
                self.waiting = int(queue.counts(None)[0])
                self.newest_at = queue.one("newest")[0]
                queue.checkpoint()
            with suppress(sqlite3.Error, schema.SchemaError), closing(Queue.open_readonly(self._directory)) as queue:
                self.waiting_now: int | None = int(queue.counts(None)[0])
                return
            self.waiting_now = None
        except sqlite3.DatabaseError as error:
            raise BackupError(EX_DATAERR, f"{self._file}: is no queue of pysendmail's, or damaged: {error}") from None
        except schema.SchemaError:
            raise BackupError(EX_DATAERR, f"{self._file}: a newer pysendmail wrote it: install that version") from None

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """All that ours has is there, and nothing that would run by itself."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as ours:
            schema.ensure(ours)
            missing = _objects(ours) - (found := _objects(connection))
        if missing or any(kind == "trigger" for kind, _ in found):
            what = f"{min(missing)[1]} is missing" if missing else "there is a trigger in it"
            raise BackupError(EX_DATAERR, f"{self._file}: is no queue of pysendmail's: {what}")

    def hold_all(self) -> None:
        """Nothing of it leaves before it is released."""
        with closing(Queue.open(self._stage)) as queue:
            after = 0
            while rows := queue.page(after, None, HELD_AT_ONCE):
                with queue.transaction():
                    for row in rows:
                        queue.hold(row["id"])
                after = rows[-1]["id"]
            queue.checkpoint()

    def finish(self, now: float) -> Path | None:
        """Put the copy in the queue's place; returns where the queue that was there is now, if one was."""
        lock = self._lock()
        try:
            new, old = self._stage / "queue.db", self._directory / "queue.db"
            sync(new)
            aside = None
            if old.exists():
                moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
                aside = self._directory / f"queue.before-{moment}.db"
                self._set_aside(old, aside)
            new.rename(old)
            sync(self._directory)
            return aside
        finally:
            lock.release()

    def _set_aside(self, old: Path, aside: Path) -> None:
        """Under another name, whole; then nothing is left that SQLite would take for the copy's journal."""
        try:
            with closing(sqlite3.connect(old, isolation_level=None)) as connection:
                mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
                if mode != "delete":
                    raise sqlite3.OperationalError("database is locked")
        except sqlite3.OperationalError as error:
            raise BackupError(
                EX_TEMPFAIL, f"{old}: {error}: another program has it open, close that first; nothing was done"
            ) from None
        except sqlite3.DatabaseError:
            pass  # damaged: it is kept as it is, with its journals
        for ending in ("", *_JOURNALS):
            with suppress(FileNotFoundError):
                os.link(f"{old}{ending}", f"{aside}{ending}")
        sync(self._directory)
        for ending in _JOURNALS:
            Path(f"{old}{ending}").unlink(missing_ok=True)
        sync(self._directory)


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Kind and name of each."""
    return {(row[0], row[1]) for row in Store(connection).rows("objects")}
