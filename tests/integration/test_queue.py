"""The queue on real SQLite files: every row of its state table, what a crash leaves, and what a person may do."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from pathlib import Path

import pytest

from pysendmail import listing, schema, spool
from pysendmail.aliases import Aliases
from pysendmail.envelope import Recipient
from pysendmail.outcome import Outcome, Scope
from pysendmail.postmaster import Postmaster
from pysendmail.queue import FLUSHED_AT_ONCE, HEADER_KEPT, LANES_OF_A_MESSAGE, PART_OCTETS, PRUNED_AT_ONCE, Queue
from pysendmail.schema import SchemaError
from pysendmail.settling import MAX_ATTEMPTS_KEPT, Ending
from pysendmail.store import SQL
from rig.damage import ROWS, overwrite, unindex
from rig.store import MAIN, NOW, Store, config, new_message, result, settlement

SENT, DEFERRED, BOUNCED, UNCERTAIN = Outcome.SENT, Outcome.DEFERRED, Outcome.BOUNCED, Outcome.UNCERTAIN
BOB, CAROL, DAVE = "bob@example.org", "carol@example.net", "dave@example.org"


# -- the file --


def test_pragmas(store: Store) -> None:
    """WAL with synchronous=FULL is what C1 and C2 stand on; foreign keys and auto-vacuum keep the file in order."""
    values = {
        name: store.one(f"PRAGMA {name}")
        for name in ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum", "secure_delete", "user_version")
    }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "auto_vacuum": 2,
        "secure_delete": 2,
        "user_version": schema.VERSION,
    }


def test_modes(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, whatever the umask and whatever was there."""
    directory = tmp_path / "queue"
    directory.mkdir(mode=0o755)
    spool.directory_owner(directory)
    lock = spool.QueueLock(directory)
    lock.acquire()
    store = Store(directory)
    store.accept()
    spool.Reserve(directory, 4096).fill()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert set(modes) == {"queue.db", "queue.db-wal", "queue.db-shm", "queue.lock", "reserve"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    store.queue.close()
    lock.release()


def test_lock_has_one_holder(tmp_path: Path) -> None:
    """A second opener is told who has the queue; when the first lets go he gets it."""
    first, second = spool.QueueLock(tmp_path), spool.QueueLock(tmp_path)
    first.acquire()
    with pytest.raises(spool.QueueBusy, match=r"queue\.lock is held by another process"):
        second.acquire(0.0)
    first.release()
    second.acquire(0.0)
    second.release()


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a later version is left alone, with words on what to do."""
    store = Store(tmp_path)
    store.queue.connection.execute("PRAGMA user_version = 99")
    store.queue.close()
    with pytest.raises(SchemaError, match="newer pysendmail"):
        Queue.open(tmp_path)


def test_schema_is_made_once(store: Store) -> None:
    """Opened again, everything is there; the count of migrations did not grow."""
    queue_id = store.accept()
    store.reopen()
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.one("SELECT count(*) FROM _sqlite_migrations") == schema.VERSION


@pytest.mark.parametrize(
    ("view", "columns"),
    [
        (
            "queue",
            "queue_id accepted_at kind uid sender recipient state size attempts next_attempt_at smarthost status reply "
            "expires_at message_id pid command unit",
        ),
        (
            "history",
            "queue_id message_id kind uid sender recipient outcome accepted_at finished_at size attempts smarthost "
            "code status reply removed_by pid command unit",
        ),
        (
            "bounces",
            "queue_id at kind sender uid recipient outcome status reply report_queue_id reported_to silence",
        ),
    ],
)
def test_views(store: Store, view: str, columns: str) -> None:
    """The views are a promise: these columns, with these names, filled in for a mail that bounced."""
    store.accept(BOB, CAROL)
    store.settle(store.claim(), BOUNCED, DEFERRED)
    cursor = store.queue.connection.execute(f"SELECT * FROM {view}")
    assert columns.split() == [column[0] for column in cursor.description]
    row = dict(cursor.fetchone())
    times = {key: value for key, value in row.items() if key == "at" or (key.endswith("_at") and value)}
    assert times and all(len(value) == 20 and value[10] + value[19] == "TZ" for value in times.values())


def test_readers_see_what_is_committed(store: Store, tmp_path: Path) -> None:
    """A read-only connection works beside the writer, cannot write, and opens a queue that was closed cleanly."""
    queue_id = store.accept()
    reader = Queue.open_readonly(tmp_path)
    assert queue_id == reader.page(0, None, 1)[0]["queue_id"]
    with pytest.raises(sqlite3.OperationalError):
        reader.hold(1)
    reader.close()
    store.queue.close()
    reader = Queue.open_readonly(tmp_path)
    assert len(reader.page(0, None, 1)) == 1
    reader.close()
    store.queue = Queue.open(tmp_path)


def test_queue_ids_never_come_back(store: Store, tmp_path: Path) -> None:
    """A clock that was set back between two starts gives ids after those that are there."""
    newest = store.queue.ids.new(NOW)
    store.accept(queue_id=newest)
    store.reopen()
    assert newest < store.queue.ids.new(NOW - 86400)


# -- acceptance --


def test_accept_stores_what_was_given(store: Store) -> None:
    """C1: envelope, header, body and due time come back in the claim."""
    queue_id = store.accept(
        Recipient(address=BOB, notify=frozenset({"failure", "delay"}), orcpt="rfc822;b@example.com"),
        body=b"x" * 70000,
        ret="hdrs",
        eight_bit=True,
    )
    claim = store.claim()
    assert (queue_id, "alice@example.com", "hdrs") == (claim.queue_id, claim.envelope.sender, claim.envelope.ret)
    recipient = claim.recipients[0].recipient
    assert (BOB, {"failure", "delay"}, "rfc822;b@example.com") == (recipient.address, recipient.notify, recipient.orcpt)
    assert (claim.header, claim.first_part, claim.size) == (b"Subject: test\r\n", b"x" * 70000, 70017)
    assert claim.eight_bit and claim.route == MAIN


def test_a_submission_id_is_known_again(store: Store) -> None:
    """A client that asks again gets the same queue id; a submission that was never completed is not known."""
    queue_id = store.accept(submission=b"s" * 16)
    known = store.queue.known(b"s" * 16)
    assert known is not None and (queue_id, True) == (known.queue_id, known.again)
    assert store.queue.known(b"t" * 16) is None


def test_a_submission_id_makes_one_message(store: Store) -> None:
    """The same id twice cannot make two messages, whoever forgets to ask."""
    store.accept(submission=b"s" * 16)
    with pytest.raises(sqlite3.IntegrityError):
        store.accept(submission=b"s" * 16)
    assert store.one("SELECT count(*) FROM message") == 1


def test_owned_counts_what_waits(store: Store) -> None:
    """A user's limit counts his waiting messages and their octets, and no longer what has left."""
    store.accept(uid=1000, body=b"x" * 83)
    store.accept(uid=1001)
    assert store.queue.owned(1000) == (1, 100)
    store.settle(store.claim(), SENT)
    assert store.queue.owned(1000) == (0, 0)


def test_owned_stays_what_the_rows_say(store: Store) -> None:
    """The sums that are kept in memory are those of the rows, after whatever became of them and of steps that fail."""
    queue = store.queue

    def check() -> None:
        rows = store.sql("SELECT count(*), coalesce(sum(size), 0) FROM message WHERE state = 'queued' AND uid = 1000")
        assert queue.owned(1000) == tuple(rows[0])

    def fails(_queue: Queue) -> None:
        queue.accept(new_message(body=b"x" * 50), submission=None, now=NOW)
        check()
        raise LookupError("after all")

    check()
    bounced = store.accept(body=b"x" * 83)
    store.accept(CAROL, BOB, body=b"y" * 7)
    check()
    with pytest.raises(LookupError):
        store.do(queue.apart, fails)
    check()
    with pytest.raises(LookupError):
        store.do(fails, queue)
    check()
    store.settle(store.claim(), BOUNCED)  # its bounce is of the same user
    check()
    store.do(queue.revive, store.row(bounced), now=NOW, lifetime=1000, warn_after=0)
    check()
    store.do(store.settling.expire, queue.recipients_of(store.row(bounced)), reason="", status="4.4.7", smarthost="")
    check()
    store.do(store.settling.remove, 2, 1000)
    check()
    store.do(queue.hold_damaged, store.row(store.accept()))
    check()


def test_large_body_in_parts(store: Store) -> None:
    """A body that came in pieces is read back whole, in rows of at most 256 KiB, by the parts asked for."""
    body = bytes(range(256)) * 4096  # 1 MiB
    queue = store.queue
    message = store.do(queue.receive, queue_id="Q1", kind="mail", uid=1)
    part = store.do(queue.add_body, message, 0, body[: 3 * PART_OCTETS])
    assert part == 3
    store.do(queue.add_body, message, part, body[3 * PART_OCTETS :])
    new = new_message(queue_id="Q1", body=b"", body_size=len(body))
    store.do(queue.make_ready, message, new, NOW)
    assert body == b"".join(queue.parts(message, 0, -1))
    assert [body[PART_OCTETS : 2 * PART_OCTETS]] == queue.parts(message, 1, 1)
    assert [row[0] for row in store.sql("SELECT length(octets) FROM body")] == [PART_OCTETS] * 4


def test_replace_body(store: Store) -> None:
    """Another body takes the place of the stored one, which is read while the new one is written."""
    old = b"".join(b"%07d\r\n" % number for number in range(100_000))
    queue = store.queue
    message = store.do(queue.receive, queue_id="Q1", kind="mail", uid=1)
    store.do(queue.add_body, message, 0, old)

    def doubled():
        for part in range(store.one("SELECT count(*) FROM body WHERE message = ?", message)):
            for octets in queue.parts(message, part, 1):
                yield octets * 2

    expected = b"".join(part * 2 for part in queue.parts(message, 0, -1))
    with queue.transaction():
        size = queue.replace_body(message, doubled())
    assert len(expected) == size
    assert expected == b"".join(queue.parts(message, 0, -1))
    assert store.one("SELECT min(part) FROM body") == 0
    assert store.one("SELECT max(length(octets)) FROM body") <= PART_OCTETS


def test_replace_body_with_nothing(store: Store) -> None:
    """A body that becomes empty leaves no part behind."""
    message = store.do(store.queue.receive, queue_id="Q1", kind="mail", uid=1)
    store.do(store.queue.add_body, message, 0, b"x")
    assert store.do(store.queue.replace_body, message, []) == 0
    assert store.queue.parts(message, 0, -1) == []


def test_forget(store: Store) -> None:
    """A submission that breaks off leaves nothing; one that is ours is not forgotten by mistake."""
    message = store.do(store.queue.receive, queue_id="Q1", kind="mail", uid=1)
    store.do(store.queue.add_body, message, 0, b"x")
    queue_id = store.accept()
    store.do(store.queue.forget, "Q1")
    store.do(store.queue.forget, queue_id)
    assert [queue_id] == [row[0] for row in store.sql("SELECT queue_id FROM message")]
    assert store.one("SELECT count(*) FROM body") == 1


# -- claims --


def test_claim_marks_attempting(store: Store) -> None:
    """A claim is on disk before anything is sent: the recipients attempting, since when; then nothing is due."""
    queue_id = store.accept(BOB, DAVE)
    lane = store.lane()
    claim = store.claim()
    assert [claimed.recipient.address for claimed in claim.recipients] == [BOB, DAVE]
    assert store.states(queue_id) == {BOB: "attempting", DAVE: "attempting"}
    assert [row[0] for row in store.sql("SELECT attempted_at FROM recipient")] == [NOW, NOW]
    (entry,), _ = listing.history_page(store.queue, after=0, past=listing.Past(uid=None))
    assert [one["outcome"] for recipient in entry["recipients"] for one in recipient["attempts"]] == [None, None]
    assert store.do(store.queue.claim, lane, "main", store.now) is None


def test_one_message_takes_all_that_go_its_way(store: Store) -> None:
    """Recipients in different domains on one route travel together; those on another route do not."""
    store.accept(BOB, CAROL, "eve@example.edu", routes={"eve@example.edu": ("other",)})
    assert [claimed.recipient.address for claimed in store.claim().recipients] == [BOB, CAROL]
    assert [c.recipient.address for c in store.claim(("other",), "other").recipients] == ["eve@example.edu"]


def test_new_before_retries(store: Store) -> None:
    """In a lane new mail goes before what was tried already, however long that is due."""
    old = store.accept()
    store.settle(store.claim(), DEFERRED)
    store.now += 1000
    new = store.accept()
    assert [new, old] == [store.claim().queue_id, store.claim().queue_id]


def test_not_yet_due(store: Store) -> None:
    """What waits for its retry is not claimed, and the lane says when it will be."""
    store.accept()
    store.settle(store.claim(), DEFERRED)
    lane = store.lane()
    assert lane.due_at == NOW + 100
    assert store.do(store.queue.claim, lane, "main", NOW + 99) is None
    assert store.do(store.queue.claim, lane, "main", NOW + 100) is not None


def test_lanes_of_one_message_have_a_bound(store: Store) -> None:
    """However many destinations it has: each recipient is on a lane, of his route, also after a reload."""
    many = [f"bob@d{number}.example" for number in range(3 * LANES_OF_A_MESSAGE)]
    routes = {address: (("main",), ("other",))[number % 2] for number, address in enumerate(many)}
    first = store.accept(*many, routes=routes)
    assert len(store.queue.lanes()) == 2 * LANES_OF_A_MESSAGE
    for route, odd in ((MAIN, 0), (("other",), 1)):
        assert [one.recipient.address for one in store.claim(route).recipients] == many[odd::2]
    second = store.accept(*many, routes=routes)
    assert store.do(store.queue.reroute, lambda _sender, _recipient: ("new",)) is not None
    lanes = "SELECT count(DISTINCT lane), count(*) FROM recipient JOIN message m ON m.id = message WHERE queue_id = ?"
    for queue_id in (first, second):
        assert [tuple(row) for row in store.sql(lanes, queue_id)] == [(LANES_OF_A_MESSAGE, len(many))]
    assert len(store.claim(("new",)).recipients) == len(many)


def test_touched_lanes(store: Store) -> None:
    """After each commit the queue says of every lane that changed when it is due next; None: it is empty."""
    store.accept(BOB, CAROL)
    touched = store.queue.take_touched()
    assert {("example.org", NOW), ("example.net", NOW)} == {(lane.destination, lane.due_at) for lane in touched}
    assert store.queue.take_touched() == []
    claim = store.claim()
    assert {None} == {lane.due_at for lane in store.queue.take_touched()}
    store.settle(claim, DEFERRED, SENT)
    touched = store.queue.take_touched()
    assert {("example.org", NOW + 100), ("example.net", None)} == {(x.destination, x.due_at) for x in touched}


def test_give_back(store: Store) -> None:
    """A claim that was not used leaves no trace: due as before, no attempt counted or listed."""
    queue_id = store.accept()
    before = store.sql("SELECT * FROM queue")[0]
    store.do(store.settling.give_back, store.claim())
    after = dict(store.sql("SELECT * FROM queue")[0])
    assert {**dict(before), "smarthost": "main"} == after
    assert store.one("SELECT count(*) FROM attempt") == 0
    assert store.states(queue_id) == {BOB: "queued"}


def test_give_back_while_held(store: Store) -> None:
    """Held meanwhile, an unused claim comes back as held."""
    queue_id = store.accept()
    claim = store.claim()
    store.do(store.queue.hold, store.row(queue_id))
    store.do(store.settling.give_back, claim)
    assert store.states(queue_id) == {BOB: "held"}


# -- outcomes --


def test_sent(store: Store) -> None:
    """Sent: final, the body goes, the record stays with the attempt that did it."""
    queue_id = store.accept()
    ended = store.settle(store.claim(), SENT)
    assert [(e.recipient, e.outcome, e.status, e.attempts) for e in ended] == [(BOB, "sent", "2.0.0", 1)]
    assert store.states(queue_id) == {BOB: "sent"}
    assert store.one("SELECT count(*) FROM body") == 0
    attempt = dict(store.sql("SELECT * FROM attempt")[0])
    assert tuple(attempt[key] for key in ("outcome", "code", "status", "address", "tls", "duration_s")) == (
        "sent",
        250,
        "2.0.0",
        "192.0.2.1",
        "none",
        1.0,
    )
    assert store.one("SELECT state FROM message") == "done"
    assert store.policy.asked == []


def test_many_attempts_settled_at_once(store: Store) -> None:
    """Each ends as it would have alone: sent, partly sent, bounced, set aside meanwhile, on two routes."""
    routes = {BOB: MAIN, CAROL: ("other",)}
    ids = [store.accept(*to, **how) for to, how in (
        ((BOB,), {}), ((BOB, DAVE), {}), ((BOB, CAROL), {"routes": routes}), ((BOB,), {}), ((BOB,), {"uid": 7}),
        ((BOB,), {}),
    )]  # fmt: skip
    claims = {claim.queue_id: claim for claim in (store.claim() for _ in ids)}
    claims["other"] = store.claim(("other",), "other")
    store.do(store.queue.hold_damaged, store.row(ids[5]))
    outcomes = {ids[1]: (SENT, DEFERRED), ids[3]: (BOUNCED,)}
    endings = [
        Ending(store.policy, settlement(claims[key], *outcomes.get(key, (SENT,))), NOW + number)
        for number, key in enumerate((*ids, "other"))
    ]
    ended = store.do(Ending.together, store.queue, endings)
    assert [[(one.recipient, one.outcome) for one in each] for each in ended] == [
        [(BOB, "sent")], [(BOB, "sent"), (DAVE, "deferred")], [(BOB, "sent")], [(BOB, "bounced")], [(BOB, "sent")], [],
        [(CAROL, "sent")],
    ]  # fmt: skip
    states = [store.one("SELECT state FROM message WHERE queue_id = ?", queue_id) for queue_id in ids]
    assert states == ["done", "queued", "done", "done", "done", "damaged"]
    assert store.sql("SELECT finished_at, attempts FROM recipient WHERE message = 5")[0][:] == (NOW + 4, 1)
    assert store.one("SELECT count(*) FROM attempt") == 8
    kept = [row[0] for row in store.sql("SELECT message FROM body ORDER BY message")]
    assert kept == [2, 4, 6, 7]  # what waits, what bounced, what is set aside, the bounce
    assert store.queue.owned(7) == (0, 0)
    assert store.queue.smarthosts()["main"][1] == NOW + 6


def test_deferred(store: Store) -> None:
    """Deferred: due again when the policy says, one attempt more, and the log's words say when."""
    queue_id = store.accept()
    ended = store.settle(store.claim(), DEFERRED)
    assert [(e.outcome, e.attempts, e.next_attempt_s) for e in ended] == [("deferred", 1, 100)]
    assert store.states(queue_id) == {BOB: "queued"}
    assert tuple(store.sql("SELECT attempts, next_attempt_at FROM recipient")[0]) == (1, NOW + 100)


def test_bounced(store: Store) -> None:
    """Bounced: final, and the bounce is queued in the same commit, with its record; the body is kept for a while."""
    queue_id = store.accept(BOB, DAVE)
    store.settle(store.claim(), BOUNCED, DEFERRED)
    assert store.states(queue_id) == {BOB: "bounced", DAVE: "queued"}
    assert store.policy.asked == [("bounce", [BOB])]
    bounce = dict(store.sql("SELECT * FROM bounces")[0])
    assert (queue_id, BOB, "alice@example.com", "5.1.1") == tuple(
        bounce[key] for key in ("queue_id", "recipient", "reported_to", "status")
    )
    assert store.states(bounce["report_queue_id"]) == {"alice@example.com": "queued"}
    assert [bounce["report_queue_id"]] == [report.queue_id for report in store.queue.take_reports()]
    assert store.queue.take_reports() == []


def test_one_bounce_for_those_who_failed_together(store: Store) -> None:
    """Three recipients refused in one attempt make one bounce with three records."""
    store.accept(BOB, CAROL, DAVE)
    store.settle(store.claim(), BOUNCED)
    assert store.policy.asked == [("bounce", [BOB, CAROL, DAVE])]
    assert store.one("SELECT count(*) FROM bounces") == 3
    assert store.one("SELECT count(*) FROM message WHERE kind = 'bounce'") == 1


def test_null_sender_is_discarded(store: Store) -> None:
    """A user's message from the null sender that fails is `discarded`: recorded, told to nobody."""
    queue_id = store.accept(sender="")
    ended = store.settle(store.claim(), BOUNCED)
    assert store.states(queue_id) == {BOB: "discarded"}
    assert [e.outcome for e in ended] == ["discarded"]
    assert tuple(store.sql("SELECT report_queue_id, silence FROM bounces")[0]) == (None, "nobody to tell")


def test_promise_3_bounce_that_cannot_be_queued(store: Store) -> None:
    """Where the bounce cannot be stored the outcome is not recorded either; then the attempt is deferred."""
    queue_id = store.accept()
    claim = store.claim()
    store.policy.broken = True
    with pytest.raises(sqlite3.IntegrityError):
        store.settle(claim, BOUNCED)
    assert store.states(queue_id) == {BOB: "attempting"}
    assert store.one("SELECT count(*) FROM report") == 0
    assert store.queue.take_reports() == []
    store.do(store.settling.defer, claim, "an error of ours", NOW + 60)
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.one("SELECT next_attempt_at FROM recipient") == NOW + 60
    assert store.one("SELECT outcome FROM attempt") == "uncertain"
    store.policy.broken, store.now = False, NOW + 60
    store.settle(store.claim(), BOUNCED)
    assert store.states(queue_id) == {BOB: "bounced"}
    assert store.one("SELECT count(*) FROM bounces") == 1


def test_deferred_by_a_bug_while_held(store: Store) -> None:
    """An error of ours does not free what somebody held meanwhile."""
    queue_id = store.accept()
    claim = store.claim()
    store.do(store.queue.hold, store.row(queue_id))
    store.do(store.settling.defer, claim, "an error of ours", NOW + 60)
    assert store.states(queue_id) == {BOB: "held"}


def test_uncertain_is_tried_again(store: Store) -> None:
    """A lost answer to the final dot: the history says `uncertain`, the recipient is deferred, the log marks it."""
    queue_id = store.accept()
    ended = store.settle(store.claim(), UNCERTAIN)
    assert [(e.outcome, e.uncertain) for e in ended] == [("deferred", True)]
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.one("SELECT outcome FROM attempt") == "uncertain"


def test_too_many_recipients_go_again_at_once(store: Store) -> None:
    """452 "too many recipients": the rest is due now, as new as before, with no attempt counted."""
    store.accept(BOB, DAVE)
    claim = store.claim()
    store.settle(claim, result(BOB, SENT), result(DAVE, DEFERRED, again=True))
    row = store.sql("SELECT attempts, fresh, next_attempt_at FROM recipient WHERE address = ?", DAVE)[0]
    assert tuple(row) == (0, 1, NOW)


def test_smarthost_trouble_counts_no_attempt(store: Store) -> None:
    """The smarthost's own trouble raises nobody's attempts and leaves the mail due, for the next smarthost."""
    store.accept()
    for _ in range(5):
        store.settle(store.claim(), result(BOB, DEFERRED, Scope.SMARTHOST))
    row = store.sql("SELECT attempts, fresh, next_attempt_at FROM recipient")[0]
    assert tuple(row) == (0, 1, NOW)


# -- expiry and delay notices --


@pytest.mark.parametrize(
    ("later", "outcome", "exhausted", "state"),
    [
        (999, result(BOB, DEFERRED), False, "queued"),
        (1000, result(BOB, DEFERRED), False, "expired"),
        (5000, result(BOB, DEFERRED, Scope.SMARTHOST), False, "queued"),
        (5000, result(BOB, DEFERRED, Scope.SMARTHOST), True, "expired"),
        (999, result(BOB, DEFERRED, Scope.SMARTHOST), True, "queued"),
        (5000, result(BOB, DEFERRED, again=True), False, "queued"),
        (5000, result(BOB, UNCERTAIN, Scope.SESSION), False, "expired"),
        (5000, result(BOB, SENT), True, "sent"),
        (5000, result(BOB, BOUNCED), True, "bounced"),
    ],
    ids=lambda value: str(value) if not hasattr(value, "scope") else f"{value.outcome}-{value.scope}",
)
def test_expiry(store: Store, later: float, outcome: object, exhausted: bool, state: str) -> None:
    """Expiry needs the lifetime over and a fresh failure: the recipient's own, or of every smarthost of its route."""
    queue_id = store.accept(lifetime=1000)
    store.now += later
    ended = store.settle(store.claim(), outcome, exhausted=exhausted)  # type: ignore[arg-type]
    assert {BOB: state} == store.states(queue_id)
    if state == "expired":
        assert [(e.outcome, e.status) for e in ended] == [("expired", "4.4.7")]
        assert store.policy.asked == [("bounce", [BOB])]


def test_time_alone_expires_nothing(store: Store) -> None:
    """Mail that found the machine off for weeks is tried before it expires."""
    queue_id = store.accept(lifetime=1000)
    store.now += 10**6
    store.reopen()
    store.do(store.settling.recover, 3960)
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.queue.overdue(MAIN, store.now) == [1]


def test_forced_expire_during_an_attempt(store: Store) -> None:
    """`queue expire` while an attempt is under way: what that attempt does not deliver expires with it."""
    queue_id = store.accept(BOB, DAVE)
    claim = store.claim()
    store.do(store.queue.force_expire, claim.message)
    assert store.do(store.settling.expire, [1, 2], reason="by uid 0", status="4.4.7", smarthost="") == []
    store.settle(claim, SENT, DEFERRED)
    assert store.states(queue_id) == {BOB: "sent", DAVE: "expired"}


def test_expire_by_command(store: Store) -> None:
    """Expired without an attempt: one bounce for all, the last reply in it, and the message is over."""
    queue_id = store.accept(BOB, DAVE)
    store.settle(store.claim(), DEFERRED)
    ids = store.queue.recipients_of(store.row(queue_id))
    ended = store.do(store.settling.expire, ids, reason="by uid 0", status="4.4.7", smarthost="")
    assert [e.outcome for e in ended] == ["expired", "expired"]
    assert store.policy.asked == [("bounce", [BOB, DAVE])]
    assert {"451 4.3.0 later"} == {row[0] for row in store.sql("SELECT reply FROM bounces")}
    assert store.do(store.settling.expire, ids, reason="", status="", smarthost="") == []


def test_overdue_and_unwarned_by_route(store: Store) -> None:
    """What a failed probe may expire or warn of: of its route only, past its time only, and nothing that is held."""
    first = store.accept(lifetime=10, warn_after=5)
    store.accept(lifetime=100, warn_after=50)
    store.accept(lifetime=10, warn_after=5, route=("other",))
    held = store.accept(lifetime=10, warn_after=5)
    store.do(store.queue.hold, store.row(held))
    expected = store.queue.recipients_of(store.row(first))
    assert expected == store.queue.overdue(MAIN, NOW + 10)
    assert expected == store.queue.unwarned(MAIN, NOW + 10)
    assert store.queue.overdue(MAIN, NOW + 9) == []
    assert store.queue.unwarned(MAIN, NOW + 4) == []


def test_delay_notice_once(store: Store) -> None:
    """A message that waits longer than warn_after is reported as delayed, at an attempt, and only once."""
    store.accept(warn_after=150, lifetime=10_000)
    for _ in range(4):
        store.settle(store.claim(), DEFERRED)
        store.now += 500
    assert store.policy.asked == [("delay", [BOB])]


def test_no_delay_notice_for_a_smarthost(store: Store) -> None:
    """A smarthost in trouble is not told to the sender; when a recipient is to blame later, it is."""
    store.accept(warn_after=150)
    store.now += 200
    store.settle(store.claim(), result(BOB, DEFERRED, Scope.SMARTHOST))
    assert store.policy.asked == []
    store.settle(store.claim(), DEFERRED)
    assert store.policy.asked == [("delay", [BOB])]


def test_delay_notice_behind_the_tls_memory(store: Store) -> None:
    """Where TLS memory holds mail back the sender hears of the delay, once."""
    store.accept(BOB, DAVE, warn_after=150)
    store.now += 200
    waiting = store.queue.unwarned(MAIN, store.now)
    assert len(waiting) == 2
    store.do(store.settling.warn, waiting, reason="no TLS", status="4.7.4", smarthost="main")
    assert store.policy.asked == [("delay", [BOB, DAVE])]
    assert store.queue.unwarned(MAIN, store.now) == []


# -- what people do --


def test_hold_and_release(store: Store) -> None:
    """Held mail is not due and has no lane; released it is due at once."""
    queue_id = store.accept()
    message = store.row(queue_id)
    store.do(store.queue.hold, message)
    assert store.states(queue_id) == {BOB: "held"}
    assert [lane.due_at for lane in store.queue.take_touched()] == [None]
    assert store.queue.lanes() == []
    store.now += 50
    store.do(store.queue.release, message, store.now)
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.now == store.lane().due_at


@pytest.mark.parametrize(
    ("outcome", "state"), [(DEFERRED, "held"), (SENT, "sent"), (BOUNCED, "bounced"), (UNCERTAIN, "held")]
)
def test_held_while_attempting(store: Store, outcome: Outcome, state: str) -> None:
    """Held during an attempt: the attempt ends as it ends, and what is deferred waits, though its lifetime is over."""
    queue_id = store.accept(lifetime=10)
    claim = store.claim()
    store.do(store.queue.hold, claim.message)
    assert store.states(queue_id) == {BOB: "attempting"}
    store.now += 1000
    store.settle(claim, outcome)
    assert {BOB: state} == store.states(queue_id)


def test_remove(store: Store) -> None:
    """Removed: final, by whom, no bounce, no body, and what was sent before stays sent."""
    queue_id = store.accept(BOB, DAVE)
    store.settle(store.claim(), SENT, DEFERRED)
    ended = store.do(store.settling.remove, store.row(queue_id), 1000)
    assert [(e.recipient, e.outcome) for e in ended] == [(DAVE, "removed")]
    assert store.states(queue_id) == {BOB: "sent", DAVE: "removed"}
    rows = store.sql("SELECT outcome, removed_by FROM history ORDER BY recipient")
    assert [tuple(row) for row in rows] == [("sent", None), ("removed", 1000)]
    assert store.one("SELECT count(*) FROM body") == 0
    assert store.policy.asked == []


@pytest.mark.parametrize(
    ("outcome", "state"), [(DEFERRED, "removed"), (UNCERTAIN, "removed"), (BOUNCED, "removed"), (SENT, "sent")]
)
def test_removed_while_attempting(store: Store, outcome: Outcome, state: str) -> None:
    """Removed during an attempt: what the smarthost took is sent, all else ends as removed, by whom, and nobody writes.

    It came back into the queue and was tried again, after `queue remove` had said that it was done.
    """
    queue_id = store.accept(lifetime=10)
    claim = store.claim()
    assert store.do(store.settling.remove, claim.message, 1000) == []
    assert store.states(queue_id) == {BOB: "attempting"}
    store.now += 20
    ended = store.settle(claim, outcome)
    assert [state] == [e.outcome for e in ended]
    assert (state, 1000 if state == "removed" else None) == tuple(
        store.sql("SELECT outcome, removed_by FROM history")[0]
    )
    assert store.one("SELECT state FROM message") == "done"
    assert store.policy.asked == []
    assert store.queue.lanes() == []
    assert queue_id


def test_removed_while_claimed(store: Store) -> None:
    """Removed while it is only claimed: given back, it is removed, not queued; so it is after a bug and a crash."""
    for undo in ("give_back", "defer", "recover"):
        queue_id = store.accept()
        claim = store.claim()
        store.do(store.settling.remove, claim.message, 0)
        if undo == "give_back":
            ended = store.do(store.settling.give_back, claim)
        elif undo == "defer":
            ended = store.do(store.settling.defer, claim, "bug", store.now)
        else:
            ended = store.do(store.settling.recover, 3960)[1:]
        assert store.states(queue_id) == {BOB: "removed"}, undo
        assert [(e.outcome, finished) for e, finished in zip(ended, [store.now], strict=True)] == [
            ("removed", 1_800_000_000.0)
        ], undo


def test_retry_of_what_waits(store: Store) -> None:
    """`queue retry` makes a deferred message due now."""
    queue_id = store.accept()
    store.settle(store.claim(), DEFERRED)
    store.do(store.queue.make_due, store.row(queue_id), NOW + 1)
    assert store.lane().due_at == NOW + 1


def test_revive(store: Store) -> None:
    """`queue retry` of a failed message: those who failed are due again with a new life, those who got it are not."""
    queue_id = store.accept(BOB, DAVE, lifetime=10)
    store.settle(store.claim(), SENT, BOUNCED)
    store.now += 100
    message = store.row(queue_id)
    assert store.do(store.queue.revive, message, now=store.now, lifetime=500, warn_after=50)
    assert store.states(queue_id) == {BOB: "sent", DAVE: "queued"}
    row = store.sql("SELECT attempts, next_attempt_at, finished_at FROM recipient WHERE address = ?", DAVE)[0]
    assert (0, store.now, None) == tuple(row)
    assert (store.now + 500, store.now + 50, None) == tuple(
        store.sql("SELECT expires_at, warn_at, body_until FROM message WHERE id = ?", message)[0]
    )
    claim = store.do(store.queue.claim, next(x for x in store.queue.lanes() if x.uid == 1000), "main", store.now)
    assert (claim.recipients[0].recipient.address, claim.first_part) == (DAVE, b"hello\r\n")


def test_revive_needs_the_body(store: Store) -> None:
    """What was delivered, or failed so long ago that its body is gone, cannot be revived."""
    sent, failed = store.accept(), store.accept(sender="")
    store.settle(store.claim(), SENT)
    store.settle(store.claim(), BOUNCED)
    store.do(store.queue.prune, 10**6, NOW + 500)
    for queue_id in (sent, failed):
        assert not store.do(store.queue.revive, store.row(queue_id), now=NOW, lifetime=1, warn_after=0)
    assert store.states(failed) == {BOB: "discarded"}


def test_flush(store: Store) -> None:
    """A flush makes all due, or one user's only, and raises nobody's attempts."""
    for uid in (1000, 1001):
        store.accept(uid=uid)
        store.settle(store.claim(), DEFERRED)
    assert store.do(store.queue.flush_of, 1001, NOW + 1) is None
    assert {lane.uid: lane.due_at for lane in store.queue.take_touched()} == {1000: NOW + 100, 1001: NOW + 1}
    store.do(store.queue.flush, NOW + 2)
    assert {lane.uid: lane.due_at for lane in store.queue.lanes()} == {1000: NOW + 2, 1001: NOW + 1}
    assert {1} == {row[0] for row in store.sql("SELECT attempts FROM recipient")}


def test_history_keeps_the_start_of_a_header(store: Store) -> None:
    """Sent, removed, or bounced and no longer kept: a header of a mebibyte is not on the disk for a month."""
    header = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 900) for number in range(1000))
    length = "SELECT length(header) FROM message WHERE queue_id = ?"
    sent, removed, bounced = (store.accept(f"bob@d{number}.example", header=header) for number in range(3))
    assert {len(header)} == {store.one(length, one) for one in (sent, removed, bounced)}
    store.settle(store.claim(), SENT)
    store.do(store.settling.remove, store.row(removed), 1000)
    store.settle(store.claim(), BOUNCED)
    assert [store.one(length, one) for one in (sent, removed, bounced)] == [HEADER_KEPT, HEADER_KEPT, len(header)]
    store.do(store.queue.prune, 10**6, NOW + 500)
    assert store.one(length, bounced) == HEADER_KEPT
    assert store.one("SELECT header FROM message WHERE queue_id = ?", sent) == header[:HEADER_KEPT]


