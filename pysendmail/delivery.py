"""Delivery: the loop that claims due mail, hands it to connections, and settles what became of it.

It wakes on what happens (a submission, an ended attempt, a due time, the end of a smarthost's rest) and never
polls. Its promises: nothing is sent that was not claimed by a commit before; nothing that was sent is forgotten
for want of disk space (outcomes wait for room); an error of ours in one attempt costs that attempt only.

Everything here runs on the event loop; SQLite is reached through `Writer` and `Reader`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pysendmail import schedule, tlspolicy
from pysendmail.aliases import AliasesUnread
from pysendmail.config import Config
from pysendmail.deadline import Deadline
from pysendmail.events import Events
from pysendmail.lanes import Lanes, Route
from pysendmail.outcome import Outcome, Result, Scope, Stage, Trouble, Verdict
from pysendmail.outgoing import outgoing
from pysendmail.queue import Claiming, Queue
from pysendmail.reader import Reader
from pysendmail.records import Claim, Ended, LaneState, Policy, Settlement
from pysendmail.relay import Relay
from pysendmail.secrets import Secrets
from pysendmail.session import Outgoing, Session, SessionError
from pysendmail.settling import Ending, Settling
from pysendmail.spool import Reserve
from pysendmail.writer import StoreBroken, StoreFull, Writer

REWRITE_OCTETS = 16 * 1024  # a larger header is rewritten in a thread: it may take a large part of a second
STUCK_S = 5.0  # a message that takes longer no longer counts as a connection in use
IDLE_S = 5.0  # a connection with nothing to do is kept so long
FULL_S = 5.0  # how often a full disk is looked at again
BUG_S = 5.0  # after an error of ours outside of any attempt
SWEEP = 100  # recipients expired or warned in one commit
CLOCK_JUMP_S = 5.0  # the wall clock may drift against the monotonic one; a jump is more than this


@dataclass(frozen=True, slots=True)
class Ready:
    """A claim, and the message as its smarthost is to see it; `rewritten` is the log's word for the difference."""

    claim: Claim
    message: Outgoing
    rewritten: str


Pick = tuple[LaneState, Relay]
Claimed = asyncio.Future[list[Claim | None]]


