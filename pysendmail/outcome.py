"""Outcome: what became of one recipient in one attempt, and the one table that decides it.

`judge` maps (stage, reply or fault) to a verdict: whom it concerns (recipient, message, session, smarthost) and
what it means (sent, deferred, bounced, uncertain). Two rules stand above the table: what we do not understand is
deferred, never bounced; and only a complete 2xx to the final dot counts as sent.

Sources: RFC 5321 §4.2 and §4.5.3.1.10 (552 to RCPT is 452), RFC 4954 §6 (530, 534, 535, 538), RFC 3463.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pysendmail.smtp.reply import Reply


class Stage(StrEnum):
    """Where in a session something happened, in the order of a session."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    TLS = "tls"  # the handshake and the check of the certificate
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the command and its 354
    BODY = "body"  # from the first byte of the message to the last before the final dot
    DOT = "dot"  # the final dot is on its way, its answer is not there yet
    RSET = "rset"


class Fault(StrEnum):
    """What can go wrong without a reply that we could blame."""

    NAME = "name"  # the smarthost's name does not resolve
    UNREACHABLE = "unreachable"  # refused, no route, reset before the greeting
    TIMEOUT = "timeout"
    CLOSED = "closed"  # the server closed or reset the connection
    GARBAGE = "garbage"  # not SMTP, or a reply that nobody asked for
    HANDSHAKE = "handshake"  # TLS failed to come up
    CERTIFICATE = "certificate"  # TLS came up with a certificate that the policy refuses
    POLICY = "policy"  # what the policy demands is not offered (TLS, AUTH, a mechanism)
    SECRET = "secret"  # noqa: S105 - the name of a fault: the password cannot be had
    SIZE = "size"  # the server declared a smaller SIZE
    SMTPUTF8 = "smtputf8"  # the envelope needs SMTPUTF8 and the server lacks it
    INTERNAL = "internal"  # an error of ours in this attempt


class Scope(StrEnum):
    """Whom a failure concerns. A wider scope includes the narrower ones."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    SESSION = "session"  # this connection ends; the messages on it are deferred
    SMARTHOST = "smarthost"  # it rests; the messages are not to blame


class Outcome(StrEnum):
    """The field's own log words. `expired`, `discarded` and `removed` are given by the queue, not by an attempt."""

    SENT = "sent"
    DEFERRED = "deferred"
    BOUNCED = "bounced"
    EXPIRED = "expired"
    UNCERTAIN = "uncertain"  # deferred, but the message may have arrived: the last reply was lost


@dataclass(frozen=True, slots=True)
class Verdict:
    scope: Scope
    outcome: Outcome


ACCOUNT_CODES = frozenset({530, 534, 535, 538})
SETUP = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.TLS, Stage.AUTH})


def judge(stage: Stage, what: Reply | Fault) -> Verdict:
    """The verdict on a failure, or on the success of the final dot, at `stage`.

    For a positive reply at any other stage there is nothing to judge: the caller goes on. Given one here, it
    was not the reply that the stage calls for (a 250 to DATA, a 354 to MAIL) and the session is at fault.
    """
    if isinstance(what, Fault):
        return _judge_fault(stage, what)
    return _judge_reply(stage, what)


def _judge_reply(stage: Stage, reply: Reply) -> Verdict:
    if reply.code == 421:
        return Verdict(Scope.SESSION, Outcome.DEFERRED)
    if stage in SETUP:
        # A busy server says 4xx before it speaks SMTP: that is this connection's trouble, and the smarthost's
        # only if no other connection works (the daemon sees that, this table cannot).
        busy = stage in (Stage.GREETING, Stage.EHLO) and reply.first_digit == 4
        return Verdict(Scope.SESSION if busy else Scope.SMARTHOST, Outcome.DEFERRED)
    if reply.code in ACCOUNT_CODES:
        return Verdict(Scope.SMARTHOST, Outcome.DEFERRED)
    if stage is Stage.RCPT and reply.code == 552:
        return Verdict(Scope.RECIPIENT, Outcome.DEFERRED)
    if stage is Stage.DOT and reply.positive:
        return Verdict(Scope.MESSAGE, Outcome.SENT)
    if stage is Stage.RSET:
        return Verdict(Scope.SESSION, Outcome.DEFERRED)
    scope = Scope.RECIPIENT if stage is Stage.RCPT else Scope.MESSAGE
    match reply.first_digit:
        case 5:
            return Verdict(scope, Outcome.BOUNCED)
        case 4:
            return Verdict(scope, Outcome.DEFERRED)
        case _:  # a 2xx or 3xx where another was due: the conversation is out of step
            return Verdict(Scope.SESSION, Outcome.UNCERTAIN if stage is Stage.DOT else Outcome.DEFERRED)