def test_a_flush_of_one_user_goes_page_by_page(store: Store) -> None:
    """So many of his messages in a step; the lanes that are told are his, however many others there are."""
    store.accept("bob@d.example")
    for number in range(FLUSHED_AT_ONCE + 1):
        store.accept(f"bob@d{number}.example", uid=1001)
    store.do(store.queue.run, "shift_due", jump=100.0)
    store.queue.take_touched()
    after = store.do(store.queue.flush_of, 1001, NOW + 1)
    told = store.queue.take_touched()
    assert {lane.uid for lane in told} == {1001} and len(told) == FLUSHED_AT_ONCE
    assert store.do(store.queue.flush_of, 1001, NOW + 1, after) is None
    assert [lane.due_at for lane in store.queue.take_touched()] == [NOW + 1]
    assert {lane.uid: lane.due_at for lane in store.queue.lanes()} == {1000: NOW + 100, 1001: NOW + 1}


# -- start, clocks, retention --


def test_recover(store: Store) -> None:
    """After a crash: half received mail is forgotten, attempts under way are due again, the rest is as it was."""
    attempting, waiting = store.accept(BOB, DAVE), store.accept(CAROL)
    half = store.do(store.queue.receive, queue_id="HALF", kind="mail", uid=1)
    store.do(store.queue.add_body, half, 0, b"x" * 1000)
    store.do(store.queue.claim, next(x for x in store.queue.lanes() if x.destination == "example.org"), "main", NOW)
    store.reopen()
    store.now += 5
    ended = store.do(store.settling.recover, 3960)
    assert [(e.recipient, e.outcome, e.uncertain) for e in ended] == [(BOB, "deferred", True), (DAVE, "deferred", True)]
    assert store.states(attempting) == {BOB: "queued", DAVE: "queued"}
    assert {"uncertain"} == {row[0] for row in store.sql("SELECT outcome FROM attempt")}
    assert {store.now} == {
        row[0] for row in store.sql("SELECT next_attempt_at FROM recipient WHERE attempts = 1 AND fresh = 0")
    }
    assert store.states(waiting) == {CAROL: "queued"}
    assert store.one("SELECT count(*) FROM message") == 2
    assert {b"hello\r\n"} == {row[0] for row in store.sql("SELECT octets FROM body")}


