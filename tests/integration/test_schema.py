"""Promise 15: a queue that an older pysendmail wrote becomes one of this version, with all its mail.

tests/golden/queue has one of each schema that was: mail sent, bounced, deferred, held, new, half received, and some
that was being attempted when the daemon died. They are dumps of what that version wrote, and stay as they are.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pysendmail import listing, schema
from pysendmail.outcome import Outcome
from rig.instance import Instance
from rig.store import NOW, Store

OLD = sorted((Path(__file__).parents[1] / "golden" / "queue").glob("*.sql"))
VIEWS = ("queue", "history", "bounces")


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory of an older queue."""
    with sqlite3.connect(tmp_path / "queue.db") as database:
        database.executescript(request.param.read_text())
    database.close()
    return tmp_path


def columns(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Of each view."""
    return {view: [row[1] for row in database.execute(f"PRAGMA table_info({view})")] for view in VIEWS}


def shown(database: sqlite3.Connection, wanted: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
    return {
        view: [tuple(row) for row in database.execute(f"SELECT {', '.join(names)} FROM {view}")]
        for view, names in wanted.items()
    }


def test_every_older_schema_is_here() -> None:
    """Whoever changes the schema adds a queue of the one before."""
    assert [int(path.stem) for path in OLD] == list(range(1, schema.VERSION))


def test_promise_15_an_older_queue(old: Path) -> None:
    """What people see is what they saw; what was under way is uncertain and goes again; the rest goes its way."""
    with sqlite3.connect(old / "queue.db") as database:
        known = columns(database)
        before = shown(database, known)
    database.close()
    store = Store(old)
    store.now = NOW + 30
    assert shown(store.queue.connection, known) == before
    now = columns(store.queue.connection)
    assert {view: names[: len(known[view])] for view, names in now.items()} == known
    assert store.one("PRAGMA user_version") == schema.VERSION
    assert store.one("PRAGMA integrity_check") == "ok"
    store.do(store.settling.recover, 3960)
    found = listing.history_page(store.queue, after=0, past=listing.Past(uid=None))[0]
    attempts = {
        entry["queue_id"]: [
            (one["at"][11:19], one["outcome"]) for recipient in entry["recipients"] for one in recipient["attempts"]
        ]
        for entry in found
    }
    assert attempts["OLD000000001"] == [("08:00:00", "sent")]
    assert attempts["OLD000000003"] == [("08:00:00", "bounced"), ("08:00:00", "deferred")]
    assert attempts["OLD000000007"] == [("08:00:20", "uncertain")] * 2
    assert "OLDRECEIVING" not in attempts
    assert store.queue.owned(1000)[0] == 3
    store.do(store.queue.release, store.row("OLD000000005"), store.now)
    store.now += 100
    while store.queue.lanes():
        store.settle(store.claim(), Outcome.SENT)
    waiting = store.sql("SELECT recipient FROM queue")
    assert waiting == []
    assert store.one("SELECT count(*) FROM history WHERE outcome = 'sent'") == 7
    assert store.one("SELECT count(*) FROM body") == 1  # what bounced is kept
    store.queue.close()


def test_promise_15_an_upgrade_that_breaks_off_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops it at its last step, the queue is as it was, and the next start makes the whole of it."""

    def dump() -> list[str]:
        with closing(sqlite3.connect(old / "queue.db")) as database:
            return [str(database.execute("PRAGMA user_version").fetchone()), *database.iterdump()]

    before = dump()
    with monkeypatch.context() as broken:
        broken.setattr(schema, "_THIRD", f"{schema._THIRD};\nDROP TABLE nothing")
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            Store(old)
    assert dump() == before
    store = Store(old)
    assert store.one("PRAGMA user_version") == schema.VERSION
    store.queue.close()


def test_an_older_queue_and_its_new_one_are_alike(old: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An upgrade leaves the same tables, indexes and views as a queue that is made today."""

    def made(store: Store) -> set[tuple[str, ...]]:
        rows = store.sql("SELECT type, name, tbl_name FROM sqlite_master")
        columns = store.sql(
            "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
        )
        store.queue.close()
        return {tuple(row) for row in (*rows, *columns)}

    assert made(Store(old)) == made(Store(tmp_path_factory.mktemp("new")))


def peak(instance: Instance) -> int:
    """The most memory that the daemon had, in KiB."""
    with instance:
        assert instance.process is not None
        status = Path(f"/proc/{instance.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]


def test_who_makes_a_queue_is_no_larger_for_it(tmp_path: Path) -> None:
    """What a database is made with is needed once, and takes no memory of the daemon that runs for months."""
    instance = Instance(tmp_path)
    makes, finds = peak(instance), peak(instance)
    assert makes - finds < 4096
    assert instance.matching("start")
