"""Settling to the last column: what the rows, the log and the reports say of each way in which an attempt can end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pysendmail.outcome import Outcome, Scope
from pysendmail.queue import HEADER_KEPT
from pysendmail.settling import Ending
from rig.store import MAIN, NOW, Store, result, settlement

SENT, DEFERRED, BOUNCED, UNCERTAIN = Outcome.SENT, Outcome.DEFERRED, Outcome.BOUNCED, Outcome.UNCERTAIN
BOB, CAROL, DAVE = "bob@example.org", "carol@example.net", "dave@example.org"
BY_COMMAND = {"reason": "by uid 0", "status": "4.4.7", "smarthost": "main"}


def row_of(store: Store, address: str = BOB) -> dict[str, object]:
    """What the queue has of a recipient, but for where it goes."""
    names = "state, fresh, attempts, next_attempt_at, code, status, reply, finished_at, removed_by, warned"
    return dict(store.sql(f"SELECT {names} FROM recipient WHERE address = ?", address)[0])


def message_of(store: Store, queue_id: str) -> dict[str, object]:
    """What the queue has of a message's life."""
    names = "state, finished_at, warn_at, held, body_until"
    return dict(store.sql(f"SELECT {names} FROM message WHERE queue_id = ?", queue_id)[0])


SENT_ROW = {
    "state": "sent", "fresh": 0, "attempts": 1, "next_attempt_at": None, "code": 250, "status": "2.0.0",
    "reply": "250 2.0.0 ok", "finished_at": NOW + 5, "removed_by": None, "warned": 0,
}  # fmt: skip
OVER = {"state": "done", "finished_at": NOW + 5, "warn_at": None, "held": 0, "body_until": None}


@pytest.mark.parametrize("others", [(), (DEFERRED,), (BOUNCED,)], ids=str)
def test_the_record_of_what_is_sent(store: Store, others: tuple[Outcome, ...]) -> None:
    """It is the same, row and log, whether all of the message was sent or only a part of it."""
    queue_id = store.accept(BOB, *[DAVE for _ in others], warn_after=900)
    claim = store.claim()
    store.do(store.settling.remove, claim.message, 7)
    store.now += 5
    ended = store.settle(claim, SENT, *others)
    assert row_of(store) == SENT_ROW
    one = ended[0]
    assert (one.queue_id, one.message_id, one.sender, one.uid) == (
        queue_id,
        "<1@example.com>",
        claim.envelope.sender,
        1000,
    )
    assert (one.recipient, one.outcome, one.status, one.reply, one.code) == (BOB, "sent", "2.0.0", "250 2.0.0 ok", 250)
    assert (one.attempts, one.delay_s, one.next_attempt_s, one.uncertain) == (1, 5, None, False)
    assert [each.outcome for each in ended[1:]] == ["removed" for _ in others]
    assert message_of(store, queue_id) == OVER
    assert store.queue.smarthosts()["main"][1] == NOW + 5
    assert store.queue.owned(1000) == (0, 0)


def test_a_smarthost_that_took_nothing_was_not_sent_to(store: Store) -> None:
    """When a smarthost last took mail is what `status` says: a refusal is none of that."""
    store.accept()
    store.settle(store.claim(), DEFERRED)
    assert store.queue.smarthosts() == {}


def test_relayed_is_sent_and_told(store: Store) -> None:
    """Sent to a server without DSN: the log says sent, the sender gets a report, and there is a record of that."""
    queue_id = store.accept(BOB, DAVE)
    ended = store.settle(store.claim(), result(BOB, SENT, relayed=True), result(DAVE, SENT))
    assert [(one.recipient, one.outcome) for one in ended] == [(BOB, "sent"), (DAVE, "sent")]
    assert store.states(queue_id) == {BOB: "sent", DAVE: "sent"}
    assert store.policy.asked == [("relayed", [BOB])]
    assert [tuple(row) for row in store.sql("SELECT kind, recipient, outcome FROM report")] == [
        ("relayed", BOB, "relayed")
    ]
    assert store.one("SELECT state FROM message WHERE queue_id = ?", queue_id) == "done"


def test_relayed_to_one_of_those_settled_together(store: Store) -> None:
    """Who is to be told of a relayed message is told, though other attempts are settled in the same commit."""
    first, second = store.accept(), store.accept()
    claims = {claim.queue_id: claim for claim in (store.claim(), store.claim())}
    endings = [
        Ending(store.policy, settlement(claims[first], result(BOB, SENT, relayed=True)), NOW),
        Ending(store.policy, settlement(claims[second], SENT), NOW),
    ]
    store.do(Ending.together, store.queue, endings)
    assert store.policy.asked == [("relayed", [BOB])]
    assert [store.states(queue_id) for queue_id in (first, second)] == [{BOB: "sent"}, {BOB: "sent"}]