def test_a_crash_expires_nothing(store: Store) -> None:
    """What was under way when the power went, days ago, is tried again before it may expire; a crash is no failure."""
    queue_id = store.accept(lifetime=10)
    store.claim()
    store.reopen()
    store.now += 10**6
    store.do(store.settling.recover, 3960)
    assert store.states(queue_id) == {BOB: "queued"}
    assert store.policy.asked == []


def test_held_before_the_crash(store: Store) -> None:
    """An attempt that a crash cut off does not free what was held."""
    queue_id = store.accept()
    store.do(store.queue.hold, store.claim().message)
    store.reopen()
    store.do(store.settling.recover, 3960)
    assert store.states(queue_id) == {BOB: "held"}


def test_due_times_are_clamped(store: Store) -> None:
    """A due time beyond the longest interval is a set-back clock's: it counts as now, and others stay."""
    far, near = store.accept(), store.accept(CAROL)
    for queue_id, due in ((far, NOW + 4000), (near, NOW + 3000)):
        store.sql("UPDATE recipient SET next_attempt_at = ? WHERE message = ?", due, store.row(queue_id))
    store.do(store.settling.recover, 3960)
    assert {x.destination: x.due_at for x in store.queue.lanes()} == {"example.org": NOW, "example.net": NOW + 3000}


