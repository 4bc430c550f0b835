"""What people do with the queue, on a real one: rights, requests, answers, exit codes; and the listings' keys."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysendmail import control, listing
from pysendmail.config import Rewrite, Smarthost
from pysendmail.control import MAX_FILTERS, MAX_IDS, Control, ControlError, Right
from pysendmail.events import Events, Lines
from pysendmail.outcome import Fault, Outcome, Stage, Trouble
from pysendmail.probe import Question
from pysendmail.queue import Queue
from pysendmail.relay import Relay
from pysendmail.status import Circumstances
from pysendmail.units import rfc3339
from rig.store import NOW, Store, config

SENT, DEFERRED, BOUNCED, UNCERTAIN = Outcome.SENT, Outcome.DEFERRED, Outcome.BOUNCED, Outcome.UNCERTAIN
BOB, DAVE = "bob@example.org", "dave@example.org"
ALL, ALICE, EVE, ROOT_OF_A_CONTAINER = (
    Right(uid=0, all=True),
    Right(uid=1000, all=False),
    Right(uid=1001, all=False),
    Right(uid=0, all=False),
)


class Desk:
    """A Control with the doors of a command that owns the queue."""

    def __init__(self, store: Store, rewrite: Rewrite | None = None) -> None:
        self.store = store
        self.asked: list[Question | None] = []
        self.flushed = 0
        self.forgotten: list[str] = []
        self.before_change: Callable[[], None] = lambda: None
        self.log = io.StringIO()
        smarthost = Smarthost(name="main", host="smtp.example.com")
        self.control = Control(
            daemon=True,
            config=config(store.directory, smarthost, rewrite=rewrite or Rewrite()),
            store=self,
            events=Events(Lines(self.log)),
            postmaster=store.policy,  # type: ignore[arg-type]
            circumstances=self._circumstances,
            relays=lambda: {"main": Relay(smarthost)},
            flush=self._flush,
            probe=self._probe,
            forget_tls=self._forget,
        )

    async def look(self, step: Callable[[Queue], Any]) -> Any:
        return step(self.store.queue)

    async def change(self, step: Callable[[Queue], Any]) -> Any:
        self.before_change()
        return self.store.do(step, self.store.queue)

    async def _circumstances(self) -> Circumstances:
        return Circumstances(daemon=True)

    def _flush(self) -> None:
        self.flushed += 1

    async def _probe(self, name: str, question: Question | None) -> dict[str, Any]:
        self.asked.append(question)
        return {"name": name}

    async def _forget(self, name: str) -> None:
        self.forgotten.append(name)

    async def ask(self, right: Right, verb: str, *ids: str, **request: Any) -> list[dict[str, Any]]:
        given = {"verb": verb, **({"ids": list(ids)} if ids else {}), **request}
        return [entry async for entry in self.control.answer(right, given)]

    async def refused(self, right: Right, verb: str, *ids: str, **request: Any) -> tuple[int, str]:
        with pytest.raises(ControlError) as caught:
            await self.ask(right, verb, *ids, **request)
        return caught.value.code, str(caught.value)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = Store(tmp_path)
    yield Desk(store)
    store.queue.close()


# -- requests --


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "no such verb"),
        ({"verb": "__init__"}, "no such verb"),
        ({"verb": ["list"]}, "no such verb"),
        ({"verb": "hold"}, "name a queue id, or --all"),
        ({"verb": "hold", "ids": "Q1"}, "a list of at most"),
        ({"verb": "hold", "ids": [1]}, "a list of at most"),
        ({"verb": "hold", "ids": ["Q"] * (MAX_IDS + 1)}, "a list of at most"),
        ({"verb": "history", "since": "yesterday"}, "since: a number"),
        ({"verb": "history", "since": [1]}, "since: a number"),
        ({"verb": "history", "since": float("nan")}, "since: a number"),
        ({"verb": "history", "since": float("-inf")}, "since: a number"),
    ],
)
async def test_a_bad_request(desk: Desk, request_: dict[str, Any], words: str) -> None:
    """What no command of ours sends is refused with 64 and words, not with an error in the daemon."""
    with pytest.raises(ControlError, match=words) as caught:
        _ = [entry async for entry in desk.control.answer(ALL, request_)]
    assert caught.value.code == 64


@pytest.mark.parametrize("verb", ["list", "explain", "show", "hold", "release", "remove", "retry", "history"])
async def test_promise_14_anothers_message_does_not_exist(desk: Desk, verb: str) -> None:
    """Another user's queue id is answered as one that never was, to a container's root too."""
    queue_id = desk.store.accept(uid=1000)
    unknown = (await desk.refused(EVE, verb, "0000000000000"))[1].replace("0000000000000", queue_id)
    assert await desk.refused(EVE, verb, queue_id) == (66, unknown)
    assert await desk.refused(ROOT_OF_A_CONTAINER, verb, queue_id) == (66, unknown)
    assert desk.store.states(queue_id) == {BOB: "queued"}
    await desk.ask(ALICE, verb, queue_id)


@pytest.mark.parametrize("uid", [61184, 65000, 65519, 65534])
async def test_a_uid_that_passes_on_owns_nothing(desk: Desk, uid: int) -> None:
    """The next process with a dynamic or the overflow uid is somebody else: none of its messages is his."""
    he = Right(uid=uid, all=False)
    queue_id = desk.store.accept(uid=uid)
    unknown = (await desk.refused(EVE, "show", "0000000000000"))[1].replace("0000000000000", queue_id)
    for verb in ("list", "explain", "show", "hold", "release", "remove", "retry", "history"):
        assert await desk.refused(he, verb, queue_id) == (66, unknown)
    assert await desk.ask(he, "list") == await desk.ask(he, "history") == []
    assert await desk.ask(he, "remove", all=True) == []
    assert (await desk.ask(he, "status"))[0]["queued"] == 0
    assert desk.store.states(queue_id) == {BOB: "queued"}
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "list")] == [queue_id]


async def test_each_sees_his_own(desk: Desk) -> None:
    """List, history, bounces and status counts are of one's own messages; the control socket's are of all."""
    first, second = desk.store.accept(uid=1000), desk.store.accept(uid=1001)
    desk.store.settle(desk.store.claim(), BOUNCED)
    desk.store.settle(desk.store.claim(), DEFERRED)
    waiting = {entry["queue_id"] for entry in await desk.ask(ALL, "list")}
    assert second in waiting and first not in waiting and len(waiting) == 2  # the bounce too
    assert [entry["queue_id"] for entry in await desk.ask(EVE, "list")] == [second]
    assert [entry["queue_id"] for entry in await desk.ask(EVE, "history")] == [second]
    assert await desk.ask(EVE, "history", bounces=True) == []
    assert [entry["queue_id"] for entry in await desk.ask(ALICE, "history", bounces=True)] == [first]
    counts = [(await desk.ask(right, "status"))[0]["queued"] for right in (ALL, ALICE, EVE, ROOT_OF_A_CONTAINER)]
    assert counts == [2, 1, 1, 0]  # the bounce is Alice's


async def test_so_many_filters_and_no_more(desk: Desk) -> None:
    """Each is held against each message: a hundred are a person's wish, more are somebody's who wants us busy."""
    desk.store.accept(uid=1000)
    one = {"what": "sender", "text": "nobody", "negated": True}
    assert len(await desk.ask(ALICE, "list", filters=[one] * MAX_FILTERS)) == 1
    assert (await desk.refused(ALICE, "list", filters=[one] * (MAX_FILTERS + 1)))[0] == 64


async def test_probe_is_for_the_owner(desk: Desk) -> None:
    """Only the control socket logs in at a smarthost or clears its memory; an unknown name is 66."""
    assert (await desk.refused(ALICE, "probe"))[0] == 77
    assert (await desk.refused(ROOT_OF_A_CONTAINER, "probe", "main", forget=True))[0] == 77
    assert (await desk.refused(ALL, "probe", "main", "other"))[0] == 66
    assert await desk.ask(ALL, "probe") == [{"name": "main"}]
    assert await desk.ask(ALL, "probe", "main", forget=True) == [{"name": "main", "forgotten": True}]
    assert desk.forgotten == ["main"]


# -- changes --


async def test_hold_release_retry_remove(desk: Desk) -> None:
    """Each verb does its thing and says so; what is over is 66, and the history is named."""
    queue_id = desk.store.accept()
    assert await desk.ask(ALICE, "hold", queue_id) == [{"queue_id": queue_id, "done": "held"}]
    assert (await desk.ask(ALICE, "list"))[0]["queue_name"] == "hold"
    assert await desk.ask(ALICE, "release", queue_id) == [{"queue_id": queue_id, "done": "released"}]
    assert await desk.ask(ALICE, "retry", queue_id) == [{"queue_id": queue_id, "done": "due now"}]
    assert await desk.ask(ALICE, "remove", queue_id) == [{"queue_id": queue_id, "done": "removed"}]
    assert desk.store.states(queue_id) == {BOB: "removed"}
    code, words = await desk.refused(ALICE, "remove", queue_id)
    assert (code, f"pysendmail history {queue_id}" in words) == (66, True)
    code, words = await desk.refused(ALICE, "retry", queue_id)
    assert (code, "no longer kept" in words) == (65, True)


async def test_expire(desk: Desk) -> None:
    """`queue expire` bounces what waits, at once; for root and the queue's owner alone."""
    queue_id = desk.store.accept(BOB, DAVE)
    assert (await desk.refused(ALICE, "expire", queue_id))[0] == 77
    await desk.ask(ALL, "expire", queue_id)
    assert desk.store.states(queue_id) == {BOB: "expired", DAVE: "expired"}
    assert desk.store.policy.asked == [("bounce", [BOB, DAVE])]


