"""Faults: one for each invariant, put into a real daemon before it starts, and one for sendmail itself.

    python -P faults.py FAULT /path/to/pysendmail [argument...]
    python -P faults.py client /path/to/sendmail [argument...]

Imports pysendmail, breaks one function of it, and runs the command. The daemon is whole otherwise: its queue, its
sockets and its log are real, and so is what the checker gets to see. A fault that can no longer be put in, because
the function is gone, fails the daemon's start and so the test that stands on it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from pysendmail import (
    cli,
    delivery,
    message,
    outcome,
    postmaster,
    schedule,
    secrets,
    session,
    submission,
    writer,
)
from pysendmail import tlspolicy as policy
from pysendmail.queue import Queue
from pysendmail.records import Accepted
from pysendmail.smtp import transaction, wire
from pysendmail.thin import client


def _put(owner: object, name: str, make: Callable[[Any], Any]) -> None:
    """Put `make(what is there)` in the place of an attribute. AttributeError when there is none."""
    setattr(owner, name, make(getattr(owner, name)))


def recipient_dropped() -> None:
    """The last recipient is not stored with the others."""

    def make(add_recipients: Any) -> Any:
        def without_the_last(self: Queue, row: int, new: Any, *rest: Any, **more: Any) -> None:
            add_recipients(self, row, dataclasses.replace(new, destinations=new.destinations[:-1]), *rest, **more)

        return without_the_last

    _put(Queue, "_add_recipients", make)


def sent_twice() -> None:
    """What was sent well is sent once more, on the same connection."""

    def make(send: Any) -> Any:
        async def twice(self: session.Session, outgoing: session.Outgoing, *rest: Any) -> Any:
            await send(self, outgoing)
            return await send(self, outgoing, *rest)

        return twice

    _put(session.Session, "send", make)


def refused_and_kept() -> None:
    """The submitter is told that nothing was queued, after the commit."""

    def make(run: Any) -> Any:
        async def refuse(self: writer.Writer, step: Any, **more: Any) -> Any:
            if isinstance(done := await run(self, step, **more), Accepted):
                raise submission.Refused(75, "no room; nothing was queued")
            return done

        return refuse

    _put(writer.Writer, "run", make)


def octet_changed() -> None:
    """One octet of the body leaves as another."""

    def make(encode: Any) -> Any:
        return lambda self, chunk: encode(self, chunk.replace(b"body of", b"bodY of"))

    _put(wire.DotStuffer, "encode", make)


def recipient_swapped() -> None:
    """Each RCPT names somebody else."""

    def make(rcpt: Any) -> Any:
        return lambda recipient, *rest: rcpt(dataclasses.replace(recipient, address="else@example.org"), *rest)

    _put(transaction, "_rcpt", make)


def dot_unstuffed() -> None:
    """A dot at the beginning of a line leaves as it is."""
    _put(wire.DotStuffer, "encode", lambda _: lambda self, chunk: chunk)


def refusal_forgotten() -> None:
    """A 5xx is taken for a 4xx."""

    def make(judge: Any) -> Any:
        def mild(*what: Any) -> outcome.Verdict:
            verdict: outcome.Verdict = judge(*what)
            if verdict.outcome is outcome.Outcome.BOUNCED:
                verdict = dataclasses.replace(verdict, outcome=outcome.Outcome.DEFERRED)
            return verdict

        return mild

    _put(outcome, "_judge_reply", make)


def bcc_kept() -> None:
    """Bcc is a field like any other."""
    _put(message, "_DROPPED", lambda _: frozenset())


def password_logged() -> None:
    """The password stands in the log."""

    def make(read: Any) -> Any:
        async def aloud(self: secrets.Secrets, smarthost: Any) -> Any:
            secret = await read(self, smarthost)
            print(f"event=secret smarthost={smarthost.name} password={secret.reveal().decode()}", file=sys.stderr)
            return secret

        return aloud

    _put(secrets.Secrets, "read", make)


def clear_under_encrypt() -> None:
    """`encrypt` is content with a server without TLS."""
    _plan(clear_if_unavailable=True, demand="")


def clear_at_once() -> None:
    """At `may`, the STARTTLS that is offered is not even tried."""
    _plan(attempt=False, clear_if_unavailable=True)


def _plan(**changes: Any) -> None:
    _put(policy, "plan", lambda plan: lambda *what, **more: dataclasses.replace(plan(*what, **more), **changes))


def gap_shrunk() -> None:
    """A quarter of the wait."""
    _put(schedule, "interval", lambda interval: lambda *what: interval(*what) / 4)


def bounced_twice() -> None:
    """Two bounces for one failure."""
    _put(postmaster.Postmaster, "report", lambda report: lambda *what: [*report(*what), *report(*what)])


def null_sender_bounced() -> None:
    """Mail from <> that fails is reported to somebody all the same."""

    def make(report: Any) -> Any:
        def to_somebody(self: Any, kind: str, original: Any, *what: Any) -> Any:
            somebody = original.sender or "root@example.com"
            return report(self, kind, dataclasses.replace(original, sender=somebody), *what)

        return to_somebody

    _put(postmaster.Postmaster, "report", make)


def loop_ignored() -> None:
    """Received fields are not counted."""
    _put(submission, "hops", lambda _: lambda _fields: 0)


def uid_believed() -> None:
    """Received names another user than the one who submitted."""
    _put(submission, "received", lambda received: lambda **what: received(**{**what, "uid": 4711}))


def stalled() -> None:
    """Nothing is ever claimed."""

    async def asleep(_: delivery.Delivery) -> None:
        pass

    _put(delivery.Delivery, "_claim", lambda _: asleep)


def answer_invented() -> None:
    """Who loses the daemon before its answer says 0."""
    _put(client.Command, "_ask", lambda _: lambda self, why: 0)


CLIENT = "client"
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
    fault, *sys.argv = sys.argv[1:]
    if fault == CLIENT:
        answer_invented()
        client.run()
    FAULTS[fault]()
    cli.run()