def test_clock_jumps_forward(store: Store) -> None:
    """A forward jump is added to the lifetime and the delay notice of what is queued; the due time comes by itself."""
    store.accept(lifetime=1000, warn_after=100)
    store.do(store.queue.clock_jumped, 86400.0)
    assert tuple(store.sql("SELECT expires_at, warn_at FROM message")[0]) == (NOW + 87400, NOW + 86500)
    assert store.lane().due_at == NOW


def test_clock_jumps_back(store: Store) -> None:
    """Set back, the clock holds nothing up: due times follow, and expiry only comes later."""
    store.accept(lifetime=1000)
    store.settle(store.claim(), DEFERRED)
    store.queue.take_touched()
    store.do(store.queue.clock_jumped, -3600.0)
    assert [lane.due_at for lane in store.queue.take_touched()] == [NOW + 100 - 3600]
    assert store.one("SELECT expires_at FROM message") == NOW + 1000


def test_prune(store: Store) -> None:
    """Bodies of failed mail go after keep_failed, history and records after keep_history, what waits never."""
    failed, waiting = store.accept(sender=""), store.accept(CAROL)
    store.settle(store.claim(), BOUNCED)
    assert store.do(store.queue.prune, 2000, NOW + 499) == (NOW + 500, False)
    assert store.one("SELECT count(*) FROM body") == 2
    assert store.do(store.queue.prune, 2000, NOW + 500) == (NOW + 2000, False)
    assert store.one("SELECT count(*) FROM body") == 1
    assert store.states(failed) == {BOB: "discarded"}
    assert store.do(store.queue.prune, 2000, NOW + 2000) == (None, False)
    assert store.states(failed) == {}
    assert 0 == store.one("SELECT count(*) FROM report") == store.one("SELECT count(*) FROM attempt")
    assert store.states(waiting) == {CAROL: "queued"}
    assert [row[0] for row in store.sql("SELECT destination FROM lane")] == ["example.net"]


