"""The writer thread: group commit, a full disk, a broken store; and the ballast."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysendmail import checkpoints, writer
from pysendmail.aliases import Aliases
from pysendmail.outcome import Outcome
from pysendmail.postmaster import Postmaster
from pysendmail.pruning import prune
from pysendmail.queue import PRUNED, Queue
from pysendmail.records import LaneState, NewMessage
from pysendmail.server import User, WriterStore
from pysendmail.settling import Settling
from pysendmail.spool import FREE_FLOOR, Reserve, free_octets
from pysendmail.writer import CROWD_REST, CROWD_S, Crowd, StoreBroken, StoreFull, Writer
from rig.damage import ROWS, overwrite, overwrite_first_leaf
from rig.mounts import MIB, TMPFS, CannotMount, fill, mounted
from rig.store import NOW, PlainPolicy, Store, config, new_message, settlement

KIB = 1024


class Desk:
    """A writer and what it told its owner."""

    def __init__(self, directory: Path, reserve: int = 0) -> None:
        self.queue = Queue.open(directory)
        self.reserve = Reserve(directory, reserve)
        self.reserve.fill()
        self.lanes: list[list[LaneState]] = []
        self.reports: list[NewMessage] = []
        self.broken: list[str] = []
        self.damaged: list[str] = []
        self.writer = Writer(
            self.queue,
            self.reserve,
            on_commit=self._committed,
            on_damage=lambda queue_id, _error: self.damaged.append(queue_id),
            on_broken=self.broken.append,
        )
        self.run = self.writer.run

    def _committed(self, lanes: list[LaneState], reports: list[NewMessage]) -> None:
        self.lanes.append(lanes)
        self.reports += reports

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Everything handed in meanwhile goes into one commit."""
        go = threading.Event()
        holding = asyncio.get_running_loop().create_task(self.run(lambda queue: go.wait() and None))
        try:
            yield
        finally:
            go.set()
            self.holding = holding


@contextlib.asynccontextmanager
async def desk(directory: Path, reserve: int = 0) -> AsyncIterator[Desk]:
    desk = Desk(directory, reserve)
    try:
        yield desk
    finally:
        await desk.writer.stop()
        desk.queue.close()


def accept(**options: Any):
    new = new_message(**options)
    return lambda queue: queue.accept(new, submission=None, now=NOW)


async def soon(*steps: Any) -> list[asyncio.Task[Any]]:
    """Tasks that have handed their steps in."""
    tasks = [asyncio.get_running_loop().create_task(step) for step in steps]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


# -- group commit --


async def test_steps_that_wait_share_a_commit(tmp_path: Path) -> None:
    """What waits together shares commits: the owner is told a few times of all lanes that changed, not fifty times."""
    async with desk(tmp_path) as one:
        with one.busy():
            tasks = await soon(*(one.run(accept(uid=uid)) for uid in range(50)))
        await asyncio.gather(*tasks)
        told = [len(lanes) for lanes in one.lanes]
        assert sum(told) == 50
        assert len(told) <= 5  # one, if the writer finds them all waiting; a busy machine may cut them


async def test_long_steps_of_one_user_never_share_a_commit(tmp_path: Path) -> None:
    """Others wait for one of them at most: twenty in one commit took seconds. Another user waits for none."""
    async with desk(tmp_path) as one:
        ids: Any = None
        his, hers = (WriterStore(one.writer, ids, User(uid)) for uid in (1000, 1001))
        with one.busy():
            tasks = await soon(*(his.commit(accept(uid=1000), long=True) for _ in range(5)))
            tasks += await soon(hers.commit(accept(uid=1001), long=True))
        await asyncio.gather(*tasks)
        commits = [{lane.uid for lane in lanes} for lanes in one.lanes]
        assert sum(1000 in users for users in commits) == 5
        assert 1001 in set().union(*commits[:3])