async def test_retry_revives(desk: Desk) -> None:
    """`queue retry` of a failed message whose body is kept makes it due again."""
    queue_id = desk.store.accept()
    desk.store.settle(desk.store.claim(), BOUNCED)
    await desk.ask(ALICE, "retry", queue_id)
    assert desk.store.states(queue_id) == {BOB: "queued"}
    assert desk.log.getvalue() == f"event=retried queue_id={queue_id} uid=1000\n"


async def test_all_is_all_of_ones_own(desk: Desk) -> None:
    """--all of a user holds his messages, and leaves others' alone; so does his flush."""
    mine, theirs = [desk.store.accept(uid=1000) for _ in range(3)], desk.store.accept(uid=1001)
    assert [entry["queue_id"] for entry in await desk.ask(ALICE, "hold", all=True)] == mine
    assert desk.store.states(theirs) == {BOB: "queued"}
    desk.store.settle(desk.store.claim(), DEFERRED)
    await desk.ask(ALICE, "flush")
    assert (desk.store.lane().due_at or 0) == NOW + 100
    assert desk.flushed == 0
    await desk.ask(ALL, "flush")
    assert (desk.store.lane().due_at or 0) != NOW + 100
    assert desk.flushed == 1


async def test_list_and_show_take_ids_and_all(desk: Desk) -> None:
    """As all verbs of `queue`: those named, or every one that waits; what is over is 66."""
    first, second, over = (desk.store.accept(uid=1000) for _ in range(3))
    await desk.ask(ALICE, "remove", over)
    for verb in ("list", "show", "explain"):
        assert [entry["queue_id"] for entry in await desk.ask(ALICE, verb, second)] == [second]
        assert [entry["queue_id"] for entry in await desk.ask(ALICE, verb, all=True)] == [first, second]
    assert (await desk.refused(ALICE, "list", over))[0] == 66