def test_a_long_history_goes_piece_by_piece(store: Store) -> None:
    """What is over goes a hundred messages at a time, and it is said that there is more."""
    for _ in range(250):
        store.accept()
    while store.queue.lanes():
        store.settle(store.claim(), SENT)
    left = []
    more = True
    while more:
        _, more = store.do(store.queue.prune, 2000, NOW + 2000)
        left.append(store.one("SELECT count(*) FROM message"))
    assert left == [150, 50, 0]
    assert store.sql("SELECT id FROM recipient UNION SELECT id FROM attempt UNION SELECT id FROM lane") == []


def test_attempts_are_bounded(store: Store) -> None:
    """A message that is tried for weeks keeps its last attempts, not all of them."""
    store.accept(lifetime=10**9)
    for _ in range(MAX_ATTEMPTS_KEPT + 5):
        store.settle(store.claim(), DEFERRED)
        store.now += 10**5
    assert store.one("SELECT count(*) FROM attempt") == MAX_ATTEMPTS_KEPT
    assert store.one("SELECT attempts FROM recipient") == MAX_ATTEMPTS_KEPT + 5


def test_freed_pages_go_back(store: Store, tmp_path: Path) -> None:
    """After a large message has left the file gets smaller again."""
    store.accept(body=b"x" * 3_000_000)
    store.settle(store.claim(), SENT)
    store.queue.checkpoint()
    before = (tmp_path / "queue.db").stat().st_size
    store.do(store.queue.vacuum, 500)
    store.queue.checkpoint()
    assert (tmp_path / "queue.db").stat().st_size < before - 1_000_000