def test_on_a_slow_disk_a_crowd_shares_a_commit() -> None:
    """Where commits are slow, the next waits a little for those who were just answered; never for somebody alone."""
    crowd = Crowd()
    assert crowd.patience(1, now=0.0) == 0.0
    crowd.committed(9, 7, begun=1.0, ended=1.012)
    assert crowd.patience(7, now=1.012) == pytest.approx(0.006)
    assert crowd.patience(15, now=1.014) == pytest.approx(0.004)
    assert crowd.patience(16, now=1.014) == 0.0, "all are there"
    assert crowd.patience(7, now=1.019) == 0.0, "it has waited for long enough"
    crowd.committed(16, 0, begun=2.0, ended=9.0)
    assert crowd.patience(7, now=9.0) == pytest.approx(CROWD_S), "whatever the disk takes"
    crowd.committed(16, 0, begun=11.0, ended=11.001)
    assert crowd.patience(7, now=11.001) == 0.0, "a quick disk has nothing to gain"
    crowd.committed(1, 0, begun=12.0, ended=12.012)
    assert crowd.patience(1, now=12.012) == 0.0, "who is alone waits for nobody"


def test_a_crowd_that_does_not_come_back_is_not_waited_for() -> None:
    """After a commit has waited in vain many others do not; then it is tried again."""
    crowd = Crowd()
    crowd.committed(9, 7, begun=0.0, ended=0.012)
    waits = []
    for _ in range(CROWD_REST + 1):
        waits.append(crowd.patience(8, now=0.012) > 0.0)
        crowd.committed(8, 8, begun=0.0, ended=0.012)
    assert waits == [True, *[False] * (CROWD_REST - 1), True]


async def test_an_exception_undoes_its_own_step_only(tmp_path: Path) -> None:
    """A step that raises leaves nothing; those around it in the same commit are not touched."""

    def fails(queue: Queue) -> None:
        queue.accept(new_message(queue_id="BAD"), submission=None, now=NOW)
        raise LookupError("no")

    def violates(queue: Queue) -> None:
        queue.accept(new_message(queue_id="GOOD"), submission=None, now=NOW)

    async with desk(tmp_path) as one:
        with one.busy():
            tasks = await soon(
                one.run(accept(queue_id="GOOD")), one.run(fails), one.run(violates), one.run(accept(queue_id="LAST"))
            )
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results[1:3]] == [LookupError, sqlite3.IntegrityError]
        rows = await one.run(lambda queue: queue.connection.execute("SELECT queue_id FROM message").fetchall())
        assert [row[0] for row in rows] == ["GOOD", "LAST"]
        assert not one.broken


async def test_what_goes_together(tmp_path: Path) -> None:
    """Work of one kind that waits is done at once; where that fails it is done for each, and one error is one's own."""
    seen: list[list[str]] = []

    class Accept:
        def __init__(self, queue_id: str) -> None:
            self.queue_id = queue_id

        def __call__(self, queue: Queue) -> str:
            return self.together(queue, [self])[0]

        @staticmethod
        def together(queue: Queue, steps: list[Accept]) -> list[Any]:
            seen.append([step.queue_id for step in steps])
            for step in steps:
                queue.accept(new_message(queue_id=step.queue_id), submission=None, now=NOW)
                if step.queue_id == "BAD":
                    raise LookupError("no")
            return [ValueError("mine") if step.queue_id == "OWN" else step.queue_id.lower() for step in steps]

    async with desk(tmp_path) as one:
        with one.busy():
            tasks = await soon(*(one.run(Accept(queue_id)) for queue_id in ("A", "B", "OWN", "C")))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r if isinstance(r, str) else type(r) for r in results] == ["a", "b", ValueError, "c"]
        assert seen == [["A", "B", "OWN", "C"]]
        with one.busy():
            tasks = await soon(*(one.run(Accept(queue_id)) for queue_id in ("D", "BAD", "A", "E")))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results] == [str, LookupError, sqlite3.IntegrityError, str]
        rows = await one.run(
            lambda queue: queue.connection.execute("SELECT queue_id FROM message ORDER BY id").fetchall()
        )
        assert [row[0] for row in rows] == ["A", "B", "OWN", "C", "D", "E"]
        assert not one.broken


async def test_reports_of_an_undone_step_are_not_told(tmp_path: Path) -> None:
    """The log names only bounces that are in the queue: one whose step failed afterwards never was."""
    settled: list[str] = []

    def bounce_then_fail(queue: Queue) -> None:
        queue.reports.append(new_message(kind="bounce"))
        raise LookupError("after the bounce")

    def bounce(queue: Queue) -> None:
        queue.reports.append(new_message(kind="bounce", queue_id="KEPT"))
        settled.append("KEPT")

    async with desk(tmp_path) as one:
        with one.busy():
            tasks = await soon(one.run(bounce), one.run(bounce_then_fail))
        await asyncio.gather(*tasks, return_exceptions=True)
        await one.run(lambda queue: None)
        assert [report.queue_id for report in one.reports] == settled


