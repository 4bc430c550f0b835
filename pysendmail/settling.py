"""Settling: what becomes of claimed and waiting recipients, up to C2.

Each method is one step inside the caller's transaction, as those of `Queue` are: outcomes, next due times and the
report (bounce, delay notice, ...) in one commit, so that no outcome is recorded without its bounce.

    queued      <- settle (deferred), give_back, defer, recover                due at next_attempt_at
    held        <- settle, defer, recover while the message is held            waits for release
    sent, bounced, expired, discarded <- settle, expire                        final
    removed     <- remove; settle, give_back, defer, recover after a `remove`  final

A crash leaves `receiving` messages (never ours: forgotten at start) and `attempting` recipients (their attempt
becomes `uncertain` and they are due again); `recover` sees to both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pysendmail.outcome import Outcome, Result, Scope
from pysendmail.queue import HEADER_KEPT, Queue
from pysendmail.records import Claim, ClaimedRecipient, Ended, Failed, Original, Policy, Settlement
from pysendmail.store import is_damage, notify, time_or_none

MAX_ATTEMPTS_KEPT = 100  # per recipient, in the history


class Settling:
    """One step at the moment `now`, as the policy has it."""

    def __init__(self, queue: Queue, policy: Policy, now: float) -> None:
        self._queue = queue
        self._policy = policy
        self._now = now

    # -- after an attempt --

    def settle(self, settlement: Settlement) -> list[Ended]:
        """C2: outcomes, next due times, and the bounce if there is one. `now` is when the attempt ended.

        A recipient that is no longer being attempted (set aside meanwhile) keeps its state.
        """
        if _all_sent(settlement):
            return _settle_sent(self._queue, [Ending(self._policy, settlement, self._now)])[0]
        if any(result.outcome is Outcome.SENT for result in settlement.results):
            self._queue.remember_sent(settlement.smarthost, self._now)
        message = self._message(settlement.claim.message)
        steps = [
            step
            for claimed, result in zip(settlement.claim.recipients, settlement.results, strict=True)
            if (step := self._settle_recipient(message, claimed.id, result, settlement)) is not None
        ]
        original = self._original(message)
        for kind, outcomes in (("bounce", ("bounced", "expired", "discarded")), ("relayed", ("relayed",))):
            self._report(kind, original, [failed for _, failed, _ in steps if failed.outcome in outcomes])
        if message["warn_at"] is not None and message["warn_at"] <= self._now:
            # A smarthost or a connection in trouble is the administrator's to mend, not the sender's to know.
            ours = (Scope.SESSION, Scope.SMARTHOST)
            self._warn(original, [failed for result, failed, _ in steps if result.scope not in ours])
        self.finish(message)
        return [
            self._ended(message, failed, next_attempt_at=next_attempt_at, uncertain=result.outcome is Outcome.UNCERTAIN)
            for result, failed, next_attempt_at in steps
        ]

    def _settle_recipient(
        self, message: sqlite3.Row, recipient: int, result: Result, settlement: Settlement
    ) -> tuple[Result, Failed, float | None] | None:
        row = self._queue.touch_recipient(recipient)
        self._add_attempt(recipient, result, settlement)
        if row["state"] != "attempting":
            return None
        # Trouble with the smarthost and "the rest in the next transaction" are no attempt of this recipient's own.
        own = not (result.scope is Scope.SMARTHOST or result.again)
        attempts = row["attempts"] + own
        state, status = _next_state(message, result, self._now, exhausted=own or settlement.exhausted)
        if row["removed_by"] is not None and state != "sent":  # meanwhile; what the smarthost took is sent all the same
            state = "removed"
        next_attempt_at = None
        if state in ("queued", "held"):
            self._queue.run("prune_attempts", recipient=recipient, keep=MAX_ATTEMPTS_KEPT)
            next_attempt_at = (
                self._policy.next_attempt_at(self._now, attempts, message["queue_id"]) if own else self._now
            )
        self._set_state(
            recipient,
            state,
            fresh=bool(row["fresh"] and not own),
            attempts=attempts,
            due_at=next_attempt_at,
            code=result.code,
            status=status,
            reply=result.reply,
        )
        outcome = "deferred" if next_attempt_at is not None else state
        if result.relayed and state == "sent":
            outcome = "relayed"
        failed = replace(
            _told(row, outcome, status, result.reply, settlement.smarthost),
            code=result.code,
            attempts=attempts,
            last_attempt_at=self._now,
        )
        return result, failed, next_attempt_at

    def give_back(self, claim: Claim) -> list[Ended]:
        """Undo a claim that was not used: no attempt was made."""
        for claimed in claim.recipients:
            self._queue.touch_recipient(claimed.id)
            self._queue.run("give_back", recipient=claimed.id)
        return self._end_removed(claim.message)

    def defer(self, claim: Claim, reason: str, retry_at: float) -> list[Ended]:
        """After an error of ours: back to the queue, with as little as possible that could fail again."""
        held = self._message(claim.message)["held"]
        for claimed in claim.recipients:
            row = self._queue.touch_recipient(claimed.id)
            if row["state"] == "attempting":
                result = _unknown(claimed.recipient.address, reason, Scope.MESSAGE, "4.3.0")
                self._requeue(row, result, held=held, retry_at=retry_at)
        return self._end_removed(claim.message)

    # -- without an attempt --

    def expire(self, recipients: Sequence[int], *, reason: str, status: str, smarthost: str) -> list[Ended]:
        """Expire waiting recipients without an attempt of their own: by command, or after a failed probe.

        All of one message share one bounce.
        """
        by_message: dict[int, list[sqlite3.Row]] = {}
        for recipient in recipients:
            row = self._queue.touch_recipient(recipient)
            if row["state"] in ("queued", "held"):
                by_message.setdefault(row["message"], []).append(row)
        ended = []
        for message, rows in by_message.items():
            ended += self._sound(message, partial(self._expire, rows, reason, status, smarthost))
        return ended

    def _expire(self, rows: Sequence[sqlite3.Row], reason: str, status: str, smarthost: str, _: Queue) -> list[Ended]:
        message = self._message(rows[0]["message"])
        if self._queue.set_aside(message):
            return []
        state = "discarded" if _null_user_mail(message) else "expired"
        for row in rows:
            self._set_state(row["id"], state, attempts=row["attempts"], status=status, reply=reason)
        steps = [_waiting(row, state, status, reason, smarthost) for row in rows]
        self._report("bounce", self._original(message), steps)
        self.finish(message)
        return [self._ended(message, failed) for failed in steps]

    def remove(self, message: int, uid: int) -> list[Ended]:
        """End all that still waits as removed, by whom; what is being attempted follows, unless it is sent by that."""
        self._queue.run("mark_removed", message=message, uid=uid)
        return self._end_removed(message)

    def warn(self, recipients: Sequence[int], *, reason: str, status: str, smarthost: str) -> None:
        """Send the delay notice for recipients that wait behind trouble which the sender should know of."""
        by_message: dict[int, list[sqlite3.Row]] = {}
        for recipient in recipients:
            row = self._queue.one("recipient_state", recipient=recipient)
            by_message.setdefault(row["message"], []).append(row)
        for message, rows in by_message.items():
            self._sound(message, partial(self._warn_of, rows, reason, status, smarthost))

    def _warn_of(self, rows: Sequence[sqlite3.Row], reason: str, status: str, smarthost: str, _: Queue) -> list[Ended]:
        message = self._message(rows[0]["message"])
        if not self._queue.set_aside(message):
            for row in rows:
                self._queue.run("set_warned", recipient=row["id"])
            self._warn(self._original(message), [_waiting(row, "deferred", status, reason, smarthost) for row in rows])
        return []

    # -- at the start --

    def recover(self, horizon: float) -> list[Ended]:
        """What a crash left: drop half received messages, make running attempts `uncertain` and due again."""
        self._queue.forget_unfinished(self._now, horizon)
        ended = []
        for row in self._queue.rows("running"):
            ended += self._sound(row["message"], partial(self._recover, row))
        return ended

    def _recover(self, row: sqlite3.Row, _queue: Queue) -> list[Ended]:
        # No Settlement: a crash of ours is no failure that could end the life of what was out for days.
        recipient = self._queue.touch_recipient(row["id"])
        message = self._message(row["message"])
        if self._queue.set_aside(message):
            return []
        reply = "the daemon stopped during this attempt; the message may have been sent"
        uncertain = _unknown(row["address"], reply, Scope.SESSION, "4.4.2")
        self._requeue(recipient, uncertain, held=message["held"], retry_at=self._now)
        failed = _waiting(self._queue.one("recipient_state", recipient=row["id"]), "deferred", "4.4.2", reply, "")
        ended = self._ended(message, failed, next_attempt_at=self._now, uncertain=True)
        return [ended, *self._end_removed(row["message"])]

    # -- the rows --

    def _sound(self, message: int, step: Callable[[Queue], list[Ended]]) -> list[Ended]:
        """One message's share of a step for many. A damaged row sets that message aside, and holds up no other."""
        try:
            return self._queue.apart(step)
        except (ValueError, TypeError, KeyError, ArithmeticError):
            self._queue.hold_damaged(message)
            return []

    def _message(self, message: int) -> sqlite3.Row:
        return self._queue.one("message_state", message=message)

    def _add_attempt(self, recipient: int, result: Result, settlement: Settlement) -> None:
        self._queue.run("add_attempt", **_attempt(recipient, result, settlement, self._now))

    def _set_state(
        self,
        recipient: int,
        state: str,
        *,
        attempts: int,
        status: str,
        reply: str,
        fresh: bool = False,
        due_at: float | None = None,
        code: int | None = None,
    ) -> None:
        self._queue.run(
            "settle_recipient",
            recipient=recipient,
            state=state,
            fresh=fresh,
            attempts=attempts,
            next_attempt_at=due_at,
            code=code,
            status=status,
            reply=reply,
            finished_at=self._now if due_at is None else None,
        )

    def _requeue(self, row: sqlite3.Row, result: Result, *, held: int, retry_at: float) -> None:
        """End an attempt whose result nobody knows."""
        self._queue.run(
            "add_attempt",
            recipient=row["id"],
            at=time_or_none(row["attempted_at"]) or self._now,
            smarthost=row["smarthost"] or "",
            address=None,
            tls=None,
            code=None,
            status=result.status,
            reply=result.reply,
            outcome=result.outcome.value,
            duration_s=None,
        )
        self._set_state(
            row["id"],
            "held" if held else "queued",
            attempts=row["attempts"] + 1,
            due_at=retry_at,
            status=result.status,
            reply=result.reply,
        )

    def _end_removed(self, message: int) -> list[Ended]:
        ended = []
        state = self._message(message)
        for row in self._queue.rows("removed_recipients", message=message):
            self._queue.touch_recipient(row["id"])
            reason = f"removed by uid {row['removed_by']}"
            self._set_state(row["id"], "removed", attempts=row["attempts"], status="2.0.0", reply=reason)
            ended.append(self._ended(state, _waiting(row, "removed", "2.0.0", reason, "")))
        if ended:
            self.finish(state)
        return ended

    def finish(self, row: sqlite3.Row) -> None:
        """Close a message whose last recipient has ended. What failed keeps its body for a while, for `queue retry`."""
        message = row["id"]
        if self._queue.one("open_recipients", message=message)[0]:
            return
        keep = self._queue.one("failed_recipients", message=message)[0] > 0
        body_until = self._policy.kept_until(self._now) if keep else None
        if not keep or body_until == self._now:
            body_until = None
            self._queue.run("drop_body", message=message)
        self._queue.run("finish_message", message=message, now=self._now, body_until=body_until, kept=HEADER_KEPT)
        self._queue.owners.add(row["uid"], -1, -row["size"])

    def _ended(
        self, message: sqlite3.Row, failed: Failed, *, next_attempt_at: float | None = None, uncertain: bool = False
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
            delay_s=self._now - (time_or_none(message["accepted_at"]) or self._now),  # a damaged row may have none
            next_attempt_s=None if next_attempt_at is None else next_attempt_at - self._now,
            uncertain=uncertain,
        )

    # -- reports --

    def _warn(self, original: Original, steps: Sequence[Failed]) -> None:
        deferred = [failed for failed in steps if failed.outcome == "deferred"]
        if deferred:
            self._report("delay", original, deferred)
            self._queue.run("clear_warning", queue_id=original.queue_id)

    def _report(self, kind: str, original: Original, failed: Sequence[Failed]) -> None:
        if not failed:
            return
        for decision in self._policy.report(kind, original, failed, lambda: self._queue.ids.new(self._now), self._now):
            queue_id = None
            if decision.message is not None:
                queue_id = self._queue.accept(decision.message, submission=None, now=self._now).queue_id
                self._queue.reports.append(decision.message)
            for one in decision.failed:
                self._queue.run(
                    "add_report",
                    now=self._now,
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
        def body() -> bytes | None:
            try:
                return b"".join(self._queue.parts(row["id"], 0, -1))
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                return None  # on a damaged page: the outcome is recorded, and told without it

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


@dataclass(frozen=True, slots=True)
class Ending:
    """The step that settles one attempt, which ended at `now`."""

    policy: Policy
    settlement: Settlement
    now: float

    def __call__(self, queue: Queue) -> list[Ended]:
        return Settling(queue, self.policy, self.now).settle(self.settlement)

    @staticmethod
    def together(queue: Queue, steps: Sequence[Ending]) -> list[list[Ended]]:
        sent = [step for step in steps if _all_sent(step.settlement)]
        ended = iter(_settle_sent(queue, sent) if sent else ())
        return [next(ended) if _all_sent(step.settlement) else step(queue) for step in steps]


def _all_sent(settlement: Settlement) -> bool:
    """Whether nobody is to be told of anything: what becomes of nearly all mail."""
    return all(result.outcome is Outcome.SENT and not result.relayed for result in settlement.results)


def _settle_sent(queue: Queue, steps: Sequence[Ending]) -> list[list[Ended]]:
    """The claims say all that there is to know of the messages; one statement is for all of them."""
    recipients: list[dict[str, Any]] = []
    made: list[dict[str, Any]] = []
    for step in steps:
        settlement, now = step.settlement, step.now
        queue.remember_sent(settlement.smarthost, now)
        for claimed, result in zip(settlement.claim.recipients, settlement.results, strict=True):
            recipients.append(
                {
                    "recipient": claimed.id,
                    "code": result.code,
                    "status": result.status,
                    "reply": result.reply,
                    "now": now,
                }
            )
            made.append(_attempt(claimed.id, result, settlement, now))
    queue.many("add_attempt", made)
    taken: set[int] | None = None  # all
    if queue.many("sent", recipients) != len(recipients):
        taken = queue.taken([one["recipient"] for one in recipients], min(step.now for step in steps))
    _finish_sent(queue, steps)
    return [
        [
            _sent(step.settlement.claim, claimed, result, step.now)
            for claimed, result in zip(step.settlement.claim.recipients, step.settlement.results, strict=True)
            if taken is None or claimed.id in taken
        ]
        for step in steps
    ]


def _finish_sent(queue: Queue, steps: Sequence[Ending]) -> None:
    claims = {step.settlement.claim.message: step.settlement.claim for step in steps}
    policy, now = steps[-1].policy, steps[-1].now
    finished = list(claims)
    over = [{"message": message} for message in claims]
    if queue.many("finish_sent", over, now=now, kept=HEADER_KEPT) != len(claims):
        finished = queue.finished(finished)
    queue.many("drop_body", [{"message": message} for message in finished])
    for message in finished:
        claim = claims.pop(message)
        queue.owners.add(claim.uid, -1, -claim.size)
    for message in claims:
        Settling(queue, policy, now).finish(queue.one("message_state", message=message))


def _sent(claim: Claim, claimed: ClaimedRecipient, result: Result, now: float) -> Ended:
    return Ended(
        queue_id=claim.queue_id,
        message_id=claim.message_id,
        sender=claim.envelope.sender,
        uid=claim.uid,
        recipient=claimed.recipient.address,
        outcome="sent",
        status=result.status,
        reply=result.reply,
        code=result.code,
        attempts=claimed.attempts + 1,
        delay_s=now - claim.accepted_at,
    )


def _attempt(recipient: int, result: Result, settlement: Settlement, now: float) -> dict[str, Any]:
    return {
        "recipient": recipient,
        "at": settlement.started_at,
        "smarthost": settlement.smarthost,
        "address": settlement.address,
        "tls": settlement.tls,
        "code": result.code,
        "status": result.status,
        "reply": result.reply,
        "outcome": result.outcome.value,
        "duration_s": round(now - settlement.started_at, 3),
    }


def _told(row: sqlite3.Row, outcome: str, status: str, reply: str, smarthost: str) -> Failed:
    """What a report says of a recipient: as the row has it, but for what just happened."""
    return Failed(
        address=row["address"],
        original=row["original"],
        orcpt=row["orcpt"],
        notify=notify(row["notify"]),
        outcome=outcome,
        status=status,
        reply=reply,
        code=None,
        attempts=row["attempts"],
        smarthost=smarthost,
        last_attempt_at=None,
    )


def _waiting(row: sqlite3.Row, outcome: str, status: str, reason: str, smarthost: str) -> Failed:
    """A recipient that ends, or is told of, without an attempt."""
    reply = row["reply"] if row["reply"] and outcome != "deferred" else reason
    return _told(row, outcome, status, reply, row["smarthost"] or smarthost)


def _unknown(address: str, reply: str, scope: Scope, status: str) -> Result:
    """The result of an attempt of which nobody knows how it ended."""
    return Result(address=address, outcome=Outcome.UNCERTAIN, scope=scope, reply=reply, status=status)


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
