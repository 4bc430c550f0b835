"""Direct: a command without a daemon, by somebody who may write the queue: root, a container, a user's own instance.

It takes queue.lock, opens the queue itself and commits; whoever starts next delivers. Root first becomes the
directory's owner, so that it never leaves a root-owned file there; the uid recorded stays the caller's. Without
that right: 75 for mail, saying which socket was tried and that nothing was queued, 69 for the rest.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pysendmail import argv as command_line
from pysendmail import config_file, mailq, probe, server, tlspolicy
from pysendmail.aliases import Aliases
from pysendmail.argv import Invocation, Mode, UsageError
from pysendmail.config import Config
from pysendmail.config_file import ConfigError, Instance, Loaded
from pysendmail.control import Control, ControlError, Right
from pysendmail.events import Events, Lines
from pysendmail.exits import EX_CONFIG, EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.postmaster import Postmaster
from pysendmail.queue import Queue
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
from pysendmail.submission import Caller, Refused, Submission
from pysendmail.thin import client

T = TypeVar("T")
DAEMON_IS_BACK = -1  # what `run` returns instead of an exit code; the thin client has it too


def locate(config_path: str | None) -> Instance:
    environ, uid = client.trusted_environ()
    names = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}
    return config_file.locate(config_path, names, uid)


def takes_over(config_path: str | None) -> bool:
    """Whether this caller may write the queue and nobody holds it: the socket is a dead daemon's."""
    try:
        directory = config_file.load_or_last_good(locate(config_path)).config.queue.directory
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

    DAEMON_IS_BACK instead, with nothing read of `chunks`: a daemon has started meanwhile and takes the message.
    """
    name = printable(argv[0].rpartition(b"/")[2], 40) if argv else "sendmail"
    try:
        invocation = command_line.parse(argv)
        for warning in invocation.warnings:
            print(f"{name}: {warning}", file=sys.stderr)
        loaded = config_file.load_or_last_good(locate(config_path))
        config = loaded.config
        if invocation.mode is Mode.SUBMIT:
            return _submit(invocation, environ, chunks, submission_id, config, socket_path)
        if invocation.mode in (Mode.LIST, Mode.FLUSH):
            asyncio.run(_perform(invocation, loaded, socket_path))
        else:
            sys.stdout.write(server.answer(invocation, Aliases.load(config.aliases.file)))
            sys.stdout.flush()
    except UsageError as error:
        return _failed(name, EX_USAGE, str(error))
    except (Refused, ControlError) as error:
        return _failed(name, error.code, str(error))
    except ConfigError as error:
        return _failed(name, EX_CONFIG, str(error))
    except sqlite3.Error as error:
        where = f"{config.queue.directory}/queue.db"
        return _failed(name, EX_TEMPFAIL, f"{where}: {error}: nothing was queued; pysendmail check says what to do")
    except (QueueError, SchemaError, OSError) as error:
        return _failed(name, EX_TEMPFAIL, f"{error}: nothing was queued, try again")
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
    directory = config.queue.directory
    if not may_write(directory):
        raise Refused(
            EX_TEMPFAIL,
            f"no daemon answers at {socket_path}, and you may not write the queue in {directory}: "
            "nothing was queued; start the daemon (pysendmail daemon) or ask your administrator",
        )
    with ExitStack() as stack:
        try:
            queue = stack.enter_context(_owned_queue(config, unless=partial(answers, Path(socket_path))))
        except QueueBusy:
            if answers(Path(socket_path)):
                return DAEMON_IS_BACK  # nothing was read yet
            raise
        submission = Submission(
            invocation,
            caller=Caller(uid=uid, full_name=environ.get(b"NAME", b"").decode("utf-8", "replace")),
            config=config,
            aliases=Aliases.load(config.aliases.file),
            queue_id=queue.ids.new(time.time()),
            submission_id=submission_id,
        )
        try:
            for chunk in chunks:
                submission.feed(chunk)
                while (step := submission.spill()) is not None:
                    _commit(queue, step)
                if submission.ended:
                    break
            accepted = _commit(queue, submission.finish(time.time()))
        except BaseException:
            _commit(queue, submission.forget)
            raise
    new = submission.new
    if invocation.verbose and new is not None:
        print(f"queued as {accepted.queue_id}; no daemon is running, so nothing is tried yet")
    return EX_OK


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
    if not (directory / "queue.db").exists():
        with _owned_queue(config):
            pass  # a queue that was never used is an empty queue
    store = OwnStore(config)
    relays = {smarthost.name: Relay(smarthost) for smarthost in config.smarthost}
    with closing(Queue.open_readonly(directory)) as queue:
        for name, (seen_at, sent_at) in queue.smarthosts().items():
            if name in relays:
                relays[name].tls_seen_at, relays[name].last_sent_at = seen_at, sent_at
    aliases = Aliases.load(config.aliases.file)

    async def probe_one(name: str) -> dict[str, Any]:
        smarthost, seen_at = relays[name].smarthost, relays[name].tls_seen_at
        return await probe.probe(
            smarthost,
            hostname=config.hostname,
            timeout=config.timeout,
            plan=tlspolicy.plan(smarthost, tls_seen_at=seen_at, now=time.time(), failed_s=None),
            secrets=Secrets(),
        )

    async def forget(name: str) -> None:
        await store.change(lambda queue: queue.remember_tls(name, None))

    return (
        Control(
            config=config,
            store=store,
            events=Events(Lines(None)),
            postmaster=Postmaster(config, lambda: aliases),
            circumstances=lambda: Circumstances(
                daemon=False,
                config_error=str(loaded.error) if loaded.error else None,
                takes_mail=takes_mail(directory, config.queue.reserve),
            ),
            relays=lambda: relays,
            flush=lambda: None,
            probe=probe_one,
            forget_tls=forget,
        ),
        Right(uid=uid, all=True),
    )


async def _perform(invocation: Invocation, loaded: Loaded, socket_path: str) -> None:
    desk, right = control(loaded, socket_path)
    if invocation.format != "json" and (heading := mailq.heading(loaded.config.file)):
        print(f"{invocation.name}: {heading}", file=sys.stderr)
    async for text in server.perform(invocation, desk, right):
        sys.stdout.write(text)
    sys.stdout.flush()