async def test_the_caller_is_told_after_the_commit(tmp_path: Path) -> None:
    """When the step's result arrives another connection sees what it wrote, and the owner has heard of it."""
    async with desk(tmp_path) as one:
        await one.run(accept())
        reader = Queue.open_readonly(tmp_path)
        assert len(reader.page(0, None, 10)) == 1
        reader.close()
        assert len(one.lanes) == 1


async def test_an_error_of_the_owner_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Whoever waits for a commit is told of it, even where the owner cannot bear to hear of the lanes."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context["exception"]))
    async with desk(tmp_path) as one:
        one.writer._on_commit = lambda lanes, reports: 1 / 0
        async with asyncio.timeout(10):
            await one.run(accept())
    assert [type(error) for error in errors] == [ZeroDivisionError]


async def test_a_cancelled_caller_cancels_nothing(tmp_path: Path) -> None:
    """A step goes through though its caller was cancelled, and so do those that share its commit."""
    async with desk(tmp_path) as one:
        with one.busy():
            gone, stays = await soon(one.run(accept(queue_id="GONE")), one.run(accept(queue_id="STAYS")))
            gone.cancel()
        await stays
        with pytest.raises(asyncio.CancelledError):
            await gone
        rows = await one.run(lambda queue: queue.connection.execute("SELECT queue_id FROM message").fetchall())
        assert {row[0] for row in rows} == {"GONE", "STAYS"}


async def test_stop_runs_what_was_handed_in(tmp_path: Path) -> None:
    """A stop ends the thread after everything that came before it."""
    one = Desk(tmp_path)
    with one.busy():
        tasks = await soon(*(one.run(accept()) for _ in range(600)))
    await one.writer.stop()
    assert len(await asyncio.gather(*tasks)) == 600
    assert one.queue.connection.execute("SELECT count(*) FROM message").fetchone()[0] == 600
    one.queue.close()


async def test_a_step_after_the_stop_fails(tmp_path: Path) -> None:
    """Whoever comes too late is told so, and does not wait for ever."""
    one = Desk(tmp_path)
    await one.writer.stop()
    async with asyncio.timeout(5):
        with pytest.raises(StoreBroken):
            await one.run(accept())
    one.queue.close()


async def test_a_broken_store(tmp_path: Path) -> None:
    """After an error of SQLite nothing is written any more: the owner hears of it once, every step fails."""

    def corrupt(queue: Queue) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async with desk(tmp_path) as one:
        with one.busy():
            tasks = await soon(one.run(accept()), one.run(corrupt), one.run(accept(), must=True))
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreBroken] * 3
        with pytest.raises(StoreBroken, match="malformed"):
            await one.run(accept())
        assert one.broken == ["database disk image is malformed"]
    store = Store(tmp_path)
    assert store.one("SELECT count(*) FROM message") == 0
    store.queue.close()


async def test_a_lane_that_cannot_be_looked_up_ends_the_daemon(tmp_path: Path) -> None:
    """Mail that was accepted, but of which nobody would hear that it is due, waits for the next start, not for ever."""
    queue = Queue.open(tmp_path)
    with queue.transaction():
        for second in range(1000):
            queue.accept(new_message(), submission=None, now=NOW + second)
    queue.checkpoint()
    queue.close()
    overwrite_first_leaf(tmp_path / "queue.db", "recipient_due")
    async with desk(tmp_path) as one:
        new = new_message()
        accepted = await one.run(lambda queue: queue.accept(new, submission=None, now=NOW + 1000))
        assert accepted.queue_id == new.queue_id
        assert one.broken and "malformed" in one.broken[0]


async def test_a_later_part_on_a_damaged_page_costs_its_message_alone(tmp_path: Path) -> None:
    """The bounce with its text, which its end would read, is not made: it is set aside, and the daemon goes on."""
    store = Store(tmp_path)
    store.policy = Postmaster(config(), lambda: Aliases.load(""))  # type: ignore[assignment]
    parts = [letter * 3000 for letter in (b"w", b"x", b"y", b"z")]  # a page each
    queue_id = store.accept(ret="full", body=parts[0])
    for number, octets in enumerate(parts[1:], 1):
        store.sql("INSERT INTO body (message, part, octets) VALUES (1, ?, ?)", number, octets)
    claim = store.claim()
    store.queue.close()
    overwrite(tmp_path / "queue.db", b"x" * 70, kind=ROWS)
    async with desk(tmp_path) as one:
        given = settlement(claim, Outcome.BOUNCED, started_at=NOW)
        await one.run(lambda queue: Settling(queue, store.policy, NOW).settle(given), must=True)
        await asyncio.sleep(0)
        assert one.damaged == [queue_id] and not one.broken
        assert one.queue.one("message_state", message=1)["state"] == "damaged"


