"""Queue: messages and recipients in SQLite, from acceptance (C1) to the last outcome (C2).

One owner holds `queue.lock` and writes; everybody else may only read. Every public method that writes is one
step inside the caller's transaction (`Queue.transaction`, or the writer thread's group commit) and is all or
nothing. WAL with synchronous=FULL: when a commit has returned, what it holds survives kill -9 and power loss.

States of a recipient and the call that makes each change:

    queued      <- make_ready, settle (deferred), recover, release, revive     due at next_attempt_at
    held        <- hold, settle while held                                     waits for release
    attempting  <- claim                                                       an attempt is under way
    sent, bounced, expired, discarded <- settle                                final
    removed     <- remove; settle, give_back, recover after a `remove`         final

A crash leaves `receiving` messages (never ours: forgotten at start) and `attempting` recipients (their attempt
becomes `uncertain` and they are due again); `recover` sees to both.

Raises sqlite3.Error as it comes; QueueError for what a person can mend. Times are epoch seconds, sizes octets.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pysendmail import schema
from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Outcome, Result, Scope
from pysendmail.queue_id import QueueIds
from pysendmail.records import (
    Accepted,
    Claim,
    ClaimedRecipient,
    Ended,
    Failed,
    LaneState,
    NewMessage,
    Original,
    Policy,
    Settlement,
)
from pysendmail.spool import QueueError

PART_OCTETS = 256 * 1024  # one row of a body: small mail is one row, large mail streams
COMMIT_OCTETS = 1024 * 1024  # a large body is committed in steps, so that nobody else waits long
MAX_ATTEMPTS_KEPT = 100  # per recipient, in the history
MAX_RECIPIENTS_PER_CLAIM = 1000
VACUUM_PAGES = 2000  # given back at once: 8 MiB
_PAGE = 500


class Damaged(str):
    """Text from queue.db that is not UTF-8, fit to be shown. Nothing is sent to it or for it."""


def _decoded(octets: bytes) -> str:
    # SQLite hands out whatever stands in the file; Python's own factory would fail the whole listing for one row.
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return Damaged(octets.decode("utf-8", "backslashreplace"))


def _read_statements() -> dict[str, str]:
    text = (Path(__file__).parent / "queue.sql").read_text(encoding="utf-8")
    return {
        match[1]: re.sub(r"^--.*\n", "", match[2], flags=re.MULTILINE).strip()
        for match in re.finditer(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", text, re.MULTILINE | re.DOTALL)
    }


SQL = _read_statements()


def destination_of(address: str) -> str:
    """The domain that fairness goes by."""
    return address.rpartition("@")[2].lower()


def connect(path: Path, *, readonly: bool) -> sqlite3.Connection:
    """A connection with our settings. The writer's holds no transaction open between steps."""
    if not readonly:
        # Made by us, for the mode; SQLite gives -wal and -shm the same.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    mode = "ro" if readonly else "rw"
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    connection = sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        _set_up(connection, path, readonly=readonly)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path, *, readonly: bool) -> None:
    connection.row_factory = sqlite3.Row
    connection.text_factory = _decoded
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("PRAGMA trusted_schema = OFF")
    if readonly:
        connection.execute("PRAGMA query_only = ON")
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise QueueError(f"{path}: this file system cannot do SQLite's WAL (journal_mode is {mode}): use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")  # no part of a message ever lies in /tmp
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute("PRAGMA journal_size_limit = 16777216")