def _judge_fault(stage: Stage, fault: Fault) -> Verdict:
    match fault:
        case Fault.SIZE:
            return Verdict(Scope.MESSAGE, Outcome.BOUNCED)
        case Fault.SMTPUTF8:
            return Verdict(Scope.RECIPIENT, Outcome.BOUNCED)
        case Fault.INTERNAL:
            return Verdict(Scope.MESSAGE, Outcome.UNCERTAIN if stage is Stage.DOT else Outcome.DEFERRED)
        case _ if stage in SETUP:
            return Verdict(Scope.SMARTHOST, Outcome.DEFERRED)
        case _:
            return Verdict(Scope.SESSION, Outcome.UNCERTAIN if stage is Stage.DOT else Outcome.DEFERRED)


# RFC 3463 status for a fault: what stands in the log, the history and a bounce where no reply gives one.
FAULT_STATUS = {
    Fault.NAME: "4.4.3",
    Fault.UNREACHABLE: "4.4.1",
    Fault.TIMEOUT: "4.4.2",
    Fault.CLOSED: "4.4.2",
    Fault.GARBAGE: "4.5.0",
    Fault.HANDSHAKE: "4.7.5",
    Fault.CERTIFICATE: "4.7.5",
    Fault.POLICY: "4.7.4",
    Fault.SECRET: "4.7.0",
    Fault.SIZE: "5.3.4",
    Fault.SMTPUTF8: "5.6.7",
    Fault.INTERNAL: "4.3.0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What went wrong, as a value: where, what, and the words for log, history, bounce and `explain`.

    `reason` and `status` are never empty; `reason` is already escaped and capped. `code` is the reply's code, or
    None where there was no reply.
    """

    stage: Stage
    verdict: Verdict
    reason: str
    status: str
    code: int | None = None
    offline: bool = False  # this machine has no way there, or nobody to ask for names: nothing was tried

    def __post_init__(self) -> None:
        if not self.reason or not self.status:
            raise ValueError("trouble without a reason or a status")

    @classmethod
    def from_reply(cls, stage: Stage, reply: Reply) -> Trouble:
        verdict = judge(stage, reply)
        status = reply.status
        if verdict.outcome is not Outcome.BOUNCED and not status.startswith("4"):
            status = "4" + status[1:] if status.startswith("5") else "4.5.0"
        return cls(stage=stage, verdict=verdict, reason=reply.text, status=status, code=reply.code)

    @classmethod
    def from_fault(cls, stage: Stage, fault: Fault, reason: str) -> Trouble:
        return cls(stage=stage, verdict=judge(stage, fault), reason=reason, status=FAULT_STATUS[fault])


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an attempt gave for one recipient, as the queue records it (C2)."""

    address: str
    outcome: Outcome  # sent, deferred, bounced or uncertain
    scope: Scope
    reply: str  # the reply, or the reason where there was none; escaped and capped
    status: str  # RFC 3463, e.g. "2.0.0"
    code: int | None = None
    again: bool = False  # "too many recipients": this one goes in the next transaction, at once
    relayed: bool = False  # sent to a server without DSN, so that a "relayed" report is ours to write (RFC 3461 §5.2.2)

    @classmethod
    def from_trouble(cls, address: str, trouble: Trouble) -> Result:
        return cls(
            address=address,
            outcome=trouble.verdict.outcome,
            scope=trouble.verdict.scope,
            reply=trouble.reason,
            status=trouble.status,
            code=trouble.code,
        )
