"""Server: the daemon's two Unix sockets. A conversation is one command: argv and stdin in, output and a code back.

Who calls is what the kernel says (SO_PEERCRED), never what he says. An error in a conversation ends that
conversation and nothing else: the `submit` socket is open to every local process. Bounds: frames as in `frames`,
[access] connections for each uid, HELLO_S until a command is named, IDLE_S for each piece of its input, and a
quarter of the descriptors for all conversations on `submit`, as for those by SMTP; `control` has its place beside that.

Whoever is over his limit is turned away as he comes, without a task and without being listened to: that has to cost
less than coming again. Work that takes longer than a moment is done for one conversation of a user at a time, so that
he who has twenty waits for himself; what takes longer than that is done in a thread.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from pysendmail import argv, explain, frames, mailq, modes, whereto
from pysendmail.aliases import Aliases
from pysendmail.argv import Invocation, Mode, UsageError
from pysendmail.channel import Channel
from pysendmail.config import Config
from pysendmail.control import Control, ControlError, Right
from pysendmail.events import Events, Value
from pysendmail.exits import EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.origin import NOBODY_SAID, Origin, origin
from pysendmail.queue import Queue
from pysendmail.queue_id import QueueIds
from pysendmail.reception import IDLE_S as DIALOGUE_S
from pysendmail.reception import Reception, log_accepted
from pysendmail.smtp.reply import printable
from pysendmail.sockets import BACKLOG, CONTROL, Listener
from pysendmail.submission import Caller, Refused, Submission, envelope_sender
from pysendmail.writer import StoreBroken, StoreDamaged, StoreFull, Writer

T = TypeVar("T")
FULL_S = 0.1  # without a descriptor for one more, until the next look
HELLO_S = 30.0
IDLE_S = 3600.0  # a person at a terminal thinks
VERBOSE_S = 300.0  # -v stays so long for the first attempt
VERBOSE_FIRST_S = 2.0  # and looks so soon whether the smarthost rests
SMALL_OCTETS = 4096  # so much at a time needs no turn
_CREDENTIALS = struct.Struct("3i")


class User:
    """The conversations of one uid: how many they are, and whose turn it is among them."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.connections = 0
        self._turn = asyncio.Lock()
        self._long = asyncio.Lock()

    async def turn(self) -> None:
        """Before a piece of work: the loop does one of his for each of everybody else's."""
        async with self._turn:
            await asyncio.sleep(0)

    async def apart(self, work: Callable[[], T]) -> T:
        """Long work, in a thread; his others wait for its end."""
        async with self._turn:
            return await asyncio.to_thread(work)

    async def alone(self, work: Callable[[], Awaitable[T]]) -> T:
        """A long step on the queue: one of his at a time, since others wait for its commit."""
        async with self._long:
            return await work()


class Desk:
    """What a conversation needs of the daemon; replaced as a whole by a reload."""

    def __init__(
        self,
        *,
        config: Config,
        aliases: Callable[[], Aliases],
        control: Control,
        writer: Writer,
        ids: QueueIds,
        events: Events,
    ) -> None:
        self.config = config
        self.aliases = aliases
        self.control = control
        self.writer = writer
        self.ids = ids
        self.events = events

    def store(self, user: User) -> WriterStore:
        return WriterStore(self.writer, self.ids, user)

    def reception(self, invocation: Invocation, user: User, origin: Origin = NOBODY_SAID) -> Reception:
        return Reception(
            invocation,
            caller=Caller(uid=user.uid, origin=origin),
            apart=user.apart,
            turn=user.turn,
            config=self.config,
            aliases=self.aliases,
            store=self.store(user),
            events=self.events,
        )


