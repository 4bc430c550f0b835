"""Faults: one for each invariant, put into a real daemon before it starts.

    python -P faults.py FAULT /path/to/pysendmail [argument...]

Imports pysendmail, breaks one function of it, and runs the command. The daemon is whole otherwise: its queue, its
sockets and its log are real, and so is what the checker gets to see. A fault that can no longer be put in, because
the function is gone, fails the daemon's start and so the test that stands on it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from pysendmail import cli, delivery, message, outcome, postmaster, schedule, secrets, server, session, submission
from pysendmail import tlspolicy as policy
from pysendmail.queue import Queue
from pysendmail.smtp import wire


def recipient_dropped() -> None:
    """The last recipient is not stored with the others."""
    make_ready = Queue.make_ready

    def without_the_last(self: Queue, row: int, new: Any, *rest: Any, **more: Any) -> None:
        make_ready(self, row, dataclasses.replace(new, destinations=new.destinations[:-1]), *rest, **more)

    Queue.make_ready = without_the_last  # type: ignore[method-assign]


def sent_twice() -> None:
    """What was sent well is sent once more, on the same connection."""
    send = session.Session.send

    async def twice(self: session.Session, outgoing: session.Outgoing) -> list[outcome.Result]:
        await send(self, outgoing)
        return await send(self, outgoing)

    session.Session.send = twice  # type: ignore[method-assign]


def refused_and_kept() -> None:
    """The submitter is told that nothing was queued, after the commit."""

    def refuse(*_: object) -> None:
        raise submission.Refused(75, "no room; nothing was queued")

    server.Conversation._log = refuse  # type: ignore[method-assign]


def octet_changed() -> None:
    """One octet of the body leaves as another."""
    stream = delivery.Body.stream

    async def changed(self: delivery.Body) -> AsyncIterator[bytes]:
        async for octets in stream(self):
            yield octets.replace(b"body of", b"bodY of")

    delivery.Body.stream = changed  # type: ignore[method-assign]


def dot_unstuffed() -> None:
    """A dot at the beginning of a line leaves as it is."""
    wire.DotStuffer.encode = lambda self, chunk: chunk  # type: ignore[method-assign]


def refusal_forgotten() -> None:
    """A 5xx is taken for a 4xx."""
    judge = outcome._judge_reply

    def mild(*what: Any) -> outcome.Verdict:
        verdict = judge(*what)
        if verdict.outcome is outcome.Outcome.BOUNCED:
            verdict = dataclasses.replace(verdict, outcome=outcome.Outcome.DEFERRED)
        return verdict

    outcome._judge_reply = mild


def bcc_kept() -> None:
    """Bcc is a field like any other."""
    message._DROPPED = frozenset()


def password_logged() -> None:
    """The password stands in the log."""
    read = secrets.Secrets.read

    async def aloud(self: secrets.Secrets, smarthost: Any) -> secrets.Secret:
        secret = await read(self, smarthost)
        print(f"event=secret smarthost={smarthost.name} password={secret.reveal().decode()}", file=sys.stderr)
        return secret

    secrets.Secrets.read = aloud  # type: ignore[method-assign]


def clear_under_encrypt() -> None:
    """`encrypt` is content with a server without TLS."""
    _plan(lambda plan: dataclasses.replace(plan, clear_if_unavailable=True, demand=""))


def clear_at_once() -> None:
    """At `may`, the STARTTLS that is offered is not even tried."""
    _plan(lambda plan: dataclasses.replace(plan, attempt=False, clear_if_unavailable=True))


def _plan(change: Callable[[policy.TlsPlan], policy.TlsPlan]) -> None:
    plan = policy.plan
    policy.plan = lambda *what, **more: change(plan(*what, **more))


def gap_shrunk() -> None:
    """A quarter of the wait."""
    interval = schedule.interval
    schedule.interval = lambda *what: interval(*what) / 4


def bounced_twice() -> None:
    """Two bounces for one failure."""
    report = postmaster.Postmaster.report

    def twice(self: postmaster.Postmaster, *what: Any) -> list[Any]:
        return [*report(self, *what), *report(self, *what)]

    postmaster.Postmaster.report = twice  # type: ignore[method-assign]


def null_sender_bounced() -> None:
    """Mail from <> that fails is reported to somebody all the same."""
    report = postmaster.Postmaster.report

    def to_somebody(self: postmaster.Postmaster, kind: str, original: Any, *what: Any) -> Any:
        return report(self, kind, dataclasses.replace(original, sender=original.sender or "root@example.com"), *what)

    postmaster.Postmaster.report = to_somebody  # type: ignore[method-assign]


def loop_ignored() -> None:
    """Received fields are not counted."""
    submission.hops = lambda _fields: 0


def uid_believed() -> None:
    """Received names another user than the one who submitted."""
    received = submission.received
    submission.received = lambda **what: received(**{**what, "uid": 4711})


def stalled() -> None:
    """Nothing is ever claimed."""

    async def asleep(_self: delivery.Delivery) -> None:
        pass

    delivery.Delivery._claim = asleep  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "I1": recipient_dropped,
    "I2": sent_twice,
    "I3": refused_and_kept,
    "I4": octet_changed,
    "I5": dot_unstuffed,
    "I6": refusal_forgotten,
    "I7": bcc_kept,
    "I8": password_logged,
    "I9": clear_under_encrypt,
    "I10": clear_at_once,
    "I11": gap_shrunk,
    "I12": bounced_twice,
    "I13": null_sender_bounced,
    "I14": loop_ignored,
    "I15": uid_believed,
    "I16": stalled,
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    sys.argv = sys.argv[2:]
    sys.exit(cli.run())
