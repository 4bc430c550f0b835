"""Direct: a command without a daemon, by somebody who may write the queue: root, a container, a user's own instance.

It reads its input, takes queue.lock, opens the queue itself and commits; whoever starts next delivers, and a daemon
that has started meanwhile gets the message. Root first becomes the
directory's owner, so that it never leaves a root-owned file there; the uid recorded stays the caller's. Without
that right: 75 for mail, saying which socket was tried and that nothing was queued, 69 for the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from pysendmail import argv as command_line
from pysendmail import check, config_file, mailq, modes, probe, schema, status, terminal, tlspolicy, whereto
from pysendmail.aliases import Aliases
from pysendmail.argv import Invocation, Mode, UsageError
from pysendmail.config import Config
from pysendmail.config_file import ConfigError, Instance, Loaded
from pysendmail.control import Control, ControlError, Right
from pysendmail.events import Events, Lines
from pysendmail.exits import EX_CONFIG, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.origin import origin
from pysendmail.postmaster import Postmaster
from pysendmail.queue import Queue
from pysendmail.reception import IDLE_S, Reception
from pysendmail.relay import Relay
from pysendmail.schema import SchemaError
from pysendmail.secrets import Secrets
from pysendmail.smtp.reply import printable
from pysendmail.spool import (
    QueueBusy,
    QueueError,
    QueueLock,
    Reserve,
    acting_as,
    answers,
    become,
    directory_owner,
    may_write,
    takes_mail,
)
from pysendmail.status import Circumstances
from pysendmail.submission import Caller, Refused, Submission, envelope_sender
from pysendmail.thin import client
from pysendmail.writer import StoreBroken, StoreFull, is_full

T = TypeVar("T")
READ_OCTETS = 256 * 1024
DAEMON_IS_BACK = -1  # what `run` returns instead of an exit code; the thin client has it too


def _instance(config_path: str | None) -> Instance:
    return config_file.locate(config_path, *client.trusted_environ())


def takes_over(config_path: str | None) -> bool:
    """Whether this caller may write the queue and nobody holds it: the socket is a dead daemon's."""
    try:
        directory = config_file.load_or_last_good(_instance(config_path)).config.queue.directory
        if not may_write(directory):
            return False
        lock = QueueLock(directory)
        if not lock.path.exists():
            return True
        lock.acquire(0.0)
        lock.release()
    except (ConfigError, QueueError, OSError):
        return False
    return True


def run(
    argv: tuple[bytes, ...],
    environ: Mapping[bytes, bytes],
    chunks: Iterator[bytes],
    submission_id: bytes,
    config_path: str | None,
    socket_path: str,
) -> int:
    """One command line of sendmail or its other names, in this process; returns the exit code.

    DAEMON_IS_BACK instead: a daemon has started meanwhile and takes the message, all of which is standard input again.
    """
    name = printable(argv[0].rpartition(b"/")[2], 40) if argv else "sendmail"
    quiet, undone = False, "nothing was queued"
    try:
        invocation = command_line.parse(argv)
        quiet = invocation.error_mode == "quiet"
        for warning in () if quiet else invocation.warnings:
            print(f"{name}: {warning}", file=sys.stderr)
        instance = _instance(config_path)
        if invocation.mode is Mode.CHECK:
            return _check(instance)
        if invocation.mode is Mode.DAEMON:
            return _daemon(instance, once=False)
        loaded = config_file.load_or_last_good(instance)
        config = loaded.config
        if invocation.mode is Mode.SUBMIT:
            return _submit(invocation, environ, chunks, submission_id, config, socket_path)
        if invocation.mode is Mode.SMTP:
            return asyncio.run(_smtp(invocation, environ, chunks, config, socket_path))
        undone = modes.UNDONE
        asyncio.run(_perform(invocation, loaded, socket_path, chunks))
        if invocation.mode is Mode.FLUSH and invocation.wait:
            return _daemon(instance, once=True)
    except UsageError as error:
        return _failed(name, EX_USAGE, str(error))
    except (Refused, ControlError) as error:
        return _failed(name, error.code, "" if quiet else str(error))
    except ConfigError as error:
        return _failed(name, EX_CONFIG, str(error))
    except sqlite3.Error as error:
        where = f"{config.queue.directory}/queue.db"
        return _failed(name, EX_TEMPFAIL, f"{where}: {error}: {undone}; pysendmail check says what to do")
    except SchemaError as error:
        return _failed(name, EX_TEMPFAIL, f"{error}; {undone}")
    except QueueError as error:
        return _failed(name, EX_TEMPFAIL, f"{error}: {undone}, try again")
    except OSError as error:
        return _failed(name, EX_TEMPFAIL, f"{error}: {undone}; pysendmail check says what to do")
    return EX_OK


def _failed(name: str, code: int, text: str) -> int:
    for line in text.splitlines():
        print(f"{name}: {printable(line)}", file=sys.stderr)
    return code