class Delivery:
    """Owns the relays and the connections. `run` ends after `stop`."""

    def __init__(
        self,
        config: Config,
        *,
        writer: Writer,
        reader: Reader,
        reserve: Reserve,
        events: Events,
        policy: Policy,
        secrets: Secrets,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._reserve = reserve
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self._lanes = Lanes()
        self._idle: dict[str, list[tuple[Session, asyncio.TimerHandle]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._opening: set[asyncio.Task[None]] = set()  # those of them without a connection yet
        self._claiming: set[Claimed] = set()  # handed in
        self._claim_error: Exception | None = None  # ours, in one of them
        self._stopping = False
        self._full_until = 0.0  # monotonic: claims wait for room on the disk
        self._wall_offset = time.time() - self._loop.time()
        self.relays: dict[str, Relay] = {}
        self.broken: str | None = None
        self.configure(config, policy, secrets)

    # -- what others tell it --

    def configure(self, config: Config, policy: Policy, secrets: Secrets) -> None:
        """Take over a configuration: relays that are the same keep what they know.

        One that rests is tried at once: what was mended may be a password, in a file of its own. What waits for one
        that is no more, or another one now, is given back; only what is on the wire comes to its end there.
        """
        self._config = config
        self._policy = policy
        self._secrets = secrets
        old, self.relays = self.relays, {}
        for smarthost in config.smarthost:
            known = old.get(smarthost.name)
            if known is not None and known.smarthost == smarthost:
                known.probe_now(self._loop.time(), time.time())
                self.relays[smarthost.name] = known
            else:
                self.relays[smarthost.name] = Relay(smarthost)
                if known is not None:
                    self.relays[smarthost.name].tls_seen_at = known.tls_seen_at
                    self.relays[smarthost.name].last_sent_at = known.last_sent_at
        for name, relay in old.items():
            if self._gone(relay):
                self._close_idle(name)
                self._start(self._give_all_back(relay))
        self._wake.set()

    def _gone(self, relay: Relay) -> bool:
        """Whether a reload has removed or changed its smarthost."""
        return self.relays.get(relay.name) is not relay

    def remember(self, known: dict[str, tuple[float | None, float | None]]) -> None:
        """What queue.db remembers of the smarthosts."""
        for name, (tls_seen_at, last_sent_at) in known.items():
            if name in self.relays:
                self.relays[name].tls_seen_at = tls_seen_at
                self.relays[name].last_sent_at = last_sent_at

    async def turn(self) -> None:
        """Returns when the loop has looked at the queue once more: the proof that it does."""
        self._looked.clear()
        self._wake.set()
        await self._looked.wait()

    def lanes_changed(self, states: list[LaneState]) -> None:
        """The writer's word after each commit."""
        self._lanes.update(states, time.time())
        self._wake.set()

    def flush(self) -> None:
        """Everything that can be tried is tried now, a resting smarthost too."""
        for relay in self.relays.values():
            relay.probe_now(self._loop.time(), time.time())
        self._wake.set()

    async def forget_tls(self, name: str) -> None:
        """`probe --forget`: the smarthost is as if TLS had never been seen there."""
        relay = self.relays[name]
        relay.tls_seen_at = None
        await self._writer.run(lambda queue: queue.remember_tls(name, None))
        relay.probe_now(self._loop.time(), time.time())
        self._wake.set()

    # -- the loop --

    async def run(self, *, once: bool = False) -> None:
        """Deliver until `stop`; with `once`, until nothing is left that could be tried now."""
        while not self._stopping:
            self._wake.clear()
            try:
                await self._look()
            except Exception as error:  # ours: the daemon lives, and looks again a little later
                self._events.bug(error)
                if once:
                    raise
                await asyncio.sleep(BUG_S)
                continue
            self._looked.set()
            if self._wake.is_set():
                continue
            if once and not self._tasks and not self._claiming and not self._claimable():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    await self._wake.wait()

    async def _look(self) -> None:
        """What is due is claimed, if the smarthosts and the disk allow."""
        await self._follow_clock()
        self._lanes.promote(time.time())
        if self._reserve.given_up:
            await self._refill()
        await self._claim()

    def _claimable(self) -> bool:
        if not self._reserve.room or self._loop.time() < self._full_until or self.broken:
            return False
        self._lanes.promote(time.time())
        return any(self._relay_for(route) is not None for route in self._lanes.due_routes())

    async def stop(self, grace_s: float) -> None:
        """Finish what is on the wire within `grace_s`, give back what is only claimed, say QUIT.

        A connection that is still being opened carries no mail: nobody waits for it.
        """
        self._stopping = True
        self._wake.set()
        for relay in self.relays.values():
            await self._give_all_back(relay)
            self._close_idle(relay.name)
        for task in self._opening:
            task.cancel()
        if self._claiming:
            await asyncio.wait(self._claiming)  # what they claim is given back by tasks of its own
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for relay in self.relays.values():  # what was behind a message that did not come to its end
            await self._give_all_back(relay)

    def _patience(self) -> float | None:
        """Seconds until something happens by itself; None: only others can wake us."""
        clock, now = self._loop.time(), time.time()
        waits: list[float] = []
        if self._reserve.given_up:
            waits.append(FULL_S)
        if not self._reserve.room:
            pass  # due or not, nothing is claimed
        elif clock < self._full_until:
            waits.append(self._full_until - clock)
        else:
            if (due_at := self._lanes.next_due_at()) is not None:
                waits.append(max(due_at - now, 0.0))
            waits += self._rests(clock)
        return min(waits) if waits else None

    def _rests(self, clock: float) -> Iterator[float]:
        """Seconds until a smarthost that due mail waits for can be tried."""
        for route in self._lanes.due_routes():
            for name in route:
                relay = self.relays.get(name)
                if relay is None:
                    continue
                if (wait := relay.wait(clock)) is not None:
                    yield wait
                if relay.trouble is None:
                    break  # its mail waits for it: those behind it are not asked

    async def _refill(self) -> None:
        with suppress(StoreFull, StoreBroken):
            await self._writer.run(lambda _queue: self._reserve.fill())

    async def _follow_clock(self) -> None:
        """Notice that the wall clock was set, and keep lifetimes and due times what they were."""
        offset = time.time() - self._loop.time()
        jump = offset - self._wall_offset
        if abs(jump) < CLOCK_JUMP_S:
            return
        self._wall_offset = offset
        self._events.emit("clock", jump_s=round(jump, 1))
        with suppress(StoreBroken, StoreFull):
            await self._writer.run(lambda queue: queue.clock_jumped(jump), must=True)

    # -- claims --

    def _relay_for(self, route: Route) -> Relay | None:
        """The first smarthost of the route that is up or due for a probe, if it has room."""
        clock = self._loop.time()
        for name in route:
            relay = self.relays.get(name)
            if relay is None:
                continue
            if relay.room(clock) > 0:
                return relay
            if relay.trouble is None:
                return None  # it is up and busy: its mail waits for it, not for the next
        return None

    async def _claim(self) -> None:
        """Claim as much as the smarthosts bear now, a commit for each round."""
        while self._claim_error is None and (claiming := self._hand_in()):
            await asyncio.wait((claiming,))
        if self._claim_error is not None:
            error, self._claim_error = self._claim_error, None
            raise error

    def _hand_in(self) -> Claimed | None:
        """Have claimed what can be; right before an outcome is handed in, one commit does for both. None: nothing."""
        picks = self._picks()
        if not picks:
            return None
        claiming = self._writer.hand_in(
            Claiming([(lane, relay.name) for lane, relay in picks], time.time()), vital=True
        )
        self._claiming.add(claiming)
        claiming.add_done_callback(partial(self._take, picks))
        return claiming

    def _take(self, picks: Sequence[Pick], claimed: Claimed) -> None:
        """Take over what was claimed, once it is committed."""
        self._claiming.discard(claimed)
        self._wake.set()
        for lane, relay in picks:
            relay.asked.remove(lane)
        try:
            claims = claimed.result()
        except StoreFull:
            self._store_full()
            return
        except StoreBroken:
            self._stopping = True
            return
        except Exception as error:
            self._claim_error = error
            return
        for (_, relay), claim in zip(picks, claims, strict=True):
            if claim is None:
                continue
            if self._stopping or self._gone(relay):
                self._start(self._give_back(claim))
                continue
            relay.claimed(claim, self._loop.time())
            self._connect(relay)

    def _picks(self) -> list[Pick]:
        """Whose turn it is on the smarthosts that have room: to be claimed, and taken then."""
        picks: list[Pick] = []
        if self._stopping or not self._reserve.room or self._loop.time() < self._full_until:
            return picks
        while turn := [pick for route in self._lanes.due_routes() if (pick := self._pick(route)) is not None]:
            picks += turn
        return picks

    def _pick(self, route: Route) -> Pick | None:
        """One turn of a route: several may want the same smarthost, and none is to have all of its room."""
        relay = self._relay_for(route)
        lane = self._lanes.next(route, without=relay.held_up()) if relay is not None else None
        if relay is None or lane is None:
            return None
        relay.asked.append(lane)
        return lane, relay

    def _store_full(self) -> None:
        self._events.emit("full", directory=str(self._config.queue.directory), retry_s=FULL_S)
        self._full_until = self._loop.time() + FULL_S

    async def _give_back(self, claim: Claim) -> None:
        policy, now = self._policy, time.time()
        with suppress(StoreBroken, StoreFull):
            ended = await self._writer.run(lambda queue: Settling(queue, policy, now).give_back(claim), must=True)
            self._log(ended)

    async def _give_all_back(self, relay: Relay) -> None:
        claims = list(relay.claims)
        relay.claims.clear()
        for claim in claims:
            relay.unused(claim)
        await asyncio.gather(*map(self._give_back, claims))

    # -- connections --

    def _connect(self, relay: Relay) -> None:
        """See that a connection works on the relay's claims."""
        if self._gone(relay):
            self._start(self._give_all_back(relay))
            return
        if relay.connections >= (1 if relay.trouble else relay.bearable):
            return
        relay.connections += 1
        self._start(self._work(relay))

    async def _work(self, relay: Relay) -> None:
        """One connection: the relay's claims one after the other, for as long as there are any."""
        session = self._take_idle(relay)
        ahead: list[Ready] = []  # at most one: the next, whose envelope is on its way
        overtime = Deadline(lambda: self._stuck(relay, claim, ahead))
        try:
            while ahead or (relay.claims and relay.connections <= max(relay.bearable, 1)):
                ready = ahead.pop() if ahead else None
                claim = ready.claim if ready else relay.take()
                try:
                    session = await self._attempt(relay, claim, ready, session, ahead, overtime)
                finally:
                    relay.ended(claim)
                if session is None:
                    _put_back(relay, ahead)
                    if relay.trouble is not None:
                        await self._rest(relay)
                    break
                if not relay.claims and not ahead and not self._stopping:
                    await asyncio.sleep(0)  # the loop may claim more before this connection goes idle
        except (StoreBroken, StoreFull):
            self._stopping = True
        except asyncio.CancelledError:
            for ready in ahead:
                await self._give_back(ready.claim)
            raise
        finally:
            overtime.close()
            relay.connections -= 1
            if session is not None:
                self._park(relay, session)
            if relay.claims and not self._stopping:
                self._connect(relay)
            self._wake.set()

    def _stuck(self, relay: Relay, claim: Claim, ahead: list[Ready]) -> None:
        """This one takes long: others need not wait for it, and least of all behind it."""
        relay.stuck.append(claim)
        _put_back(relay, ahead)
        if relay.claims:
            self._connect(relay)
        self._wake.set()

    async def _attempt(
        self,
        relay: Relay,
        claim: Claim,
        ready: Ready | None,
        session: Session | None,
        ahead: list[Ready],
        overtime: Deadline,
    ) -> Session | None:
        """One claim on this connection, or a new one; returns the connection if it is still of use.

        `ready` is the claim prepared, if it was. `ahead` gets the next one, if its envelope goes behind this message.
        `overtime` rings when the message takes long.
        """
        started_at = time.time()
        try:
            ready = ready or await self._prepare(relay, claim)
            if session is None or not (session.usable or session.begun):
                session = await self._open_unless_stopped(relay)
        except SessionError as error:
            await self._not_open(relay, claim, error, started_at)
            return None
        except asyncio.CancelledError:
            await self._give_back(claim)
            raise
        except Exception as error:
            await self._put_off(claim, error)
            return session if session is not None and session.usable else None
        results = await self._send(relay, ready, session, ahead, overtime)
        if session.stale:
            # The connection had died while it was idle: no attempt of this message's.
            await session.close()
            return await self._attempt(relay, claim, ready, None, ahead, overtime)
        self._judge(relay, claim, results, new=session.messages == 1)
        relay.ended(claim)
        await self._settle(relay, claim, results, started_at, address=session.address, tls=session.tls)
        bears_more = session.usable and session.messages < relay.smarthost.messages_per_connection
        if ahead if session.begun else bears_more:
            return session
        await session.close()
        return None

    async def _send(
        self, relay: Relay, ready: Ready, session: Session, ahead: list[Ready], overtime: Deadline
    ) -> Sequence[Result]:
        """The message over an open connection; what the smarthost says to each recipient."""
        claim = ready.claim
        self._events.attempt(
            queue_id=claim.queue_id,
            smarthost=relay.name,
            address=session.address,
            tls=session.tls,
            recipients=len(claim.recipients),
            rewritten=ready.rewritten,
        )
        overtime.set(STUCK_S)
        try:
            results = await session.send(ready.message, partial(self._behind, relay, session, ahead))
        except asyncio.CancelledError:
            if not session.in_doubt:
                await self._give_back(claim)  # else the next start finds it, and calls it uncertain
            raise
        finally:
            overtime.clear()
            if claim in relay.stuck:
                relay.stuck.remove(claim)
        relay.one_at_a_time = relay.one_at_a_time or session.one_at_a_time
        return results

    async def _prepare(self, relay: Relay, claim: Claim) -> Ready:
        work = partial(outgoing, claim, self._config, relay.smarthost, self._reader)
        return Ready(claim, *(work() if len(claim.header) <= REWRITE_OCTETS else await asyncio.to_thread(work)))

    def _behind(self, relay: Relay, session: Session, ahead: list[Ready]) -> Outgoing | None:
        """The message whose envelope may go behind the final dot that is about to leave."""
        if (
            relay.one_at_a_time
            or relay.trouble is not None
            or relay.connections > relay.bearable
            or session.messages + 1 >= relay.smarthost.messages_per_connection
            or self._stopping
            or not relay.claims
            or len(relay.claims[0].header) > REWRITE_OCTETS
        ):
            return None
        claim = relay.claims[0]
        try:
            ready = Ready(claim, *outgoing(claim, self._config, relay.smarthost, self._reader))
        except Exception:
            return None  # its own attempt will say what is wrong with it
        ahead.append(ready)
        relay.take()
        return ready.message

    async def _open_unless_stopped(self, relay: Relay) -> Session:
        """`stop` cancels us here and nowhere else at once."""
        task: Any = asyncio.current_task()
        if self._stopping:
            raise asyncio.CancelledError
        self._opening.add(task)
        try:
            return await self._open(relay)
        finally:
            self._opening.discard(task)

    def tls_plan(self, relay: Relay) -> tlspolicy.TlsPlan:
        """What the next connection there has to be, after all that is remembered."""
        failed_s = None if relay.tls_failed is None else self._loop.time() - relay.tls_failed
        return tlspolicy.plan(relay.smarthost, tls_seen_at=relay.tls_seen_at, now=time.time(), failed_s=failed_s)

    async def _open(self, relay: Relay) -> Session:
        smarthost = relay.smarthost
        plan = self.tls_plan(relay)
        if plan.retries:
            relay.tls_failed = self._loop.time()  # this one connection tries TLS again; the others stay in clear
        try:
            session = await Session.open(
                smarthost,
                hostname=self._config.hostname,
                timeout=self._config.timeout,
                plan=plan,
                secrets=self._secrets,
            )
        except SessionError as error:
            if error.tls_failed:
                relay.tls_failed = self._loop.time()
            raise
        relay.certificate_until = session.certificate_until
        if session.tls_failed:
            relay.tls_failed = self._loop.time()
        if session.fallback:
            self._events.fallback(smarthost=relay.name, address=session.address, reason=session.fallback)
        elif session.tls != "none":
            relay.tls_failed = None
            await self._saw_tls(relay)
        return session

    async def _saw_tls(self, relay: Relay) -> None:
        now = time.time()
        if relay.tls_seen_at is None or now - relay.tls_seen_at > relay.smarthost.tls_memory / 24:
            await self._writer.run(lambda queue: queue.remember_tls(relay.name, now), must=True)
            relay.tls_seen_at = now

    async def _settle(
        self,
        relay: Relay,
        claim: Claim,
        results: Sequence[Result],
        started_at: float,
        *,
        address: str | None,
        tls: str | None,
    ) -> None:
        """C2 of one attempt, then its lines in the log."""
        await self._follow_clock()  # before a lifetime is held against a clock that was set meanwhile
        ended_at = time.time()
        settlement = Settlement(
            claim=claim,
            results=tuple(results),
            smarthost=relay.name,
            address=address,
            tls=tls,
            started_at=started_at,
            exhausted=self._exhausted(claim.route),
        )
        sent = any(result.outcome is Outcome.SENT for result in results)
        self._hand_in()
        try:
            ended = await self._writer.run(Ending(self._policy, settlement, ended_at), must=True)
        except (StoreBroken, StoreFull):
            raise
        except Exception as error:
            remembered = _without_reports(results)
            if sent and remembered != list(results):
                # A report that cannot be written must not undo that mail was sent: it would be sent again.
                self._complain(error, claim.queue_id)
                await self._settle(relay, claim, remembered, started_at, address=address, tls=tls)
                return
            await self._put_off(claim, error)
            return
        if sent:
            relay.last_sent_at = ended_at
        for one in ended:
            self._events.ended(one, smarthost=relay.name, tls=tls, address=address)

    def _judge(self, relay: Relay, claim: Claim, results: Sequence[Result], *, new: bool) -> None:
        """What the results say of the smarthost itself; `new`: the connection has had no message before.

        In trouble, only an answer to the mail itself ends it.
        """
        worst = next((r for r in results if r.scope is Scope.SMARTHOST), None)
        broken = next((r for r in results if r.scope is Scope.SESSION and r.outcome is not Outcome.SENT), None)
        if broken is None:
            relay.broke.clear()
        elif (new and relay.breaks(claim)) or relay.trouble is not None:
            worst = worst or broken
        if worst is not None:
            verdict = Verdict(Scope.SMARTHOST, Outcome.DEFERRED)
            trouble = Trouble(
                stage=Stage.MAIL, verdict=verdict, reason=worst.reply, status=worst.status, code=worst.code
            )
            self._fail(relay, trouble)
            return
        if relay.trouble is not None:
            self._events.recovered(smarthost=relay.name, after_s=time.time() - relay.since)
            relay.recover()
        if any(_too_much(result) for result in results):
            relay.slow_down()
        elif broken is None:
            relay.answered()

    def _fail(self, relay: Relay, trouble: Trouble, *, tls_held: bool = False) -> None:
        relay.fail(trouble, self._config.retry, clock=self._loop.time(), now=time.time(), tls_held=tls_held)
        self._events.trouble(
            smarthost=relay.name,
            reason=trouble.reason,
            status=trouble.status,
            next_try_s=relay.next_try - self._loop.time(),
        )

    async def _not_open(self, relay: Relay, claim: Claim, error: SessionError, started_at: float) -> None:
        """No connection: the smarthost's trouble, unless it only has enough of them."""
        trouble = error.trouble
        relay.unused(claim)
        if trouble.verdict.scope is Scope.SESSION and relay.connections > 1:
            relay.slow_down()
            await self._give_back(claim)
            return
        self._fail(relay, trouble, tls_held=error.tls_held)
        if trouble.offline:  # that was no attempt
            await self._give_back(claim)
            return
        results = [
            Result(
                address=claimed.recipient.address,
                outcome=Outcome.DEFERRED,
                scope=Scope.SMARTHOST,
                reply=trouble.reason,
                status=trouble.status,
                code=trouble.code,
            )
            for claimed in claim.recipients
        ]
        tls = error.tls if error.address and trouble.stage is not Stage.CONNECT else None
        await self._settle(relay, claim, results, started_at, address=error.address or None, tls=tls)

    async def _rest(self, relay: Relay) -> None:
        """It is in trouble: what is claimed for it may go elsewhere, what has nowhere else to go may expire."""
        await self._give_all_back(relay)
        try:
            await self._sweep(relay)
        except AliasesUnread as error:
            self._complain(error, None)  # what was to expire waits for the next probe

    def _log(self, ended: Sequence[Ended]) -> None:
        """Outcomes that no attempt gave."""
        for one in ended:
            self._events.ended(one, smarthost=None, tls=None)

    def _exhausted(self, route: Route) -> bool:
        """Whether no smarthost of the route can be had: then a lifetime that is over has had its fresh attempt."""
        return all(name in self.relays and self.relays[name].trouble is not None for name in route)

    async def _sweep(self, relay: Relay) -> None:
        """After a failed probe: expire what is past its lifetime on routes that have no other way."""
        trouble = relay.trouble
        if trouble is None:
            return
        for route in self._lanes.waiting_routes(lambda route: relay.name in route and self._exhausted(route)):
            now = min(self.relays[name].failed_at for name in route)

            def expire(queue: Queue, route: Route = route, now: float = now) -> list[Ended]:
                return Settling(queue, self._policy, time.time()).expire(
                    queue.overdue(route, now, SWEEP), reason=trouble.reason, status="4.4.7", smarthost=relay.name
                )

            while ended := await self._writer.run(expire, must=True):
                for one in ended:
                    self._events.ended(one, smarthost=relay.name, tls=None)
            if relay.tls_held:

                def warn(queue: Queue, route: Route = route) -> int:
                    recipients = queue.unwarned(route, time.time(), SWEEP)
                    Settling(queue, self._policy, time.time()).warn(
                        recipients, reason=trouble.reason, status=trouble.status, smarthost=relay.name
                    )
                    return len(recipients)

                while await self._writer.run(warn, must=True):
                    pass

    async def _put_off(self, claim: Claim, error: Exception) -> None:
        """After what is no outcome of mail: this message is tried again later, the daemon lives."""
        reason = self._complain(error, claim.queue_id)
        policy, now = self._policy, time.time()
        retry_at = now + schedule.interval(self._config.retry, max(c.attempts for c in claim.recipients) + 1)
        with suppress(StoreBroken, StoreFull):
            ended = await self._writer.run(
                lambda queue: Settling(queue, policy, now).defer(claim, reason, retry_at), must=True
            )
            self._log(ended)

    def _complain(self, error: Exception, queue_id: str | None) -> str:
        """Say it in the log, once: an error of ours with its traceback. Returns the words for the message."""
        if isinstance(error, AliasesUnread):  # whom a report goes to is not known for now
            self._events.emit("unaddressed", queue_id=queue_id, error=str(error))
            return f"the report on it has no address for now: {error}"
        self._events.bug(error, queue_id=queue_id)
        return f"an error in pysendmail itself: {type(error).__name__} (see the log)"

    # -- idle connections --

    def _take_idle(self, relay: Relay) -> Session | None:
        parked = self._idle.get(relay.name, [])
        while parked:
            session, timer = parked.pop()
            timer.cancel()
            if session.usable:
                return session
            self._close(session)
        return None

    def _park(self, relay: Relay, session: Session) -> None:
        if not session.usable or self._stopping or self._gone(relay):
            self._close(session)
            return
        parked = self._idle.setdefault(relay.name, [])

        def expire() -> None:
            parked[:] = [entry for entry in parked if entry[0] is not session]
            self._close(session)

        parked.append((session, self._loop.call_later(IDLE_S, expire)))

    def _close_idle(self, name: str) -> None:
        for session, timer in self._idle.pop(name, []):
            timer.cancel()
            self._close(session)

    def _close(self, session: Session) -> None:
        self._start(session.close())

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.bug(error)


def _put_back(relay: Relay, ahead: list[Ready]) -> None:
    while ahead:
        relay.put_back(ahead.pop().claim)


def _without_reports(results: Sequence[Result]) -> list[Result]:
    """What was sent stays sent; what was refused is tried, and refused, again when its bounce can be written."""
    return [
        replace(result, relayed=False)
        if result.outcome is not Outcome.BOUNCED
        else replace(result, outcome=Outcome.DEFERRED, scope=Scope.MESSAGE, status="4.3.0")
        for result in results
    ]


def _too_much(result: Result) -> bool:
    """Whether the smarthost wants fewer connections. Too many recipients in one transaction are another matter."""
    if result.again:
        return False
    return result.code in (421, 432) or (result.code in (451, 452) and "too many" in result.reply.lower())
