"""Daemon: puts the parts together and runs them: one process, one owner of the queue, no terminal.

Start: configuration (or the last good one), the queue's owner, queue.lock, sockets (those handed over by who starts
us, see `sockets`, or our own), recovery of what a crash left. Where that has to wait for room, whoever submits is
told so meanwhile.
SIGHUP reads the configuration again and keeps the one in use if the new one is broken. SIGTERM and SIGINT stop:
no new commands, what is on the wire ends within STOP_S, what is only claimed is given back. Whatever is cut off
there is found by the next start. Exit codes: 0; 75 the queue is busy or cannot be used; 78 no usable configuration,
or a socket handed over that is not.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pysendmail import config_file, journal, manager, probe, route, schedule, schema, status, threads
from pysendmail.alarms import Sight
from pysendmail.aliases import Aliases
from pysendmail.config import Config
from pysendmail.config_file import ConfigError, Instance, Loaded
from pysendmail.control import Control, ControlError, Right
from pysendmail.delivery import Delivery
from pysendmail.events import Complaints, Events
from pysendmail.exits import EX_CONFIG, EX_NOINPUT, EX_OK, EX_TEMPFAIL
from pysendmail.loopback import Loopback
from pysendmail.manager import STATUS_S, Manager
from pysendmail.metrics import Metrics, Tally
from pysendmail.postmaster import Postmaster
from pysendmail.pruning import prune
from pysendmail.queue import Queue
from pysendmail.reader import Reader
from pysendmail.records import Ended, LaneState, NewMessage
from pysendmail.schema import SchemaError
from pysendmail.secrets import Secrets
from pysendmail.server import Desk, Server
from pysendmail.settling import Settling
from pysendmail.sockets import SMTP, SUBMIT, HandOverError, Listener, astray, bind, handed_over
from pysendmail.spool import QueueError, QueueLock, Reserve, acting_as, answers, become, directory_owner, takes_mail
from pysendmail.status import Circumstances
from pysendmail.watch import Watch
from pysendmail.writer import RETRY_FULL_S, StoreBroken, StoreFull, Writer

T = TypeVar("T")
STOP_S = 25.0  # systemd and impatient people allow 30
PRUNE_AT_LEAST_S = 60.0
PRUNE_PAUSE_S = 0.1  # when there is more than goes at once
THREADS = 8  # for names to be resolved, files that may lie on a disk which does not answer, and long work
DAMAGED = "it is set aside, all others go on: see pysendmail(8), RECOVERY, A damaged database"
KEPT = "it is kept past its time, all else is pruned: see pysendmail(8), RECOVERY, A damaged database"
DESCRIPTORS = 4096  # if we may: the usual limit of 1024 is for programs that use select(2)
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # nothing is left for a loop or a thread's


class AliasBook:
    """The aliases as the file has them now."""

    def __init__(self, path: str) -> None:
        self._aliases = Aliases.load(path)

    def __call__(self) -> Aliases:
        self._aliases = self._aliases.refreshed()
        return self._aliases


class Daemon:
    def __init__(self, instance: Instance, loaded: Loaded, tally: Tally, manager: Manager) -> None:
        self._instance = instance
        self._manager = manager
        self._changed = asyncio.Event()
        self._config = loaded.config
        self._config_error: str | None = str(loaded.error) if loaded.error else None
        self._events = Events(tally)
        self._totals = tally.totals
        self._stop = asyncio.Event()
        self._recovered = asyncio.Event()
        self._store_error: str | None = None
        self._unreadable = 0  # messages set aside by this process
        self._delivery: Delivery | None = None
        self._server: Server | None = None
        self._loopback: Loopback | None = None
        self._metrics: Metrics | None = None
        self._rerouting: asyncio.Task[None] | None = None

    async def run(self, queue: Queue, listeners: Sequence[Listener], *, once: bool) -> int:
        """Serve until a signal comes; with `once`, until what is due has been tried."""
        directory = self._config.queue.directory
        loop = asyncio.get_running_loop()
        self._reserve = Reserve(directory, self._config.queue.reserve)
        self._reserve.fill()
        with threads.begun_within(threads.BEGIN_S):
            loop.set_default_executor(threads.pool(THREADS, "apart"))
            self._bodies = Reader(directory, "bodies")
            self._looks = Reader(directory, "looks")
            self._writer = Writer(
                queue, self._reserve, on_commit=self._committed, on_damage=self._damaged, on_broken=self._broken
            )
        self._ids = queue.ids
        self._watch = Watch(self._config, look=self._sight, events=self._events)
        self._configure(self._config)
        delivery = self._delivery
        assert delivery is not None
        self._server = server = Server(self._desk(), most=resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        recovery = self._hand_in_recovery()  # before anybody else's step
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        self._listen(server, listeners, once=once)
        work = loop.create_task(self._work(delivery, recovery, once=once))
        await self._look_for_room()
        if not once:
            self._metrics = Metrics(self._totals, look=self._report, alarms=lambda: self._watch.up, events=self._events)
            await self._metrics.configure(self._config)
        self._events.emit(
            "start",
            pid=os.getpid(),
            queue=str(directory),
            socket=None if once else str(self._config.daemon.socket),
            config=str(self._config.file),
            config_error=self._config_error,
        )
        for words in astray(listeners, self._config):
            self._events.emit("socket", error=words)
        stop = loop.create_task(self._stop.wait())
        others = [stop, loop.create_task(self._prune())]
        if not self._stop.is_set():  # a start that finds the store broken was none
            self._manager.ready()
        if not once:
            others.append(loop.create_task(self._watch.run()))
        if self._manager.listens:
            others.append(loop.create_task(self._attend(self._manager, delivery)))
        await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await self._end(work, delivery, server)
        failed = work.done() and not work.cancelled() and work.exception() is not None
        return EX_TEMPFAIL if self._store_error or failed else EX_OK

    def _listen(self, server: Server, listeners: Sequence[Listener], *, once: bool) -> None:
        """Take what comes; whoever came before waits in a backlog."""
        self._loopback = Loopback(server)
        for listener in listeners:
            if listener.name == SMTP:
                self._loopback.take(listener)
            else:
                server.listen(listener)
        if not once:
            self._loopback.configure(self._config.daemon.listen)

    async def _end(self, work: asyncio.Task[None], delivery: Delivery, server: Server) -> None:
        """Take no more, bring what is under way to its end within STOP_S, leave the queue as it should be found."""
        self._manager.stopping()
        self._events.emit("stopping", pid=os.getpid())
        clock = asyncio.get_running_loop().time
        deadline = clock() + STOP_S
        if self._loopback is not None:
            self._loopback.close()
        if self._metrics is not None:
            self._metrics.stop()
        await server.stop(min(STOP_S, 5.0))
        self._writer.hurry()
        await delivery.stop(deadline - clock())
        await asyncio.wait((work,), timeout=1)
        await self._bodies.stop()
        await self._looks.stop()
        await self._writer.stop()
        self._events.emit("stop", pid=os.getpid())

    # -- parts --

    def _configure(self, config: Config) -> None:
        self._config = config
        self._watch.configure(config)
        self._secrets = Secrets()
        self._aliases = AliasBook(config.aliases.file)
        self._postmaster = Postmaster(config, self._aliases)
        if self._delivery is None:
            self._delivery = Delivery(
                config,
                writer=self._writer,
                reader=self._bodies,
                reserve=self._reserve,
                events=self._events,
                policy=self._postmaster,
                secrets=self._secrets,
            )
        else:
            self._delivery.configure(config, self._postmaster, self._secrets)
        delivery = self._delivery
        self._control = Control(
            daemon=True,
            config=config,
            store=self,
            events=self._events,
            postmaster=self._postmaster,
            circumstances=self._circumstances,
            relays=lambda: delivery.relays,
            flush=delivery.flush,
            probe=self._probe,
            forget_tls=delivery.forget_tls,
            reload=self._reload,
        )

    def _desk(self) -> Desk:
        return Desk(
            config=self._config,
            aliases=self._aliases,
            control=self._control,
            writer=self._writer,
            ids=self._ids,
            events=self._events,
        )

    async def look(self, step: Callable[[Queue], T]) -> T:
        return await self._looks.run(step)

    async def change(self, step: Callable[[Queue], T]) -> T:
        return await self._writer.run(step)

    async def _probe(self, name: str, question: probe.Question | None) -> dict[str, Any]:
        assert self._delivery is not None
        relay = self._delivery.relays.get(name)
        if relay is None:
            raise ControlError(EX_NOINPUT, f"{name}: the daemon has no smarthost of this name: reload it")
        plan = self._delivery.tls_plan(relay)
        return await probe.probe(
            relay.smarthost,
            hostname=self._config.hostname,
            timeout=self._config.timeout,
            plan=plan,
            now=time.time(),
            secrets=self._secrets,
            question=question,
            max_message_size=self._config.queue.max_message_size,
        )

    async def _circumstances(self) -> Circumstances:
        secrets, smarthosts = self._secrets, self._config.smarthost

        def problems() -> dict[str, str]:
            return {smarthost.name: problem for smarthost in smarthosts if (problem := secrets.check(smarthost))}

        secret_problems = await asyncio.to_thread(problems)  # files that may lie on a disk which does not answer
        return Circumstances(
            daemon=True,
            store_error=self._store_error,
            config_error=self._config_error,
            reserve_given_up=self._reserve.given_up,
            takes_mail=takes_mail(self._config.queue.directory, self._config.queue.reserve),
            listen_problems=self._loopback.problems if self._loopback is not None else {},
            secret_problems=secret_problems,
        )

    async def _sight(self) -> Sight:
        """What `Watch` judges."""
        assert self._delivery is not None
        try:
            oldest_at, damaged = await self.look(lambda queue: (queue.oldest_at(), queue.one("damaged")[0]))
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # its kinds are a lock, a disk that fails, or an error of ours
                raise
            oldest_at, damaged = None, 1  # not even that can be read
        return Sight(
            relays=self._delivery.relays,
            oldest_at=oldest_at,
            reserve_used=self._reserve.given_up,
            damaged=bool(damaged or self._unreadable),
        )

    async def _report(self) -> Mapping[str, Any]:
        """`status` of everything."""
        return await anext(self._control.status(Right(uid=os.geteuid(), all=True), {}))

    # -- what happens --

    def _committed(self, lanes: list[LaneState], reports: list[NewMessage]) -> None:
        self._changed.set()
        self._watch.wake()
        for report in reports:
            self._events.bounce(
                queue_id=report.queue_id,
                about=report.about or "",
                kind=report.kind,
                recipient=report.envelope.recipients[0].address,
            )
        if lanes and self._delivery is not None:
            self._delivery.lanes_changed(lanes)
            if any(self._lost(lane) for lane in lanes) and not self._rerouting:
                self._rerouting = asyncio.get_running_loop().create_task(self._reroute_or_stop())
                self._rerouting.add_done_callback(lambda _task: setattr(self, "_rerouting", None))

    def _lost(self, lane: LaneState) -> bool:
        """Whether a submission that began before a reload put mail on a route that is no more."""
        names = {smarthost.name for smarthost in self._config.smarthost}
        return lane.due_at is not None and (not names.issuperset(lane.route) or bool(names and not lane.route))

    def _damaged(self, queue_id: str, error: str) -> None:
        """A message lies on a page that cannot be read."""
        self._unreadable += 1
        self._events.emit("damaged", queue_id=queue_id or None, error=error, advice=DAMAGED)
        self._watch.wake()

    def _kept(self, queue_id: str, error: str) -> None:
        """A damaged page does not let go of what is to be pruned."""
        self._events.emit("damaged", queue_id=queue_id or None, error=error, advice=KEPT)

    def _broken(self, error: str) -> None:
        """SQLite cannot be trusted until it is opened again: stop, and let the service manager start us anew."""
        self._store_error = error
        self._events.emit("broken", directory=str(self._config.queue.directory), error=error)
        self._stop.set()

    def _hand_in_recovery(self) -> asyncio.Future[list[Ended]]:
        policy, now = self._postmaster, time.time()
        horizon = schedule.longest_interval(self._config.retry)
        return self._writer.hand_in(lambda queue: Settling(queue, policy, now).recover(horizon), must=True)

    async def _look_for_room(self) -> None:
        """Returns when what a crash left is put right, or we are to stop; or when that waits for room, and who submits
        is told 75.
        """
        try:
            await self._writer.run(lambda queue: None)  # shares the commit of the recovery, and must not wait for room
            await _first_of(self._recovered, self._stop)
        except StoreFull:
            self._events.emit("full", directory=str(self._config.queue.directory), retry_s=RETRY_FULL_S)
        except StoreBroken:
            pass  # `_broken` says so

    async def _work(self, delivery: Delivery, recovery: asyncio.Future[list[Ended]], *, once: bool) -> None:
        """Put right what a crash left, then deliver."""
        try:
            for one in await recovery:
                self._events.ended(one, smarthost=None, tls=None)
            delivery.remember(await self._writer.run(lambda queue: queue.smarthosts(), must=True))
            await self._reroute()
        except (StoreFull, StoreBroken):
            return  # we stop, and the next start finds all as this one did
        except Exception as error:
            self._events.bug(error)
            raise
        finally:
            self._recovered.set()
        await delivery.run(once=once)

    async def _reroute(self) -> None:
        """Put what waits on the routes of the configuration in use."""
        config = self._config
        if not config.route:
            await self._writer.run(lambda queue: queue.reroute_all(route.route("", "", config)), must=True)
            return
        after: int | None = 0
        while after is not None:

            def step(queue: Queue, after: int = after) -> int | None:
                return queue.reroute(lambda sender, recipient: route.route(sender, recipient, config), after)

            after = await self._writer.run(step, must=True)

    async def _reroute_or_stop(self) -> None:
        """Where we stop meanwhile, the next start does it."""
        with suppress(StoreBroken, StoreFull):
            await self._reroute()

    async def _reload(self) -> str | None:
        """SIGHUP, or asked for: returns what is wrong with the file.

        The configuration in use stays until the new one is known to be good.
        """
        self._manager.reloading()
        try:
            await self._take_over()
        finally:
            self._manager.ready()
        return self._config_error

    async def _take_over(self) -> None:
        try:
            text = config_file.read(self._instance)
            config = config_file.parse(text, self._instance)
        except ConfigError as error:
            self._config_error = str(error)
            self._events.emit("reload", error=str(error))
            return
        old = self._config
        if (config.queue.directory, config.daemon.socket) != (old.queue.directory, old.daemon.socket):
            self._config_error = "[queue] directory and [daemon] socket change only with a restart"
            self._events.emit("reload", error=self._config_error)
            return
        self._config_error = None
        with suppress(OSError):  # a full disk, most likely, which the new configuration may be meant to mend
            config_file.save_last_good(text, config.queue.directory)
        self._configure(config)
        if self._server is not None:
            self._server.desk = self._desk()
        if self._loopback is not None:
            self._loopback.configure(config.daemon.listen)
        if self._metrics is not None:
            await self._metrics.configure(config)
        self._events.emit("reload", config=str(config.file))
        await self._reroute_or_stop()

    async def _attend(self, manager: Manager, delivery: Delivery) -> None:
        """Tell the service manager how the queue is, and that the scheduler and the writer answer."""
        while True:
            self._changed.clear()
            if self._recovered.is_set():
                await delivery.turn()
            with suppress(StoreFull, StoreBroken):  # that is an answer, too
                await self._writer.run(lambda queue: None)
            manager.alive()
            with suppress(sqlite3.Error):
                manager.status(status.summary(await self._report()))
            pause_s = min(STATUS_S, manager.interval_s)
            await asyncio.sleep(pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(manager.interval_s - pause_s):
                    await self._changed.wait()

    async def _prune(self) -> None:
        while True:
            now = time.time()
            keep = self._config.queue.keep_history

            try:
                when, more = await prune(self._writer, keep, now, self._kept)
            except (StoreFull, StoreBroken):
                when, more = None, False
            # What ends after this look is not in `when`: look again before the shortest retention is over.
            longest = min(86400.0, keep, self._config.queue.keep_failed or keep)
            wait = longest if when is None else min(when - now, longest)
            await asyncio.sleep(PRUNE_PAUSE_S if more else max(wait, PRUNE_AT_LEAST_S))


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting:
        one.cancel()


# -- start --


def serve(instance: Instance, *, once: bool = False) -> int:
    """`pysendmail daemon`: the whole life of the daemon; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # one that comes too early waits, and reloads then
    try:
        loaded = config_file.load_or_last_good(instance)
    except ConfigError as error:
        return _failed(EX_CONFIG, f"{error}; no last good configuration is kept, so nothing is started")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # secrets are in memory
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    config = loaded.config
    directory = config.queue.directory
    lock = QueueLock(directory)
    try:
        given = handed_over(os.environ, os.getpid())
        names = {listener.name for listener in given}
        uid, gid = directory_owner(directory)
        with acting_as(uid, gid):
            # A command may be at work for a moment; but where a daemon answers, waiting is in vain. A socket that
            # was handed over always answers: the one before us may be about to end.
            lock.acquire(unless=lambda: not once and SUBMIT not in names and answers(config.daemon.socket))
        listeners = [] if once else [*given, *bind(config, uid, gid, but=names)]
        if os.geteuid() == 0:
            become(uid, gid)
        _bring_up_to_date(directory)
        queue = Queue.open(directory)
    except HandOverError as error:
        return _failed(EX_CONFIG, str(error))
    except (QueueError, SchemaError) as error:
        return _failed(EX_TEMPFAIL, str(error))
    except sqlite3.Error as error:
        return _failed(EX_TEMPFAIL, f"{directory}/queue.db: {error}; pysendmail check says what to do")
    except OSError as error:
        return _failed(EX_TEMPFAIL, f"{directory}: {error}; pysendmail check says what to do")
    if loaded.error is None:
        with suppress(OSError):
            config_file.save_last_good(loaded.text, directory)
    gc.collect()  # what the start has left, for else that would stay, too
    gc.freeze()  # what is here stays: no collection looks at it, which would hold the loop up for some milliseconds
    try:
        with asyncio.Runner(loop_factory=threads.Loop) as runner:
            return runner.run(_serve(instance, loaded, queue, listeners, once=once))
    except OSError as error:
        if error.errno not in _SCARCE:  # then it is an error of ours, and its traceback is needed
            raise
        return _failed(EX_TEMPFAIL, f"the daemon cannot go on: {error}: raise its limits on descriptors and memory")
    finally:
        queue.close()
        for listener in listeners:
            listener.sock.close()  # their paths stay: a refused connection says "a restart, wait a little"
        lock.release()


def _bring_up_to_date(directory: Path) -> None:
    """Have a child make the database, or make it this version's: what that takes would stay in our memory, 13 MB of it.

    Whether it has done so is for `Queue.open`, which does what is left and says what is wrong.
    """
    if not schema.may_be_older(directory / "queue.db"):
        return
    with suppress(OSError):
        child = os.fork()
        if child == 0:
            try:
                Queue.open(directory).close()
            finally:
                os._exit(EX_OK)
        os.waitpid(child, 0)


async def _serve(instance: Instance, loaded: Loaded, queue: Queue, listeners: Sequence[Listener], *, once: bool) -> int:
    tally = Tally(journal.sink())
    logging.getLogger().addHandler(Complaints(Events(tally)))
    try:
        return await Daemon(instance, loaded, tally, manager.from_environment()).run(queue, listeners, once=once)
    finally:
        tally.close()


def _failed(code: int, text: str) -> int:
    for line in text.splitlines():
        print(f"pysendmail: {line}", file=sys.stderr)
    return code
