"""Postmaster: who is told what of a message's fate, and how the report becomes mail in our own queue.

One bounce for the recipients that failed together, to the reverse-path, unless NOTIFY or a null reverse-path
forbids it; one delay notice; a "relayed" report where success was to be reported and the smarthost has no DSN.
A bounce of ours that fails becomes one note to the postmaster; if that fails, the record is all there is. The loop
is stopped by the message's own kind in the queue, not by `<>` alone, since [bounce] sender may replace that.

Pure: configuration, aliases and the clock are arguments. It is the queue's Policy, asked inside C2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pysendmail import bounce, message, route, schedule
from pysendmail.address import AddressError, parse_path
from pysendmail.aliases import Aliases, expand_recipients
from pysendmail.config import Config
from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Outcome
from pysendmail.records import Decision, Destination, Failed, NewMessage, Original

# NULL_SENDER and the others are what `bounces` says where no mail was written.
NULL_SENDER = "the message came from the null sender"
NOTIFY_FORBIDS = "NOTIFY asked for no report"
NOTICE_FAILED = "the report itself could not be delivered"


class Postmaster:
    def __init__(self, config: Config, aliases: Callable[[], Aliases]) -> None:
        self._config = config
        self._aliases = aliases
        self._hosts = {smarthost.name: smarthost.host for smarthost in config.smarthost}
        self._reporter = bounce.Reporter(
            hostname=config.hostname,
            domain=config.sender_domain,
            date=message.rfc5322_date,
            sender=config.bounce.sender,
            max_return=config.bounce.max_return,
        )

    def next_attempt_at(self, now: float, attempts: int, queue_id: str) -> float:
        return schedule.next_attempt_at(self._config.retry, now, attempts, queue_id)

    def kept_until(self, now: float) -> float:
        return now + self._config.queue.keep_failed

    def report(
        self, kind: str, original: Original, failed: Sequence[Failed], new_id: Callable[[], str], now: float
    ) -> Sequence[Decision]:
        """What is due for these recipients: a "bounce", a "delay" or a "relayed" report."""
        if original.kind == "bounce" and kind == "bounce":
            return [self._note(original, failed, new_id(), now)]
        if original.kind != "mail":
            silence = NOTICE_FAILED if kind == "bounce" else NULL_SENDER
            return [Decision(failed=tuple(failed), kind="postmaster", silence=silence)] if kind == "bounce" else []
        if not original.sender:
            return [Decision(failed=tuple(failed), kind=kind, silence=NULL_SENDER)]
        what = {"bounce": "failure", "delay": "delay", "relayed": "success"}[kind]
        wanted = tuple(one for one in failed if _wants(one, what))
        unwanted = tuple(one for one in failed if not _wants(one, what))
        decisions = []
        if unwanted:
            decisions.append(Decision(failed=unwanted, kind=kind, silence=NOTIFY_FORBIDS))
        if wanted:
            decisions.append(self._decide(kind, original, wanted, new_id(), now))
        return decisions

    def _decide(self, kind: str, original: Original, failed: tuple[Failed, ...], queue_id: str, now: float) -> Decision:
        about = self._about(original, full=kind == "bounce" and original.ret == "full")
        reported = [self._reported(one, now) for one in failed]
        if kind == "bounce":
            report = bounce.failure_report(self._reporter, about, reported, queue_id=queue_id, now=now)
        elif kind == "delay":
            report = bounce.delay_report(
                self._reporter, about, reported, queue_id=queue_id, now=now, retry_until=original.expires_at
            )
        else:
            report = bounce.relayed_report(self._reporter, about, reported, queue_id=queue_id, now=now)
        return self._mailed(kind, original, failed, report, queue_id, now)

    def _note(self, original: Original, failed: Sequence[Failed], queue_id: str, now: float) -> Decision:
        """A bounce of ours has nowhere to go: the postmaster hears of it, once."""
        report = bounce.postmaster_note(
            self._reporter,
            self._about(original, full=True),
            [self._reported(one, now) for one in failed],
            to=self._config.bounce.postmaster,
            queue_id=queue_id,
            now=now,
        )
        return self._mailed("postmaster", original, tuple(failed), report, queue_id, now)

    def _mailed(
        self,
        kind: str,
        original: Original,
        failed: tuple[Failed, ...],
        report: bounce.Report,
        queue_id: str,
        now: float,
    ) -> Decision:
        destinations = self._destinations(report.to) or self._destinations(self._config.bounce.postmaster)
        if not destinations:
            return Decision(failed=failed, kind=kind, silence=f"{report.to}: no address to send it to")
        header = message.received(
            host=self._config.hostname,
            queue_id=queue_id,
            date=message.rfc5322_date(now),
            uid=None,
            style=self._config.headers.received,
        )
        new = NewMessage(
            queue_id=queue_id,
            kind=kind,
            uid=original.uid,
            envelope=Envelope(
                sender=report.sender,
                recipients=tuple(destination.recipient for destination in destinations),
                smtputf8=report.smtputf8,
            ),
            destinations=destinations,
            header=header + report.header,
            body=report.body,
            body_size=len(report.body),
            message_id=report.message_id,
            eight_bit=report.eight_bit,
            lifetime=self._config.queue.lifetime,
            warn_after=0.0,
            about=original.queue_id,
        )
        to = ", ".join(destination.recipient.address for destination in destinations)
        return Decision(failed=failed, kind=kind, message=new, reported_to=to)

    def _destinations(self, address: str) -> tuple[Destination, ...]:
        """Where a report to `address` goes; empty when that leads nowhere."""
        try:
            parse_path(address)
            expanded = expand_recipients([address], self._aliases(), self._config)
        except (AddressError, ValueError):
            return ()
        sender = self._reporter.sender
        return tuple(
            Destination(
                # A report is never reported on to the sender; the queue's kind sees to that, NOTIFY tells the others.
                recipient=Recipient(address=final),
                original=original,
                route=route.route(sender, final, self._config),
            )
            for final, original in expanded
        )

    def _about(self, original: Original, *, full: bool) -> bounce.Original:
        readable = full and original.size <= self._config.bounce.max_return
        return bounce.Original(
            sender=original.sender,
            queue_id=original.queue_id,
            accepted_at=original.accepted_at,
            header=original.header,
            body=original.body() if readable or original.kind == "bounce" else None,
            ret=original.ret,
            envid=original.envid,
            message_id=original.message_id,
        )

    def _reported(self, failed: Failed, now: float) -> bounce.Reported:
        outcome = {"relayed": Outcome.SENT, "discarded": Outcome.BOUNCED}.get(failed.outcome)
        return bounce.Reported(
            address=failed.address,
            outcome=outcome or Outcome(failed.outcome),
            status=failed.status,
            reply=failed.reply,
            code=failed.code,
            orcpt=failed.orcpt,
            smarthost=failed.smarthost,
            host=self._hosts.get(failed.smarthost, ""),
            last_attempt_at=failed.last_attempt_at or now,
            attempts=max(failed.attempts, 1),
        )


def _wants(failed: Failed, what: str) -> bool:
    return Recipient(address=failed.address, notify=failed.notify).wants(what)