def test_reroute(store: Store) -> None:
    """A new configuration moves what waits, what is held and what is under way to the routes it has now."""
    queued, held, attempting = store.accept(), store.accept(), store.accept()
    store.do(store.queue.hold, store.row(held))
    store.sql("UPDATE recipient SET next_attempt_at = ? WHERE message = ?", NOW + 1, store.row(queued))
    claim = store.claim()
    assert attempting == claim.queue_id
    store.queue.take_touched()
    store.do(store.queue.reroute, lambda sender, recipient: ("new", recipient.partition("@")[0]))
    touched = {lane.route: lane.due_at for lane in store.queue.take_touched()}
    assert touched == {MAIN: None, ("new", "bob"): NOW + 1}
    assert [lane.route for lane in store.queue.lanes()] == [("new", "bob")]
    store.settle(claim, DEFERRED)
    store.do(store.queue.release, store.row(held), NOW)
    assert store.do(store.queue.reroute, lambda sender, recipient: MAIN, store.row(attempting)) is None
    assert {"new\nbob"} == {row[0] for row in store.sql("SELECT route FROM recipient r JOIN lane ON lane.id = r.lane")}


def test_reroute_all(store: Store) -> None:
    """Where all mail goes one way it is there at once, whatever was there already; what has left is left alone."""
    sent = store.accept()
    store.settle(store.claim(), SENT)
    queued, other, held = store.accept(), store.accept(DAVE, route=("other",)), store.accept(CAROL, route=("other",))
    attempting = store.accept(uid=7)
    lane = next(lane for lane in store.queue.lanes() if lane.uid == 7)
    claim = store.do(store.queue.claim, lane, "main", store.now)
    store.do(store.queue.hold, store.row(held))
    store.queue.take_touched()
    store.do(store.queue.reroute_all, ("other", "new"))
    assert {lane.route for lane in store.queue.take_touched() if lane.due_at is not None} == {("other", "new")}
    store.do(store.queue.reroute_all, ("other",))
    assert store.queue.waiting_routes() == {("other",)}
    store.settle(claim, DEFERRED)
    store.do(store.queue.release, store.row(held), store.now)
    store.now += 1000
    left = set()
    while store.queue.lanes():
        claim = store.claim(("other",))
        left.add(claim.queue_id)
        store.settle(claim, SENT)
    assert left == {queued, other, held, attempting}
    assert store.states(sent) == {BOB: "sent"}