async def test_pruning_goes_round_a_damaged_page(tmp_path: Path) -> None:
    """What lies there, and on the pages beside it, is kept and told of once; all else that is past its time goes."""
    store = Store(tmp_path)
    body = (b"x" * 70 + b"\r\n") * 40  # a page each
    ids = [store.accept(sender="", body=body) for _ in range(2 * PRUNED["body"])]
    for _ in ids:
        store.settle(store.claim(), Outcome.BOUNCED)
    store.queue.close()
    overwrite(tmp_path / "queue.db", b"x" * 70, nth=5, kind=ROWS)
    kept: list[str] = []

    async def turn() -> bool:
        return (await prune(one.writer, 2000, NOW + 3000, lambda queue_id, error: kept.append(queue_id)))[1]

    async with desk(tmp_path) as one:
        while await turn():
            pass
        assert not await turn()
        assert [row[0] for row in one.queue.connection.execute("SELECT queue_id FROM message")] == kept
        assert one.queue.connection.execute("SELECT count(*) FROM report").fetchone()[0] == 0
        assert 0 < len(kept) < len(ids) // 2 and not one.broken


async def test_an_error_of_the_thread_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Whatever goes wrong beside a step: who waits hears of it, and so do all who come later."""

    class Wrong:
        """Steps that together give no result."""

        def __call__(self, queue: Queue) -> None:
            pass

        @staticmethod
        def together(queue: Queue, steps: list[Any]) -> list[Any]:
            return []

    async with desk(tmp_path) as one, asyncio.timeout(30):
        with one.busy():
            tasks = await soon(one.run(Wrong()), one.run(Wrong()))
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [StoreBroken] * 2
        with pytest.raises(StoreBroken):
            await one.run(accept())
        assert len(one.broken) == 1


async def test_a_commit_needs_no_descriptor(tmp_path: Path) -> None:
    """When no file can be opened any more, mail is accepted and recorded all the same."""
    async with desk(tmp_path) as one:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)  # the lowest number that is free
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            await one.run(accept())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not one.broken


# -- a full disk --


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    try:
        with mounted(TMPFS, tmp_path, 8 * MIB) as disk:
            yield disk
    except CannotMount as why:
        pytest.skip(f"a full disk: {why}")


async def test_promise_11_a_full_disk(small_disk: Path) -> None:
    """On a full disk a submission fails and changes nothing; an outcome is recorded all the same, in its reserve.

    When there is room again the ballast comes back, and submissions go through.
    """
    policy = PlainPolicy()
    async with desk(small_disk, reserve=MIB) as one:
        await one.run(accept(queue_id="OLD"))
        lane = one.lanes[-1][0]
        claim = await one.run(lambda queue: queue.claim(lane, "main", NOW))
        assert claim is not None
        other = fill(small_disk)
        with pytest.raises(StoreFull):
            await one.run(accept(body=b"x" * 500 * KIB))
        assert not one.reserve.given_up

        def settle(queue: Queue) -> Any:
            # Sent, with a reply that needs pages: nothing of this fits without the ballast.
            queue.connection.execute("UPDATE recipient SET reply = ?", ("y" * 300 * KIB,))
            return Settling(queue, policy, NOW).give_back(claim)

        await one.run(settle, must=True)
        assert one.reserve.given_up
        assert not (small_disk / "reserve").exists()
        rows = await one.run(lambda queue: queue.connection.execute("SELECT state FROM recipient").fetchall())
        assert [row[0] for row in rows] == ["queued"]
        one.reserve.fill()
        assert one.reserve.given_up  # still no room
        other.unlink()
        one.reserve.fill()
        assert not one.reserve.given_up
        await one.run(accept(body=b"x" * 500 * KIB))
        assert not one.broken


async def test_a_must_step_waits_for_room(small_disk: Path) -> None:
    """Without a ballast an outcome waits until somebody makes room; others in its commit are refused at once."""
    async with desk(small_disk) as one:
        await one.run(accept())
        other = fill(small_disk)
        with one.busy():
            refused, must = await soon(
                one.run(accept(body=b"x" * 500 * KIB)), one.run(accept(body=b"y" * 500 * KIB), must=True)
            )
        with pytest.raises(StoreFull):
            await refused
        with pytest.raises(StoreFull):  # so is who comes while it waits
            await asyncio.wait_for(one.run(accept(body=b"z" * 500 * KIB)), 10)
        assert not must.done()
        async with asyncio.timeout(10):
            with pytest.raises(StoreFull):  # nor does who comes later wait
                await one.run(accept())
        assert not must.done()
        other.unlink()
        async with asyncio.timeout(10):
            await one.run(accept())  # there is room: nobody is refused until the next look
            await must
        assert not one.broken


@contextlib.contextmanager
def sizes_limited(octets: int) -> Iterator[None]:
    """No file of this process may be longer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_promise_11_a_limit_on_sizes_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """Where queue.db may not grow, a submission fails, an outcome waits, nothing breaks, and then all goes on."""
    async with desk(tmp_path) as one:
        await one.run(accept())
        with sizes_limited(500 * KIB):
            with pytest.raises(StoreFull):
                await one.run(accept(body=b"x" * 600 * KIB))
            (must,) = await soon(one.run(accept(body=b"y" * 600 * KIB), must=True))
            with pytest.raises(StoreFull):
                await one.run(accept(body=b"z" * 600 * KIB))
            assert not must.done()
        async with asyncio.timeout(30):
            await must
            await one.run(accept())
        assert not one.broken