async def test_all_goes_on_when_one_has_left(desk: Desk) -> None:
    """What is delivered between the listing and its turn is passed over; the rest is done."""
    first, second = desk.store.accept(), desk.store.accept()

    def first_leaves() -> None:
        desk.before_change = lambda: None
        desk.store.do(desk.store.settling.remove, desk.store.row(second), 0)

    desk.before_change = first_leaves
    assert [entry["queue_id"] for entry in await desk.ask(ALICE, "hold", all=True)] == [first]


@pytest.mark.parametrize(
    "damage",
    [
        "sender = x'ff00'",
        "accepted_at = 'never'",
        "size = 'large'",
        "message_id = CAST(x'e4' AS TEXT)",
        "queue_id = x'01'",
        "header = 'text'",
    ],
)
async def test_promise_15_damage_hides_nothing_in_a_listing(desk: Desk, damage: str) -> None:
    """Whatever stands in a row, the listings show all others, and it as well as can be."""
    desk.store.accept()
    good = desk.store.accept()
    desk.store.sql(f"UPDATE message SET {damage} WHERE id = 1")
    for verb in ("list", "history"):
        entries = await desk.ask(ALL, verb)
        assert len(entries) == 2 and good == entries[1]["queue_id"]
        assert json.dumps(entries).isascii()
    for verb in ("show", "explain"):
        entries = await desk.ask(ALL, verb, all=True)
        assert entries[-1]["queue_id"] == good and (len(entries) == 2 or damage.startswith("queue_id"))
    await desk.ask(ALL, "status")


async def test_a_damaged_attempt_hides_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """`top` and the chart count it under what its smarthost can be read as."""
    monkeypatch.setattr(control.time, "time", lambda: NOW + 1000)
    for _ in range(2):
        desk.store.accept()
        desk.store.settle(desk.store.claim(), SENT)
    desk.store.sql("UPDATE attempt SET smarthost = x'ff' WHERE id = 1")
    entries = await desk.ask(ALL, "traffic", since=NOW - 10, slots=1)
    assert [one["name"] for one in entries[-1]["smarthosts"]] == ["\\xff", "main"]


async def test_a_damaged_message_can_be_shown_and_removed(desk: Desk) -> None:
    """What was set aside is listed as held, can be looked at, and can be taken away."""
    queue_id = desk.store.accept()
    good = desk.store.accept()
    desk.store.sql("UPDATE message SET sender = CAST(x'ff' AS TEXT) WHERE queue_id = ?", queue_id)
    assert desk.store.claim().queue_id == good
    assert [entry["queue_name"] for entry in await desk.ask(ALL, "list")] == ["hold", "active"]
    assert (await desk.ask(ALL, "status"))[0]["health"] == "warning"
    assert (await desk.ask(ALL, "show", queue_id))[0]["sender"] == "\\xff"
    await desk.ask(ALL, "explain", queue_id)
    await desk.ask(ALL, "remove", queue_id)
    assert (await desk.ask(ALL, "status"))[0]["health"] == "ok"


