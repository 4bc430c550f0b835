"""Queue: messages and recipients in SQLite, from acceptance (C1) to the claim; `settling` has the way to C2.

One owner holds `queue.lock` and writes; everybody else may only read. Every public method that writes is one
step inside the caller's transaction (`Queue.transaction`, or the writer thread's group commit) and is all or
nothing.

States of a recipient and the call that makes each change:

    queued      <- make_ready, release, revive; Settling                       due at next_attempt_at
    held        <- hold; Settling while the message is held                    waits for release
    attempting  <- claim                                                       an attempt is under way
    sent, bounced, expired, discarded, removed <- Settling                     final

Raises sqlite3.Error as it comes; QueueError for what a person can mend. Times are epoch seconds, sizes octets.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pysendmail import schema
from pysendmail.envelope import Envelope, Recipient
from pysendmail.owners import Owners
from pysendmail.queue_id import ALPHABET, QueueIds
from pysendmail.records import Accepted, Claim, ClaimedRecipient, LaneState, NewMessage
from pysendmail.store import Store, connect, is_damage, notify, number_of, octets_of, text_of, time_of, time_or_none

PART_OCTETS = 256 * 1024  # one row of a body: small mail is one row, large mail streams
COMMIT_OCTETS = 1024 * 1024  # a large body is committed in steps, so that nobody else waits long
IDS_AT_ONCE = 100  # looked at one by one, where a page of the file is damaged
MAX_RECIPIENTS_PER_CLAIM = 1000
PRUNED_AT_ONCE = 100  # messages of the history, reports; of bodies a tenth, ten times as many lanes
PRUNED = {"body": PRUNED_AT_ONCE // 10, "history": PRUNED_AT_ONCE, "report": PRUNED_AT_ONCE}
KEPT_AT_MOST = 1000  # of a kind, that a damaged page keeps: where there are more, that kind is not pruned any more
REROUTED_AT_ONCE = 200  # messages: nobody else waits long for the writer
FLUSHED_AT_ONCE = 20  # messages of a user, each with up to a thousand recipients; he may ask for it all day
HEADER_KEPT = 8192  # octets of a message that is over: nothing limits how many a user may have of them
LANES_KNOWN = 10_000  # whose ids need no look
# Lanes are in the daemon's memory. More than these of one message gain nothing, for its recipients travel together; and
# a user whose messages each go to a thousand destinations would have a million lanes.
LANES_OF_A_MESSAGE = 20


@dataclass(frozen=True, slots=True)
class Claiming:
    """The step that claims the next message of each of these lanes, for its smarthost."""

    picks: Sequence[tuple[LaneState, str]]
    now: float

    def __call__(self, queue: Queue) -> list[Claim | None]:
        return queue.claim_each(self.picks, self.now)

    @staticmethod
    def together(queue: Queue, steps: Sequence[Claiming]) -> list[list[Claim | None]]:
        claims = iter(
            queue.claim_each([pick for step in steps for pick in step.picks], max(step.now for step in steps))
        )
        return [list(islice(claims, len(step.picks))) for step in steps]


def destination_of(address: str) -> str:
    """The domain that fairness goes by."""
    return address.rpartition("@")[2].lower()


class Queue(Store):
    """The open database: the writer thread owns the daemon's, listings have their own to read."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        super().__init__(connection)
        self.directory = directory
        self.ids = QueueIds()
        self._touched: set[int] = set()  # lanes
        self._all_touched = False
        self.reports: list[NewMessage] = []  # queued since `take_reports`, for the log
        self._lanes: dict[int, tuple[tuple[str, ...], int, str]] = {}
        self._lane_ids: dict[tuple[str, int, str], int] = {}  # by what a lane is
        self._pruned_lane = 0  # the last one that was looked at
        self._kept: dict[str, list[int]] = {kind: [] for kind in PRUNED}  # by a damaged page, past their time
        self._unfound: set[str] = set()  # kinds of which a damaged page hides what is past its time
        self._sent: dict[str, float] = {}  # what `remember_sent` was told since the last commit
        self.owners = Owners()

    @classmethod
    def open(cls, directory: Path) -> Queue:
        """Open for writing; the caller holds queue.lock. Raises SchemaError for a newer database."""
        connection = connect(directory / "queue.db", readonly=False)
        try:
            schema.ensure(connection)
            queue = cls(connection, directory)
            queue.wal()  # opens its index: a commit is to need no descriptor that may be wanting then
            if newest := queue.one("last_queue_id")[0]:
                with suppress(ValueError, TypeError):  # a damaged row must not keep the queue shut
                    queue.ids.seen(newest)
        except BaseException:
            connection.close()
            raise
        return queue

    @classmethod
    def open_readonly(cls, directory: Path) -> Queue:
        """Open for looking, beside whoever writes.

        Raises sqlite3.OperationalError where there is none, and SchemaError for a newer database.
        """
        connection = connect(directory / "queue.db", readonly=True)
        try:
            schema.refuse_newer(connection)
            return cls(connection, directory)
        except BaseException:
            connection.close()
            raise

    def commit(self) -> None:
        for name, at in self._sent.items():
            self.run("remember_sent", name=name, at=at)
        super().commit()
        self._sent.clear()
        self.owners.committed()

    def rollback(self) -> None:
        super().rollback()
        self._sent.clear()
        self._undo((0, 0))

    def _mark(self) -> tuple[int, int]:
        return len(self.reports), self.owners.mark()

    def _undo(self, mark: tuple[int, int]) -> None:
        del self.reports[mark[0] :]
        self.owners.undo(mark[1])
        self._forget_lanes()

    def _forget_lanes(self) -> None:
        self._lanes.clear()
        self._lane_ids.clear()

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
                row = self.first("lane", lane=lane)
                if row is None:
                    continue
                self._lanes[lane] = (_route(row["route"]), row["uid"], row["destination"])
            route, uid, destination = self._lanes[lane]
            due_at = self.one("lane_next", lane=lane)[0]
            states.append(LaneState(id=lane, route=route, uid=uid, destination=destination, due_at=due_at))
        return states

    def lanes(self) -> list[LaneState]:
        """Every lane with something waiting."""
        return [
            LaneState(
                id=row["id"],
                route=_route(row["route"]),
                uid=row["uid"],
                destination=row["destination"],
                due_at=self.one("lane_next", lane=row["id"])[0],
            )
            for row in self.rows("lanes")
        ]

    def waiting_routes(self, uid: int | None = None) -> set[tuple[str, ...]]:
        """The routes on which something waits, of this user or of all."""
        rows = (*self.rows("lanes"), *self.rows("attempting_routes"))
        return {_route(row["route"]) for row in rows if uid in (None, row["uid"])}

    def counts(self, uid: int | None) -> tuple[Any, ...]:
        """queued, deferred, held, in flight, failed, the oldest's time, damaged: of this user or of all."""
        if uid is not None:
            return tuple(self.one("counts_of", uid=uid))
        *counts, damaged = self.one("counts")
        return (*counts, self.oldest_at(), damaged)

    def oldest_at(self) -> float | None:
        """Since when the longest waiting message waits that nobody holds; None: there is none."""
        try:
            oldest = self.one("oldest")[0]
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            rows = (row for row in self._readable_rows(0, None) if row["state"] == "queued" and not row["held"])
            oldest = next((row["accepted_at"] for row in rows), None)
        return time_or_none(oldest)

    def page(self, after: int, uid: int | None, limit: int) -> list[sqlite3.Row]:
        """The next messages that wait, of this user or of all: so that a slow reader holds no long transaction."""
        try:
            return self._page(after, uid, limit)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return list(islice(self._readable_rows(after, uid), limit))

    def _page(self, after: int, uid: int | None, limit: int) -> list[sqlite3.Row]:
        names = {"after": after, "limit": limit}
        return self.rows("page", **names) if uid is None else self.rows("page_of", uid=uid, **names)

    def _readable_rows(self, after: int, uid: int | None) -> Iterator[sqlite3.Row]:
        """One by one, without those that lie on a damaged page: they hide no others."""
        while rows := self._waiting_ids(after, uid):
            for row in rows:
                after = row["id"]
                try:
                    yield from self._page(after - 1, uid, 1)
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise

    def _waiting_ids(self, after: int, uid: int | None) -> list[sqlite3.Row]:
        names = {"after": after, "limit": IDS_AT_ONCE}
        return self.rows("waiting_ids", **names) if uid is None else self.rows("waiting_ids_of", uid=uid, **names)

    def waiting_recipients(self, messages: list[int], limit: int = -1) -> list[sqlite3.Row]:
        """The recipients of these messages that still wait, one message after the other; at most `limit`."""
        return self.rows("waiting_recipients", messages=json.dumps(messages), limit=limit)

    def route_of(self, lane: int) -> tuple[str, ...]:
        row = self.first("lane", lane=lane)
        return _route(row["route"]) if row is not None else ()

    # -- acceptance (C1) --

    def known(self, submission: bytes) -> Accepted | None:
        """The answer that this submission id got already, if its message is ours."""
        row = self.first("message_by_submission", submission=submission)
        return Accepted(queue_id=row["queue_id"], again=True) if row and row["state"] != "receiving" else None

    def owned(self, uid: int) -> tuple[int, int]:
        """How many messages and octets of this uid wait."""
        return self.owners.waiting(uid, self._count_owned)

    def _count_owned(self, uid: int) -> tuple[int, int]:
        row = self.one("owned", uid=uid)
        return row[0], row[1]

    def receive(self, *, queue_id: str, kind: str, uid: int, about: str | None = None) -> int:
        """Begin a message whose body comes in pieces; returns its row for `add_body` and `make_ready`."""
        cursor = self.run("add_message", queue_id=queue_id, kind=kind, uid=uid, about=about)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_body(self, message: int, first_part: int, octets: bytes) -> int:
        """Add a piece of the body; returns the number of the next part."""
        for start in range(0, len(octets), PART_OCTETS):
            self.run("add_part", message=message, part=first_part, octets=octets[start : start + PART_OCTETS])
            first_part += 1
        return first_part

    def replace_body(self, message: int, pieces: Iterable[bytes]) -> int:
        """Store another body in place of the one that is there; returns its size. `pieces` may read the old one."""
        first = old = self.one("count_parts", message=message)[0]
        size = 0
        pending = bytearray()
        for piece in pieces:
            pending += piece
            size += len(piece)
            while len(pending) >= PART_OCTETS:
                first = self.add_body(message, first, bytes(pending[:PART_OCTETS]))
                del pending[:PART_OCTETS]
        self.add_body(message, first, bytes(pending))
        self.run("drop_parts", message=message, before=old)
        self.run("renumber_parts", message=message, by=old)
        return size

    def make_ready(self, message: int, new: NewMessage, now: float, *, submission: bytes | None = None) -> None:
        """C1: the message and all its recipients become ours with the commit of this step."""
        self.run("make_ready", message=message, **_columns(new, submission, now))
        self._add_recipients(message, new, now)

    def accept(self, new: NewMessage, *, submission: bytes | None, now: float) -> Accepted:
        """C1 of a message that is all here."""
        columns = _columns(new, submission, now)
        cursor = self.run("accept", queue_id=new.queue_id, kind=new.kind, uid=new.uid, about=new.about, **columns)
        message = cursor.lastrowid
        assert message is not None
        self.add_body(message, 0, new.body)
        self._add_recipients(message, new, now)
        return Accepted(queue_id=new.queue_id)

    def _add_recipients(self, message: int, new: NewMessage, now: float) -> None:
        self.owners.add(new.uid, 1, _size(new))
        lanes: dict[tuple[str, ...], dict[str, int]] = {}
        for destination in new.destinations:
            route, address = destination.route, destination.recipient.address
            self.run(
                "add_recipient",
                message=message,
                lane=self._lane(lanes.setdefault(route, {}), route, new.uid, address),
                address=address,
                original=destination.original,
                orcpt=destination.recipient.orcpt,
                notify=",".join(sorted(destination.recipient.notify)),
                now=now + new.wait,
            )

    def forget(self, queue_id: str) -> None:
        """Drop a message that was never completed. By its id: a row that was rolled back may be another's by now."""
        self.run("forget_message", queue_id=queue_id)

    def _lane(self, lanes: dict[str, int], route: tuple[str, ...], uid: int, address: str) -> int:
        """The lane of a message's recipient. `lanes`: those that the message has on this route, by destination."""
        destination = destination_of(address)
        if destination not in lanes:
            if len(lanes) >= LANES_OF_A_MESSAGE:
                return next(iter(lanes.values()))
            lanes[destination] = self._lane_of(route, uid, destination)
        return lanes[destination]

    def _lane_of(self, route: tuple[str, ...], uid: int, destination: str) -> int:
        key = "\n".join(route), uid, destination
        lane = self._lane_ids.get(key)
        if lane is None:
            names = dict(zip(("route", "uid", "destination"), key, strict=True))
            self.run("add_lane", **names)
            if len(self._lane_ids) >= LANES_KNOWN:
                self._lane_ids.clear()
            lane = self._lane_ids[key] = int(self.one("lane_id", **names)[0])
        self._touched.add(lane)
        return lane

    # -- claims --

    def claim(self, lane: LaneState, smarthost: str, now: float) -> Claim | None:
        """Mark the lane's next message as being attempted, before MAIL FROM; None when nothing there is due."""
        return self.claim_each([(lane, smarthost)], now)[0]

    def claim_each(self, picks: Sequence[tuple[LaneState, str]], now: float) -> list[Claim | None]:
        """Mark the next message of each of these lanes, for its smarthost; a lane may be picked many times.

        The commit of this step also proves that the store can be written, so that no mail leaves whose outcome
        could not be recorded. A message whose row makes no sense is set aside as `damaged`.
        """
        wanted: dict[tuple[int, str], list[int]] = {}
        for at, (lane, smarthost) in enumerate(picks):
            wanted.setdefault((lane.id, smarthost), []).append(at)
        claims: list[Claim | None] = [None] * len(picks)
        for (_, smarthost), places in wanted.items():
            found = self._claim_next(picks[places[0]][0], smarthost, len(places), now)
            for at, claim in zip(places, found, strict=False):
                claims[at] = claim
        return claims

    def _claim_next(self, lane: LaneState, smarthost: str, most: int, now: float) -> list[Claim]:
        """So many of a lane, as far as they are due: new mail before retries."""
        self._touched.add(lane.id)
        claims: list[Claim] = []
        for fresh in (1, 0):
            while len(claims) < most and (
                rows := self.rows("due", lane=lane.id, fresh=fresh, now=now, limit=most - len(claims))
            ):
                claims += self._claim_rows(rows, lane, smarthost, now)
        return claims

    def _claim_rows(self, rows: list[sqlite3.Row], lane: LaneState, smarthost: str, now: float) -> list[Claim]:
        claims: dict[int, Claim] = {}
        for row in rows:
            if row["message"] in claims:
                continue  # it travels with the other
            try:
                claims[row["message"]] = self._load_claim(row, lane, now)
            except (ValueError, TypeError, KeyError, ArithmeticError):
                self.hold_damaged(row["message"])
                self.run("hold_recipient", recipient=row["recipient"])  # should its message be another's, or nobody's
        marked = [{"recipient": claimed.id} for claim in claims.values() for claimed in claim.recipients]
        self.many("mark_attempting", marked, smarthost=smarthost, now=now)
        return list(claims.values())

    def set_aside(self, row: sqlite3.Row) -> bool:
        """Whether a message is damaged; then it is held, so that it keeps nobody else from expiring or starting."""
        if _makes_sense(row):
            return False
        self.hold_damaged(row["id"])
        return True

    def hold_damaged(self, message: int) -> int:
        """Returns how many recipients are held for it."""
        self.owners.forget()
        self.run("set_damaged", message=message, queue_id=self.ids.new(0.0), alphabet=ALPHABET)
        return self._hold_its_recipients(message)

    def unreadable(self) -> Iterator[int]:
        """Messages to be tried of which a claim or their end cannot read something: a page of the file is damaged.

        As they are found: where that takes longer than we live, the next start has fewer to find.
        """
        return (row["message"] for row in self.rows("to_be_tried") if not self._readable(row["message"]))

    def _readable(self, message: int) -> bool:
        try:
            row = self.first("message_state", message=message)
            self.rows("look_at_body", message=message)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return False
        return row is not None and _makes_sense(row)  # else its indexes may not let it be written

    def lay_aside(self, message: int) -> str | None:
        """Set a message of `unreadable` aside, outside of any transaction: a damaged page ends the one that meets it.

        Where its own row cannot be written, its recipients are held. Returns its queue id, "" if that cannot be read;
        None if no recipient could be held: it would be found again, without end.
        """
        for step in (self.hold_damaged, self._hold_its_recipients):
            try:
                with self.transaction():
                    held = step(message)
                    self._touch_message(message)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
            else:
                return self._queue_id_of(message) if held else None
        return None

    def _hold_its_recipients(self, message: int) -> int:
        return self.run("hold_damaged", message=message).rowcount

    def _queue_id_of(self, message: int) -> str:
        with suppress(sqlite3.DatabaseError, KeyError):
            return str(self.one("queue_id_of", message=message)[0])
        return ""

    def _load_claim(self, row: sqlite3.Row, lane: LaneState, now: float) -> Claim:
        if row["id"] is None:
            raise KeyError("a recipient without its message")
        time_of(row["expires_at"])  # C2 would find out too late
        if row["warn_at"] is not None:
            time_of(row["warn_at"])
        recipients = tuple([_claimed(one) for one in (self._together(row, lane, now) if row["others"] else (row,))])
        return Claim(
            message=row["message"],
            queue_id=text_of(row["queue_id"]),
            kind=text_of(row["kind"]),
            uid=number_of(row["uid"]),
            message_id=text_of(row["message_id"]),
            envelope=Envelope(
                sender=text_of(row["sender"]),
                recipients=tuple([claimed.recipient for claimed in recipients]),
                envid=text_of(row["envid"]),
                ret=text_of(row["ret"]),
                smtputf8=bool(row["smtputf8"]),
            ),
            header=octets_of(row["header"]),
            size=number_of(row["size"]),
            eight_bit=bool(row["eight_bit"]),
            accepted_at=time_of(row["accepted_at"]),
            recipients=recipients,
            first_part=b"" if row["octets"] is None else octets_of(row["octets"]),
            lane=lane.id,
            route=lane.route,
        )

    def _together(self, row: sqlite3.Row, lane: LaneState, now: float) -> list[sqlite3.Row]:
        rows = self.rows(
            "due_together",
            message=row["message"],
            now=now,
            route="\n".join(lane.route),
            limit=MAX_RECIPIENTS_PER_CLAIM,
        )
        if not rows:
            raise ValueError("a damaged row: a recipient that is on no lane")
        self._touched.update(one["lane"] for one in rows)
        return rows

    def parts(self, message: int, part: int, limit: int) -> list[bytes]:
        """The parts of a body from `part` on."""
        return [self._part(row) for row in self.rows("parts", message=message, part=part, limit=limit)]

    def _part(self, row: sqlite3.Row) -> bytes:
        """Read as it lies in the file: for a row of a result, SQLite would first put it together in memory."""
        if row["kind"] != "blob":
            raise TypeError("a damaged row: octets expected")
        with self.connection.blobopen("body", "octets", row["id"], readonly=True) as octets:
            return octets.read()

    def taken(self, recipients: Sequence[int], since: float) -> set[int]:
        """Those of these recipients that have been sent since then."""
        return {row["id"] for row in self.rows("taken", recipients=json.dumps(recipients), since=since)}

    def finished(self, messages: Sequence[int]) -> list[int]:
        """Those of these messages that are at their end."""
        return [row["id"] for row in self.rows("finished", messages=json.dumps(messages))]

    def touch_recipient(self, recipient: int) -> sqlite3.Row:
        row = self.one("recipient_state", recipient=recipient)
        self._touched.add(row["lane"])
        return row

    # -- clocks, house-keeping --

    def forget_unfinished(self, now: float, horizon: float) -> None:
        """At the start: what was half received was never ours, and nothing is due later than `horizon` seconds."""
        self.run("forget_unfinished")
        for row in self.rows("lanes"):
            self.run("clamp_due", lane=row["id"], now=now, horizon=now + horizon)
        self._all_touched = True

    def clock_jumped(self, jump: float) -> None:
        """The wall clock moved by `jump` seconds against the monotonic one : it expires nothing."""
        if jump > 0:
            self.run("prolong", jump=jump)
        else:
            self.run("shift_due", jump=jump)
            self._all_touched = True

    def overdue(self, route: tuple[str, ...], now: float, limit: int = 100) -> list[int]:
        """Recipients on a route whose message is past its lifetime."""
        return [row[0] for row in self.rows("overdue", route="\n".join(route), now=now, limit=limit)]

    def unwarned(self, route: tuple[str, ...], now: float, limit: int = 100) -> list[int]:
        """Recipients on a route that wait longer than warn_after without a notice."""
        return [row[0] for row in self.rows("unwarned", route="\n".join(route), now=now, limit=limit)]

    def reroute(self, route_of: Callable[[str, str], tuple[str, ...]], after: int = 0) -> int | None:
        """Put what waits on the routes of a new configuration, a page of it; `route_of(sender, recipient)` names them.

        Returns where the next page begins; None: that was the last.
        """
        rows = self.rows("reroute_lanes", after=after, limit=REROUTED_AT_ONCE)
        lanes: dict[tuple[int, tuple[str, ...]], dict[str, int]] = {}
        for row in rows:
            if row["id"] is None:
                continue  # nothing of it waits
            try:
                route = route_of(text_of(row["sender"]), text_of(row["address"]))
            except TypeError:
                continue  # damaged: whoever claims it sets it aside
            if route != _route(row["route"]):
                self._touched.add(row["lane"])
                on_route = lanes.setdefault((row["message"], route), {})
                self.run("reroute", recipient=row["id"], lane=self._lane(on_route, route, row["uid"], row["address"]))
        return rows[-1]["message"] if rows else None

    def reroute_all(self, route: tuple[str, ...]) -> None:
        """The same where all mail goes one way: lanes are changed, not what is on them."""
        for row in self.rows("other_routes", route="\n".join(route)):
            lane = row["id"]
            self._touched.add(lane)
            if not self.run("rename_lane", lane=lane, route="\n".join(route)).rowcount:
                self.run("move_lane", lane=lane, to=self._lane_of(route, row["uid"], row["destination"]))
        self._forget_lanes()

    def prune(self, keep_history: float, now: float) -> tuple[float | None, bool]:
        """Forget some of what retention says, so much that nobody waits long for the writer.

        Returns when there is something to do next (None: nothing), and whether there is more of it already.
        """
        more = False
        for kind in PRUNED:
            rows = self.prunable(kind, keep_history, now)
            for row in rows:
                self.drop(kind, row)
            more |= len(rows) == PRUNED[kind]
        self._prune_lanes()
        kept = json.dumps([*self._kept["body"], *self._kept["history"]])
        when = self.one("next_prune", keep_history=keep_history, but=kept)[0]
        return (float(when) if when is not None else None), more

    def prunable(self, kind: str, keep_history: float, now: float) -> list[int]:
        """What is next to go, but for what `keep` was told of."""
        if len(self._kept[kind]) >= KEPT_AT_MOST or kind in self._unfound:
            return []
        names = {"but": json.dumps(self._kept[kind]), "limit": PRUNED[kind]}
        match kind:
            case "body":
                rows = self.rows("prune_bodies", before=now, **names)
            case "history":
                rows = self.rows("prune_history", before=now - keep_history, **names)
            case _:
                rows = self.rows("prune_reports", before=now - keep_history, **names)
        return [row["id"] for row in rows]

    def drop(self, kind: str, row: int) -> None:
        """Forget one of these."""
        match kind:
            case "body":
                self.run("drop_body", message=row)
                self.run("body_gone", message=row, kept=HEADER_KEPT)
            case "history":
                self.run("drop_message", id=row)
            case _:
                self.run("drop_report", id=row)

    def keep(self, kind: str, row: int | None) -> str:
        """A damaged page keeps it, until the next start looks again; None: nobody can even see what is to go.

        Returns its message's queue id, "" if that is unknown.
        """
        if row is None:
            self._unfound.add(kind)
            return ""
        self._kept[kind].append(row)
        return "" if kind == "report" else self._queue_id_of(row)

    def _prune_lanes(self) -> None:
        """A page of the lanes each time, again and again."""
        last = self.one("last_lane", after=self._pruned_lane, limit=10 * PRUNED_AT_ONCE)[0]
        after, self._pruned_lane = self._pruned_lane, last or 0  # also where a damaged page keeps these
        if last is not None and self.run("prune_lanes", after=after, last=last).rowcount:
            self._forget_lanes()

    # -- what people do with the queue --

    def flush(self, now: float) -> None:
        """Everything is due now."""
        self.run("flush", now=now)
        self._all_touched = True

    def flush_of(self, uid: int, now: float, after: int = 0) -> int | None:
        """What a user submitted is due now, a page of it. Returns where the next begins; None: that was the last."""
        rows = self.page(after, uid, FLUSHED_AT_ONCE)
        for row in rows:
            self.run("flush_message", message=row["id"], now=now)
            self._touch_message(row["id"])
        return rows[-1]["id"] if len(rows) == FLUSHED_AT_ONCE else None

    def find(self, queue_id: str) -> sqlite3.Row | None:
        """id, uid, state and held of a message, or None."""
        return self.first("find_message", queue_id=queue_id)

    def recipients_of(self, message: int) -> list[int]:
        return [row["id"] for row in self.rows("recipient_ids", message=message)]

    def hold(self, message: int) -> None:
        self.run("hold_message", message=message, held=1)
        self.run("hold_recipients", message=message, held_state="held", free_state="queued")
        self._touch_message(message)

    def release(self, message: int, now: float) -> None:
        self.run("hold_message", message=message, held=0)
        self.run("hold_recipients", message=message, held_state="queued", free_state="held")
        self.make_due(message, now)

    def make_due(self, message: int, now: float) -> None:
        self.run("release_due", message=message, now=now)
        self._touch_message(message)

    def make_one_due(self, queue_id: str, now: float) -> bool:
        """The same by queue id; False if it has left meanwhile."""
        row = self.find(queue_id)
        if row is None or row["state"] != "queued":
            return False
        self.make_due(row["id"], now)
        return True

    def force_expire(self, message: int) -> None:
        """What is being attempted right now expires when the attempt fails."""
        self.run("force_expire", message=message)

    def revive(self, message: int, *, now: float, lifetime: float, warn_after: float) -> bool:
        """`queue retry` of a failed message: due again, with a new lifetime. False when its body is gone."""
        if not self.one("has_body", message=message)[0]:
            return False
        self.owners.forget()
        self.run(
            "revive_message",
            message=message,
            expires_at=now + lifetime,
            warn_at=now + warn_after if warn_after else None,
        )
        self.run("revive_recipients", message=message, now=now)
        self._touch_message(message)
        return True

    def _touch_message(self, message: int) -> None:
        self._touched.update(row["lane"] for row in self.rows("message_lanes", message=message))

    # -- smarthosts' memory --

    def smarthosts(self) -> dict[str, tuple[float | None, float | None]]:
        """name -> (when TLS was last seen, when mail was last sent)."""
        return {
            row["name"]: (time_or_none(row["tls_seen_at"]), time_or_none(row["last_sent_at"]))
            for row in self.rows("smarthosts")
        }

    def remember_tls(self, name: str, at: float | None) -> None:
        self.run("remember_tls", name=name, at=at)

    def remember_sent(self, name: str, at: float) -> None:
        """Written once for all that share a commit."""
        self._sent[name] = max(at, self._sent.get(name, at))


