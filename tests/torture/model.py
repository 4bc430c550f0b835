"""Model: the queue on real files beside a model of it in memory, through whatever order of steps hypothesis thinks of.

Steps are those of the daemon and of people: submit, ask again, half a submission, claim, reply, give back, an error of
ours, hold, release, remove, expire, retry, flush, time, a clock that is set, the sweep of what is overdue, a death
between two commits, a death before one (its transaction is gone), a restart. After each of them the queue has to be in
the state that the model is in: every recipient's state, attempts and due time, what each user has waiting, what is
listed, and one record for every failure, mailed exactly where somebody is to be told.

Negative control: a queue that takes an attempt of which nobody knows the end for a success.

The steps of a violation stand in it; `--seed` and `--size` repeat the run.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pysendmail import settling
from pysendmail.envelope import Recipient
from pysendmail.listing import waiting_page
from pysendmail.outcome import Outcome, Result, Scope
from pysendmail.queue import Queue, destination_of
from pysendmail.records import Claim, LaneState
from rig.store import MAIN, Store, new_message, result, settlement
from torture.evidence import Violation
from torture.report import Part, Size

UIDS = (1000, 2000)
ADDRESSES = ("bob@example.org", "carol@example.net", "dave@example.org")
HORIZON_S = 3960.0  # what is due later than that was due at another clock
LIFETIME_S = 1000.0  # also of a report
WAITING = ("queued", "held")
FAILED = ("bounced", "expired", "discarded")
RUNS_AT_ONCE = 25
MOST_STEPS = 60


class _Dead(Exception):
    """The process ends before its commit."""


@dataclass(slots=True, kw_only=True)
class Person:
    """A recipient as he should be."""

    state: str = "queued"
    attempts: int = 0
    due: float
    removed: bool = False


@dataclass(slots=True, kw_only=True)
class Mail:
    """A message as it should be."""

    sender: str
    kind: str
    uid: int
    expires: float
    people: dict[str, Person]
    held: bool = False
    forced: bool = False

    @property
    def open(self) -> bool:
        return any(one.state in (*WAITING, "attempting") for one in self.people.values())

    @property
    def told(self) -> bool:
        """Whether a failure is told to somebody."""
        return self.kind == "mail" and bool(self.sender)

    @property
    def failure(self) -> str:
        return "discarded" if self.kind == "mail" and not self.sender else ""

    def due(self, now: float) -> dict[str, Person]:
        return {who: one for who, one in self.people.items() if one.state == "queued" and one.due <= now}


@dataclass(slots=True)
class Model:
    """All of them, and how many failures are on record."""

    mails: dict[str, Mail] = field(default_factory=dict)
    records: int = 0

    def requeue(self, mail: Mail, one: Person, due: float) -> None:
        one.state, one.due = "held" if mail.held else "queued", due
        if one.removed:
            one.state = "removed"

    def close(self, mail: Mail) -> None:
        if not mail.open:
            mail.held = False


class Together(RuleBasedStateMachine):
    """The queue and its model."""

    directory: ClassVar[Path]
    _numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        place = self.directory / str(next(self._numbers))
        place.mkdir()
        self.store = Store(place)
        self.store.queue.connection.execute("PRAGMA synchronous = OFF")
        self.model = Model()
        self.claims: list[Claim] = []
        self.submissions: dict[bytes, str] = {}
        self.reports_due: list[str] = []  # whom a report goes to that the model expects

    def teardown(self) -> None:
        self.store.queue.close()

    # -- the daemon --

    @initialize()
    def begin(self) -> None:
        """Something to begin with, claimed already: most of what is of interest happens to that."""
        for sender in ("alice@example.com", ""):
            self.submit(list(ADDRESSES[:2]), sender, UIDS[0])
        self._claimed(self._due_lanes()[0])

    @rule(
        who=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True),
        sender=st.sampled_from(("alice@example.com", "")),
        uid=st.sampled_from(UIDS),
    )
    def submit(self, who: list[str], sender: str, uid: int) -> None:
        submission = b"%016d" % len(self.submissions)
        people = [Recipient(address=address) for address in who]
        queue_id = self.store.accept(*people, sender=sender, uid=uid, submission=submission, lifetime=LIFETIME_S)
        self.submissions[submission] = queue_id
        self._know(queue_id, sender, "mail", uid, who)

    def _know(self, queue_id: str, sender: str, kind: str, uid: int, who: list[str]) -> None:
        now = self.store.now
        people = {address: Person(due=now) for address in who}
        mail = Mail(sender=sender, kind=kind, uid=uid, expires=now + LIFETIME_S, people=people)
        self.model.mails[queue_id] = mail

    @precondition(lambda self: self.submissions)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        submission = data.draw(st.sampled_from(sorted(self.submissions)))
        known = self.store.do(self.store.queue.known, submission)
        assert known is not None and known.again
        assert known.queue_id == self.submissions[submission]

    @rule()
    def half_a_submission(self) -> None:
        """Parts of a large body are there, and nobody was told 0."""
        new = new_message()

        def step() -> None:
            message = self.store.queue.receive(queue_id=new.queue_id, kind="mail", uid=new.uid)
            self.store.queue.add_body(message, 0, b"x\r\n")

        self.store.do(step)

    def _due_lanes(self) -> list[LaneState]:
        return [lane for lane in self.store.queue.lanes() if lane.due_at is not None and lane.due_at <= self.store.now]

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        lanes = self._due_lanes()
        due = {queue_id for queue_id, mail in self.model.mails.items() if mail.due(self.store.now)}
        assert bool(lanes) == bool(due), f"due are {due}, and the lanes {lanes}"
        if lanes:
            self._claimed(data.draw(st.sampled_from(lanes)))

    def _claimed(self, lane: LaneState) -> None:
        claim = self.store.do(self.store.queue.claim, lane, "main", self.store.now)
        assert claim is not None
        people = self.model.mails[claim.queue_id].due(self.store.now)
        assert {one.recipient.address: one.attempts for one in claim.recipients} == {
            who: one.attempts for who, one in people.items()
        }
        for one in people.values():
            one.state = "attempting"
        self.claims.append(claim)

    @rule(data=st.data())
    def reply(self, data: st.DataObject) -> None:
        if not self.claims:
            self.claim(data)
        if not self.claims:
            return
        claim, results = self._answered(data)
        self.store.settle(claim, *results)
        mail, now = self.model.mails[claim.queue_id], self.store.now
        failed = 0
        for claimed, what in zip(claim.recipients, results, strict=True):
            one = mail.people[claimed.recipient.address]
            own = what.scope is not Scope.SMARTHOST
            one.attempts += own
            if what.outcome is Outcome.SENT:
                one.state, one.removed = "sent", False
                continue
            over = mail.forced or (own and not mail.held and now >= mail.expires)
            if what.outcome is Outcome.BOUNCED or over:
                word = "bounced" if what.outcome is Outcome.BOUNCED else "expired"
                one.state = "removed" if one.removed else mail.failure or word
                failed += one.state != "removed"
            else:
                self.model.requeue(mail, one, now + 100.0 * one.attempts if own else now)
        self._failed(mail, failed)
        self._reported()

    def _answered(self, data: st.DataObject) -> tuple[Claim, list[Result]]:
        """A claim, which is over, and what the smarthost said of each recipient."""
        claim = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        words = st.sampled_from((Outcome.SENT, Outcome.DEFERRED, Outcome.BOUNCED, Outcome.UNCERTAIN, "rests"))
        results = []
        for claimed in claim.recipients:
            word = data.draw(words)
            trouble = isinstance(word, str) and word == "rests"
            outcome = Outcome.DEFERRED if trouble else Outcome(word)
            scope = Scope.SMARTHOST if trouble else Scope.RECIPIENT
            results.append(result(claimed.recipient.address, outcome, scope))
        return claim, results

    def _failed(self, mail: Mail, count: int) -> None:
        """So many recipients failed together: so many records, and one report where somebody is to be told."""
        self.model.records += count
        self.model.close(mail)
        if count and mail.told:
            self.reports_due.append(mail.sender)

    def _reported(self) -> None:
        """The reports that are due were queued, and no others: they are mail, too."""
        reports = self.store.queue.take_reports()
        assert sorted(one.envelope.recipients[0].address for one in reports) == sorted(self.reports_due)
        for report in reports:
            assert report.envelope.sender == ""
            who = [one.address for one in report.envelope.recipients]
            self._know(report.queue_id, "", report.kind, report.uid, who)
        self.reports_due.clear()

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), ours=st.booleans())
    def give_back(self, data: st.DataObject, ours: bool) -> None:
        """A claim that was not used, or an error of ours in it."""
        claim, _ = self._answered(data)
        mail, retry_at = self.model.mails[claim.queue_id], self.store.now + 60.0
        if ours:
            self.store.do(self.store.settling.defer, claim, "an error", retry_at)
        else:
            self.store.do(self.store.settling.give_back, claim)
        for claimed in claim.recipients:
            one = mail.people[claimed.recipient.address]
            one.attempts += ours
            self.model.requeue(mail, one, retry_at if ours else one.due)
        self.model.close(mail)

    # -- death and time --

    @rule(during=st.sampled_from(("nothing", "submit", "reply")), data=st.data())
    def die(self, during: str, data: st.DataObject) -> None:
        """Between two commits, or before one; then the next daemon starts."""
        try:
            with self.store.queue.transaction():
                if during == "submit":
                    self.store.queue.accept(new_message(), submission=b"never told", now=self.store.now)
                elif during == "reply" and self.claims:
                    claim, results = self._answered(data)
                    self.store.settling.settle(settlement(claim, *results))
                raise _Dead
        except _Dead:
            self.store.reopen()
        self.claims.clear()
        now = self.store.now
        self.store.do(self.store.settling.recover, HORIZON_S)
        for mail in self.model.mails.values():
            for one in mail.people.values():
                if one.state == "attempting":
                    one.attempts += 1
                    self.model.requeue(mail, one, now)
                elif one.state == "queued" and one.due > now + HORIZON_S:
                    one.due = now
            self.model.close(mail)

    @rule(seconds=st.sampled_from((1.0, 50.0, 150.0, 600.0)))
    def wait(self, seconds: float) -> None:
        self.store.now += seconds

    @rule(jump=st.sampled_from((-5000.0, -10.0, 10.0, 5000.0)))
    def set_the_clock(self, jump: float) -> None:
        self.store.now += jump
        self.store.do(self.store.queue.clock_jumped, jump)
        for mail in self.model.mails.values():
            mail.expires += max(jump, 0.0) if mail.open else 0.0
            for one in mail.people.values():
                one.due += min(jump, 0.0) if one.state == "queued" else 0.0

    @rule()
    def sweep(self) -> None:
        """What is past its lifetime, after a failed probe."""
        now = self.store.now
        recipients = self.store.queue.overdue(MAIN, now)
        self.store.do(self.store.settling.expire, recipients, reason="late", status="4.4.7", smarthost="main")
        for mail in list(self.model.mails.values()):
            if mail.expires <= now and not mail.held:
                self._expired(mail, ("queued",))
        self._reported()

    def _expired(self, mail: Mail, states: tuple[str, ...]) -> None:
        over = [one for one in mail.people.values() if one.state in states]
        for one in over:
            one.state = mail.failure or "expired"
        self._failed(mail, len(over))

    # -- people --

    def _some(self, data: st.DataObject, fits: Callable[[Mail], bool]) -> tuple[int, Mail] | None:
        """One of the mails that fit, and its row."""
        found = sorted(queue_id for queue_id, mail in self.model.mails.items() if fits(mail))
        if not found:
            return None
        claimed = [queue_id for queue_id in found if any(claim.queue_id == queue_id for claim in self.claims)]
        if claimed and data.draw(st.booleans()):
            found = claimed  # few of many: what is done to mail on its way is what may go wrong
        queue_id = data.draw(st.sampled_from(found))
        return self.store.row(queue_id), self.model.mails[queue_id]

    @rule(data=st.data(), what=st.sampled_from(("hold", "release", "hold", "release", "remove", "expire", "retry")))
    def somebody(self, data: st.DataObject, what: str) -> None:
        """One rule for them all: what ends mail must not leave too little of it for the rest."""
        if what in ("hold", "release"):
            self._hold(data, released=what == "release")
        else:
            {"remove": self._remove, "expire": self._expire, "retry": self._retry}[what](data)

    def _hold(self, data: st.DataObject, *, released: bool) -> None:
        if (some := self._some(data, lambda mail: mail.open)) is None:
            return
        message, mail = some
        mail.held = not released
        if released:
            self.store.do(self.store.queue.release, message, self.store.now)
        else:
            self.store.do(self.store.queue.hold, message)
        for one in mail.people.values():
            if one.state in WAITING:
                one.state = "queued" if released else "held"
                one.due = self.store.now if released else one.due

    def _remove(self, data: st.DataObject) -> None:
        if (some := self._some(data, lambda mail: mail.open)) is None:
            return
        message, mail = some
        self.store.do(self.store.settling.remove, message, 0)
        for one in mail.people.values():
            one.removed = one.removed or one.state in (*WAITING, "attempting")
            one.state = "removed" if one.state in WAITING else one.state
        self.model.close(mail)

    def _expire(self, data: st.DataObject) -> None:
        if (some := self._some(data, lambda mail: mail.open)) is None:
            return
        message, mail = some

        def step() -> None:
            self.store.queue.force_expire(message)
            recipients = self.store.queue.recipients_of(message)
            self.store.settling.expire(recipients, reason="by uid 0", status="4.4.7", smarthost="")

        self.store.do(step)
        mail.forced = True
        self._expired(mail, WAITING)
        self._reported()

    def _retry(self, data: st.DataObject) -> None:
        """Mail that has failed, once more."""
        if (some := self._some(data, lambda mail: not mail.open)) is None:
            return
        message, mail = some
        now = self.store.now
        failed = [one for one in mail.people.values() if one.state in FAILED]
        done = self.store.do(self.store.queue.revive, message, now=now, lifetime=LIFETIME_S, warn_after=0.0)
        assert done == bool(failed), f"revived: {done}, failed: {failed}"
        if failed:
            mail.expires, mail.forced = now + LIFETIME_S, False
        for one in failed:
            one.state, one.attempts, one.due = "queued", 0, now

    @rule()
    def flush(self) -> None:
        self.store.do(self.store.queue.flush, self.store.now)
        for mail in self.model.mails.values():
            for one in mail.people.values():
                if one.state == "queued":
                    one.due = min(one.due, self.store.now)

    # -- what has to hold --

    @invariant()
    def the_same(self) -> None:
        rows = self.store.sql(
            "SELECT m.queue_id, m.state, r.address, r.state, r.attempts, r.next_attempt_at FROM recipient r "
            "JOIN message m ON m.id = r.message"
        )
        found = {(row[0], row[2]): (row[3], row[4], row[5] if row[3] == "queued" else None) for row in rows}
        wanted = {
            (queue_id, who): (one.state, one.attempts, one.due if one.state == "queued" else None)
            for queue_id, mail in self.model.mails.items()
            for who, one in mail.people.items()
        }
        assert found == wanted, _differing(found, wanted)
        states = {row[0]: row[1] for row in rows}
        assert states == {name: "queued" if mail.open else "done" for name, mail in self.model.mails.items()}

    @invariant()
    def lanes_are_due_when_their_first_mail_is(self) -> None:
        wanted: dict[tuple[int, str], float] = {}
        for mail in self.model.mails.values():
            for who, one in mail.people.items():
                if one.state == "queued":
                    key = mail.uid, destination_of(who)
                    wanted[key] = min(one.due, wanted.get(key, one.due))
        assert {(lane.uid, lane.destination): lane.due_at for lane in self.store.queue.lanes()} == wanted

    @invariant()
    def users_and_listings(self) -> None:
        """What each user has waiting, from the memory of it and anew; who waits is listed, nobody else is."""
        queue: Queue = self.store.queue
        waiting = {name: mail for name, mail in self.model.mails.items() if mail.open}
        for uid in UIDS:
            count = sum(mail.uid == uid for mail in waiting.values())
            assert queue.owned(uid)[0] == count
            assert queue.owned(uid) == queue._count_owned(uid)
        listed = {}
        after: int | None = 0
        while after is not None:
            entries, after = waiting_page(queue, after=after, uid=None, obstacle=lambda route: None)
            listed |= {one["queue_id"]: {each["address"] for each in one["recipients"]} for one in entries}
        assert listed == {
            name: {who for who, one in mail.people.items() if one.state in (*WAITING, "attempting")}
            for name, mail in waiting.items()
        }

    @invariant()
    def every_failure_is_on_record(self) -> None:
        assert self.store.one("SELECT count(*) FROM report") == self.model.records


def _differing(found: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key} is {found.get(key)}, not {wanted.get(key)}" for key in keys)


# -- the part --


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="model", seed=seed)
    runs = size.of(sample=50, nightly=500)
    for number in range(-(-runs // RUNS_AT_ONCE)):
        wrong = play(min(RUNS_AT_ONCE, runs), seed + number)
        found = [Violation(invariant="model", text=wrong)] if wrong else []
        part.case(f"runs {number}", found, again=f"python -m torture model --seed {seed + number} --size sample")
        part.cases += RUNS_AT_ONCE - 1
    with mock.patch.object(settling, "_next_state", _believed):
        part.control("an answer that was lost is taken for a 250", caught=bool(play(RUNS_AT_ONCE, seed, small=False)))
    part.note(f"at most {MOST_STEPS} steps in a run")
    return part


def play(runs: int, seed: int, *, small: bool = True) -> str:
    """So many runs; how one of them went wrong, in the fewest steps if that is wanted, or ""."""
    with tempfile.TemporaryDirectory(prefix="torture-model-") as directory:
        machine = hypothesis.seed(seed)(type("Play", (Together,), {"directory": Path(directory)}))
        try:
            run_state_machine_as_test(machine, settings=_settings(runs, small=small), _min_steps=MOST_STEPS * 2 // 3)
        except Exception as error:
            return "\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())))
    return ""


def _settings(runs: int, *, small: bool) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=runs,
        phases=[hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if small else [])],
        stateful_step_count=MOST_STEPS,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )


def _believed(message: Any, what: Result, now: float, *, exhausted: bool) -> tuple[str, str]:
    if what.outcome is Outcome.UNCERTAIN:
        return "sent", what.status
    return _next_state(message, what, now, exhausted=exhausted)


_next_state = settling._next_state