def test_what_was_refused_is_not_relayed(store: Store) -> None:
    """A result that is not "sent" makes no "relayed" report, whatever the server was able to do."""
    store.accept()
    store.settle(store.claim(), result(BOB, DEFERRED, relayed=True))
    assert store.policy.asked == []


def test_sent_while_others_of_the_message_are_set_aside(store: Store) -> None:
    """Of attempts settled together, one whose message is damaged by now ends for nobody; the others do."""
    damaged, good = store.accept(BOB, DAVE), store.accept()
    claims = {claim.queue_id: claim for claim in (store.claim(), store.claim())}
    store.do(store.queue.hold_damaged, store.row(damaged))
    endings = [Ending(store.policy, settlement(claims[queue_id], SENT), NOW) for queue_id in (damaged, good)]
    ended = store.do(Ending.together, store.queue, endings)
    assert [[(one.queue_id, one.recipient) for one in each] for each in ended] == [[], [(good, BOB)]]
    assert store.states(damaged) == {BOB: "held", DAVE: "held"}
    assert store.one("SELECT count(*) FROM body WHERE message = ?", store.row(damaged)) == 1


def test_sent_long_ago_is_not_sent_again(store: Store) -> None:
    """What another attempt had sent before is none of this one's outcomes."""
    store.accept(BOB, DAVE)
    claim = store.claim()
    store.sql("UPDATE recipient SET state = 'sent', finished_at = ? WHERE address = ?", NOW - 50, BOB)
    ended = store.settle(claim, SENT)
    assert [one.recipient for one in ended] == [DAVE]


@pytest.mark.parametrize("outcome", [SENT, BOUNCED])
@pytest.mark.parametrize("state", ["queued", "held", "attempting", "bounced", "expired", "discarded"])
def test_not_the_last_of_the_message(store: Store, state: str, outcome: Outcome) -> None:
    """While another recipient waits or has failed the body stays, for the next attempt or for `queue retry`."""
    queue_id = store.accept(BOB, DAVE)
    owned = store.queue.owned(1000)
    claim = store.claim()
    claim = replace(claim, recipients=claim.recipients[:1])
    store.sql("UPDATE recipient SET state = ?, finished_at = ? WHERE address = ?", state, NOW, DAVE)
    store.settle(claim, outcome)
    over = state in ("bounced", "expired", "discarded")
    assert message_of(store, queue_id)["state"] == ("done" if over else "queued")
    assert message_of(store, queue_id)["body_until"] == (NOW + 500 if over else None)
    assert store.one("SELECT count(*) FROM body WHERE message = ?", store.row(queue_id)) == 1
    waits = int(outcome is BOUNCED)  # the bounce
    assert store.queue.owned(1000)[0] - waits == (0 if over else owned[0])


def test_the_end_of_a_held_message(store: Store) -> None:
    """Held while it was attempted and sent: nothing of it waits for a person, and its notice of delay is off."""
    for outcomes in ((SENT,), (SENT, BOUNCED)):
        queue_id = store.accept(*(BOB, DAVE)[: len(outcomes)], warn_after=10)
        claim = store.claim()
        store.do(store.queue.hold, claim.message)
        store.now = NOW + 5
        store.settle(claim, *outcomes)
        assert message_of(store, queue_id) == OVER | {"body_until": NOW + 505 if BOUNCED in outcomes else None}


def test_the_start_of_the_header_stays(store: Store) -> None:
    """The history has the header from its first octet to a bound; what failed keeps all of it as long as the body."""
    header = b"Subject: " + b"x" * HEADER_KEPT + b"\r\n"
    kept = []
    for outcome in (SENT, BOUNCED, None):
        queue_id = store.accept(header=header)
        if outcome is None:
            store.do(store.settling.remove, store.row(queue_id), 0)
        else:
            store.settle(store.claim(), outcome)
        kept.append(store.one("SELECT header FROM message WHERE queue_id = ?", queue_id))
    assert kept == [header[:HEADER_KEPT], header, header[:HEADER_KEPT]]


# -- deferred --