@pytest.mark.parametrize("damage", ["x'01'", "CAST(x'ff' AS TEXT)"])
async def test_a_damaged_queue_id_is_given_anew(desk: Desk, damage: str) -> None:
    """A message that nobody could name is set aside under an id by which it can be shown and removed."""
    desk.store.accept()
    good = desk.store.accept()
    desk.store.sql(f"UPDATE message SET queue_id = {damage} WHERE id = 1")
    assert desk.store.claim().queue_id == good
    (new,) = [entry["queue_id"] for entry in await desk.ask(ALL, "list") if entry["queue_name"] == "hold"]
    assert new.isalnum() and len(new) == len(good)
    assert (await desk.ask(ALL, "show", new))[0]["queue_id"] == new
    await desk.ask(ALL, "remove", new)
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "list")] == [good]


async def test_promise_14_anothers_mail_is_no_trouble_of_ones_own(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it waits on a route which cannot be used is the owner's to know: `status` is as if there were none."""
    refused = Trouble.from_fault(Stage.CONNECT, Fault.UNREACHABLE, "Connection refused")
    work = Relay(Smarthost(name="work", host="smtp.work.example"), trouble=refused)
    monkeypatch.setattr(
        desk.control, "_relays", lambda: {"main": Relay(Smarthost(name="main", host="a")), "work": work}
    )
    desk.store.accept(uid=1000)
    desk.store.accept(uid=1001, route=("work",))
    for claim in (None, lambda: desk.store.claim(("work",), "work")):
        if claim is not None:
            claim()  # what is being tried waits, too
        found = [(await desk.ask(right, "status"))[0]["health"] for right in (ALICE, EVE, ALL)]
        assert found == ["ok", "critical", "critical"]


async def test_promise_14_status_tells_nobody_of_anothers_mail(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """When mail last left, and on how many connections it does, are for who sees everything."""
    main = Relay(Smarthost(name="main", host="a"), last_sent_at=NOW, connections=3)
    monkeypatch.setattr(desk.control, "_relays", lambda: {"main": main})
    for right, sent_at, connections, limit in ((ALL, rfc3339(NOW), 3, main.limit), (ALICE, None, None, None)):
        (report,) = await desk.ask(right, "status")
        (one,) = report["smarthosts"]
        assert (report["last_sent_at"], one["last_sent_at"]) == (sent_at, sent_at)
        assert (one["connections"], one["limit"]) == (connections, limit)


# -- answers --


def no_reason(route: tuple[str, ...]) -> str | None:
    return None


async def test_list_keys(desk: Desk) -> None:
    """`mailq --json`: Postfix's keys and ours, in order, with the state's name in Postfix's words."""
    queue_id = desk.store.accept(BOB, DAVE)
    (entry,) = await desk.ask(ALL, "list")
    assert entry == {
        "queue_name": "incoming",
        "queue_id": queue_id,
        "arrival_time": int(NOW),
        "message_size": 24,
        "forced_expire": False,
        "sender": "alice@example.com",
        "recipients": [{"address": BOB, "delay_reason": None}, {"address": DAVE, "delay_reason": None}],
        "uid": 1000,
        "attempts": 0,
        "next_attempt_at": "2027-01-15T08:00:00Z",
        "smarthost": "main",
    }
    claim = desk.store.claim()
    assert (await desk.ask(ALL, "list"))[0]["queue_name"] == "active"
    desk.store.settle(claim, SENT, DEFERRED)
    (entry,) = await desk.ask(ALL, "list")
    assert (entry["queue_name"], entry["attempts"]) == ("deferred", 1)
    assert entry["recipients"] == [{"address": DAVE, "delay_reason": "451 4.3.0 later"}]


async def test_the_null_sender_is_shown_as_mailer_daemon(desk: Desk) -> None:
    """As Postfix does; the history has the reverse-path as it is."""
    desk.store.accept(sender="")
    assert (await desk.ask(ALL, "list"))[0]["sender"] == "MAILER-DAEMON"
    assert (await desk.ask(ALL, "history"))[0]["sender"] == ""


async def test_history_keys(desk: Desk) -> None:
    """`history --json`: every key, null where there is nothing; attempts in their order."""
    queue_id = desk.store.accept(BOB, DAVE)
    desk.store.settle(desk.store.claim(), UNCERTAIN, SENT)
    desk.store.now += 200
    desk.store.settle(desk.store.claim(), SENT)
    (entry,) = await desk.ask(ALL, "history", queue_id)
    keys = ["queue_id", "message_id", "sender", "uid", "accepted_at", "size", "recipients", "pid", "command", "unit"]
    keys += ["kind", "about"]
    assert list(entry) == keys
    bob, dave = entry["recipients"]
    assert list(bob) == ["address", "outcome", "finished_at", "attempts"]
    assert (bob["outcome"], bob["finished_at"]) == ("sent", "2027-01-15T08:03:20Z")
    assert [attempt["outcome"] for attempt in bob["attempts"]] == ["uncertain", "sent"]
    assert list(dave["attempts"][0].items()) == [
        ("at", "2027-01-15T07:59:59Z"),
        ("smarthost", "main"),
        ("address", "192.0.2.1"),
        ("tls", "none"),
        ("code", 250),
        ("status", "2.0.0"),
        ("reply", "250 2.0.0 ok"),
        ("outcome", "sent"),
        ("duration_s", 1.0),
    ]


async def test_history_of_what_waits(desk: Desk) -> None:
    """A message that waits is in the history, with null for what has not happened."""
    desk.store.accept()
    (entry,) = await desk.ask(ALL, "history")
    assert entry["recipients"] == [{"address": BOB, "outcome": None, "finished_at": None, "attempts": []}]


async def test_history_filters(desk: Desk) -> None:
    """--since and --to choose; --to knows the address as it was given and as it became."""
    old = desk.store.accept(BOB)
    desk.store.now += 100
    new = desk.store.accept(DAVE)
    desk.store.sql("UPDATE recipient SET original = 'dave' WHERE address = ?", DAVE)
    ask = desk.ask
    assert [entry["queue_id"] for entry in await ask(ALL, "history", since=NOW + 100)] == [new]
    assert [entry["queue_id"] for entry in await ask(ALL, "history", to=BOB)] == [old]
    assert [entry["queue_id"] for entry in await ask(ALL, "history", to="dave")] == [new]
    assert await ask(ALL, "history", to="nobody@example.org") == []


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"from": "ALICE@example.com"}, True),
        ({"from": "@example.com"}, True),
        ({"from": "example.com"}, False),
        ({"from": "<>"}, False),
        ({"to": "@EXAMPLE.org"}, True),
        ({"to": "@example"}, False),
        ({"outcome": "bounced"}, True),
        ({"outcome": "sent"}, False),
        ({"outcome": "waiting"}, False),
        ({"reason": "UNKNOWN"}, True),
        ({"reason": "later"}, False),
        ({"until": NOW}, True),
        ({"until": NOW - 1}, False),
        ({"to": BOB, "outcome": "bounced", "reason": "550"}, True),
        ({"to": BOB, "outcome": "expired"}, False),
    ],
)
async def test_more_history_filters(desk: Desk, asked: dict[str, Any], fits: bool) -> None:
    """All that are given have to fit one recipient, of messages and of bounce records alike."""
    queue_id = desk.store.accept(BOB)
    desk.store.settle(desk.store.claim(), BOUNCED)
    desk.store.settle(desk.store.claim(), DEFERRED)  # the bounce, which is no part of the question
    for bounces in (False, True):
        found = await desk.ask(ALL, "history", bounces=bounces, **asked)
        assert (queue_id in [entry["queue_id"] for entry in found]) == fits


