"""Server: the daemon's two Unix sockets. A conversation is one command: argv and stdin in, output and a code back.

Who calls is what the kernel says (SO_PEERCRED), never what he says. An error in a conversation ends that
conversation and nothing else: the `submit` socket is open to every local process. Bounds: frames as in `frames`,
[access] connections for each uid, HELLO_S until a command is named, IDLE_S between two pieces of its input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from pysendmail import __version__, argv, frames, mailq
from pysendmail.aliases import Aliases
from pysendmail.argv import Invocation, Mode, UsageError
from pysendmail.config import Config
from pysendmail.control import Control, ControlError, Right
from pysendmail.events import Events, Value, line
from pysendmail.exits import EX_CONFIG, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.queue_id import QueueIds
from pysendmail.records import Accepted
from pysendmail.smtp.reply import printable
from pysendmail.submission import Caller, Refused, Submission
from pysendmail.writer import StoreBroken, StoreFull, Writer

HELLO_S = 30.0
IDLE_S = 3600.0  # a person at a terminal thinks
VERBOSE_S = 300.0  # -v stays so long for the first attempt
VERBOSE_FIRST_S = 2.0  # and looks so soon whether the smarthost rests
READ_OCTETS = 256 * 1024
MAX_PAUSE_OCTETS = 1024 * 1024  # unread output a client may pile up before it is waited for
_CREDENTIALS = struct.Struct("3i")


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


class Server:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._servers: list[asyncio.Server] = []
        self._by_uid: Counter[int] = Counter()
        self._pending: dict[bytes, asyncio.Future[int | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, sock: socket.socket, *, control: bool) -> None:
        """Answer on a socket that is bound already. Its path stays when we stop: it may be systemd's."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        task = loop.create_task(self._accept(sock, control))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, sock: socket.socket, control: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(sock)
            except OSError as error:
                # Out of descriptors, most likely: those who wait stay in the backlog until one is free.
                self.desk.events.emit("socket", error=str(error))
                await asyncio.sleep(0.1)
                continue
            task = loop.create_task(self._converse(peer, control))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self, grace_s: float) -> None:
        """Take no more; let the conversations under way end within `grace_s`."""
        current = {task for task in self._tasks if task.get_coro().__name__ == "_accept"}  # type: ignore[union-attr]
        for task in current:
            task.cancel()
        if rest := self._tasks - current:
            _, late = await asyncio.wait(rest, timeout=grace_s)
            for task in late:
                task.cancel()

    async def _converse(self, peer: socket.socket, control: bool) -> None:
        _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        limit = self.desk.config.access.connections
        reader, writer = await asyncio.open_unix_connection(sock=peer, limit=READ_OCTETS)
        conversation = Conversation(self.desk, reader, writer, Right(uid=uid, all=control), self._pending)
        if not control and uid != 0 and self._by_uid[uid] >= limit:
            await conversation.refuse(
                EX_TEMPFAIL,
                f"uid {uid} has {limit} commands under way ([access] connections): nothing was queued, try again",
            )
            return
        self._by_uid[uid] += 1
        try:
            await conversation.run()
        finally:
            self._by_uid[uid] -= 1
            if not self._by_uid[uid]:
                del self._by_uid[uid]


