"""Writer: the one thread that writes queue.db, and the group commit that makes it fast.

Every change is a step, a function of the open Queue. Steps that wait together share one transaction, each in a
savepoint of its own: one that raises undoes itself and nobody else. A caller's future is done only when the
commit has returned, so that whoever says "accepted" or forgets a claim does it on durable ground.

Where commits are slow, the next waits a little for those who were just answered: see `Crowd`.

A step may be an object whose class has `together(queue, steps)`: it does all steps of its kind that wait, with fewer
statements than each for itself, and returns the result of each, or the error that is its own. If it raises, it is
undone and each is run for itself.

On a full disk, or where a quota or a limit on sizes of files leaves no room: steps that must not be lost (outcomes)
are run again after the ballast was given up and the WAL emptied, for as long as it takes or until `hurry`; all others
fail with StoreFull. Where a page of the file is damaged, messages that cannot be read for it are set aside, and
`on_damage` hears of each; steps that need it for anything else fail with StoreDamaged. Any other error, of the store
or of the thread, is fatal to the daemon: `on_broken` is called once and every later step fails, since what SQLite
holds after an I/O error is not known until it is opened again.
"""

from __future__ import annotations

import asyncio
import queue as queues
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pysendmail.checkpoints import Checkpoints
from pysendmail.queue import Queue
from pysendmail.records import LaneState, NewMessage
from pysendmail.spool import Reserve, has_no_room
from pysendmail.store import is_damage

T = TypeVar("T")
MAX_BATCH = 256
SLOW_S = 0.005  # a commit on a disk that turns takes longer, on others less
CROWD_S = 0.01  # at most so long it waits for more, and at most half of what the last one took
CROWD_REST = 32  # commits until it is tried again, when one has waited in vain
RETRY_FULL_S = 1.0
SPARE_PAGES = 2048  # 8 MiB that may stay free, for the mail to come
QUIET_S = 1.0  # nobody has written for so long: time to see whether there are more
GIVE_BACK_S = 10.0  # so long after a drain the rest begins to go back; and again, as long as somebody writes meanwhile
VACUUM_PAGES = 1000  # given back in one commit, in some 10 ms: whoever comes meanwhile waits for no more
FULL = "there is no room for queue.db (a full disk, a quota, or a limit on sizes of files)"
WRITE_ERRORS = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_TRUNCATE")


class StoreFull(Exception):
    """The disk is full; nothing was changed."""


class StoreBroken(Exception):
    """queue.db cannot be written any more; the text is SQLite's."""


class StoreDamaged(StoreBroken):
    """A page that this step needs cannot be read; nothing was changed, and all others go on."""


@dataclass(slots=True)
class _Step:
    run: Callable[[Queue], Any]
    future: asyncio.Future[Any]
    must: bool
    vital: bool
    together: Callable[[Queue, list[Any]], list[Any]] | None = None  # does this for many steps of the kind
    result: Any = None
    error: BaseException | None = None
    over: bool = False  # what it gave is on its way to who waits


class Crowd:
    """How long a commit waits for more steps, where the disk is slow.

    Those who are answered by one commit come again during the next, which is for those who came during the first: so
    that two crowds take turns, and each waits for two commits. To wait a little for who may be back makes one of them.
    Where they do not come in time, it is not tried again for a while.
    """

    def __init__(self) -> None:
        self._size = 0  # who was answered by the last commit, or came meanwhile
        self._until = 0.0
        self._rest = 0  # commits before the next that waits

    def committed(self, number: int, more: int, begun: float, ended: float) -> None:
        """A commit has answered so many; more wait for the next."""
        if number < self._size * 3 // 4 and self._until > 0.0:
            self._rest = CROWD_REST
        self._rest -= self._rest > 0
        self._size = number + more
        took_s = ended - begun
        self._until = ended + min(took_s / 2, CROWD_S) if took_s >= SLOW_S and not self._rest else 0.0

    def patience(self, number: int, now: float) -> float:
        """Seconds until the next commit begins, when so many steps are there."""
        return max(self._until - now, 0.0) if number < self._size else 0.0


