"""Transaction: one mail transaction, MAIL to the end of data, as a state machine without I/O (RFC 5321 §3.3).

The driver writes what `next` gives and feeds every reply to `receive`, in order; each reply belongs to the oldest
command without one, and a reply too many, or one that its command does not call for, ends the session. At the end
there is one Result for each recipient, in the order of the envelope, whatever happened.

With PIPELINING (RFC 2920) MAIL, up to RECIPIENTS_PER_GROUP RCPTs and DATA go in one group. Then 354 can come
although no recipient was accepted: a lone dot ends that, and its reply decides nothing.

`judge` in `outcome` says what a reply means; this module only knows whose it is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import Enum, auto

from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Fault, Outcome, Result, Scope, Stage, Trouble
from pysendmail.smtp import wire
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import Reply

# RFC 2920 §3.1 leaves it to the client not to fill both windows with answers that nobody reads yet.
RECIPIENTS_PER_GROUP = 100


class Ask(Enum):
    """What the driver is asked for beside octets to write."""

    BODY = auto()  # write the message with its final dot; call `ending` with the last octets in hand, then write them


class Transaction:
    """One attempt at one message on one connection."""

    def __init__(
        self,
        envelope: Envelope,
        extensions: Extensions,
        *,
        size: int,
        eight_bit: bool,
        declare_size: bool = True,
    ) -> None:
        """`size` in octets with all CRLFs. `declare_size` False: the message is re-encoded, its size not known yet."""
        self._results: list[Result | None] = [None] * len(envelope.recipients)
        self._recipients = envelope.recipients
        self._relayed = not extensions.dsn
        self._pipelining = extensions.pipelining
        self._unanswered: deque[tuple[Stage, int]] = deque()
        self._accepted: list[int] = []
        self._stage = Stage.MAIL  # where we are, for a fault that no reply names
        self._open = False  # the server holds an envelope of ours
        self._lone_dot = False
        self.usable = True  # the connection, after this transaction
        self.untouched = True  # the server answered nothing but 421: what ended the session was not this message
        self.mail_refused = False  # for good
        self._mail = b""
        self._rcpts: deque[tuple[int, bytes]] = deque()
        self._data_due = False  # DATA has not been sent yet
        self._body_due = False
        if (trouble := _refusal(envelope, extensions, size)) is not None:
            self._settle(trouble)
            return
        for number, recipient in enumerate(envelope.recipients):
            line = _rcpt(recipient, extensions)
            if isinstance(line, Trouble):
                self._results[number] = Result.from_trouble(recipient.address, line)
            else:
                self._rcpts.append((number, line))
        if not self._rcpts:
            return
        try:
            smtputf8 = envelope.smtputf8 or wire.needs_smtputf8(envelope.sender)
            self._mail = wire.mail(
                envelope.sender,
                size=size if declare_size and extensions.declares_size else None,
                eight_bit=eight_bit and extensions.eight_bit,
                smtputf8=smtputf8 or any(not line.isascii() for _, line in self._rcpts),
                ret=envelope.ret if extensions.dsn else "",
                envid=envelope.envid if extensions.dsn else "",
            )
        except wire.WireError as error:
            self._settle(_unwritten(error))
            return
        self._data_due = True

    @property
    def awaiting(self) -> Stage | None:
        """The stage of the oldest command without a reply; the driver chooses its deadline by it. None: nothing."""
        return self._unanswered[0][0] if self._unanswered else None

    @property
    def results(self) -> list[Result]:
        """One for each recipient, in order. Complete once `next` gave None."""
        return [result for result in self._results if result is not None]

    def next(self) -> bytes | Ask | None:
        """What to do now, when nothing is awaited. None: the transaction is over."""
        assert not self._unanswered, "commands are still without replies"
        if not self.usable:
            return None
        if self._mail or (self._rcpts and self._open):
            return self._commands()
        if self._data_due and self._accepted:
            return self._expecting(Stage.DATA, b"DATA\r\n")
        if self._body_due:
            self._body_due = False
            if self._accepted:
                self._stage = Stage.BODY
                return Ask.BODY
            self._lone_dot = True
            return self._expecting(Stage.DOT, b".\r\n")
        if self._open:
            return self._expecting(Stage.RSET, b"RSET\r\n")
        return None

    def _commands(self) -> bytes:
        """The next group with PIPELINING, else the next single command."""
        lines = []
        limit = RECIPIENTS_PER_GROUP if self._pipelining else 1
        if self._mail:
            lines.append(self._expecting(Stage.MAIL, self._mail))
            self._mail = b""
            limit = RECIPIENTS_PER_GROUP if self._pipelining else 0
        for number, line in [self._rcpts.popleft() for _ in range(min(limit, len(self._rcpts)))]:
            lines.append(self._expecting(Stage.RCPT, line, number))
        if self._pipelining and not self._rcpts:
            lines.append(self._expecting(Stage.DATA, b"DATA\r\n"))
        return b"".join(lines)

    def _expecting(self, stage: Stage, line: bytes, number: int = -1) -> bytes:
        self._unanswered.append((stage, number))
        if stage is Stage.DATA:
            self._data_due = False
        return line

    def ending(self) -> None:
        """The last octet of the final dot is about to go to the transport: from here on, silence may mean sent."""
        self._stage = Stage.DOT
        self._unanswered.append((Stage.DOT, -1))

    def receive(self, reply: Reply) -> None:
        """One complete reply of the server."""
        if not self._unanswered:
            self._unasked(reply)
            return
        self.untouched = self.untouched and reply.code == 421
        stage, number = self._unanswered.popleft()
        if self._stage not in (Stage.BODY, Stage.DOT):
            self._stage = stage
        match stage:
            case Stage.MAIL:
                self._received_mail(reply)
            case Stage.RCPT:
                self._received_rcpt(reply, number)
            case Stage.DATA:
                self._received_data(reply)
            case Stage.DOT:
                self._received_dot(reply)
            case _:  # RSET: the results are there already, only the connection is in question
                self._open = False
                self.usable = self.usable and reply.positive

    def fail(self, fault: Fault, reason: str) -> None:
        """The connection, or we, failed: it is the end of the session, for those recipients that have no result yet."""
        stage = self.awaiting if self._stage not in (Stage.BODY, Stage.DOT) and self.awaiting else self._stage
        self._end(Trouble.from_fault(stage, fault, reason))

    def _unasked(self, reply: Reply) -> None:
        if reply.code == 421:
            self._end(Trouble.from_reply(self._stage, reply))
        elif self._stage is Stage.BODY:
            self.fail(Fault.GARBAGE, f"before the end of the message: {reply.text}")
        else:
            self.fail(Fault.GARBAGE, f"a reply that nobody asked for: {reply.text}")

    def _received_mail(self, reply: Reply) -> None:
        if reply.positive:
            self._open = True
            return
        self.mail_refused = reply.first_digit == 5
        self._refused(Trouble.from_reply(Stage.MAIL, reply))
        self._rcpts.clear()
        self._data_due = False

    def _received_rcpt(self, reply: Reply, number: int) -> None:
        if self._results[number] is not None and reply.code != 421:
            return  # MAIL was refused; the 503 that follows is no news
        if reply.positive:
            self._accepted.append(number)
            return
        trouble = Trouble.from_reply(Stage.RCPT, reply)
        if trouble.verdict.scope in (Scope.SESSION, Scope.SMARTHOST):
            self._end(trouble)
            return
        result = Result.from_trouble(self._recipients[number].address, trouble)
        self._results[number] = replace(result, again=bool(self._accepted) and _too_many(reply))

    def _received_data(self, reply: Reply) -> None:
        if reply.code == 354:
            self._body_due = True
            return
        trouble = Trouble.from_reply(Stage.DATA, reply)
        if not self._accepted and trouble.verdict.scope is not Scope.SESSION:
            return  # nobody was accepted, so it is refused: as it should be
        self._refused(trouble)

    def _received_dot(self, reply: Reply) -> None:
        self._open = False
        if self._lone_dot:
            self.usable = self.usable and reply.code != 421 and reply.first_digit != 3
            return
        if not reply.positive:
            self._refused(Trouble.from_reply(Stage.DOT, reply))
            return
        for number in self._accepted:
            recipient = self._recipients[number]
            self._results[number] = Result(
                address=recipient.address,
                outcome=Outcome.SENT,
                scope=Scope.MESSAGE,
                reply=reply.text,
                status=reply.status,
                code=reply.code,
                relayed=self._relayed and "success" in recipient.notify,
            )

    def _refused(self, trouble: Trouble) -> None:
        if trouble.verdict.scope in (Scope.SESSION, Scope.SMARTHOST):
            self._end(trouble)
        else:
            self._settle(trouble)

    def _end(self, trouble: Trouble) -> None:
        self.usable = False
        self._unanswered.clear()
        self._settle(trouble)

    def _settle(self, trouble: Trouble) -> None:
        """`trouble` is the result of everyone who has none yet, and nobody is accepted any more."""
        for number, recipient in enumerate(self._recipients):
            result = self._results[number]
            if result is None:
                self._results[number] = Result.from_trouble(recipient.address, trouble)
            elif result.again:  # a next transaction is no use now
                self._results[number] = replace(result, again=False)
        self._accepted.clear()
        self._rcpts.clear()


def _refusal(envelope: Envelope, offered: Extensions, size: int) -> Trouble | None:
    """Why this server cannot take the message at all, or None."""
    if 0 < offered.size < size:
        reason = f"the message has {size} octets, the server takes at most {offered.size}"
        return Trouble.from_fault(Stage.MAIL, Fault.SIZE, reason)
    if offered.smtputf8:
        return None
    try:
        sender = wire.needs_smtputf8(envelope.sender)
    except wire.WireError as error:
        return _unwritten(error)
    if not (sender or envelope.smtputf8):
        return None
    needing = "the sender's address" if sender else "the message"
    return Trouble.from_fault(Stage.MAIL, Fault.SMTPUTF8, _NO_SMTPUTF8.format(needing))


def _unwritten(error: wire.WireError) -> Trouble:
    return Trouble.from_fault(Stage.MAIL, Fault.INTERNAL, f"not written: {error}")


def _rcpt(recipient: Recipient, offered: Extensions) -> bytes | Trouble:
    """The command for one recipient, or why there is none."""
    try:
        if wire.needs_smtputf8(recipient.address) and not offered.smtputf8:
            return Trouble.from_fault(Stage.RCPT, Fault.SMTPUTF8, _NO_SMTPUTF8.format("this address"))
        return wire.rcpt(recipient, smtputf8=offered.smtputf8, dsn=offered.dsn)
    except wire.WireError as error:
        return Trouble.from_fault(Stage.RCPT, Fault.INTERNAL, f"not written: {error}")


_NO_SMTPUTF8 = "the server does not offer SMTPUTF8, which {} needs"


def _too_many(reply: Reply) -> bool:
    """Whether a refused RCPT means "not so many at once" (RFC 5321 §4.5.3.1.10), and not that one mailbox is full."""
    return reply.code in (452, 552) and reply.status.split(".")[1] != "2"