class WriterStore:
    """The queue of the daemon, as a Reception of that user wants it."""

    def __init__(self, writer: Writer, ids: QueueIds, user: User) -> None:
        self._writer = writer
        self._ids = ids
        self._user = user

    def begin(self) -> str:
        return self._ids.new(time.time())

    async def commit(self, step: Callable[[Queue], T], *, long: bool = False) -> T:
        work = partial(self._writer.run, step)
        return await (self._user.alone(work) if long else work())

    def end(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How those are met who come to a listening socket."""

    meet: Callable[[socket.socket], Coroutine[Any, Any, None] | None]  # None: there is nothing to talk about
    most: int | None = None  # so many conversations at a time, whoever comes; then they wait in the backlog


class Server:
    """`most`: so many conversations at a time on one door that is open to everybody."""

    def __init__(self, desk: Desk, *, most: int) -> None:
        self.desk = desk
        self.most = most
        self._listeners: dict[Listener, Door] = {}
        self._open: Counter[Door] = Counter()  # conversations
        self._full: set[Listener] = set()  # whose callers wait in the backlog until a conversation has ended
        self._stopping = False
        self._receptions: dict[Reception, Channel] = {}  # under way, to be told when we stop
        self._users: dict[int, User] = {}
        self._pending: dict[bytes, asyncio.Future[int | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, listener: Listener) -> None:
        """Answer commands on a socket that listens already."""
        control = listener.name == CONTROL
        self.attend(listener, Door(meet=self._everything) if control else Door(meet=self._own, most=self.most))

    def attend(self, listener: Listener, door: Door) -> None:
        """Take connections on a listening socket, each a task of its own, until `leave` or `stop`."""
        listener.sock.setblocking(False)
        self._listeners[listener] = door
        asyncio.get_running_loop().add_reader(listener.sock, self._accept, listener)

    def leave(self, listener: Listener) -> None:
        """Take no more connections there; those under way go on."""
        asyncio.get_running_loop().remove_reader(listener.sock)
        self._full.discard(listener)
        del self._listeners[listener]

    def _accept(self, listener: Listener) -> None:
        """Begin a conversation with everybody who waits."""
        loop = asyncio.get_running_loop()
        door = self._listeners[listener]
        for _ in range(BACKLOG):
            if door.most is not None and self._open[door] >= door.most:
                self._full.add(listener)
                loop.remove_reader(listener.sock)
                return
            try:
                peer, _ = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if self._stopping:
                    return  # nobody is left
                # Out of descriptors, most likely: those who wait stay in the backlog until one is free.
                self.desk.events.emit("socket", error=str(error))
                loop.remove_reader(listener.sock)
                loop.call_later(FULL_S, self._listen_again, listener)
                return
            peer.setblocking(False)
            conversation = door.meet(peer)
            if conversation is None:
                peer.close()
                continue
            task = loop.create_task(conversation)
            self._open[door] += 1
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, door))

    def _ended(self, door: Door, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open[door] -= 1
        while self._full:
            self._listen_again(self._full.pop())

    def _listen_again(self, listener: Listener) -> None:
        if listener in self._listeners and not self._stopping:
            asyncio.get_running_loop().add_reader(listener.sock, self._accept, listener)

    async def stop(self, grace_s: float) -> None:
        """Take no more; let the conversations under way end within `grace_s`.

        Who is in the backlog of a socket of ours has a conversation still: closing it would reset him. One that was
        handed over keeps its backlog for the daemon after us.
        """
        self._stopping = True
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.sock)
            if not listener.held:
                with suppress(OSError):
                    listener.sock.shutdown(socket.SHUT_RD)  # from now on connecting is refused: a restart, wait
                self._accept(listener)
        for reception, channel in self._receptions.items():
            reception.stop()
            if reception.idle:
                channel.interrupt()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()

    def _everything(self, peer: socket.socket) -> Coroutine[Any, Any, None] | None:
        """Who comes to `control`."""
        if (who := _peer(peer)) is None:
            return None
        return self._converse(peer, self._enter(who.uid), who.pid, everything=True)

    def _own(self, peer: socket.socket) -> Coroutine[Any, Any, None] | None:
        """Who comes to `submit`."""
        if (who := _peer(peer)) is None:
            return None
        if reason := self._too_many(who.uid):
            with suppress(OSError):
                peer.send(_turned_away(reason))
            return None
        return self._converse(peer, self._enter(who.uid), who.pid, everything=False)

    async def _converse(self, peer: socket.socket, user: User, pid: int, *, everything: bool) -> None:
        with self._stay(user):
            right = Right(uid=user.uid, all=everything)
            await Conversation(self.desk, Channel(peer), user, pid, right, self._pending, self.under_way).run()

    @contextmanager
    def place(self, uid: int) -> Iterator[User | str]:
        """A connection more for this user, as long as the context lasts, or the reason why he has none."""
        if reason := self._too_many(uid):
            yield reason
            return
        user = self._enter(uid)
        with self._stay(user):
            yield user

    def _too_many(self, uid: int) -> str:
        """Why this user may have no connection more, which the log knows too; "" if he may."""
        limit = self.desk.config.access.connections
        if uid == 0 or uid not in self._users or self._users[uid].connections < limit:
            return ""
        reason = f"uid {uid} has {limit} connections already ([access] connections)"
        self.desk.events.refused(uid=uid, code=EX_TEMPFAIL, reason=reason)
        return reason

    def _enter(self, uid: int) -> User:
        user = self._users.setdefault(uid, User(uid))
        user.connections += 1
        return user

    @contextmanager
    def _stay(self, user: User) -> Iterator[None]:
        try:
            yield
        finally:
            user.connections -= 1
            if not user.connections:
                del self._users[user.uid]

    @contextmanager
    def under_way(self, reception: Reception, channel: Channel) -> Iterator[None]:
        """As long as the context lasts, this dialogue is told when we stop."""
        self._receptions[reception] = channel
        try:
            yield
        finally:
            del self._receptions[reception]


class _Peer(NamedTuple):
    """By the kernel's word, of the moment when it connected. In another pid namespace than ours it has no pid: 0."""

    pid: int
    uid: int
    gid: int


def _peer(peer: socket.socket) -> _Peer | None:
    try:
        if peer.recv(1, socket.MSG_PEEK) == b"":
            return None  # he has gone before he said a word
    except BlockingIOError:
        pass
    except OSError:
        return None
    return _Peer(*_CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def _turned_away(reason: str) -> bytes:
    words = f"sendmail: {reason}: nothing was queued, try again\n"
    return frames.encode(frames.STDERR, words.encode()) + frames.encode(frames.EXIT, bytes((EX_TEMPFAIL,)))


class Conversation:
    """One command of one client."""

    def __init__(
        self,
        desk: Desk,
        channel: Channel,
        user: User,
        pid: int,
        right: Right,
        pending: dict[bytes, asyncio.Future[int | None]],
        under_way: Callable[[Reception, Channel], AbstractContextManager[None]],
    ) -> None:
        self._desk = desk
        self._channel = channel
        self._user = user
        self._pid = pid
        self._right = right
        self._pending = pending
        self._under_way = under_way
        self._clock = asyncio.get_running_loop().time
        self._decoder = frames.Decoder()
        self._frames: list[frames.Frame] = []
        self._name = "sendmail"
        self._quiet = False  # -oeq: the exit code says it all
        self._works = False  # on the queue: no message is handed in

    async def run(self) -> None:
        """From the first frame to the exit code. Nothing leaves here but cancellation."""
        try:
            await self._command()
        except (ConnectionError, EOFError, frames.FrameError, TimeoutError):
            pass  # the client is gone or is none of ours: nothing was queued for it
        except (Refused, ControlError) as error:
            await self.refuse(error.code, str(error))
        except UsageError as error:
            await self.refuse(EX_USAGE, str(error))
        except StoreFull as error:
            fate = modes.UNDONE if self._works else "nothing was queued"
            await self.refuse(EX_TEMPFAIL, f"{error}: {fate}, make room or try again later")
        except StoreDamaged as error:
            fate = modes.UNDONE if self._works else "nothing was queued"
            await self.refuse(EX_TEMPFAIL, f"queue.db is damaged ({error}): {fate}; pysendmail check says what to do")
        except StoreBroken as error:
            fate = modes.UNDONE if self._works else "the message may have been queued"
            await self.refuse(EX_TEMPFAIL, f"queue.db cannot be written ({error}): {fate}, try again later")
        except Exception as error:  # ours: it costs this conversation
            self._desk.events.bug(error, uid=self._right.uid)
            fate = modes.UNDONE if self._works else "nothing was queued"
            await self.close(EX_TEMPFAIL, f"an error in pysendmail itself (see its log): {fate}, try again")
        finally:
            self._channel.close()

    # -- frames --

    def _within(self, seconds: float) -> float:
        return self._clock() + seconds

    async def _frame(self, until: float) -> frames.Frame:
        """The next one; all of it has come by then, since a byte now and then says nothing."""
        while not self._frames:
            data = await self._channel.read(until - self._clock())
            if not data:
                raise EOFError
            if len(data) > SMALL_OCTETS:
                await self._user.turn()
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def _say(self, text: str | bytes, kind: bytes = frames.STDOUT) -> None:
        await self._channel.write(frames.output(kind, text.encode() if isinstance(text, str) else text))

    async def refuse(self, code: int, error: str) -> None:
        """The end of what is not done, which the log knows too."""
        self._desk.events.refused(uid=self._right.uid, code=code, reason=error)
        await self.close(code, error)

    async def close(self, code: int, error: str = "") -> None:
        """The end: words on stderr if there are any, and the exit code."""
        words = error.splitlines() if not self._quiet else ()
        said = [frames.output(frames.STDERR, f"{self._name}: {printable(text)}\n".encode()) for text in words]
        with suppress(ConnectionError, TimeoutError):  # who does not want to know need not
            await self._channel.write(b"".join((*said, frames.encode(frames.EXIT, bytes((code,))))), HELLO_S)
        self._channel.close()

    # -- commands --

    async def _command(self) -> None:
        if (opening := await self._opening()) is None:
            return
        submission_id, frame = opening
        if frame.kind == frames.ASK:
            await self._ask(submission_id)
            return
        arguments = frames.parse_argv(frame.payload)
        self._name = printable(arguments[0].rpartition(b"/")[2], 40) or "sendmail"
        if self._name == "pysendmail":
            await self._request(arguments[1:])
            return
        invocation = argv.parse(arguments)
        self._quiet = invocation.error_mode == "quiet"
        await self._invoke(invocation, submission_id)

    async def _opening(self) -> tuple[bytes, frames.Frame] | None:
        """The submission id and the frame that says what is wanted; None where no common language is spoken."""
        until = self._within(HELLO_S)
        version, submission_id = frames.parse_hello((await self._frame(until)).payload)
        if version in frames.VERSIONS:
            return submission_id, await self._frame(until)
        await self.close(
            EX_UNAVAILABLE,
            f"this sendmail speaks version {version}, the daemon does not: install one release of both",
        )
        return None

    async def _ask(self, submission_id: bytes) -> None:
        """What became of a submission whose answer was lost: its code, or that nothing was queued."""
        if (pending := self._pending.get(submission_id)) is not None:
            code = await asyncio.shield(pending)
        else:
            try:
                known = await self._desk.writer.run(lambda queue: queue.known(submission_id))
            except (StoreFull, StoreDamaged) as error:  # others wait for room: nobody has looked
                await self.close(EX_TEMPFAIL, f"{error}: the message may have been queued, look at mailq")
                return
            code = None if known is None else EX_OK
        if code is None:
            await self._channel.write(frames.encode(frames.UNKNOWN))
        else:
            await self.close(code)

    async def _request(self, arguments: tuple[bytes, ...]) -> None:
        """An administration command: one JSON object in, JSON Lines out."""
        self._works = True
        try:
            request: Any = json.loads(arguments[0]) if arguments else None
            json.dumps(request, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            raise ControlError(EX_USAGE, "a request is one JSON object")
        async for entry in self._desk.control.answer(self._right, request):
            if entry:
                await self._say(json.dumps(entry) + "\n")
            else:
                await self._channel.write(frames.encode(frames.STDOUT))  # a sign of life
        await self.close(EX_OK)

    async def _invoke(self, invocation: Invocation, submission_id: bytes) -> None:
        for warning in () if self._quiet else invocation.warnings:
            await self._say(f"{self._name}: {warning}\n", frames.STDERR)
        match invocation.mode:
            case Mode.SUBMIT:
                await self._submit(invocation, submission_id)
            case Mode.SMTP:
                await self._smtp(invocation)
            case mode if mode in modes.OF_THE_QUEUE:
                self._works = True
                if heading := mailq.heading(invocation, self._desk.config.file):
                    await self._say(f"{self._name}: {heading}\n", frames.STDERR)
                await self._show(modes.on_queue(invocation, self._desk.control, self._right))
            case _:
                desk = self._desk
                now = whereto.Circumstances(
                    sender=envelope_sender(invocation, Caller(uid=self._right.uid), desk.config),
                    config=desk.config,
                    aliases=desk.aliases(),
                    obstacle=desk.control.obstacle,
                )
                await self._show(self._in_turn(modes.elsewhere(invocation, now, whereto.lines(self._input()))))

    async def _show(self, texts: AsyncIterator[str]) -> None:
        """All of it, and 0. A sign of life, "", goes out at once."""
        async for text in texts:
            await self._say(text)
            if not text:
                await self._channel.write(frames.encode(frames.STDOUT))
        await self.close(EX_OK)

    async def _in_turn(self, texts: AsyncIterator[str]) -> AsyncIterator[str]:
        """The same; each of them may have taken a moment."""
        async for text in texts:
            yield text
            await self._user.turn()

    async def _input(self) -> AsyncIterator[bytes]:
        """Standard input as it comes."""
        while (frame := await self._frame(self._within(IDLE_S))).kind != frames.END:
            if frame.kind == frames.DATA and frame.payload:
                yield frame.payload

    async def _submit(self, invocation: Invocation, submission_id: bytes) -> None:
        # Known from its first frame on: who asks for it meanwhile waits, and is never told that nothing was queued
        # while it may still be.
        pending: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._pending[submission_id] = pending
        submission = None
        try:
            submission = await self._receive(invocation, submission_id)
            follow = self._desk.events.follow(submission.queue_id) if invocation.verbose else nullcontext()
            with follow as following:
                step = await submission.finished(time.time(), self._user.apart)
                accepted = await self._desk.store(self._user).commit(step, long=submission.long)
                submission.stored = False
                pending.set_result(EX_OK)
                try:
                    log_accepted(self._desk.events, submission, accepted)
                    if following is not None and not accepted.again:
                        await self._show_attempts(submission, following)
                except (ConnectionError, TimeoutError):
                    raise  # the client is gone
                except Exception as error:  # ours, and no reason to say that the message is not
                    self._desk.events.bug(error, queue_id=submission.queue_id)
        except Refused as error:
            if not pending.done():
                pending.set_result(error.code)
            raise
        finally:
            if not pending.done():
                pending.set_result(None)
            if self._pending.get(submission_id) is pending:
                del self._pending[submission_id]
            if submission is not None and submission.stored:
                await self._forget(submission)
        await self.close(EX_OK)

    async def _smtp(self, invocation: Invocation) -> None:
        """-bs: the client carries octets both ways."""
        reception = self._desk.reception(invocation, self._user, origin(self._pid, {}))

        async def read() -> bytes:
            while (frame := await self._frame(self._within(DIALOGUE_S))).kind != frames.END:
                if frame.kind == frames.ENVIRONMENT:  # before the client's first word, and after our greeting
                    reception.claimed(origin(self._pid, frames.parse_environment(frame.payload)))
                if frame.kind == frames.DATA and frame.payload:
                    return frame.payload
            return b""

        async def write(octets: bytes) -> None:
            await self._channel.write(frames.output(frames.STDOUT, octets), DIALOGUE_S)

        with self._under_way(reception, self._channel):
            code = await reception.run(read, write)
        await self.close(code)

    async def _receive(self, invocation: Invocation, submission_id: bytes) -> Submission:
        """All of stdin, up to its end or a lone dot."""
        desk = self._desk
        frame = await self._frame(self._within(IDLE_S))
        environment: Mapping[bytes, bytes] = {}
        if frame.kind == frames.ENVIRONMENT:
            environment = frames.parse_environment(frame.payload)
            frame = await self._frame(self._within(IDLE_S))
        submission = Submission(
            invocation,
            caller=Caller.known(self._right.uid, self._pid, environment),
            config=desk.config,
            aliases=desk.aliases(),
            queue_id=desk.ids.new(time.time()),
            submission_id=submission_id,
        )
        try:
            while frame.kind == frames.DATA and not submission.ended:
                submission.feed(frame.payload)
                while (step := submission.spill()) is not None:
                    await desk.writer.run(step)
                if not submission.ended:
                    frame = await self._frame(self._within(IDLE_S))
        except BaseException:
            if submission.stored:
                await self._forget(submission)
            raise
        return submission

    async def _forget(self, submission: Submission) -> None:
        """Nothing of a broken off submission stays."""
        with suppress(StoreFull, StoreBroken):
            await self._desk.writer.run(submission.forget)

    async def _show_attempts(
        self, submission: Submission, following: asyncio.Queue[tuple[str, dict[str, Value]]]
    ) -> None:
        """-v: what happens to the message, until each recipient has had an attempt; on stderr."""
        assert submission.new is not None
        waiting = {f"<{destination.recipient.address}>" for destination in submission.new.destinations}
        deadline = time.monotonic() + VERBOSE_S
        patience = VERBOSE_FIRST_S
        while waiting:
            try:
                async with asyncio.timeout(patience):
                    event, fields = await following.get()
            except TimeoutError:
                obstacles = [self._desk.control.obstacle(d.route) for d in submission.new.destinations]
                if None not in obstacles or time.monotonic() > deadline:
                    reasons = sorted({obstacle.reason for obstacle in obstacles if obstacle is not None})
                    why = "; ".join(reasons) or "no attempt has ended yet"
                    await self._say(f"{submission.queue_id}: queued, and waits: {why}\n", frames.STDERR)
                    return
                patience = frames.ALIVE_S
                await self._channel.write(frames.encode(frames.STDERR))  # a sign of life: the client goes on waiting
                continue
            if words := explain.happening({"event": event, **fields}):
                await self._say(f"{words}\n", frames.STDERR)
            if event == "outcome":
                waiting.discard(str(fields.get("recipient")))