def test_the_record_of_what_is_held(store: Store) -> None:
    """Deferred while somebody holds it: for the log it is deferred, for the queue it has not ended."""
    store.accept()
    claim = store.claim()
    store.do(store.queue.hold, claim.message)
    (one,) = store.settle(claim, DEFERRED)
    assert (one.outcome, one.next_attempt_s) == ("deferred", 100)
    row = row_of(store)
    assert (row["state"], row["finished_at"], row["next_attempt_at"], row["fresh"]) == ("held", None, NOW + 100, 0)


@pytest.mark.parametrize("back", ["give_back", "defer"])
def test_what_comes_back_is_looked_for_again(store: Store, back: str) -> None:
    """Its lane is told to be due, so that nobody has to wait for a restart; another message's stays as it is."""
    store.accept(CAROL)
    store.do(store.queue.claim, store.lane(), "main", NOW)
    store.accept()
    claim = store.claim()
    store.queue.take_touched()
    more = ("an error of ours", NOW + 60) if back == "defer" else ()
    store.do(getattr(store.settling, back), claim, *more)
    due = NOW + 60 if back == "defer" else NOW
    assert [(lane.destination, lane.due_at) for lane in store.queue.take_touched()] == [("example.org", due)]
    assert row_of(store, CAROL)["state"] == "attempting"


def test_what_an_error_of_ours_leaves(store: Store) -> None:
    """An attempt in the history with our reason, one more on the count, and nothing said of what was set aside."""
    store.accept(BOB, DAVE)
    claim = store.claim()
    store.sql("UPDATE recipient SET state = 'held' WHERE address = ?", DAVE)
    store.now += 5
    store.do(store.settling.defer, claim, "an error of ours", NOW + 60)
    row = row_of(store)
    assert (row["attempts"], row["status"], row["reply"], row["fresh"]) == (1, "4.3.0", "an error of ours", 0)
    attempts = [tuple(one) for one in store.sql("SELECT at, smarthost, status, reply, outcome FROM attempt")]
    assert attempts == [(NOW, "main", "4.3.0", "an error of ours", "uncertain")]
    assert row_of(store, DAVE)["attempts"] == 0


def test_what_a_crash_leaves(store: Store) -> None:
    """The attempt is in the history from its beginning; log and queue say that the mail may have gone."""
    store.accept()
    store.claim()
    store.reopen()
    store.now += 50
    (one,) = store.do(store.settling.recover, 3960)
    assert (one.outcome, one.status, one.attempts, one.next_attempt_s, one.uncertain) == (
        "deferred",
        "4.4.2",
        1,
        0,
        True,
    )
    row = row_of(store)
    assert (row["state"], row["attempts"], row["status"], row["next_attempt_at"]) == ("queued", 1, "4.4.2", NOW + 50)
    attempts = [tuple(one) for one in store.sql("SELECT at, smarthost, status, outcome FROM attempt")]
    assert attempts == [(NOW, "main", "4.4.2", "uncertain")]


def test_the_last_attempts_stay(store: Store) -> None:
    """A hundred of a recipient that is tried for weeks, the newest; those of another are no part of that."""
    for address in (BOB, CAROL):
        store.accept(address, lifetime=10**9)
    for number in range(103):
        claims = [store.claim()] + ([store.claim()] if number < 3 else [])
        for claim in claims:
            given = result(claim.recipients[0].recipient.address, DEFERRED, Scope.SMARTHOST, reply=f"reply {number}")
            store.settle(claim, given)
            if number == 2 and given.address == CAROL:
                store.do(store.queue.hold, claim.message)
    replies = "SELECT a.reply FROM attempt a JOIN recipient r ON r.id = a.recipient WHERE r.address = ? ORDER BY a.id"
    kept = {address: [row[0] for row in store.sql(replies, address)] for address in (BOB, CAROL)}
    assert kept[BOB] == [f"reply {number}" for number in range(3, 103)]
    assert kept[CAROL] == [f"reply {number}" for number in range(3)]


# -- without an attempt --


def test_held_mail_expires_by_command(store: Store) -> None:
    """`queue expire` ends what somebody holds as well; the record says why, and how often it was tried."""
    queue_id = store.accept(BOB, DAVE)
    store.settle(store.claim(), SENT, DEFERRED)
    store.do(store.queue.hold, store.row(queue_id))
    store.now += 5
    (one,) = store.do(store.settling.expire, store.queue.recipients_of(store.row(queue_id)), **BY_COMMAND)
    assert (one.recipient, one.outcome, one.status, one.attempts) == (DAVE, "expired", "4.4.7", 1)
    row = row_of(store, DAVE)
    assert (row["state"], row["reply"], row["attempts"], row["finished_at"]) == ("expired", "by uid 0", 1, NOW + 5)
    assert message_of(store, queue_id) == OVER | {"body_until": NOW + 505}