# -- damage --


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE message SET sender = CAST(x'ff00fe' AS TEXT) WHERE id = 1",
        "UPDATE message SET sender = x'00' WHERE id = 1",
        "UPDATE message SET header = 'text' WHERE id = 1",
        "UPDATE message SET accepted_at = 'never' WHERE id = 1",
        "UPDATE recipient SET address = '' WHERE message = 1",
        "UPDATE recipient SET address = CAST(x'c3' AS TEXT) WHERE message = 1",
        "UPDATE recipient SET notify = 'sometimes' WHERE message = 1",
        "UPDATE body SET octets = 'text' WHERE message = 1",
        "UPDATE message SET queue_id = x'ff' WHERE id = 1",
        "UPDATE message SET size = 9e999 WHERE id = 1",
        "UPDATE message SET size = 'large' WHERE id = 1",
        "UPDATE message SET size = x'32' WHERE id = 1",
        "UPDATE message SET warn_at = '' WHERE id = 1",
        "UPDATE message SET warn_at = 'soon' WHERE id = 1",
        "UPDATE message SET expires_at = x'00' WHERE id = 1",
        "UPDATE recipient SET attempts = x'32' WHERE message = 1",
        "UPDATE recipient SET attempts = 'many', state = 'attempting' WHERE message = 1",
        "UPDATE recipient SET notify = x'ff', state = 'attempting' WHERE message = 1",
    ],
)
def test_promise_15_a_damaged_row_hides_nothing_else(store: Store, damage: str) -> None:
    """What cannot be read is set aside and counted; the next message is claimed and listed all the same."""
    store.accept()
    good = store.accept()
    store.sql(damage)
    store.reopen()
    store.do(store.settling.recover, 3960)
    store.do(store.queue.reroute, lambda sender, recipient: MAIN if "@" in sender + recipient else ())
    assert good == store.claim().queue_id
    assert store.queue.lanes() == []
    assert [row[0] for row in store.sql("SELECT state FROM message ORDER BY id")] == ["damaged", "queued"]
    assert [row[0] for row in store.sql("SELECT state FROM recipient WHERE message = 1")] == ["held"]
    assert store.queue.counts(None)[6] == 1
    entries, _ = listing.waiting_page(store.queue, after=0, uid=None, obstacle=lambda route: None)
    assert [entry["queue_name"] for entry in entries] == ["hold", "active"]
    assert json.dumps(entries) and isinstance(entries[0]["message_size"], int | float)
    assert len(listing.history_page(store.queue, after=0, past=listing.Past(uid=None))[0]) >= 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipient SET next_attempt_at = NULL WHERE message = 1",
        "UPDATE recipient SET next_attempt_at = 'never' WHERE message = 1",
        "UPDATE lane SET route = x'ff' WHERE id = 1",
    ],
)
def test_damage_that_can_be_mended_is_mended(store: Store, damage: str) -> None:
    """Without a due time it is due now; a route that cannot be read is made anew: neither is silence for ever."""
    one = store.accept()
    store.sql(damage)
    store.reopen()
    store.do(store.settling.recover, 3960)
    store.do(store.queue.reroute, lambda sender, recipient: MAIN)
    assert one == store.claim().queue_id


def test_a_damaged_memory_of_a_smarthost_is_none(store: Store) -> None:
    """No time that is no time leaves the table."""
    store.sql("INSERT INTO smarthost VALUES ('main', 'abc', x'00')")
    assert store.queue.smarthosts() == {"main": (None, None)}


def test_damage_stops_no_start_and_no_expiry(store: Store) -> None:
    """A row that was damaged while it was tried, or waits past its lifetime, is set aside; the others go their way."""
    for _ in range(2):
        store.accept(lifetime=10)
    store.claim()
    store.sql("UPDATE message SET accepted_at = 'never', sender = x'00' WHERE id = 1")
    store.reopen()
    store.do(store.settling.recover, 3960)
    assert store.one("SELECT state FROM message WHERE id = 1") == "damaged"
    store.accept(lifetime=10, warn_after=5, queue_id="WORSE")
    store.sql("UPDATE message SET header = 7 WHERE queue_id = 'WORSE'")
    store.now += 20
    options = {"reason": "no answer", "status": "4.4.7", "smarthost": "main"}
    store.do(store.settling.warn, store.queue.unwarned(MAIN, store.now), **options)
    ended = store.do(store.settling.expire, store.queue.overdue(MAIN, store.now), **options)
    assert [e.outcome for e in ended] == ["expired"]
    assert [row[0] for row in store.sql("SELECT state FROM message ORDER BY id LIMIT 3")] == [
        "damaged",
        "done",
        "damaged",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipient SET notify = 'sometimes' WHERE message = 1",
        "UPDATE recipient SET attempts = x'ff' WHERE message = 1",
        "UPDATE message SET accepted_at = 9e30 WHERE id = 1",
    ],
)
def test_damage_that_only_a_report_finds_stops_no_expiry_and_no_notice(store: Store, damage: str) -> None:
    """What makes no sense in the bounce or the delay notice is set aside; another's is written all the same."""
    store.policy = Postmaster(config(), lambda: Aliases.load(""))  # type: ignore[assignment]
    for _ in range(2):
        store.accept(lifetime=10, warn_after=5)
    store.sql(damage)
    store.now += 20
    options = {"reason": "no answer", "status": "4.4.7", "smarthost": "main"}
    store.do(store.settling.warn, [1, 2], **options)
    ended = store.do(store.settling.expire, [1, 2], **options)
    assert [one.outcome for one in ended] == ["expired"]
    assert [row[0] for row in store.sql("SELECT state FROM message ORDER BY id LIMIT 2")] == ["damaged", "done"]
    assert [row[0] for row in store.sql("SELECT kind FROM report ORDER BY id")] == ["delay", "bounce"]


def test_a_text_on_a_damaged_page_bounces_without_it(store: Store) -> None:
    """RET=FULL asks for what cannot be read: the outcome is recorded all the same, and told with the header alone."""
    store.policy = Postmaster(config(), lambda: Aliases.load(""))  # type: ignore[assignment]
    store.accept(ret="full", body=(b"x" * 70 + b"\r\n") * 5000)
    store.queue.close()
    overwrite(store.directory / "queue.db", b"x" * 70, nth=-1)
    store.queue = Queue.open(store.directory)
    assert [one.outcome for one in store.settle(store.claim(), Outcome.BOUNCED)] == ["bounced"]
    bounce = store.claim(())
    assert bounce.kind == "bounce" and b"Subject: test" in bounce.first_part and b"x" * 70 not in bounce.first_part