class Conversation:
    """One command of one client."""

    def __init__(
        self,
        desk: Desk,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        right: Right,
        pending: dict[bytes, asyncio.Future[int | None]],
    ) -> None:
        self._desk = desk
        self._reader = reader
        self._writer = writer
        self._right = right
        self._pending = pending
        self._decoder = frames.Decoder()
        self._frames: list[frames.Frame] = []
        self._name = "sendmail"

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
            await self.refuse(EX_TEMPFAIL, f"{error}: nothing was queued, make room or try again later")
        except StoreBroken as error:
            await self.refuse(
                EX_TEMPFAIL, f"queue.db cannot be written ({error}): the message may have been queued, try again later"
            )
        except Exception as error:  # ours: it costs this conversation
            self._desk.events.bug(error, uid=self._right.uid)
            await self.close(EX_TEMPFAIL, "an error in pysendmail itself (see its log): nothing was queued, try again")
        finally:
            self._writer.close()

    # -- frames --

    async def _frame(self, patience: float) -> frames.Frame:
        while not self._frames:
            async with asyncio.timeout(patience):
                data = await self._reader.read(READ_OCTETS)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    async def _say(self, text: str | bytes, kind: bytes = frames.STDOUT) -> None:
        self._writer.write(frames.output(kind, text.encode() if isinstance(text, str) else text))
        if self._writer.transport.get_write_buffer_size() > MAX_PAUSE_OCTETS:
            await self._writer.drain()

    async def refuse(self, code: int, error: str) -> None:
        """The end of what is not done, which the log knows too."""
        self._desk.events.refused(uid=self._right.uid, code=code, reason=error)
        await self.close(code, error)

    async def close(self, code: int, error: str = "") -> None:
        """The end: words on stderr if there are any, and the exit code."""
        with suppress(ConnectionError):
            if error:
                for text in error.splitlines():
                    await self._say(f"{self._name}: {printable(text)}\n", frames.STDERR)
            self._writer.write(frames.encode(frames.EXIT, bytes((code,))))
            async with asyncio.timeout(HELLO_S):
                await self._writer.drain()
        self._writer.close()

    # -- commands --

    async def _command(self) -> None:
        hello = await self._frame(HELLO_S)
        version, submission_id = frames.parse_hello(hello.payload)
        if version not in frames.VERSIONS:
            await self.close(
                EX_UNAVAILABLE,
                f"this sendmail speaks version {version}, the daemon does not: install one release of both",
            )
            return
        frame = await self._frame(HELLO_S)
        if frame.kind == frames.ASK:
            await self._ask(submission_id)
            return
        arguments = frames.parse_argv(frame.payload)
        self._name = printable(arguments[0].rpartition(b"/")[2], 40) or "sendmail"
        if self._name == "pysendmail":
            await self._request(arguments[1:])
            return
        invocation = argv.parse(arguments)
        await self._invoke(invocation, submission_id)

    async def _ask(self, submission_id: bytes) -> None:
        """What became of a submission whose answer was lost: its code, or that nothing was queued."""
        if (pending := self._pending.get(submission_id)) is not None:
            code = await asyncio.shield(pending)
        else:
            known = await self._desk.writer.run(lambda queue: queue.known(submission_id))
            code = None if known is None else EX_OK
        if code is None:
            self._writer.write(frames.encode(frames.UNKNOWN))
            await self._writer.drain()
        else:
            await self.close(code)

    async def _request(self, arguments: tuple[bytes, ...]) -> None:
        """An administration command: one JSON object in, JSON Lines out."""
        try:
            request: Any = json.loads(arguments[0]) if arguments else None
        except ValueError:
            request = None
        if not isinstance(request, dict):
            raise ControlError(EX_USAGE, "a request is one JSON object")
        async for entry in self._desk.control.answer(self._right, request):
            await self._say(json.dumps(entry) + "\n")
        await self.close(EX_OK)

    async def _invoke(self, invocation: Invocation, submission_id: bytes) -> None:
        for warning in invocation.warnings:
            await self._say(f"{self._name}: {warning}\n", frames.STDERR)
        match invocation.mode:
            case Mode.SUBMIT:
                await self._submit(invocation, submission_id)
            case Mode.LIST | Mode.FLUSH:
                if invocation.format != "json" and (heading := mailq.heading(self._desk.config.file)):
                    await self._say(f"{self._name}: {heading}\n", frames.STDERR)
                async for text in perform(invocation, self._desk.control, self._right):
                    await self._say(text)
                await self.close(EX_OK)
            case _:
                await self._say(answer(invocation, self._desk.aliases()))
                await self.close(EX_OK)

    async def _submit(self, invocation: Invocation, submission_id: bytes) -> None:
        # Known from its first frame on: who asks for it meanwhile waits, and is never told that nothing was queued
        # while it may still be.
        pending: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._pending[submission_id] = pending
        submission = None
        try:
            submission = await self._receive(invocation, submission_id)
            with self._desk.events.follow(submission.queue_id) as following:
                accepted = await self._desk.writer.run(submission.finish(time.time()))
                submission.stored = False
                pending.set_result(EX_OK)
                self._log(submission, accepted)
                if invocation.verbose and not accepted.again:
                    await self._show_attempts(submission, following)
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

    async def _receive(self, invocation: Invocation, submission_id: bytes) -> Submission:
        """All of stdin, up to its end or a lone dot."""
        desk = self._desk
        frame = await self._frame(IDLE_S)
        name = ""
        if frame.kind == frames.ENVIRONMENT:
            name = frames.parse_environment(frame.payload).get(b"NAME", b"").decode("utf-8", "replace")
            frame = await self._frame(IDLE_S)
        submission = Submission(
            invocation,
            caller=Caller(uid=self._right.uid, full_name=name),
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
                    frame = await self._frame(IDLE_S)
        except BaseException:
            if submission.stored:
                await self._forget(submission)
            raise
        return submission

    async def _forget(self, submission: Submission) -> None:
        """Nothing of a broken off submission stays."""
        with suppress(StoreFull, StoreBroken):
            await self._desk.writer.run(submission.forget)

    def _log(self, submission: Submission, accepted: Accepted) -> None:
        new = submission.new
        if accepted.again or new is None:
            return
        self._desk.events.accepted(
            queue_id=new.queue_id,
            message_id=new.message_id,
            sender=new.envelope.sender,
            uid=new.uid,
            size=len(new.header) + 2 + new.body_size,
            recipients=len(new.destinations),
            kind=new.kind,
            stray=submission.stray,
            reencoded=submission.reencoded,
        )

    async def _show_attempts(
        self, submission: Submission, following: asyncio.Queue[tuple[str, dict[str, Value]]]
    ) -> None:
        """-v: what happens to the message, until each recipient has had an attempt."""
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
                    await self._say(f"{submission.queue_id} is queued and waits: {why}\n")
                    return
                patience = frames.ALIVE_S
                self._writer.write(frames.encode(frames.STDERR))  # a sign of life: the client goes on waiting
                continue
            await self._say(line(event, fields) + "\n")
            if event == "outcome":
                waiting.discard(str(fields.get("recipient")))


async def perform(invocation: Invocation, desk: Control, right: Right) -> AsyncIterator[str]:
    """mailq and the like: the modes of sendmail(8) that work on the queue."""
    if invocation.mode is Mode.FLUSH:
        async for _ in desk.flush(right, {}):
            pass
        return
    layouts = {
        "postfix": mailq.postfix,
        "sendmail": mailq.sendmail,
        "table": mailq.table,
        "json": mailq.jsonl,
    }
    async for text in layouts[invocation.format or "postfix"](desk.waiting(right, {})):
        yield text


def answer(invocation: Invocation, aliases: Aliases) -> str:
    """The modes that need neither a message nor the queue."""
    match invocation.mode:
        case Mode.ALIASES:
            if problems := (*aliases.problems, *aliases.loops()):
                raise Refused(EX_CONFIG, "\n".join(str(problem) for problem in problems))
            targets = aliases.targets.values()
            return f"{aliases.file}: {len(targets)} aliases, {sum(map(len, targets))} addresses in them\n"
        case Mode.VERSION:
            return f"pysendmail {__version__}\n"
        case Mode.HELP:
            return argv.help(invocation.name)
        case Mode.NOTHING:
            return ""
        case mode:
            raise UsageError(f"{mode}: this version of pysendmail does not do that")