async def test_a_stop_on_a_full_disk(small_disk: Path) -> None:
    """A stop does not wait for room: what could not be recorded is found by the next start."""
    one = Desk(small_disk)
    fill(small_disk)
    (must,) = await soon(one.run(accept(body=b"y" * 500 * KIB), must=True))
    async with asyncio.timeout(10):
        await one.writer.stop()
    with pytest.raises(StoreFull):
        await must
    one.queue.close()


async def test_many_full_commits(small_disk: Path) -> None:
    """However often the disk is full, the store is not broken by it and nothing half done stays."""
    async with desk(small_disk) as one:
        count = 0
        for size in (1, 10, 100, 1000, 3000) * 6:
            with contextlib.suppress(StoreFull):
                await one.run(accept(body=b"x" * size * KIB))
                count += 1
        fill(small_disk)
        for _ in range(3):
            with pytest.raises(StoreFull):
                await one.run(accept(body=b"x" * 64 * KIB))
        rows = await one.run(lambda queue: queue.connection.execute("SELECT count(*) FROM message").fetchall())
        assert rows[0][0] == count
        assert not one.broken
        assert (await one.run(lambda queue: queue.connection.execute("PRAGMA integrity_check").fetchone()))[0] == "ok"


# -- the ballast --


def test_reserve(tmp_path: Path) -> None:
    """The ballast is real blocks, is made once, is given up and comes back, and follows its size."""
    reserve = Reserve(tmp_path, 256 * KIB)
    reserve.fill()
    status = reserve.path.stat()
    assert (status.st_size, status.st_blocks * 512 >= 256 * KIB, reserve.given_up) == (256 * KIB, True, False)
    inode = status.st_ino
    reserve.fill()
    assert reserve.path.stat().st_ino == inode
    reserve.give_up()
    reserve.give_up()
    assert reserve.given_up and not reserve.path.exists()
    reserve.fill()
    assert not reserve.given_up and reserve.path.stat().st_size == 256 * KIB
    smaller = Reserve(tmp_path, 64 * KIB)
    smaller.fill()
    assert smaller.path.stat().st_size == 64 * KIB


def test_a_reserve_that_cannot_be_made_is_given_up(tmp_path: Path) -> None:
    """As on a disk without an inode left: nothing fails for that, and it is made when it can be."""
    (tmp_path / "reserve").mkdir()
    reserve = Reserve(tmp_path, 256 * KIB)
    reserve.fill()
    assert reserve.given_up
    (tmp_path / "reserve").rmdir()
    reserve.fill()
    assert not reserve.given_up
    assert (tmp_path / "reserve").stat().st_size == 256 * KIB