def _makes_sense(row: sqlite3.Row) -> bool:
    """Whether the row of a message holds what such rows hold."""
    try:
        for name in ("queue_id", "kind", "sender", "message_id", "envid", "ret"):
            text_of(row[name])
        octets_of(row["header"])
        time_of(row["accepted_at"]), time_of(row["expires_at"]), number_of(row["size"])
    except (ValueError, TypeError):
        return False
    return True


def _size(new: NewMessage) -> int:
    """As it is sent."""
    return len(new.header) + 2 + new.body_size


def _columns(new: NewMessage, submission: bytes | None, now: float) -> dict[str, Any]:
    """What C1 writes of a message, however its body came."""
    return {
        "submission": submission,
        "sender": new.envelope.sender,
        "message_id": new.message_id,
        "envid": new.envelope.envid,
        "ret": new.envelope.ret,
        "smtputf8": new.envelope.smtputf8,
        "pid": new.pid,
        "command": new.command,
        "unit": new.unit,
        "eight_bit": new.eight_bit,
        "size": _size(new),
        "header": new.header,
        "now": now,
        "expires_at": now + new.lifetime,
        "warn_at": now + new.warn_after if new.warn_after else None,
    }


def _claimed(row: sqlite3.Row) -> ClaimedRecipient:
    return ClaimedRecipient(
        id=row["recipient"],
        recipient=Recipient(address=text_of(row["address"]), notify=notify(row["notify"]), orcpt=text_of(row["orcpt"])),
        attempts=number_of(row["attempts"]),
    )


def _route(text: object) -> tuple[str, ...]:
    """A damaged one is a route that no configuration has: `reroute` puts right what waits there."""
    if not isinstance(text, str):
        return ("",)
    return tuple(text.split("\n")) if text else ()