def _submit(
    invocation: Invocation,
    environ: Mapping[bytes, bytes],
    chunks: Iterator[bytes],
    submission_id: bytes,
    config: Config,
    socket_path: str,
) -> int:
    uid = os.getuid()
    _check_right(config, socket_path)
    aliases = Aliases.load(config.aliases.file)
    caller = Caller.known(uid, os.getpid(), environ)

    def begin(queue_id: str) -> Submission:
        return Submission(
            invocation,
            caller=caller,
            config=config,
            aliases=aliases,
            queue_id=queue_id,
            submission_id=submission_id,
        )

    with _unnamed_file(config.queue.directory) as held, ExitStack() as stack:
        # All of it is read before the lock is taken: whoever writes slowly keeps no other command waiting.
        _read_all(chunks, begin(""), held)
        try:
            queue = stack.enter_context(_owned_queue(config, unless=partial(answers, Path(socket_path))))
        except QueueBusy:
            if not answers(Path(socket_path)):
                raise
            os.dup2(held.fileno(), 0)
            return DAEMON_IS_BACK
        submission = begin(queue.ids.new(time.time()))
        try:
            while not submission.ended and (chunk := held.read(READ_OCTETS)):
                submission.feed(chunk)
                while (step := submission.spill()) is not None:
                    _commit(queue, step)
            accepted = _commit(queue, submission.finish(time.time()))
        except BaseException:
            _commit(queue, submission.forget)
            raise
    if invocation.verbose or os.isatty(2):
        print(f"{accepted.queue_id}: queued; no daemon is running, it leaves when one does", file=sys.stderr)
    return EX_OK


def _check_right(config: Config, socket_path: str) -> None:
    directory = config.queue.directory
    if not may_write(directory):
        raise Refused(
            EX_TEMPFAIL,
            f"no daemon answers at {socket_path}, and you may not write the queue in {directory}: "
            "nothing was queued; start the daemon (pysendmail daemon) or ask your administrator",
        )


async def _smtp(
    invocation: Invocation,
    environ: Mapping[bytes, bytes],
    chunks: Iterator[bytes],
    config: Config,
    socket_path: str,
) -> int:
    """-bs: the dialogue of `reception` on our own standard input and output."""
    try:
        _check_right(config, socket_path)
    except Refused:
        client.no_greeting()
        raise
    aliases = Aliases.load(config.aliases.file)
    reception = Reception(
        invocation,
        caller=Caller(uid=os.getuid(), origin=origin(os.getpid(), environ)),
        config=config,
        aliases=lambda: aliases,
        store=QueueInTurns(config, Path(socket_path)),
        apart=asyncio.to_thread,
        turn=partial(asyncio.sleep, 0),
        events=_silent(),
    )

    # Neither waits for anything else: there is nothing else to do in this process.
    async def read() -> bytes:
        if not client.wait_for(0, seconds=IDLE_S):
            raise TimeoutError
        return next(chunks, b"")

    async def write(octets: bytes) -> None:
        if not client.emit(1, octets, IDLE_S):
            raise ConnectionError("nobody reads our answers")

    return await reception.run(read, write)


class QueueInTurns:
    """The queue for a dialogue: ours from MAIL to the end of that message, another command's in between."""

    def __init__(self, config: Config, socket: Path) -> None:
        self._config = config
        self._socket = socket
        self._owned = ExitStack()
        self._queue: Queue | None = None

    def begin(self) -> str:
        try:
            self._queue = self._owned.enter_context(_owned_queue(self._config, unless=partial(answers, self._socket)))
        except (QueueError, SchemaError, OSError, sqlite3.Error) as error:
            raise Refused(EX_TEMPFAIL, f"{error}: nothing was queued, connect again", "4.3.0") from None
        return self._queue.ids.new(time.time())

    async def commit(self, step: Callable[[Queue], T], *, long: bool = False) -> T:
        assert self._queue is not None
        try:
            return _commit(self._queue, step)
        except sqlite3.Error as error:
            raise (StoreFull if is_full(error, self._config.queue.directory) else StoreBroken)(str(error)) from None

    def end(self) -> None:
        self._owned.close()


def _silent() -> Events:
    """A command has no log of its own."""
    return Events(Lines(None))


@contextmanager
def _unnamed_file(directory: Path) -> Iterator[IO[bytes]]:
    """A file for one message, as large as it may be. It lies where the message will, and goes with the process."""
    with acting_as(*directory_owner(directory)):
        file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - opened by its owner, used by us
    with file:
        yield file


def _read_all(chunks: Iterator[bytes], trial: Submission, file: IO[bytes]) -> None:
    """Standard input up to its end, into the file. What can be refused by now is refused, and not read any further."""
    for chunk in chunks:
        file.write(chunk)
        trial.feed(chunk)
        while trial.spill() is not None:
            pass  # only looked at: it is stored under the lock
        if trial.ended:
            break
    file.seek(0)


def _check(instance: Instance) -> int:
    findings = check.run(instance)
    sys.stdout.write(check.render(findings))
    return check.exit_code(findings)


def _daemon(instance: Instance, *, once: bool) -> int:
    from pysendmail import daemon  # its parts are needed for nothing else here

    return daemon.serve(instance, once=once)