def test_no_reserve(tmp_path: Path) -> None:
    """A reserve of 0 is none, and is never "given up" for longer than it takes to look."""
    reserve = Reserve(tmp_path, 0)
    reserve.fill()
    assert not reserve.path.exists()
    reserve.give_up()
    reserve.fill()
    assert not reserve.given_up


def test_reserve_on_a_small_disk(small_disk: Path) -> None:
    """Where the whole ballast would leave submissions no room it is smaller, and mail flows all the same."""
    reserve = Reserve(small_disk, 3 * MIB)
    assert free_octets(small_disk) < 2 * 3 * MIB + FREE_FLOOR
    reserve.fill()
    size = reserve.path.stat().st_size
    assert not reserve.given_up and 64 * KIB <= size < 3 * MIB
    assert free_octets(small_disk) >= FREE_FLOOR
    reserve.fill()
    assert reserve.path.stat().st_size == size


def test_reserve_needs_room(small_disk: Path) -> None:
    """What the ballast itself gave up is no sign of room: it comes back only when somebody else made some."""
    reserve = Reserve(small_disk, 3 * MIB)
    reserve.fill()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(free_octets(small_disk)))
    reserve.give_up()
    reserve.fill()
    assert reserve.given_up and not reserve.path.exists()
    filler.unlink()
    reserve.fill()
    assert not reserve.given_up and reserve.path.stat().st_size >= 64 * KIB


# -- checkpoints --


async def test_the_wal_is_written_back_beside_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail goes on while the WAL is written back, and the file does not grow for ever; nothing of it is lost."""
    monkeypatch.setattr(checkpoints, "LONGEST", 400)
    wal = 0
    async with desk(tmp_path) as one:
        for _ in range(60):
            await asyncio.gather(*(one.run(accept(body=b"x" * 8 * KIB)) for _ in range(10)))
            pages, left = await one.run(lambda queue: queue.wal())
            assert left <= pages
            wal = max(wal, pages)
        assert not one.broken
    assert 100 < wal < 1000
    store = Store(tmp_path)
    assert store.one("SELECT count(*) FROM message") == 600
    assert store.one("PRAGMA integrity_check") == "ok"
    store.queue.close()


async def test_a_reader_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody looks at the queue for long, with a program of his own, mail is taken; then the WAL is short."""
    monkeypatch.setattr(checkpoints, "LONGEST", 100)
    async with desk(tmp_path) as one:
        await one.run(accept())
        with contextlib.closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as shell:
            shell.execute("BEGIN")
            assert shell.execute("SELECT count(*) FROM message").fetchone() == (1,)
            async with asyncio.timeout(10):
                for _ in range(100):
                    await one.run(accept(body=b"x" * 8 * KIB))
            assert shell.execute("SELECT count(*) FROM message").fetchone() == (1,)
        before = (await one.run(lambda queue: queue.wal()))[0]
        for _ in range(100):
            await one.run(accept(body=b"x" * 8 * KIB))
        assert (await one.run(lambda queue: queue.wal()))[0] < before
        assert not one.broken


async def test_a_checkpoint_that_fails_breaks_the_store(tmp_path: Path) -> None:
    """When the disk does not take what is written back, nobody is told any more that his mail is safe."""
    async with desk(tmp_path) as one:
        one.writer._cannot_write_back(sqlite3.OperationalError("disk I/O error"))
        with pytest.raises(StoreBroken, match="disk I/O error"):
            await one.run(accept())
        assert one.broken == ["disk I/O error"]


async def test_space_comes_back_when_mail_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large message has left the file gets smaller by itself, as soon as there is nothing else to do."""
    monkeypatch.setattr(writer, "QUIET_S", 0.0)
    monkeypatch.setattr(writer, "GIVE_BACK_S", 0.0)
    monkeypatch.setattr(writer, "SPARE_PAGES", 0)
    async with desk(tmp_path) as one:
        await one.run(accept(body=b"x" * 4 * MIB))
        claim = await one.run(lambda queue: queue.claim(queue.lanes()[0], "main", NOW))
        assert claim is not None
        await one.run(lambda queue: Settling(queue, PlainPolicy(), NOW).settle(settlement(claim, Outcome.SENT)))
        async with asyncio.timeout(20):
            while await one.run(lambda queue: queue.spare_pages()):
                pass
        assert (tmp_path / "queue.db").stat().st_size < MIB
        assert not one.broken