def test_a_recipient_of_a_message_that_never_was_is_set_aside(store: Store) -> None:
    """Where its row names another message than the index does, it is held as itself, and claims come to an end."""
    store.accept()
    good = store.accept()
    store.queue.close()
    unindex(store.directory / "queue.db", "recipient_message", "UPDATE recipient SET message = 77 WHERE id = 1")
    store.queue = Queue.open(store.directory)
    assert store.claim().queue_id == good
    assert store.sql("SELECT state FROM recipient WHERE id = 1")[0][0] == "held"


def test_what_cannot_be_set_aside_is_not_found_again(store: Store) -> None:
    """A recipient that no index has under its message cannot be held for it: whoever sets aside is told so."""
    store.accept()
    store.queue.close()
    unindex(store.directory / "queue.db", "recipient_message", "UPDATE recipient SET message = 77 WHERE id = 1")
    store.queue = Queue.open(store.directory)
    assert [store.queue.lay_aside(message) for message in store.queue.unreadable()] == [None]


def test_a_message_on_a_damaged_page_hides_no_other_in_a_listing(store: Store) -> None:
    """All of them are listed that can be read, for their user and for all; the oldest is the oldest of these."""
    headers = (b"Subject: " + letter * 3000 + b"\r\n" for letter in (b"x", b"y", b"z"))  # each has a page of its own
    store.accept(header=next(headers))
    store.now += 10
    others = [store.accept(uid=uid, header=next(headers)) for uid in (1000, 1001)]
    store.queue.close()
    overwrite(store.directory / "queue.db", b"x" * 70, kind=ROWS)
    store.queue = Queue.open(store.directory)
    assert [row["queue_id"] for row in store.queue.page(0, None, 10)] == others
    assert [row["queue_id"] for row in store.queue.page(0, 1000, 10)] == others[:1]
    assert store.queue.oldest_at() == store.now


def test_a_recipient_without_its_message(store: Store) -> None:
    """A recipient whose message row is gone is set aside as well."""
    store.accept()
    good = store.accept()
    store.sql("PRAGMA foreign_keys = OFF")
    store.sql("DELETE FROM message WHERE id = 1")
    store.sql("PRAGMA foreign_keys = ON")
    assert good == store.claim().queue_id


# -- plans --


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory):
    """A queue with 100,000 waiting messages of 100 users to 100 destinations, and half of them tried before."""
    store = Store(tmp_path_factory.mktemp("large"))
    connection = store.queue.connection
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO lane (id, route, uid, destination) VALUES (?, 'main', ?, ?)",
        [(n + 1, n % 100, f"d{n // 100}") for n in range(10_000)],
    )
    connection.executemany(
        "INSERT INTO message (queue_id, kind, state, uid, sender, message_id, size, accepted_at, expires_at, warn_at) "
        "VALUES (?, 'mail', 'queued', ?, '', '', 100, ?, ?, ?)",
        [(f"{n:012}", n % 100, NOW, NOW + n, NOW + n) for n in range(100_000)],
    )
    connection.executemany(
        "INSERT INTO recipient (message, lane, address, original, state, fresh, next_attempt_at) "
        "VALUES (?, ?, 'a', 'a', 'queued', ?, ?)",
        [(n + 1, n % 10_000 + 1, n % 2, NOW + n) for n in range(100_000)],
    )
    connection.execute("COMMIT")
    yield store
    store.queue.close()


NAMES = {
    "kept": 1, "but": "[]", "id": 1,
    "lane": 1, "fresh": 1, "now": NOW, "message": 1, "route": "main", "limit": 100, "recipient": 1, "part": 0,
    "uid": 1, "submission": b"", "jump": 1.0, "after": 0, "since": 0, "before": NOW, "queue_id": "", "at": NOW,
    "about": "", "name": "", "messages": "[1]", "recipients": "[1]", "horizon": NOW, "last": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "lane_next", "due", "due_together", "mark_attempting", "taken", "finished", "drop_body",
        "waiting_recipients", "parts", "running", "sent", "finish_sent", "prune_attempts", "recipient_state",
        "message_state", "open_recipients", "failed_recipients", "overdue", "unwarned", "owned",
        "message_by_submission", "last_queue_id", "forget_message", "forget_unfinished", "removed_recipients",
        "mark_removed", "page", "page_of", "counts", "counts_of", "lanes", "attempting_routes", "clamp_due",
        "page_recipients", "page_attempts", "one", "prune_bodies", "prune_history", "prune_reports", "next_prune",
        "lost_reports", "prune_lanes", "last_lane",
    ],
)  # fmt: skip
def test_plans_use_indexes(large: Store, statement: str) -> None:
    """What runs for each message, and what runs at each wake-up, looks nothing up by reading a whole table."""
    names = {**dict.fromkeys(("keep", "keep_history", "code", "status", "reply", "outcome", "duration_s", "address",
                              "tls", "smarthost")), **NAMES}  # fmt: skip
    asked = SQL[statement]
    explained = large.queue.connection.execute(f"EXPLAIN QUERY PLAN {asked.sql(4)}", asked.values(names, [names] * 4))
    plan = [row["detail"] for row in explained]
    scans = {re.sub("[0-9]", "N", step) for step in plan if step.startswith("SCAN") and "USING" not in step}
    given = {f"SCAN {name} VIRTUAL TABLE INDEX N:" for name in ("one", "json_each")}
    few = {"SCAN lane", "SCAN busy", "SCAN (subquery-N)", "SCAN CONSTANT ROW", "SCAN N CONSTANT ROWS"}
    assert scans <= few | given, plan
    assert "LIMIT" not in asked.sql() or not any("ORDER BY" in step for step in plan), plan  # a few, and not sorted


def test_claim_among_many(large: Store) -> None:
    """One claim among 100,000 reads a handful of rows: counted in steps of SQLite's machine, not in time.

    So do the looks after a failed probe: from the lanes' side they read all that waits, on the writer's thread.
    """
    lane = next(lane for lane in large.queue.lanes() if lane.id == 5001)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    connection = large.queue.connection
    connection.set_progress_handler(count, 100)
    try:
        with large.queue.transaction():
            claim = large.queue.claim(lane, "main", NOW + 10**6)
            large.queue.take_touched()
            large.queue.overdue(MAIN, NOW, 100)
            large.queue.unwarned(MAIN, NOW, 100)
    finally:
        connection.set_progress_handler(None, 0)
    assert claim is not None
    assert steps < 5000


def test_lanes_go_page_by_page(large: Store) -> None:
    """Lanes that nobody uses any more go with few looks each time, and in the end all of them."""
    connection = large.queue.connection
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 100
        return 0

    with large.queue.transaction():
        connection.executemany(
            "INSERT INTO lane (route, uid, destination) VALUES ('gone', 1, ?)", [(str(n),) for n in range(1000)]
        )
        connection.set_progress_handler(count, 100)
        try:
            rounds = 0
            while large.one("SELECT count(*) FROM lane") > 10_000:
                steps = 0
                large.queue.prune(10**9, NOW)
                assert steps < 50_000
                rounds += 1
        finally:
            connection.set_progress_handler(None, 0)
    assert rounds <= 11_000 // (10 * PRUNED_AT_ONCE) + 1