async def test_traffic(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What attempts gave, by the time at which they ended, over all pages; of a user's own messages only."""
    monkeypatch.setattr(listing, "ATTEMPTS_AT_ONCE", 2)
    monkeypatch.setattr(control.time, "time", lambda: NOW + 1000)
    desk.store.now = NOW - 5000
    desk.store.accept()
    desk.store.settle(desk.store.claim(), SENT)  # before all that is asked for
    for later, uid, outcome in ((100, 1000, SENT), (150, 1001, SENT), (600, 1000, DEFERRED), (950, 1000, UNCERTAIN)):
        desk.store.now = NOW + later - 50
        desk.store.accept(uid=uid)
        claim = desk.store.claim()
        desk.store.now = NOW + later
        desk.store.settle(claim, outcome)

    async def traffic(right: Right) -> list[dict[str, Any]]:
        return [entry for entry in await desk.ask(right, "traffic", since=NOW, slots=4) if entry]

    slots = await traffic(ALL)
    assert [slot["at"] for slot in slots] == [
        f"2027-01-15T08:{minutes}Z" for minutes in ["00:00", "04:10", "08:20", "12:30"]
    ]
    counted = [(slot["sent"], slot["deferred"], slot["bounced"], slot["uncertain"]) for slot in slots]
    assert counted == [(2, 0, 0, 0), (0, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)]
    assert (slots[0]["delay_mean_s"], slots[0]["delay_longest_s"], slots[1]["delay_mean_s"]) == (50.0, 50.0, None)
    assert slots[2]["smarthosts"] == [{"name": "main", "sent": 0, "deferred": 1, "bounced": 0, "uncertain": 0}]
    assert [slot["sent"] for slot in await traffic(ALICE)] == [1, 0, 0, 0]
    assert [slot["sent"] for slot in await traffic(EVE)] == [1, 0, 0, 0]
    for wrong in ({"slots": 0}, {"slots": 10**6}, {"since": NOW + 2000, "slots": 4}):
        assert (await desk.refused(ALL, "traffic", **{"since": NOW, **wrong}))[0] == 64


def test_many_stretches_of_time_are_not_each_held_against_all() -> None:
    """A request for a thousand of them took the daemon's loop a third of a second; any user may ask."""

    class Looked(list[dict[str, Any]]):
        times = 0

        def __iter__(self) -> Iterator[dict[str, Any]]:
            self.times += 1
            return super().__iter__()

    numbers = {"outcome": "sent", "smarthost": "main", "number": 1, "delay_s": 1.0, "longest_s": 1.0}
    rows = Looked({"slot": slot, **numbers} for slot in (*range(control.MAX_SLOTS), control.MAX_SLOTS))
    slots = listing.traffic(rows, since=0.0, width=1.0, slots=control.MAX_SLOTS)
    assert [slot["sent"] for slot in slots] == [1] * control.MAX_SLOTS
    assert rows.times == 1


async def test_who_waits_for_a_flush_hears_of_all_of_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: `flush --wait` counted the first ten thousand, and said nothing of the others."""
    monkeypatch.setattr(control, "MAX_UNTRIED", 1)
    monkeypatch.setattr(listing, "PAGE", 1)
    ids = [desk.store.accept() for _ in range(3)]
    answer = desk.control.answer(ALL, {"verb": "flush", "wait": True})
    assert await anext(answer) == {"flushed": "all", "recipients": 3}
    for queue_id in ids:
        desk.store.settle(desk.store.claim(), SENT)
        desk.control._events.emit("outcome", queue_id=queue_id, recipient=f"<{BOB}>", status="sent")
    assert [entry["queue_id"] async for entry in answer] == ids


async def test_the_first_few_are_enough(desk: Desk) -> None:
    """A listing with a limit ends there."""
    ids = [desk.store.accept() for _ in range(3)]
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "list", limit=2)] == ids[:2]


async def test_bounces_keys(desk: Desk) -> None:
    """`history --bounces`: what failed, and who was told or why nobody; by queue id, address and time."""
    queue_id = desk.store.accept(BOB)
    desk.store.settle(desk.store.claim(), BOUNCED)
    desk.store.now += 100
    quiet = desk.store.accept(DAVE, sender="")
    desk.store.settle(desk.store.claim(), SENT)  # the bounce itself
    desk.store.settle(desk.store.claim(), BOUNCED)
    told, silent = await desk.ask(ALL, "history", bounces=True)
    keys = "queue_id at kind sender uid recipient outcome status reply report_queue_id reported_to silence"
    assert list(told) == list(silent) == keys.split()
    assert (told["queue_id"], told["reported_to"], told["silence"]) == (queue_id, "alice@example.com", None)
    assert (silent["queue_id"], silent["reported_to"], silent["silence"]) == (quiet, None, "nobody to tell")
    assert await desk.ask(ALL, "history", quiet, bounces=True) == [silent]
    assert await desk.ask(ALL, "history", bounces=True, to=BOB) == [told]
    assert await desk.ask(ALL, "history", bounces=True, since=NOW + 1) == [silent]


async def test_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings come page by page, each message once, in the order of acceptance."""
    monkeypatch.setattr(listing, "PAGE", 3)
    ids = [desk.store.accept() for _ in range(8)]
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "list")] == ids
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "history")] == ids