class Writer:
    """Runs steps on its own thread. Created and used on the event loop's thread."""

    def __init__(
        self,
        queue: Queue,
        reserve: Reserve,
        *,
        on_commit: Callable[[list[LaneState], list[NewMessage]], None],
        on_damage: Callable[[str, str], None],
        on_broken: Callable[[str], None],
    ) -> None:
        self._queue = queue
        self._reserve = reserve
        self._on_commit = on_commit
        self._on_damage = on_damage
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._steps: queues.SimpleQueue[_Step | None] = queues.SimpleQueue()
        self._broken: str | None = None
        self._stopped = False  # nothing more is taken
        self._ending = False  # the thread has seen that
        self._hurried = False
        self._crowd = Crowd()
        self._give_back_at: float | None = None  # monotonic: when freed pages are next given back
        self._disturbed = False  # somebody has written since
        self._checkpoints = Checkpoints(queue, queue.directory, self._cannot_write_back)
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    async def run(self, step: Callable[[Queue], T], *, must: bool = False) -> T:
        """Run a step and wait for its commit. Once begun it is not cancelled with its caller."""
        return await self.hand_in(step, must=must)

    def hand_in(self, step: Callable[[Queue], T], *, must: bool = False, vital: bool = False) -> asyncio.Future[T]:
        """Have a step run. Those that are handed in one right after the other share a commit, as a rule.

        `must`: it waits for room. `vital`: without it there is no going on, even if others can be run; so is what must.
        """
        future: asyncio.Future[T] = self._loop.create_future()  # may be cancelled: `_tell` asks
        if self._stopped:
            future.set_exception(StoreBroken("the queue is closed already"))
        else:
            self._steps.put(_Step(step, future, must, vital or must, getattr(step, "together", None)))
        return future

    def hurry(self) -> None:
        """We are about to stop: nothing waits for room on the disk any more, but for the ballast's."""
        self._hurried = True

    async def stop(self) -> None:
        """Run what was handed in before, then end the thread; the database stays open for its owner to close."""
        self._stopped = True
        self.hurry()
        self._steps.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._checkpoints.stop)

    def _work(self) -> None:
        while not self._ending:
            try:
                step = self._steps.get(timeout=self._patience())
            except queues.Empty:
                self._guard((), self._use_the_quiet)
                continue
            self._disturbed = True
            if batch := self._gather(step):
                self._guard(batch, partial(self._answer, batch))

    def _guard(self, batch: Sequence[_Step], work: Callable[[], None]) -> None:
        """Whatever goes wrong (no memory, no descriptor, an error of ours), who waits hears of it, and nobody hangs."""
        try:
            work()
        except Exception as error:
            self._break([step for step in batch if not step.over], error)

    def _answer(self, batch: list[_Step]) -> None:
        begun = time.monotonic()
        self._commit(batch)
        self._crowd.committed(len(batch), self._steps.qsize(), begun, time.monotonic())

    def _gather(self, step: _Step | None) -> list[_Step]:
        """The steps that share a commit: all that wait, and who is back in time."""
        batch: list[_Step] = []
        with suppress(queues.Empty):
            while step is not None:
                batch.append(step)
                if len(batch) >= MAX_BATCH:
                    return batch
                step = self._steps.get(timeout=self._crowd.patience(len(batch), time.monotonic()))
            self._ending = True
        return batch

    def _patience(self) -> float | None:
        """Seconds until something is to be done that nobody asked for; None: nothing."""
        if self._give_back_at is not None:
            return max(self._give_back_at - time.monotonic(), 0.0)
        return QUIET_S if self._disturbed else None

    def _use_the_quiet(self) -> None:
        """Some of the pages that mail has left go back to the file system; nearly all, unless somebody comes."""
        now = time.monotonic()
        if self._give_back_at is None:
            self._disturbed = False
            self._give_back_at = now + GIVE_BACK_S if self._spare_pages() > SPARE_PAGES else None
            return
        step = _Step(lambda queue: queue.vacuum(VACUUM_PAGES), self._loop.create_future(), must=False, vital=False)
        self._commit([step])
        self._write_back(whole=True)  # which makes the file shorter
        if self._spare_pages() <= SPARE_PAGES // 8:
            self._give_back_at = None
        else:
            self._give_back_at = now + (GIVE_BACK_S if self._disturbed or step.error is not None else 0.0)
        self._disturbed = False

    def _spare_pages(self) -> int:
        try:
            return self._queue.spare_pages()
        except sqlite3.Error:
            return 0  # whoever writes next hears of it

    def _commit(self, batch: list[_Step]) -> None:
        waiting = batch
        while waiting:
            try:
                self._transact(waiting)
            except sqlite3.Error as error:
                self._queue.rollback()
                if is_damage(error):
                    waiting = self._around_damage(waiting, error)
                    continue
                if not is_full(error, self._queue.directory):
                    self._break(waiting, error)
                    return
            else:
                self._finish(waiting)
                self._write_back()
                return
            waiting = self._turn_away(waiting)
            if waiting:  # who came meanwhile is answered now, however long these have to wait for room
                waiting += self._turn_away(self._come())
            if waiting and self._hurried and self._reserve.given_up:
                # The next start finds these attempts unfinished, as after a crash; who stops us need not kill us.
                for step in waiting:
                    step.error = StoreFull(f"{FULL}, and we stop")
                self._finish(waiting)
                return
            if waiting:
                self._make_room()

    def _around_damage(self, steps: Sequence[_Step], error: sqlite3.Error) -> list[_Step]:
        """A page cannot be read: who does not need it goes on. Returns the steps to be run again.

        SQLite lets the transaction that met it write no more, so that each step has one of its own then. A step that
        is not vital fails. For one that is, those messages to be tried are set aside that cannot be read; where there
        are none, that is the end.
        """
        if len(steps) > 1:
            for step in steps:
                self._commit([step])
            return []
        [step] = steps
        if not step.vital:
            step.error = StoreDamaged(str(error))
            self._finish(steps)
            return []
        try:
            if self._set_aside(str(error)):
                return [step]
        except sqlite3.Error as other:
            self._queue.rollback()
            if is_full(other, self._queue.directory) and not step.must:
                return self._turn_away(steps)
        self._break(steps, error)
        return []

    def _set_aside(self, error: str) -> bool:
        """Whether there was anything to be set aside, and it could be."""
        laid = False
        for message in self._queue.unreadable():
            if (queue_id := self._queue.lay_aside(message)) is not None:
                laid = True
                self._loop.call_soon_threadsafe(self._on_damage, queue_id, error)
        return laid

    def _write_back(self, *, whole: bool = False) -> None:
        try:
            if whole:
                self._queue.write_back()
            else:
                self._checkpoints.committed()
        except sqlite3.Error as error:
            if not is_full(error, self._queue.directory):  # then the next commit makes room
                self._break((), error)

    def _cannot_write_back(self, error: sqlite3.Error) -> None:
        """On the thread of the checkpoints: what cannot be written there breaks the store, as it would here."""
        if not is_full(error, self._queue.directory):

            def fail(_queue: Queue) -> None:
                raise error

            self._steps.put(_Step(fail, self._loop.create_future(), must=False, vital=True))

    def _turn_away(self, steps: Sequence[_Step]) -> list[_Step]:
        """The disk is full: refuse what may be refused; returns what must not."""
        refused = [step for step in steps if not step.must]
        for step in refused:
            step.error = StoreFull(FULL)
        if refused:
            self._finish(refused)
        return [step for step in steps if step.must]

    def _come(self) -> list[_Step]:
        """The steps that were handed in meanwhile."""
        steps: list[_Step] = []
        with suppress(queues.Empty):
            while True:
                if (step := self._steps.get_nowait()) is None:
                    self._ending = True
                else:
                    steps.append(step)
        return steps

    def _transact(self, steps: Sequence[_Step]) -> None:
        if self._broken:
            raise sqlite3.DatabaseError(self._broken)
        self._queue.begin()
        for group in _groups(steps):
            if len(group) == 1 or not self._run_together(group):
                for step in group:
                    self._run(step)
        self._queue.commit()

    def _run(self, step: _Step) -> None:
        step.error = None
        try:
            step.result = self._queue.apart(step.run)
        except sqlite3.IntegrityError as error:
            step.error = error
        except sqlite3.Error:
            raise
        except Exception as error:  # a step's own error concerns its caller alone
            step.error = error

    def _run_together(self, steps: Sequence[_Step]) -> bool:
        """False: there was an error, and nothing was done."""
        together = steps[0].together
        assert together is not None
        try:
            results = self._queue.apart(lambda queue: together(queue, [step.run for step in steps]))
        except sqlite3.IntegrityError:
            return False
        except sqlite3.Error:
            raise
        except Exception:  # whose it is will be seen
            return False
        for step, result in zip(steps, results, strict=True):
            step.error, step.result = (result, None) if isinstance(result, Exception) else (None, result)
        return True

    def _make_room(self) -> None:
        """Give up the ballast, then empty the WAL: writing first would eat the ballast and fail (measured)."""
        first = not self._reserve.given_up
        self._reserve.give_up()
        with suppress(sqlite3.Error):  # it would say only that there is still no room: the next round tries again
            self._queue.checkpoint()
        if not first:
            threading.Event().wait(RETRY_FULL_S)

    def _break(self, steps: Sequence[_Step], error: Exception) -> None:
        words = str(error) or type(error).__name__
        if not self._broken:
            self._broken = words
            self._loop.call_soon_threadsafe(self._on_broken, words)
        for step in steps:
            step.error = StoreBroken(words)
        self._finish(steps)

    def _finish(self, steps: Sequence[_Step]) -> None:
        for step in steps:
            step.over = True
        lanes: list[LaneState] = []
        if not self._broken:
            try:
                lanes = self._queue.take_touched()
            except sqlite3.Error as error:  # what is due there would not be known of until the next start
                self._break((), error)
        self._loop.call_soon_threadsafe(self._deliver, steps, lanes, self._queue.take_reports())

    def _deliver(self, steps: Sequence[_Step], lanes: list[LaneState], reports: list[NewMessage]) -> None:
        try:
            if lanes or reports:
                self._on_commit(lanes, reports)
        finally:  # an error there goes to the loop's handler, and must not leave everybody waiting for ever
            for step in steps:
                _tell(step)


def _groups(steps: Sequence[_Step]) -> list[list[_Step]]:
    """In their order, but that what goes together is where the first of it is."""
    groups: list[list[_Step]] = []
    joined: dict[Callable[[Queue, list[Any]], list[Any]], list[_Step]] = {}
    for step in steps:
        if step.together is None:
            groups.append([step])
        elif (group := joined.get(step.together)) is not None:
            group.append(step)
        else:
            groups.append([step])
            joined[step.together] = groups[-1]
    return groups


def _tell(step: _Step) -> None:
    if step.future.done():
        return
    if step.error is not None:
        step.future.set_exception(step.error)
        step.future.exception()  # its caller may be gone; then nobody needs to hear of it
    else:
        step.future.set_result(step.result)


def is_full(error: sqlite3.Error, directory: Path) -> bool:
    """Whether there was no room. SQLite says so of ENOSPC alone, and calls a quota or a limit an error of I/O.

    It undoes the transaction in the same way for both, where it was a write that failed.
    """
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_FULL" or (name in WRITE_ERRORS and has_no_room(directory))