class Queue:
    """The open database. Not safe for more than one thread at a time: the writer thread owns the daemon's."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self.connection = connection
        self.directory = directory
        self.ids = QueueIds()
        self._touched: set[int] = set()
        self._all_touched = False
        self.reports: list[NewMessage] = []  # queued since `take_reports`, for the log
        self._lanes: dict[int, tuple[tuple[str, ...], int, str]] = {}

    @classmethod
    def open(cls, directory: Path) -> Queue:
        """Open for writing; the caller holds queue.lock. Raises SchemaError for a newer database."""
        connection = connect(directory / "queue.db", readonly=False)
        try:
            schema.ensure(connection)
            queue = cls(connection, directory)
            if newest := queue._one("last_queue_id")[0]:
                with suppress(ValueError, TypeError):  # a damaged row must not keep the queue shut
                    queue.ids.seen(newest)
        except BaseException:
            connection.close()
            raise
        return queue

    @classmethod
    def open_readonly(cls, directory: Path) -> Queue:
        """Open for looking, beside whoever writes. Raises sqlite3.OperationalError where there is none."""
        return cls(connect(directory / "queue.db", readonly=True), directory)

    def close(self) -> None:
        self.connection.close()

    # -- transactions --

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

    def begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self._lanes.clear()
        self.reports.clear()

    def checkpoint(self) -> None:
        """Write the WAL back and empty it: room on a full disk, and a small file for the next start."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def take_reports(self) -> list[NewMessage]:
        """The reports that were queued since last asked. Asked after each commit."""
        taken, self.reports = self.reports, []
        return taken

    def take_touched(self) -> list[LaneState]:
        """The lanes that changed since last asked, as they are now. Asked after each commit."""
        if self._all_touched:
            self._all_touched = False
            self._touched.clear()
            return self.lanes()
        touched, self._touched = self._touched, set()
        states = []
        for lane in touched:
            if lane not in self._lanes:
                row = self._first("lane", lane=lane)
                if row is None:
                    continue
                self._lanes[lane] = (_route(row["route"]), row["uid"], row["destination"])
            route, uid, destination = self._lanes[lane]
            due_at = self._one("lane_next", lane=lane)[0]
            states.append(LaneState(id=lane, route=route, uid=uid, destination=destination, due_at=due_at))
        return states

    def lanes(self) -> list[LaneState]:
        """Every lane with something waiting."""
        return [
            LaneState(id=row[0], route=_route(row[1]), uid=row[2], destination=row[3], due_at=row[4])
            for row in self._all("lanes")
        ]

    # -- acceptance (C1) --

    def known(self, submission: bytes) -> Accepted | None:
        """The answer that this submission id got already, if its message is ours."""
        row = self._first("message_by_submission", submission=submission)
        return Accepted(queue_id=row["queue_id"], again=True) if row and row["state"] != "receiving" else None

    def owned(self, uid: int) -> tuple[int, int]:
        """How many messages and octets of this uid wait."""
        row = self._one("owned", uid=uid)
        return row[0], row[1]

    def receive(self, *, queue_id: str, kind: str, uid: int, about: str | None = None) -> int:
        """Begin a message whose body comes in pieces; returns its row for `add_body` and `make_ready`."""
        cursor = self._run("add_message", queue_id=queue_id, kind=kind, uid=uid, about=about)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_body(self, message: int, first_part: int, octets: bytes) -> int:
        """Add a piece of the body; returns the number of the next part."""
        for start in range(0, len(octets), PART_OCTETS):
            self._run("add_part", message=message, part=first_part, octets=octets[start : start + PART_OCTETS])
            first_part += 1
        return first_part

    def replace_body(self, message: int, pieces: Iterable[bytes]) -> int:
        """Store another body in place of the one that is there; returns its size. `pieces` may read the old one."""
        first = old = self._one("count_parts", message=message)[0]
        size = 0
        pending = bytearray()
        for piece in pieces:
            pending += piece
            size += len(piece)
            while len(pending) >= PART_OCTETS:
                first = self.add_body(message, first, bytes(pending[:PART_OCTETS]))
                del pending[:PART_OCTETS]
        self.add_body(message, first, bytes(pending))
        self._run("drop_parts", message=message, before=old)
        self._run("renumber_parts", message=message, by=old)
        return size

    def make_ready(self, message: int, new: NewMessage, now: float, *, submission: bytes | None = None) -> None:
        """C1: the message and all its recipients become ours with the commit of this step."""
        self._run(
            "make_ready",
            message=message,
            submission=submission,
            sender=new.envelope.sender,
            message_id=new.message_id,
            envid=new.envelope.envid,
            ret=new.envelope.ret,
            smtputf8=new.envelope.smtputf8,
            eight_bit=new.eight_bit,
            size=len(new.header) + 2 + new.body_size,
            header=new.header,
            now=now,
            expires_at=now + new.lifetime,
            warn_at=now + new.warn_after if new.warn_after else None,
        )
        for destination in new.destinations:
            self._run(
                "add_recipient",
                message=message,
                lane=self._lane(destination.route, new.uid, destination.recipient.address),
                address=destination.recipient.address,
                original=destination.original,
                orcpt=destination.recipient.orcpt,
                notify=",".join(sorted(destination.recipient.notify)),
                now=now + new.wait,
            )

    def accept(self, new: NewMessage, *, submission: bytes | None, now: float) -> Accepted:
        """C1 of a message that is all here."""
        message = self.receive(queue_id=new.queue_id, kind=new.kind, uid=new.uid, about=new.about)
        self.add_body(message, 0, new.body)
        self.make_ready(message, new, now, submission=submission)
        return Accepted(queue_id=new.queue_id)

    def forget(self, queue_id: str) -> None:
        """Drop a message that was never completed. By its id: a row that was rolled back may be another's by now."""
        self._run("forget_message", queue_id=queue_id)

    def _lane(self, route: tuple[str, ...], uid: int, address: str) -> int:
        names = {"route": "\n".join(route), "uid": uid, "destination": destination_of(address)}
        self._run("add_lane", **names)
        lane = int(self._one("lane_id", **names)[0])
        self._touched.add(lane)
        return lane

    # -- claims --

    def claim(self, lane: LaneState, smarthost: str, now: float) -> Claim | None:
        """Mark the lane's next message as being attempted, before MAIL FROM; None when nothing there is due.

        The commit of this step also proves that the store can be written, so that no mail leaves whose outcome
        could not be recorded. A message whose row makes no sense is set aside as `damaged`.
        """
        self._touched.add(lane.id)
        for fresh in (1, 0):
            while row := self._first("lane_first", lane=lane.id, fresh=fresh, now=now):
                claim = self._claim_message(row["message"], lane, smarthost, now)
                if claim is not None:
                    return claim
        return None

    def _claim_message(self, message: int, lane: LaneState, smarthost: str, now: float) -> Claim | None:
        try:
            claim = self._load_claim(message, lane, now)
        except (ValueError, TypeError, KeyError, ArithmeticError):
            self._hold_damaged(message)
            return None
        for claimed in claim.recipients:
            self._run("mark_attempting", recipient=claimed.id, smarthost=smarthost)
            self._run("add_attempt", recipient=claimed.id, now=now, smarthost=smarthost)
        return claim

    def _set_aside(self, row: sqlite3.Row) -> bool:
        """Whether a message is damaged; then it is held, so that it keeps nobody else from expiring or starting."""
        try:
            for name in ("queue_id", "kind", "sender", "message_id", "envid", "ret"):
                _text(row[name])
            _octets(row["header"])
            float(row["accepted_at"]), float(row["expires_at"]), int(row["size"])
        except (ValueError, TypeError):
            self._hold_damaged(row["id"])
            return True
        return False

    def _hold_damaged(self, message: int) -> None:
        self._run("set_damaged", message=message)
        self._run("hold_damaged", message=message)

    def _load_claim(self, message: int, lane: LaneState, now: float) -> Claim:
        row = self._one("claim_message", message=message)
        if not isinstance(row["expires_at"], float) or not isinstance(row["warn_at"], float | None):
            raise TypeError("a damaged row: a time expected")  # C2 would find out too late
        rows = self._all(
            "claim_recipients",
            message=message,
            now=now,
            route="\n".join(lane.route),
            limit=MAX_RECIPIENTS_PER_CLAIM,
        )
        recipients = tuple(
            ClaimedRecipient(
                id=r["id"],
                recipient=Recipient(address=_text(r["address"]), notify=_notify(r["notify"]), orcpt=_text(r["orcpt"])),
                attempts=int(r["attempts"]),
            )
            for r in rows
        )
        if not recipients:
            raise ValueError("a damaged row: a recipient that is on no lane")
        self._touched.update(r["lane"] for r in rows)
        first = self._first("parts", message=message, part=0, limit=1)
        return Claim(
            message=message,
            queue_id=_text(row["queue_id"]),
            kind=_text(row["kind"]),
            uid=int(row["uid"]),
            message_id=_text(row["message_id"]),
            envelope=Envelope(
                sender=_text(row["sender"]),
                recipients=tuple(claimed.recipient for claimed in recipients),
                envid=_text(row["envid"]),
                ret=_text(row["ret"]),
                smtputf8=bool(row["smtputf8"]),
            ),
            header=_octets(row["header"]),
            size=int(row["size"]),
            eight_bit=bool(row["eight_bit"]),
            accepted_at=float(row["accepted_at"]),
            recipients=recipients,
            first_part=_octets(first["octets"]) if first else b"",
            lane=lane.id,
            route=lane.route,
        )

    def parts(self, message: int, part: int, limit: int) -> list[bytes]:
        """The parts of a body from `part` on."""
        return [_octets(row["octets"]) for row in self._all("parts", message=message, part=part, limit=limit)]

    def give_back(self, claim: Claim, policy: Policy, now: float) -> list[Ended]:
        """Undo a claim that was not used: no attempt was made."""
        for claimed in claim.recipients:
            self._touch_recipient(claimed.id)
            self._run("give_back", recipient=claimed.id)
            self._run("drop_attempt", recipient=claimed.id)
        return self._end_removed(claim.message, policy, now)

    def defer(self, claim: Claim, reason: str, retry_at: float, policy: Policy, now: float) -> list[Ended]:
        """After an error of ours: back to the queue, with as little as possible that could fail again."""
        held = self._one("message_state", message=claim.message)["held"]
        for claimed in claim.recipients:
            if self._touch_recipient(claimed.id)["state"] != "attempting":
                continue
            result = Result(
                address=claimed.recipient.address,
                outcome=Outcome.UNCERTAIN,
                scope=Scope.MESSAGE,
                reply=reason,
                status="4.3.0",
            )
            self._requeue(claimed.id, result, held=held, attempts=claimed.attempts + 1, retry_at=retry_at)
        return self._end_removed(claim.message, policy, now)

    def _requeue(self, recipient: int, result: Result, *, held: int, attempts: int, retry_at: float) -> None:
        """End an attempt whose result nobody knows."""
        self._run(
            "end_attempt",
            recipient=recipient,
            address=None,
            tls=None,
            code=None,
            status=result.status,
            reply=result.reply,
            outcome=result.outcome.value,
            duration_s=None,
        )
        self._run(
            "settle_recipient",
            recipient=recipient,
            state="held" if held else "queued",
            fresh=0,
            attempts=attempts,
            next_attempt_at=retry_at,
            code=None,
            status=result.status,
            reply=result.reply,
            finished_at=None,
        )

    def _touch_recipient(self, recipient: int) -> sqlite3.Row:
        row = self._one("recipient_state", recipient=recipient)
        self._touched.add(row["lane"])
        return row

    # -- outcomes (C2) --

    def settle(self, settlement: Settlement, policy: Policy) -> list[Ended]:
        """C2: outcomes, next due times, and the bounce if there is one, in one step.

        A recipient that is no longer being attempted (removed meanwhile) keeps its state.
        """
        message = self._one("message_state", message=settlement.message)
        steps = [
            step
            for recipient, result in settlement.results
            if (step := self._settle_recipient(message, recipient, result, settlement, policy)) is not None
        ]
        now = settlement.ended_at
        original = self._original(message)
        for kind, outcomes in (("bounce", ("bounced", "expired", "discarded")), ("relayed", ("relayed",))):
            self._report(kind, original, [failed for _, failed, _ in steps if failed.outcome in outcomes], policy, now)
        if message["warn_at"] is not None and message["warn_at"] <= now:
            # A smarthost or a connection in trouble is the administrator's to mend, not the sender's to know.
            ours = (Scope.SESSION, Scope.SMARTHOST)
            blamed = [failed for result, failed, _ in steps if result.scope not in ours]
            self._warn(original, blamed, policy, now)
        self._finish(settlement.message, policy, now)
        return [
            self._ended(
                message,
                failed,
                now,
                next_attempt_at=next_attempt_at,
                uncertain=result.outcome is Outcome.UNCERTAIN,
            )
            for result, failed, next_attempt_at in steps
        ]

    def _settle_recipient(
        self, message: sqlite3.Row, recipient: int, result: Result, settlement: Settlement, policy: Policy
    ) -> tuple[Result, Failed, float | None] | None:
        row = self._touch_recipient(recipient)
        now = settlement.ended_at
        self._run(
            "end_attempt",
            recipient=recipient,
            address=settlement.address,
            tls=settlement.tls,
            code=result.code,
            status=result.status,
            reply=result.reply,
            outcome=result.outcome.value,
            duration_s=round(settlement.ended_at - settlement.started_at, 3),
        )
        self._run("prune_attempts", recipient=recipient, keep=MAX_ATTEMPTS_KEPT)
        if row["state"] != "attempting":
            return None
        # Trouble with the smarthost and "the rest in the next transaction" are no attempt of this recipient's own.
        own = not (result.scope is Scope.SMARTHOST or result.again)
        attempts = row["attempts"] + own
        state, status = _next_state(message, result, now, exhausted=own or settlement.exhausted)
        if row["removed_by"] is not None and state != "sent":  # meanwhile; what the smarthost took is sent all the same
            state = "removed"
        final = state not in ("queued", "held")
        next_attempt_at = None
        if not final:
            next_attempt_at = policy.next_attempt_at(now, attempts, message["queue_id"]) if own else now
        self._run(
            "settle_recipient",
            recipient=recipient,
            state=state,
            fresh=row["fresh"] and not own,
            attempts=attempts,
            next_attempt_at=next_attempt_at,
            code=result.code,
            status=status,
            reply=result.reply,
            finished_at=now if final else None,
        )
        outcome = "deferred" if not final else "relayed" if result.relayed and state == "sent" else state
        failed = Failed(
            address=row["address"],
            original=row["original"],
            orcpt=row["orcpt"],
            notify=_notify(row["notify"]),
            outcome=outcome,
            status=status,
            reply=result.reply,
            code=result.code,
            attempts=attempts,
            smarthost=settlement.smarthost,
            last_attempt_at=now,
        )
        return result, failed, next_attempt_at

    def _ended(
        self,
        message: sqlite3.Row,
        failed: Failed,
        now: float,
        *,
        next_attempt_at: float | None = None,
        uncertain: bool = False,
    ) -> Ended:
        return Ended(
            queue_id=message["queue_id"],
            message_id=message["message_id"],
            sender=message["sender"],
            uid=message["uid"],
            recipient=failed.address,
            outcome="sent" if failed.outcome == "relayed" else failed.outcome,
            status=failed.status,
            reply=failed.reply,
            code=failed.code,
            attempts=failed.attempts,
            delay_s=now - message["accepted_at"],
            next_attempt_s=None if next_attempt_at is None else next_attempt_at - now,
            uncertain=uncertain,
        )

    def expire(
        self,
        recipients: Sequence[int],
        policy: Policy,
        *,
        reason: str,
        status: str,
        smarthost: str,
        now: float,
    ) -> list[Ended]:
        """Expire waiting recipients without an attempt of their own: by command, or after a failed probe.

        All of one message share one bounce.
        """
        by_message: dict[int, list[tuple[int, Failed]]] = {}
        for recipient in recipients:
            row = self._touch_recipient(recipient)
            if row["state"] not in ("queued", "held"):
                continue
            message = self._one("message_state", message=row["message"])
            if self._set_aside(message):
                continue
            state = "discarded" if _null_user_mail(message) else "expired"
            self._run(
                "settle_recipient",
                recipient=recipient,
                state=state,
                fresh=0,
                attempts=row["attempts"],
                next_attempt_at=None,
                code=None,
                status=status,
                reply=reason,
                finished_at=now,
            )
            failed = self._waiting(row, state, status, reason, smarthost)
            by_message.setdefault(row["message"], []).append((recipient, failed))
        ended = []
        for message_id, steps in by_message.items():
            message = self._one("message_state", message=message_id)
            self._report("bounce", self._original(message), [failed for _, failed in steps], policy, now)
            self._finish(message_id, policy, now)
            ended += [self._ended(message, failed, now) for _, failed in steps]
        return ended

    def warn(
        self,
        recipients: Sequence[int],
        policy: Policy,
        *,
        reason: str,
        status: str,
        smarthost: str,
        now: float,
    ) -> None:
        """Send the delay notice for recipients that wait behind trouble which the sender should know of."""
        by_message: dict[int, list[Failed]] = {}
        for recipient in recipients:
            row = self._one("recipient_state", recipient=recipient)
            if self._set_aside(self._one("message_state", message=row["message"])):
                continue
            failed = self._waiting(row, "deferred", status, reason, smarthost)
            self._run("set_warned", recipient=recipient)
            by_message.setdefault(row["message"], []).append(failed)
        for message_id, steps in by_message.items():
            original = self._original(self._one("message_state", message=message_id))
            self._warn(original, steps, policy, now)

    def _waiting(self, row: sqlite3.Row, outcome: str, status: str, reason: str, smarthost: str) -> Failed:
        return Failed(
            address=row["address"],
            original=row["original"],
            orcpt=row["orcpt"],
            notify=_notify(row["notify"]),
            outcome=outcome,
            status=status,
            reply=row["reply"] if row["reply"] and outcome != "deferred" else reason,
            code=None,
            attempts=row["attempts"],
            smarthost=row["smarthost"] or smarthost,
            last_attempt_at=None,
        )

    def _warn(self, original: Original, steps: Sequence[Failed], policy: Policy, now: float) -> None:
        deferred = [failed for failed in steps if failed.outcome == "deferred"]
        if deferred:
            self._report("delay", original, deferred, policy, now)
            self._run("clear_warning", queue_id=original.queue_id)

    def _report(self, kind: str, original: Original, failed: Sequence[Failed], policy: Policy, now: float) -> None:
        if not failed:
            return
        for decision in policy.report(kind, original, failed, lambda: self.ids.new(now), now):
            queue_id = None
            if decision.message is not None:
                queue_id = self.accept(decision.message, submission=None, now=now).queue_id
                self.reports.append(decision.message)
            for one in decision.failed:
                self._run(
                    "add_report",
                    now=now,
                    kind=decision.kind,
                    about=original.queue_id,
                    sender=original.sender,
                    uid=original.uid,
                    recipient=one.address,
                    outcome=one.outcome,
                    status=one.status,
                    reply=one.reply,
                    queue_id=queue_id,
                    reported_to=decision.reported_to,
                    silence=decision.silence,
                )

    def _original(self, row: sqlite3.Row) -> Original:
        def body() -> bytes:
            return b"".join(self.parts(row["id"], 0, -1))

        return Original(
            queue_id=row["queue_id"],
            kind=row["kind"],
            uid=row["uid"],
            sender=row["sender"],
            message_id=row["message_id"],
            envid=row["envid"],
            ret=row["ret"],
            smtputf8=bool(row["smtputf8"]),
            eight_bit=bool(row["eight_bit"]),
            size=row["size"],
            accepted_at=row["accepted_at"],
            expires_at=row["expires_at"],
            header=row["header"],
            about=row["about"],
            body=body,
        )

    def _finish(self, message: int, policy: Policy, now: float) -> None:
        """Close a message whose last recipient has ended. What failed keeps its body for a while, for `queue retry`."""
        if self._one("open_recipients", message=message)[0]:
            return
        keep = self._one("failed_recipients", message=message)[0] > 0
        body_until = policy.kept_until(now) if keep else None
        if not keep or body_until == now:
            body_until = None
            self._run("drop_body", message=message)
        self._run("finish_message", message=message, now=now, body_until=body_until)

    # -- start, clocks, house-keeping --

    def recover(self, policy: Policy, now: float, horizon: float) -> list[Ended]:
        """What a crash left: drop half received messages, make running attempts `uncertain` and due again."""
        self._run("forget_unfinished")
        self._run("clamp_due", now=now, horizon=now + horizon)
        ended = []
        reply = "the daemon stopped during this attempt; the message may have been sent"
        for row in self._all("running"):
            self.connection.execute("SAVEPOINT running")
            try:
                ended += self._recover(row, reply, policy, now)
            except (ValueError, TypeError, KeyError, ArithmeticError):  # a damaged row must not keep the daemon down
                self.connection.execute("ROLLBACK TO running")
                self._hold_damaged(row["message"])
            self.connection.execute("RELEASE running")
        self._all_touched = True
        return ended

    def _recover(self, row: sqlite3.Row, reply: str, policy: Policy, now: float) -> list[Ended]:
        # No Settlement: a crash of ours is no failure that could end the life of what was out for days.
        uncertain = Result(
            address=row["address"],
            outcome=Outcome.UNCERTAIN,
            scope=Scope.SESSION,
            reply=reply,
            status="4.4.2",
        )
        self._touch_recipient(row["id"])
        if self._set_aside(self._one("message_state", message=row["message"])):
            return []
        self._requeue(row["id"], uncertain, held=row["held"], attempts=row["attempts"] + 1, retry_at=now)
        failed = self._waiting(self._one("recipient_state", recipient=row["id"]), "deferred", "4.4.2", reply, "")
        ended = self._ended(
            self._one("message_state", message=row["message"]), failed, now, next_attempt_at=now, uncertain=True
        )
        return [ended, *self._end_removed(row["message"], policy, now)]

    def clock_jumped(self, jump: float) -> None:
        """The wall clock moved by `jump` seconds against the monotonic one : it expires nothing."""
        if jump > 0:
            self._run("prolong", jump=jump)
        else:
            self._run("shift_due", jump=jump)
            self._all_touched = True

    def overdue(self, route: tuple[str, ...], now: float, limit: int = 100) -> list[int]:
        """Recipients on a route whose message is past its lifetime."""
        return [row[0] for row in self._all("overdue", route="\n".join(route), now=now, limit=limit)]

    def unwarned(self, route: tuple[str, ...], now: float, limit: int = 100) -> list[int]:
        """Recipients on a route that wait longer than warn_after without a notice."""
        return [row[0] for row in self._all("unwarned", route="\n".join(route), now=now, limit=limit)]

    def reroute(self, route_of: Callable[[str, str], tuple[str, ...]]) -> None:
        """Put what waits on the routes of a new configuration. `route_of(sender, recipient)` names them."""
        after = 0
        while rows := self._all("reroute_lanes", after=after, limit=_PAGE):
            for row in rows:
                after = row["id"]
                route = route_of(row["sender"], row["address"])
                if route != _route(row["route"]):
                    self._touched.add(row["lane"])
                    self._run("reroute", recipient=after, lane=self._lane(route, row["uid"], row["address"]))

    def prune(self, keep_history: float, now: float) -> float | None:
        """Forget what retention says; returns when there is something to do next, None for nothing."""
        for row in self._all("prune_bodies", now=now, limit=_PAGE):
            self._run("drop_body", message=row["id"])
            self._run("body_gone", message=row["id"])
        self._run("prune_history", before=now - keep_history, limit=_PAGE)
        self._run("prune_reports", before=now - keep_history)
        self._run("prune_lanes")
        self._lanes.clear()
        when = self._one("next_prune", keep_history=keep_history)[0]
        return float(when) if when is not None else None

    def vacuum(self) -> None:
        """Give freed pages back to the file system, a little at a time."""
        free = self.connection.execute("PRAGMA freelist_count").fetchone()[0]
        for _ in range(min(free, VACUUM_PAGES)):
            # One page each: Python's sqlite3 runs this pragma for one step only, whatever number is given.
            self.connection.execute("PRAGMA incremental_vacuum(1)")

    # -- what people do with the queue --

    def flush(self, now: float, uid: int | None = None) -> None:
        """Everything is due now; with `uid`, only what he submitted."""
        if uid is None:
            self._run("flush", now=now)
        else:
            self._run("flush_uid", now=now, uid=uid)
        self._all_touched = True

    def find(self, queue_id: str) -> sqlite3.Row | None:
        """id, uid, state and held of a message, or None."""
        return self._first("find_message", queue_id=queue_id)

    def recipients_of(self, message: int) -> list[int]:
        return [row["id"] for row in self._all("recipient_ids", message=message)]

    def hold(self, message: int) -> None:
        self._run("hold_message", message=message, held=1)
        self._run("hold_recipients", message=message, held_state="held", free_state="queued")
        self._touch_message(message)

    def release(self, message: int, now: float) -> None:
        self._run("hold_message", message=message, held=0)
        self._run("hold_recipients", message=message, held_state="queued", free_state="held")
        self.make_due(message, now)

    def make_due(self, message: int, now: float) -> None:
        self._run("release_due", message=message, now=now)
        self._touch_message(message)

    def make_one_due(self, queue_id: str, now: float) -> bool:
        """The same by queue id; False if it has left meanwhile."""
        row = self.find(queue_id)
        if row is None or row["state"] != "queued":
            return False
        self.make_due(row["id"], now)
        return True

    def remove(self, message: int, uid: int, policy: Policy, now: float) -> list[Ended]:
        """End all that still waits as removed, by whom; what is being attempted follows, unless it is sent by that."""
        self._run("mark_removed", message=message, uid=uid)
        return self._end_removed(message, policy, now)

    def _end_removed(self, message: int, policy: Policy, now: float) -> list[Ended]:
        ended = []
        state = self._one("message_state", message=message)
        for row in self._all("removed_recipients", message=message):
            self._touch_recipient(row["id"])
            reason = f"removed by uid {row['removed_by']}"
            self._run(
                "settle_recipient",
                recipient=row["id"],
                state="removed",
                fresh=0,
                attempts=row["attempts"],
                next_attempt_at=None,
                code=None,
                status="2.0.0",
                reply=reason,
                finished_at=now,
            )
            failed = self._waiting(row, "removed", "2.0.0", reason, "")
            ended.append(self._ended(state, failed, now))
        if ended:
            self._finish(message, policy, now)
        return ended

    def force_expire(self, message: int) -> None:
        """What is being attempted right now expires when the attempt fails."""
        self._run("force_expire", message=message)

    def revive(self, message: int, *, now: float, lifetime: float, warn_after: float) -> bool:
        """`queue retry` of a failed message: due again, with a new lifetime. False when its body is gone."""
        if not self._one("has_body", message=message)[0]:
            return False
        self._run(
            "revive_message",
            message=message,
            expires_at=now + lifetime,
            warn_at=now + warn_after if warn_after else None,
        )
        self._run("revive_recipients", message=message, now=now)
        self._touch_message(message)
        return True

    def _touch_message(self, message: int) -> None:
        for recipient in self.recipients_of(message):
            self._touch_recipient(recipient)

    # -- smarthosts' memory --

    def smarthosts(self) -> dict[str, tuple[float | None, float | None]]:
        """name -> (when TLS was last seen, when mail was last sent)."""
        return {row["name"]: (_time(row["tls_seen_at"]), _time(row["last_sent_at"])) for row in self._all("smarthosts")}

    def remember_tls(self, name: str, at: float | None) -> None:
        self._run("remember_tls", name=name, at=at)

    def remember_sent(self, name: str, at: float) -> None:
        self._run("remember_sent", name=name, at=at)

    # -- reading for listings --

    def rows(self, statement: str, **names: Any) -> list[sqlite3.Row]:
        """The rows of a named statement, for `listing`."""
        return self._all(statement, **names)

    def _run(self, statement: str, **names: Any) -> sqlite3.Cursor:
        return self.connection.execute(SQL[statement], names)

    def _all(self, statement: str, **names: Any) -> list[sqlite3.Row]:
        return self._run(statement, **names).fetchall()

    def _first(self, statement: str, **names: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._run(statement, **names).fetchone()
        return row

    def _one(self, statement: str, **names: Any) -> sqlite3.Row:
        row = self._first(statement, **names)
        if row is None:
            raise KeyError(f"{statement}: no such row")
        return row


def _next_state(message: sqlite3.Row, result: Result, now: float, *, exhausted: bool) -> tuple[str, str]:
    """The recipient's state after a result, and the status to keep. `exhausted`: this failure may end its life."""
    match result.outcome:
        case Outcome.SENT:
            return "sent", result.status
        case Outcome.BOUNCED:
            return ("discarded" if _null_user_mail(message) else "bounced"), result.status
    over = message["forced_expire"] or (exhausted and not message["held"] and now >= message["expires_at"])
    if over and not result.again:
        return ("discarded" if _null_user_mail(message) else "expired"), "4.4.7"
    return ("held" if message["held"] else "queued"), result.status


def _null_user_mail(message: sqlite3.Row) -> bool:
    return bool(message["kind"] == "mail" and message["sender"] == "")


def _route(text: object) -> tuple[str, ...]:
    """A damaged one is a route that no configuration has: `reroute` puts right what waits there."""
    if not isinstance(text, str):
        return ("",)
    return tuple(text.split("\n")) if text else ()


def _notify(text: str) -> frozenset[str]:
    return frozenset(_text(text).split(",")) if text else frozenset()


def _time(value: object) -> float | None:
    return value if isinstance(value, float) else None


def _text(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, Damaged):
        raise TypeError("a damaged row: text expected")
    return value


def _octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a damaged row: octets expected")
    return value