async def test_a_page_of_many_recipients_is_shorter(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the queue is short whatever is in it: a page ends where its recipients are many, no message is cut."""
    monkeypatch.setattr(listing, "PAGE_RECIPIENTS", 5)
    sizes = (2, 3, 3, 7, 2, 6)
    ids = [desk.store.accept(*(f"{n}@example.org" for n in range(size))) for size in sizes]
    pages = [page async for page in desk.control.waiting_pages(ALL, {})]
    assert [[len(entry["recipients"]) for entry in page] for page in pages] == [[2, 3], [3], [7], [2], [6]]
    assert [entry["queue_id"] for page in pages for entry in page] == ids
    found, after = listing.history_page(desk.store.queue, after=0, past=listing.Past(uid=None))
    assert [len(entry["recipients"]) for entry in found] == [2, 3]
    assert after == desk.store.row(ids[1])
    assert [entry["queue_id"] for entry in await desk.ask(ALL, "history")] == ids


async def test_of_many_recipients_the_last_attempts_are_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry has a bound, too; the attempt under way is beside it."""
    monkeypatch.setattr(listing, "PAGE_RECIPIENTS", 4)
    queue_id = desk.store.accept(BOB, DAVE, lifetime=10**6)
    for _ in range(3):
        desk.store.settle(desk.store.claim(), DEFERRED)
        desk.store.now += 1000
    desk.store.claim()
    [entry] = await desk.ask(ALICE, "history", queue_id)
    for recipient in entry["recipients"]:
        assert [attempt["outcome"] for attempt in recipient["attempts"]] == ["deferred", "deferred", None]
        assert [attempt["at"] for attempt in recipient["attempts"]] == [
            rfc3339(NOW + 1000 - 1), rfc3339(NOW + 2000 - 1), rfc3339(NOW + 3000)
        ]  # fmt: skip
        assert [attempt["smarthost"] for attempt in recipient["attempts"]] == ["main"] * 3


async def test_a_look_for_few_among_many_is_short(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has hardly any messages, or none, has the history looked through for them piece by piece."""
    monkeypatch.setattr(listing, "PAGE_LOOKED_AT", 3)
    others = [desk.store.accept() for _ in range(7)]
    own = desk.store.accept(uid=EVE.uid)
    found = listing.history_page(desk.store.queue, after=0, past=listing.Past(uid=EVE.uid))
    assert found == ([], desk.store.row(others[2]))
    assert [entry["queue_id"] for entry in await desk.ask(EVE, "history")] == [own]
    assert await desk.ask(EVE, "history", to="nobody@example.org") == []
    assert len(await desk.ask(ALL, "history")) == 8
    for _ in range(8):
        desk.store.settle(desk.store.claim(), BOUNCED)
    silent = listing.bounces_page(desk.store.queue, after=0, past=listing.Past(uid=EVE.uid), about="")
    assert silent == ([], 3)
    assert len(await desk.ask(EVE, "history", bounces=True)) == 1
    assert len(await desk.ask(ALL, "history", bounces=True)) == 8


async def test_show_has_the_header(desk: Desk) -> None:
    """`queue show` gives the header section as it is sent."""
    queue_id = desk.store.accept(header=b"Subject: gr\xc3\xbcn\r\nX: \xff\r\n")
    assert (await desk.ask(ALICE, "show", queue_id))[0]["header"] == "Subject: grün\r\nX: �\r\n"


async def test_expire_while_the_aliases_cannot_be_read(desk: Desk) -> None:
    """Whom the bounce goes to is not known: 75 with the reason, and the mail waits."""
    queue_id = desk.store.accept()
    desk.store.policy.unread = "/etc/aliases: Too many open files"
    code, words = await desk.refused(ALL, "expire", queue_id)
    assert code == 75 and "Too many open files" in words and queue_id in words
    assert desk.store.states(queue_id) == {BOB: "queued"}


async def test_explain_says_words(desk: Desk) -> None:
    """`queue explain` of one's own: the history and the words."""
    queue_id = desk.store.accept()
    desk.store.settle(desk.store.claim(), DEFERRED)
    (entry,) = await desk.ask(ALICE, "explain", queue_id)
    assert entry["queue_id"] == queue_id
    assert any("451 4.3.0 later" in words for words in entry["words"])
    end = f"and <alice@example.com> is told; as root, pysendmail queue expire {queue_id} does it now."
    assert end in entry["words"][-1]


async def test_history_of_an_id_chooses_as_well(desk: Desk) -> None:
    """With a queue id and options that choose, a message has to fit both; an id that is none is still said."""
    first, second = desk.store.accept(BOB), desk.store.accept(DAVE)
    assert [one["queue_id"] for one in await desk.ask(ALL, "history", first, second, to=DAVE)] == [second]
    assert await desk.ask(ALICE, "history", first, outcome="sent") == []
    assert [one["queue_id"] for one in await desk.ask(ALICE, "history", first, outcome="waiting")] == [first]
    assert (await desk.refused(ALL, "history", "0000000000000", to=BOB))[0] == 66


async def test_a_report_of_our_own_names_no_submitter(desk: Desk) -> None:
    """`explain` and `history` of a bounce say that pysendmail wrote it, and about what."""
    queue_id = desk.store.accept(sender="alice@example.com")
    desk.store.settle(desk.store.claim(), BOUNCED)
    _, report = await desk.ask(ALL, "history")
    assert (report["kind"], report["about"], report["pid"]) == ("bounce", queue_id, None)
    (entry,) = await desk.ask(ALL, "explain", report["queue_id"])
    assert f"pysendmail wrote it: a bounce, about {queue_id}. It counts as mail of uid 1000." in entry["words"]
    assert not any("submitted" in words for words in entry["words"])


async def test_explain_says_how_failed_mail_is_sent_after_all(desk: Desk) -> None:
    """As long as its text is kept, and not of mail that has left."""
    failed = desk.store.accept(sender="alice@example.com")
    desk.store.settle(desk.store.claim(), BOUNCED)
    (entry,) = await desk.ask(ALICE, "explain", failed)
    assert entry["words"][-1].endswith(f"pysendmail queue retry {failed} sends it to whom it has not reached.")
    assert [one["done"] for one in await desk.ask(ALICE, "retry", failed)] == ["due now"]
    desk.store.settle(desk.store.claim(), SENT)
    (entry,) = await desk.ask(ALICE, "explain", failed)
    assert not any("queue retry" in words for words in entry["words"])


async def test_explain_says_what_uncertain_means(desk: Desk) -> None:
    """That the smarthost may have it, where only the history's word stood before."""
    desk.store.accept(sender="")
    desk.store.settle(desk.store.claim(), UNCERTAIN)
    (entry,) = await desk.ask(ALL, "explain", all=True)
    assert any("The smarthost may have it" in words for words in entry["words"])
    assert "nobody is told" in entry["words"][-1]


# -- many at once --


async def test_many_are_changed_in_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of the writer has more than so many messages, so that who submits meanwhile waits for no more."""
    monkeypatch.setattr(control, "AT_ONCE", 2)
    ids = [desk.store.accept(uid=1000) for _ in range(5)]
    steps = []
    desk.before_change = lambda: steps.append(len(ids))
    assert [entry["queue_id"] for entry in await desk.ask(ALICE, "remove", all=True)] == ids
    assert len(steps) == 3
    assert await desk.ask(ALICE, "list") == []


@pytest.mark.parametrize("verb", ["hold", "release", "remove", "retry"])
async def test_many_of_ones_own_are_chosen(desk: Desk, verb: str) -> None:
    """Filters choose among what he may touch; what they don't choose, and what is another's, is left alone."""
    wanted = [desk.store.accept(BOB), desk.store.accept(BOB)]
    others = [desk.store.accept(DAVE), desk.store.accept(BOB, uid=1001)]
    filters = [{"what": "to", "text": "@EXAMPLE.ORG"}, {"what": "to", "text": BOB}]
    assert await desk.ask(ALICE, "count", filters=filters) == [{}, {"messages": 2}]
    assert await desk.ask(ALICE, "count", all=True) == [{"messages": 3}]
    done = await desk.ask(ALICE, verb, all=True, filters=filters)
    assert [entry["queue_id"] for entry in done] == wanted
    assert all(state == "queued" for queue_id in others for state in desk.store.states(queue_id).values())


async def test_promise_15_damage_stops_no_bulk_work(desk: Desk) -> None:
    """A damaged row among many is no reason to leave the others."""
    ids = [desk.store.accept() for _ in range(3)]
    desk.store.sql("UPDATE message SET sender = CAST(x'ff' AS TEXT) WHERE queue_id = ?", ids[1])
    for verb in ("hold", "release", "retry", "expire"):
        assert {ids[0], ids[2]} <= {entry["queue_id"] for entry in await desk.ask(ALL, verb, all=True)}
    assert desk.store.states(ids[0]) == desk.store.states(ids[2]) == {BOB: "expired"}


@pytest.mark.parametrize(
    ("what", "text", "fits"),
    [
        ("from", "alice@example.com", True),
        ("from", "@example.com", True),
        ("from", "lice@example.com", False),
        ("from", "<>", False),
        ("to", "bob", False),
        ("reason", "LATER", True),
        ("reason", "never", False),
        ("before", str(NOW), True),
        ("before", str(NOW - 1), False),
    ],
)
async def test_filters_of_the_queue(desk: Desk, what: str, text: str, fits: bool) -> None:
    """Addresses are whole or a domain, a reason is a part of it, a time is that of acceptance."""
    queue_id = desk.store.accept()
    desk.store.settle(desk.store.claim(), DEFERRED)
    found = await desk.ask(ALL, "list", filters=[{"what": what, "text": text}])
    assert [entry["queue_id"] for entry in found] == [queue_id] * fits


async def test_the_null_sender_can_be_chosen(desk: Desk) -> None:
    """As <>, or under the name that listings give it."""
    desk.store.accept(sender="")
    for text in ("<>", "mailer-daemon"):
        assert len(await desk.ask(ALL, "list", filters=[{"what": "from", "text": text}])) == 1


async def test_a_time_that_is_none_is_refused(desk: Desk) -> None:
    """As every filter that makes no sense: 64."""
    assert (await desk.refused(ALL, "list", filters=[{"what": "before", "text": "soon"}]))[0] == 64


async def test_what_is_asked_of_a_smarthost_are_addresses(desk: Desk) -> None:
    """What is none is refused before anybody is asked; the null sender needs a recipient."""
    assert (await desk.refused(ALL, "probe", sender="a@example.org>\r\nDATA"))[0] == 65
    assert (await desk.refused(ALL, "probe", sender="a@example.org", recipient="b@"))[0] == 65
    assert (await desk.refused(ALL, "probe", sender=""))[0] == 64
    assert await desk.ask(ALL, "probe", sender="", recipient="a@example.org") == [{"name": "main"}]
    assert desk.asked == [Question(sender="", recipient="a@example.org")]


async def test_a_sender_is_asked_about_as_it_leaves(desk: Desk) -> None:
    """root has a domain when his mail leaves, or is the one address that the smarthost takes."""
    forced = Rewrite(from_="force", force_from="box@example.com")
    for rewrite, expected in ((Rewrite(), "root@example.com"), (forced, "box@example.com")):
        again = Desk(desk.store, rewrite)
        await again.ask(ALL, "probe", sender="root")
        assert again.asked == [Question(sender=expected, recipient=expected)]
