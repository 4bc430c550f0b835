"""Reception: one SMTP dialogue, whoever carries its octets: `sendmail -bs` or a loopback address.

It feeds `smtp.service` and does what that asks with one Submission for each message, so that a message means the same
as from the command: sender policy, aliases, limits, C1 before the 250 to its end. What breaks off before that (QUIT,
RSET, a lost connection, a time-out) leaves nothing. Who is lost between C1 and the 250 has to send again, as SMTP has
it, and the message may then come twice.

Replies: those of `REPLIES` for a Refused, by its exit code or by the status that it names; 452 4.3.1 for a full disk,
451 4.3.0 for a store that cannot be written; 421 when we end the connection. Bounds: those of `smtp.service`, and
IDLE_S without an octet.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar, assert_never

from pysendmail.aliases import Aliases
from pysendmail.argv import Invocation, Mode
from pysendmail.config import Config
from pysendmail.events import Events
from pysendmail.exits import EX_DATAERR, EX_NOPERM, EX_OK, EX_TEMPFAIL, EX_USAGE
from pysendmail.origin import Origin
from pysendmail.queue import Queue
from pysendmail.records import Accepted
from pysendmail.smtp.service import Add, Begin, Drop, Finish, Leave, Limits, Refusal, Say, Service, Take
from pysendmail.submission import Apart, Caller, Refused, Submission
from pysendmail.writer import StoreBroken, StoreDamaged, StoreFull

T = TypeVar("T")
IDLE_S = 300.0  # RFC 5321 §4.5.3.2.7: without an octet, or without a reply being read
MAX_STEPS = 20  # at a time: about ten commands

REPLIES: dict[int | str, tuple[int, str]] = {
    EX_USAGE: (554, "5.5.1"),
    EX_DATAERR: (554, "5.6.0"),
    EX_TEMPFAIL: (452, "4.3.1"),  # no room, or none for this user
    EX_NOPERM: (550, "5.7.1"),
    "4.3.0": (451, "4.3.0"),
    "5.1.3": (553, "5.1.3"),
    "5.3.4": (552, "5.3.4"),
}


class Store(Protocol):
    """The queue, for one message at a time. StoreFull and StoreBroken leave each of these."""

    def begin(self) -> str:
        """Take what writing needs; the id of the message that begins."""

    async def commit(self, step: Callable[[Queue], T], *, long: bool = False) -> T:
        """Run the step and wait for its commit. A long one keeps others waiting."""

    def end(self) -> None:
        """The message is over, one way or the other. Called once for each `begin` that succeeded."""


def refusal(error: Exception) -> Refusal:
    """What an SMTP client is told about an error that the command has an exit code for."""
    match error:
        case Refused(code=exit_code, status=status):
            code, default = REPLIES.get(status) or REPLIES.get(exit_code, (554, "5.0.0"))
            return Refusal(code, status or default, str(error))
        case StoreFull():
            return Refusal(452, "4.3.1", f"{error}: nothing was queued, try again later")
        case StoreDamaged():
            return Refusal(451, "4.3.0", f"queue.db is damaged ({error}): nothing was queued, try again later")
        case StoreBroken():
            return Refusal(451, "4.3.0", f"queue.db cannot be written ({error}): the message may have been queued")
    return Refusal(451, "4.3.0", "an error in pysendmail itself (see its log): nothing was queued, try again")


class Reception:
    """The dialogue of one client."""

    def __init__(
        self,
        invocation: Invocation,
        *,
        caller: Caller,
        config: Config,
        aliases: Callable[[], Aliases],
        store: Store,
        events: Events,
        apart: Apart,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._apart = apart
        self._turn = turn
        self._invocation = replace(invocation, mode=Mode.SUBMIT, dot_ends=False, sender=None, notify=frozenset())
        self._caller = caller
        self._config = config
        self._aliases = aliases
        self._store = store
        self._events = events
        self._submission: Submission | None = None
        self._service = Service(
            Limits(
                hostname=config.hostname,
                message_octets=config.queue.max_message_size,
                recipients=config.queue.max_recipients,
            )
        )
        self._stopping = False
        self._code = EX_OK

    async def run(self, read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]]) -> int:
        """All of it; the exit code: 0 after QUIT or the end of input, 75 after a 421.

        `read` gives b"" at the end, and TimeoutError when nothing has come for IDLE_S or `idle` became true.
        """
        service = self._service
        try:
            await self._answer(write)
            while not service.closed:
                if self.idle:
                    service.abandon("4.3.2", "the daemon stops, connect again")
                else:
                    try:
                        data = await read()
                        if not data:
                            break
                        service.feed(data)
                    except TimeoutError:
                        if not self._stopping:
                            service.abandon("4.4.2", f"nothing came for {IDLE_S:.0f} seconds")
                await self._answer(write)
        finally:
            await self._drop()
        return self._code

    def claimed(self, origin: Origin) -> None:
        """What the client says of itself has come."""
        self._caller = replace(self._caller, origin=origin)

    def stop(self) -> None:
        """The daemon stops: take no further message, and end when the one under way is done."""
        self._stopping = True

    @property
    def idle(self) -> bool:
        """Whether it is to end now: no message is under way, and none is taken any more."""
        return self._stopping and not self._service.begun

    async def _answer(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Do what the client's octets ask for, as far as they have come. Replies that come together go out together."""
        said: list[bytes] = []

        async def speak() -> None:
            if said:
                await write(b"".join(said))
                said.clear()

        done = 0
        while (step := self._service.next()) is not None:
            match step:
                case Say(octets):
                    said.append(octets)
                case Begin() | Add():
                    self._decide(step)
                case Finish() | Take() | Drop() | Leave():
                    await speak()
                    await self._act(step)
                case _:
                    assert_never(step)
            done += 1
            if done % MAX_STEPS == 0:
                await speak()
                await self._turn()  # others have theirs, however many commands came at once
        await speak()

    async def _act(self, step: Finish | Take | Drop | Leave) -> None:
        """What may have to wait for the disk, and the end."""
        match step:
            case Finish():
                try:
                    queue_id = await self._finish()
                except Exception as error:
                    self._refuse(error)
                else:
                    self._service.accept(f"queued as {queue_id}")
            case Take():
                await self._take(step)
            case Drop():
                await self._drop()
            case Leave(reason):
                self._code = EX_TEMPFAIL if reason else EX_OK
                if reason and not self._stopping:
                    self._refused(EX_TEMPFAIL, f"SMTP: {reason}: connection closed")

    def _decide(self, step: Begin | Add) -> None:
        try:
            match step:
                case Begin():
                    self._begin(step)
                case Add(recipient):
                    assert self._submission is not None
                    self._submission.add(recipient)
        except Exception as error:
            self._refuse(error)
        else:
            self._service.accept("ok")

    def _begin(self, asked: Begin) -> None:
        queue_id = self._store.begin()
        try:
            self._submission = Submission(
                self._invocation,
                caller=self._caller,
                config=self._config,
                aliases=self._aliases(),
                queue_id=queue_id,
                submission_id=secrets.token_bytes(16),
                mail=asked,
            )
        except BaseException:
            self._store.end()
            raise

    async def _take(self, piece: Take) -> None:
        submission = self._submission
        if submission is None:  # refused at an earlier piece
            return
        try:
            submission.feed(piece.octets)
            while (step := submission.spill()) is not None:
                await self._store.commit(step)
        except Exception as error:
            self._refuse(error)
            await self._drop()

    async def _finish(self) -> str:
        submission = self._submission
        assert submission is not None
        step = await submission.finished(time.time(), self._apart)
        accepted = await self._store.commit(step, long=submission.long)
        submission.stored = False
        self._submission = None
        try:
            self._store.end()
            log_accepted(self._events, submission, accepted)
        except Exception as error:  # ours, and no reason to say that the message is not
            self._events.bug(error, queue_id=submission.queue_id)
        return submission.queue_id

    async def _drop(self) -> None:
        """Nothing of what was begun stays."""
        submission, self._submission = self._submission, None
        if submission is None:
            return
        try:
            if submission.stored:
                with suppress(StoreFull, StoreBroken):
                    await self._store.commit(submission.forget)
        finally:
            self._store.end()

    def _refuse(self, error: Exception) -> None:
        said = refusal(error)
        if isinstance(error, (Refused, StoreFull, StoreBroken)):
            self._refused(error.code if isinstance(error, Refused) else EX_TEMPFAIL, str(error))
        else:
            self._events.bug(error, uid=self._caller.uid)
        self._service.refuse(said)

    def _refused(self, code: int, reason: str) -> None:
        self._events.refused(uid=self._caller.uid, code=code, reason=reason)


def log_accepted(events: Events, submission: Submission, accepted: Accepted) -> None:
    """The event of a message that is ours now."""
    new = submission.new
    if accepted.again or new is None:
        return
    events.accepted(
        queue_id=new.queue_id,
        message_id=new.message_id,
        sender=new.envelope.sender,
        uid=new.uid,
        size=len(new.header) + 2 + new.body_size,
        recipients=len(new.destinations),
        kind=new.kind,
        stray=submission.stray,
        reencoded=submission.reencoded,
        tag=submission.tag,
        pid=new.pid,
        command=new.command,
        unit=new.unit,
    )