def test_expired_from_the_null_sender(store: Store) -> None:
    """A user's message from the null sender expires as discarded, at an attempt and without one; our own as expired."""
    for kind, state in (("mail", "discarded"), ("bounce", "expired")):
        by_command = store.accept(sender="", kind=kind)
        store.do(store.settling.expire, store.queue.recipients_of(store.row(by_command)), **BY_COMMAND)
        at_an_attempt = store.accept(sender="", kind=kind, lifetime=0)
        store.settle(store.claim(), DEFERRED)
        assert [store.states(queue_id) for queue_id in (by_command, at_an_attempt)] == [{BOB: state}, {BOB: state}]
    rows = [tuple(row) for row in store.sql("SELECT outcome FROM report ORDER BY id")]
    assert rows == [("discarded",), ("discarded",), ("expired",), ("expired",)]


def test_what_a_report_is_told(store: Store) -> None:
    """The smarthost's last words and name where there were any, else why it ended; a delay has its reason of now."""
    store.accept(BOB, warn_after=1)
    store.settle(store.claim(smarthost="relay"), DEFERRED)
    store.accept(CAROL, warn_after=1)
    store.now += 10
    store.do(store.settling.warn, [1, 2], **BY_COMMAND)
    store.do(store.settling.expire, [1, 2], **BY_COMMAND)
    assert [(one.address, one.outcome, one.reply, one.smarthost, one.attempts) for one in store.policy.told] == [
        (BOB, "deferred", "by uid 0", "relay", 1),
        (CAROL, "deferred", "by uid 0", "main", 0),
        (BOB, "expired", "451 4.3.0 later", "relay", 1),
        (CAROL, "expired", "by uid 0", "main", 0),
    ]


def test_only_what_waits_is_told_of_its_delay(store: Store) -> None:
    """The notice comes at the moment that it was promised for, and not to those whose mail is through."""
    store.accept(BOB, DAVE, warn_after=100)
    store.accept(CAROL, warn_after=100)
    store.now += 100
    store.settle(store.claim(), SENT, DEFERRED)
    assert store.policy.asked == [("delay", [DAVE])]
    assert [tuple(row) for row in store.sql("SELECT warn_at FROM message WHERE kind = 'mail' ORDER BY id")] == [
        (None,),
        (NOW + 100,),
    ]


def test_a_notice_marks_those_it_names(store: Store) -> None:
    """Who has been told of the delay is marked, and nobody else."""
    store.accept(BOB, warn_after=1)
    store.accept(CAROL, warn_after=1)
    store.now += 10
    store.do(store.settling.warn, [1], **BY_COMMAND)
    assert [row_of(store, address)["warned"] for address in (BOB, CAROL)] == [1, 0]


@pytest.mark.parametrize("before", ["queued", "held"])
def test_the_record_of_what_is_removed(store: Store, before: str) -> None:
    """By whom and when, without a word to the sender; another message that waits is not touched."""
    queue_id, other = store.accept(BOB, DAVE), store.accept(CAROL)
    store.settle(store.claim(), SENT, DEFERRED)
    if before == "held":
        store.do(store.queue.hold, store.row(queue_id))
    store.now += 5
    store.queue.take_touched()
    (one,) = store.do(store.settling.remove, store.row(queue_id), 7)
    assert (one.recipient, one.outcome, one.status, one.reply) == (DAVE, "removed", "2.0.0", "451 4.3.0 later")
    assert not one.uncertain
    row = row_of(store, DAVE)
    assert (row["state"], row["status"], row["reply"]) == ("removed", "2.0.0", "removed by uid 7")
    assert (row["attempts"], row["finished_at"], row["removed_by"]) == (1, NOW + 5, 7)
    assert row_of(store)["removed_by"] is None
    assert message_of(store, queue_id) == OVER
    assert [lane.destination for lane in store.queue.take_touched()] == ["example.org"]
    assert store.states(other) == {CAROL: "queued"}
    assert row_of(store, CAROL)["removed_by"] is None
    assert store.lane(MAIN).destination == "example.net"


def test_the_report_reads_all_of_the_body(store: Store) -> None:
    """What a bounce may return is the whole body, from its first part."""
    store.accept(body=b"all of it\r\n")
    store.settle(store.claim(), BOUNCED)
    assert [original.body() for original in store.policy.originals] == [b"all of it\r\n"]