def _commit(queue: Queue, step: Callable[[Queue], T]) -> T:
    with queue.transaction():
        return step(queue)


@contextmanager
def _owned_queue(config: Config, *, unless: Callable[[], bool] = lambda: False) -> Iterator[Queue]:
    """The queue, ours for as long as the command lasts. QueueBusy: another's, as it stays when `unless` says so."""
    directory = config.queue.directory
    uid, gid = directory_owner(directory)
    lock = QueueLock(directory)
    with acting_as(uid, gid):
        lock.acquire(unless=unless)  # or else root stays root: a daemon is to see who submits
    try:
        if os.geteuid() == 0:
            become(uid, gid)
        queue = Queue.open(directory)
        try:
            Reserve(directory, config.queue.reserve).fill()
            yield queue
        finally:
            queue.close()
    finally:
        lock.release()


class OwnStore:
    """The two doors to queue.db for one command: looking needs no lock, changing takes it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def look(self, step: Callable[[Queue], T]) -> T:
        queue = Queue.open_readonly(self._config.queue.directory)
        try:
            return step(queue)
        finally:
            queue.close()

    async def change(self, step: Callable[[Queue], T]) -> T:
        with _owned_queue(self._config) as queue:
            return _commit(queue, step)


def control(loaded: Loaded, socket_path: str) -> tuple[Control, Right]:
    """Work on the queue without a daemon. ControlError (69) for who may not."""
    config = loaded.config
    directory = config.queue.directory
    if not may_write(directory):
        raise ControlError(
            EX_UNAVAILABLE,
            f"no daemon answers at {socket_path}, and you may not read the queue in {directory}: "
            "start the daemon (pysendmail daemon)",
        )
    uid = os.getuid()
    if directory.exists() and os.geteuid() == 0:
        become(*directory_owner(directory))
    if not _is_up_to_date(directory):
        with _owned_queue(config):
            pass  # a queue that was never used is an empty queue; an older version's becomes one of ours
    store = OwnStore(config)
    relays = {smarthost.name: Relay(smarthost) for smarthost in config.smarthost}
    with closing(Queue.open_readonly(directory)) as queue:
        for name, (seen_at, sent_at) in queue.smarthosts().items():
            if name in relays:
                relays[name].tls_seen_at, relays[name].last_sent_at = seen_at, sent_at
    aliases = Aliases.load(config.aliases.file)

    async def probe_one(name: str, question: probe.Question | None) -> dict[str, Any]:
        smarthost, seen_at = relays[name].smarthost, relays[name].tls_seen_at
        return await probe.probe(
            smarthost,
            hostname=config.hostname,
            timeout=config.timeout,
            plan=tlspolicy.plan(smarthost, tls_seen_at=seen_at, now=time.time(), failed_s=None),
            now=time.time(),
            secrets=Secrets(),
            question=question,
            max_message_size=config.queue.max_message_size,
        )

    async def circumstances() -> Circumstances:
        return Circumstances(
            daemon=False,
            config_error=str(loaded.error) if loaded.error else None,
            takes_mail=takes_mail(directory, config.queue.reserve),
        )

    async def forget(name: str) -> None:
        await store.change(lambda queue: queue.remember_tls(name, None))

    return (
        Control(
            daemon=False,
            config=config,
            store=store,
            events=_silent(),
            postmaster=Postmaster(config, lambda: aliases),
            circumstances=circumstances,
            relays=lambda: relays,
            flush=lambda: None,
            probe=probe_one,
            forget_tls=forget,
        ),
        Right(uid=uid, all=True),
    )


def _is_up_to_date(directory: Path) -> bool:
    """Whether a queue is there, and no older than we are. Who may look at it here may bring it up to date."""
    if not (directory / "queue.db").exists():
        return False
    with closing(Queue.open_readonly(directory)) as queue:
        return not schema.is_older(queue.connection)


async def _perform(invocation: Invocation, loaded: Loaded, socket_path: str, chunks: Iterator[bytes]) -> None:
    config = loaded.config
    if invocation.mode in modes.OF_THE_QUEUE:
        desk, right = control(loaded, socket_path)
        wanted = replace(invocation, wait=False)  # -qf: what is due now is tried by a daemon, as whom we go on
        if shown := mailq.is_table(invocation) and os.isatty(1):
            wanted = replace(wanted, format="json")
        texts = modes.on_queue(wanted, desk, right)
        if heading := mailq.heading(invocation, config.file):
            print(f"{invocation.name}: {heading}", file=sys.stderr)
        if shown:
            terminal.show_queue([json.loads(line) async for text in texts for line in text.splitlines()])
            return
    else:
        relays = {smarthost.name: Relay(smarthost) for smarthost in config.smarthost}
        now = whereto.Circumstances(
            sender=envelope_sender(invocation, Caller(uid=os.getuid()), config),
            config=config,
            aliases=Aliases.load(config.aliases.file),
            obstacle=lambda route: status.obstacle(route, relays),
        )
        texts = modes.elsewhere(invocation, now, whereto.lines(_each(chunks)))
    async for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


async def _each(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
