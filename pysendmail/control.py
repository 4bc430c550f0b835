"""Control: what people do with the queue, for those who may: list, explain, hold, release, remove, retry, expire,
flush, history, status, probe.

One `Control` serves a command, whether it reached the daemon's socket or owns the queue by itself. A caller of the
`submit` socket, root too, has his own messages; the `control` socket has all. What is another's looks as if it did
not exist. A uid that passes from one to another (`passes_on`) has no messages at all. Answers are dictionaries, one a
line of JSON, and {} for a sign of life in work that takes long; `ControlError` carries the exit code and the words.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from pysendmail import explain, listing, rewrite, status
from pysendmail.address import AddressError, parse_path
from pysendmail.aliases import AliasesUnread
from pysendmail.argv import FILTERED, QueueFilter
from pysendmail.config import Config, Smarthost
from pysendmail.events import EVERY, Events
from pysendmail.exits import EX_DATAERR, EX_NOINPUT, EX_NOPERM, EX_TEMPFAIL, EX_UNAVAILABLE, EX_USAGE
from pysendmail.frames import ALIVE_S
from pysendmail.postmaster import Postmaster
from pysendmail.probe import Question
from pysendmail.queue import FLUSHED_AT_ONCE, Queue
from pysendmail.records import Ended
from pysendmail.relay import Relay
from pysendmail.settling import Settling
from pysendmail.store import time_or_none

T = TypeVar("T")
NOBODY = 65534  # the kernel's overflow uid: everybody whom a user namespace does not map
DYNAMIC = range(61184, 65520)  # what systemd gives to the services with DynamicUser=, to one after the other
NO_ONE = -1
MAX_IDS = 10_000
MAX_TIME = 1e12  # seconds since the epoch
MAX_ROW = 1 << 62  # no row's id is larger
MAX_SLOTS = 1000
MAX_FILTERS = 100  # each is held against each message
MAX_UNTRIED = 10_000  # recipients that somebody looks on at a time
COUNTED_AT_ONCE = 10_000
AT_ONCE = 20  # messages that one step changes: 20 bounces take some 25 ms, and nobody else waits longer for the writer
LOST_REPORTS_S = 5 * 86400.0  # how long `status` reminds of a bounce that reached nobody


class ControlError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Store(Protocol):
    """The two doors to queue.db: the daemon's threads, or a command's own connection."""

    async def look(self, step: Callable[[Queue], T]) -> T: ...
    async def change(self, step: Callable[[Queue], T]) -> T: ...


def passes_on(uid: int) -> bool:
    """Whether the next process with this uid may be somebody else's: what the one submitted is not the other's."""
    return uid == NOBODY or uid in DYNAMIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Who asks. `all`: everybody's messages, not only his own."""

    uid: int
    all: bool

    @property
    def only(self) -> int | None:
        """Whose messages he has; None: everybody's."""
        if self.all:
            return None
        return NO_ONE if passes_on(self.uid) else self.uid


Entry = dict[str, Any]
Verb = Callable[["Control", Right, Entry], AsyncIterator[Entry]]


class Control:
    def __init__(
        self,
        *,
        daemon: bool,
        config: Config,
        store: Store,
        events: Events,
        postmaster: Postmaster,
        circumstances: Callable[[], Awaitable[status.Circumstances]],
        relays: Callable[[], dict[str, Relay]],
        flush: Callable[[], None],
        probe: Callable[[str, Question | None], Awaitable[Entry]],
        forget_tls: Callable[[str], Awaitable[None]],
        reload: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._daemon = daemon
        self._config = config
        self._store = store
        self._events = events
        self._postmaster = postmaster
        self._circumstances = circumstances
        self._relays = relays
        self._flush = flush
        self._probe = probe
        self._forget_tls = forget_tls
        self._reload = reload

    async def answer(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """The answer to one request, `{"verb": ..., ...}`, entry by entry. Raises ControlError."""
        verb = _VERBS.get(str(request.get("verb")))
        if verb is None:
            raise ControlError(EX_USAGE, f"no such verb: {request.get('verb')!r:.80}")
        async for entry in verb(self, right, request):
            yield entry

    # -- looking --

    @property
    def directory(self) -> str:
        """Where the queue is, as listings say it."""
        return str(self._config.queue.directory)

    def obstacle(self, route: tuple[str, ...]) -> status.Obstacle | None:
        """Why mail on this route cannot leave now, when the smarthosts are the reason."""
        return status.obstacle(route, self._relays())

    async def _pages(self, page: Callable[..., listing.Page]) -> AsyncIterator[list[Entry]]:
        """All entries, page by page; `page(queue, after=...)` reads one."""
        after: int | None = 0
        while after is not None:
            entries, after = await self._store.look(partial(page, after=after))
            yield entries

    async def waiting(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        left = int(_time(request, "limit")) or math.inf
        async for entries in self.waiting_pages(right, request):
            for entry in entries:
                yield entry
                left -= 1
                if not left:
                    return

    async def waiting_pages(self, right: Right, request: Entry) -> AsyncIterator[list[Entry]]:
        """The same, many at a time: for listings that are long."""
        filters = _filters(request)
        for queue_id in _ids(request):
            row = await self._waiting(right, queue_id)
            yield [await self._store.look(partial(listing.waiting_entry, row=row, obstacle=self.obstacle))]
        if not _ids(request):
            page = partial(
                listing.waiting_page,
                uid=right.only,
                obstacle=self.obstacle,
                with_body_type=bool(request.get("body_type")),
            )
            async for entries in self._pages(page):
                yield [entry for entry in entries if all(one.fits(entry) for one in filters)] if filters else entries

    async def history(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        past, ids = _past(right, request), _ids(request)
        if request.get("bounces"):
            for about in ids or (None,):
                page = partial(listing.bounces_page, past=past, about=about)
                async for entries in self._pages(page):
                    for entry in entries:
                        yield entry
        elif ids:
            for queue_id in ids:
                row = await self._find(right, queue_id)
                for entry in await self._store.look(partial(listing.history_of, row=row, past=past)):
                    yield entry
        else:
            async for entries in self._pages(partial(listing.history_page, past=past)):
                for entry in entries:
                    yield entry

    async def traffic(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """What was attempted since a time, in so many equal `slots`: an entry for each."""
        since, slots = _time(request, "since"), int(_time(request, "slots"))
        width = (time.time() - since) / slots if slots else 0.0
        if not 0 < slots <= MAX_SLOTS or width <= 0:
            raise ControlError(EX_USAGE, f"slots: between 1 and {MAX_SLOTS} are expected, since a time that is past")
        rows: list[listing.Row] = []
        before: int | None = MAX_ROW
        page = partial(listing.traffic_page, uid=right.only, since=since, width=width)
        while before is not None:
            found, before = await self._store.look(partial(page, before=before))
            rows += found
            yield {}
        for entry in listing.traffic(rows, since=since, width=width, slots=slots):
            yield entry

    async def explain(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        async for row in self._rows(right, request):
            history = await self._store.look(partial(listing.history_entry, row=row))
            waiting = await self._store.look(partial(listing.waiting_entry, row=row, obstacle=self.obstacle))
            removers = await self._store.look(partial(listing.removers, row=row))
            routes = await self._store.look(partial(listing.routes, row=row))
            yield explain.message(
                history,
                waiting,
                removers=removers,
                routes=routes,
                relays=self._relays(),
                config=self._config,
                now=time.time(),
                clock=time.monotonic(),
                expires_at=row["expires_at"] if isinstance(row["expires_at"], float) else None,
                kept_until=row["body_until"] if isinstance(row["body_until"], float) else None,
                daemon=self._daemon,
            )

    async def show(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        async for row in self._rows(right, request):

            def look(queue: Queue, row: Any = row) -> Entry:
                return {**listing.history_entry(queue, row), "header": listing.header(queue, row)}

            yield await self._store.look(look)

    async def status(self, right: Right, _request: Entry) -> AsyncIterator[Entry]:
        now = time.time()

        def look(queue: Queue) -> status.Counts:
            row = queue.counts(right.only)
            routes = queue.waiting_routes(right.only) if right.all or row[0] else set()
            return status.Counts(
                queued=row[0],
                deferred=row[1],
                held=row[2],
                in_flight=row[3],
                failed=row[4],
                oldest_at=time_or_none(row[5]),
                damaged=row[6] if right.all else 0,
                lost_reports=queue.rows("lost_reports", since=now - LOST_REPORTS_S)[0][0] if right.all else 0,
                waiting_routes=tuple(sorted(routes)),
            )

        counts = await self._store.look(look)
        circumstances = await self._circumstances()
        report = status.report(self._config, counts, list(self._relays().values()), circumstances, now)
        yield {**report, "scope": "all"} if right.all else {**status.of_ones_own(report), "scope": "own"}

    # -- changing --

    async def count(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """How many messages `all` and the filters choose, before something is done to them."""
        number = 0
        if _filters(request):
            async for entries in self.waiting_pages(right, {"filters": request["filters"]}):
                number += len(entries)
                yield {}
        else:
            after: int | None = 0
            while after is not None:
                rows = await self._store.look(partial(Queue.page, after=after, uid=right.only, limit=COUNTED_AT_ONCE))
                number += len(rows)
                after = rows[-1]["id"] if len(rows) == COUNTED_AT_ONCE else None
        yield {"messages": number}

    async def flush(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """Make everything that he may touch due now; with filters, what they choose: then `flushed` is their number.

        With `wait`, as `flush_and_wait`.
        """
        if request.get("wait"):
            async for entry in self.flush_and_wait(right, {**request, "wait": False}):
                yield entry
            return
        now = time.time()
        scope = "all" if right.all else "own"
        number = 0
        if _filters(request):
            scope = "chosen"
            chosen = [entry["queue_id"] async for entry in self.waiting(right, request)]
            for at in range(0, len(chosen), FLUSHED_AT_ONCE):
                number += await self._store.change(partial(_make_due, ids=chosen[at : at + FLUSHED_AT_ONCE], now=now))
        else:
            await self._make_all_due(right, now)
        self._events.flush(uid=right.uid, scope=scope)
        if right.all:
            self._flush()
        yield {"flushed": number if scope == "chosen" else scope}

    async def _make_all_due(self, right: Right, now: float) -> None:
        if right.only is None:
            await self._store.change(lambda queue: queue.flush(now))
            return
        after: int | None = 0
        while after is not None:
            after = await self._store.change(partial(Queue.flush_of, uid=right.only, now=now, after=after))

    async def flush_and_wait(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """Flush; then what happens to that mail, until all of it was tried or its smarthosts rest again.

        The first entry is that of the flush, with the number of recipients who are waited for. Any other is an event
        with its fields, or {}: still at it.
        """
        self._need_daemon()
        with self._events.follow(EVERY) as following:
            number, ids = 0, set[str]()
            async for found in self._recipients(right, request, lambda one: one["state"] in ("queued", "attempting")):
                number += len(found)
                ids |= {queue_id for queue_id, _ in found}
            flushed = [entry async for entry in self.flush(right, request)]
            yield {**flushed[0], "recipients": number}
            while untried := await self._untried(right, request):
                rested = False
                while untried and not rested:
                    try:
                        async with asyncio.timeout(ALIVE_S):
                            event, fields = await following.get()
                    except TimeoutError:
                        yield {}
                        break
                    if fields.get("queue_id") in ids:
                        yield {"event": event, **fields}
                    if event == "outcome":
                        untried.discard((str(fields["queue_id"]), str(fields["recipient"])))
                    rested = event == "trouble"
            while not following.empty():  # what was tried before anybody looked
                event, fields = following.get_nowait()
                if fields.get("queue_id") in ids:
                    yield {"event": event, **fields}

    def _to_be_tried(self, recipient: Any) -> bool:
        """Whether it is due or being attempted, but for mail whose smarthosts rest."""
        now = time.time()
        obstacle = self.obstacle(tuple(recipient["route"].split("\n")) if recipient["route"] else ())
        rests = obstacle is not None and (obstacle.until is None or obstacle.until > now)
        at = recipient["next_attempt_at"]
        due = recipient["state"] == "queued" and isinstance(at, float) and at <= now and not rests
        return due or recipient["state"] == "attempting"

    async def _untried(self, right: Right, request: Entry) -> set[tuple[str, str]]:
        """Who is to be tried; of many no more than MAX_UNTRIED: the rest when that was tried."""
        untried: set[tuple[str, str]] = set()
        async for found in self._recipients(right, request, self._to_be_tried):
            untried |= found
            if len(untried) >= MAX_UNTRIED:
                break
        return untried

    async def _recipients(
        self, right: Right, request: Entry, wanted: Callable[[Any], bool]
    ) -> AsyncIterator[set[tuple[str, str]]]:
        """Queue id and `<recipient>` of those wanted, of what is chosen, page by page."""
        chosen = {entry["queue_id"] async for entry in self.waiting(right, request)}

        def page(queue: Queue, after: int) -> tuple[set[tuple[str, str]], int | None]:
            found: set[tuple[str, str]] = set()
            rows = queue.page(after, right.only, listing.PAGE)
            looked_at, before = 0, after
            for row in rows:
                if looked_at >= listing.PAGE_RECIPIENTS:
                    return found, before
                before = row["id"]
                for one in queue.rows("page_recipients", message=row["id"]) if row["queue_id"] in chosen else ():
                    looked_at += 1
                    if wanted(one):
                        found.add((row["queue_id"], f"<{one['address']}>"))
            return found, rows[-1]["id"] if len(rows) == listing.PAGE else None

        after: int | None = 0
        while after is not None:
            found, after = await self._store.look(partial(page, after=after))
            yield found

    async def hold(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        def step(queue: Queue, message: int, now: float) -> list[Ended]:
            queue.hold(message)
            return []

        async for entry in self._each(right, request, "held", step, reason=_optional(request, "reason") or None):
            yield entry

    async def release(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        def step(queue: Queue, message: int, now: float) -> list[Ended]:
            queue.release(message, now)
            return []

        async for entry in self._each(right, request, "released", step):
            yield entry

    async def remove(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        def step(queue: Queue, message: int, now: float) -> list[Ended]:
            return Settling(queue, self._postmaster, now).remove(message, right.uid)

        async for entry in self._each(right, request, "removed", step):
            yield entry

    async def retry(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        def due(queue: Queue, message: int, now: float) -> list[Ended]:
            queue.make_due(message, now)
            return []

        if request.get("all"):
            async for entry in self._each(right, request, "retried", due, words="due now"):
                yield entry
            return
        async for queue_id in self._named(right, request):
            row = await self._find(right, queue_id)
            now = time.time()

            def step(queue: Queue, row: Any = row, now: float = now) -> bool:
                if row["state"] == "queued":
                    queue.make_due(row["id"], now)
                    return True
                settings = self._config.queue
                return queue.revive(row["id"], now=now, lifetime=settings.lifetime, warn_after=settings.warn_after)

            if not await self._store.change(step):
                raise ControlError(EX_DATAERR, f"{queue_id}: is over and its body is no longer kept: send it again")
            self._events.emit("retried", queue_id=queue_id, uid=right.uid)
            yield {"queue_id": queue_id, "done": "due now"}

    async def expire(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        if not right.all:
            raise ControlError(
                EX_NOPERM,
                "only root and the queue's owner may have mail given up; pysendmail queue remove takes back your own",
            )

        def step(queue: Queue, message: int, now: float) -> list[Ended]:
            queue.force_expire(message)
            recipients, reason = queue.recipients_of(message), f"expired by uid {right.uid}"
            return Settling(queue, self._postmaster, now).expire(
                recipients, reason=reason, status="4.4.7", smarthost=""
            )

        async for entry in self._each(right, request, "expired", step):
            yield entry

    async def _each(
        self,
        right: Right,
        request: Entry,
        event: str,
        step: Callable[..., list[Ended]],
        *,
        words: str = "",
        **fields: str | None,
    ) -> AsyncIterator[Entry]:
        """Do one thing to each message named, a commit each, or to all that are chosen, AT_ONCE in a commit.

        `fields` are for the log. {} where a page of the queue had nothing that the filters choose.
        """
        async for ids in self._chosen(right, request):
            if not ids:
                yield {}
                continue
            try:
                changed = await self._store.change(partial(_each_of, ids=ids, step=step, now=time.time()))
            except AliasesUnread as error:
                raise ControlError(EX_TEMPFAIL, f"{ids[0]}: a report has no address for now: {error}") from None
            for queue_id, ended in changed.items():
                self._events.emit(event, queue_id=queue_id, uid=right.uid, **fields)
                for one in ended:
                    self._events.ended(one, smarthost=None, tls=None)
                yield {"queue_id": queue_id, "done": words or event}

    async def _chosen(self, right: Right, request: Entry) -> AsyncIterator[list[str]]:
        """The messages that wait and are to be changed together."""
        if not request.get("all"):
            async for queue_id in self._named(right, request):
                await self._waiting(right, queue_id)
                yield [queue_id]
            return
        filtered = bool(_filters(request))
        async for entries in self.waiting_pages(right, {"filters": request.get("filters")}):
            if filtered and not entries:
                yield []
            for at in range(0, len(entries), AT_ONCE):
                yield [entry["queue_id"] for entry in entries[at : at + AT_ONCE]]

    async def _named(self, right: Right, request: Entry) -> AsyncIterator[str]:
        """The queue ids that a request is about: those given, or with `all` every waiting one that he may touch."""
        ids = _ids(request)
        if not request.get("all"):
            if not ids:
                raise ControlError(EX_USAGE, "name a queue id, or --all")
            for queue_id in ids:
                yield queue_id
            return
        async for entry in self.waiting(right, {"filters": request.get("filters")}):
            yield entry["queue_id"]

    async def _rows(self, right: Right, request: Entry) -> AsyncIterator[Any]:
        """The rows of these messages. One whose id is damaged is found by nobody, and with `all` hides no other."""
        async for queue_id in self._named(right, request):
            try:
                row = await self._find(right, queue_id)
            except ControlError:
                if not request.get("all"):
                    raise
            else:
                yield row

    async def _find(self, right: Right, queue_id: str) -> Any:
        rows = await self._store.look(lambda queue: queue.rows("one", queue_id=queue_id))
        if not rows or right.only not in (None, rows[0]["uid"]):
            raise ControlError(EX_NOINPUT, f"{queue_id[:40]}: no such queue id; mailq lists those that wait")
        return rows[0]

    async def _waiting(self, right: Right, queue_id: str) -> Any:
        row = await self._find(right, queue_id)
        if row["state"] not in ("queued", "damaged"):
            raise ControlError(EX_NOINPUT, f"{queue_id}: is not in the queue any more: pysendmail history {queue_id}")
        return row

    # -- smarthosts --

    async def smarthosts(self, right: Right, _request: Entry) -> AsyncIterator[Entry]:
        """Their health, as in `status`, which only a daemon knows."""
        self._need_daemon()
        async for report in self.status(right, {}):
            for entry in report["smarthosts"]:
                yield entry

    async def purge(self, right: Right, _request: Entry) -> AsyncIterator[Entry]:
        """End the rest of those in trouble: they are tried at once."""
        if not right.all:
            raise ControlError(EX_NOPERM, "only root and the queue's owner may end the rest of the smarthosts")
        self._need_daemon()
        self._flush()
        self._events.flush(uid=right.uid, scope="smarthosts")
        yield {"flushed": "smarthosts"}

    def _need_daemon(self) -> None:
        if not self._daemon:
            raise ControlError(
                EX_UNAVAILABLE,
                "no daemon is running, so that no smarthost is in use; pysendmail probe tries whether one works",
            )

    async def reload(self, right: Right, _request: Entry) -> AsyncIterator[Entry]:
        """Read the configuration again; `error` says why the old one stays in use."""
        if not right.all:
            raise ControlError(EX_NOPERM, "only root and the queue's owner may have the configuration read again")
        if self._reload is None:
            raise ControlError(EX_UNAVAILABLE, "no daemon is running that could read the configuration again")
        yield {"reloaded": str(self._config.file), "error": await self._reload()}

    async def probe(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        if not right.all:
            raise ControlError(
                EX_NOPERM, "probe logs in at the smarthost: only root and the queue's owner may ask for it"
            )
        names = _ids(request) or [smarthost.name for smarthost in self._config.smarthost]
        if not names:
            raise ControlError(EX_UNAVAILABLE, f"no smarthost is configured: add [[smarthost]] to {self._config.file}")
        for name in names:
            if name not in {smarthost.name for smarthost in self._config.smarthost}:
                raise ControlError(EX_NOINPUT, f"{name[:80]}: no smarthost has this name in {self._config.file}")
        question = _question(request)
        for name in names:
            if request.get("forget"):
                await self._forget_tls(name)
                self._events.emit("forget", smarthost=name, uid=right.uid)
                yield {"name": name, "forgotten": True}
            else:
                (smarthost,) = (one for one in self._config.smarthost if one.name == name)
                yield await self._probe(name, question and _as_it_leaves(question, self._config, smarthost))


_VERBS: dict[str, Verb] = {
    "list": Control.waiting,
    "count": Control.count,
    "history": Control.history,
    "traffic": Control.traffic,
    "explain": Control.explain,
    "show": Control.show,
    "status": Control.status,
    "flush": Control.flush,
    "hold": Control.hold,
    "release": Control.release,
    "remove": Control.remove,
    "retry": Control.retry,
    "expire": Control.expire,
    "probe": Control.probe,
    "reload": Control.reload,
}


def _each_of(queue: Queue, ids: list[str], step: Callable[..., list[Ended]], now: float) -> dict[str, list[Ended]]:
    """The step for each of these messages that is still there: one that has left since it was listed needs nothing."""
    changed = {}
    for queue_id in ids:
        row = queue.find(queue_id)
        if row is not None and row["state"] in ("queued", "damaged"):
            changed[queue_id] = step(queue, message=row["id"], now=now)
    return changed


def _make_due(queue: Queue, ids: list[str], now: float) -> int:
    return sum(queue.make_one_due(queue_id, now) for queue_id in ids)


def _question(request: Entry) -> Question | None:
    """`sender` and `recipient` of a probe. The null sender is "" or <>; a recipient that is "" is the sender."""
    sender, recipient = _optional(request, "sender"), _optional(request, "recipient") or ""
    if sender is None:
        return None
    sender = "" if sender == "<>" else sender
    if not (sender or recipient):
        raise ControlError(EX_USAGE, "--to: the null sender has no address that could be asked about instead")
    try:
        for text in filter(None, (sender, recipient)):
            parse_path(text)
    except AddressError as error:
        raise ControlError(EX_DATAERR, str(error)) from None
    return Question(sender=sender, recipient=recipient)


def _as_it_leaves(question: Question, config: Config, smarthost: Smarthost) -> Question:
    """With the addresses that the smarthost would see: a local name at its domain, the sender as [rewrite] has it."""
    domains = {"": config.sender_domain}
    sender = rewrite.qualified(question.sender, domains) if question.sender else ""
    if (rule := rewrite.rule(config, smarthost)) is not None:
        sender = rewrite.sender(sender, rule)
    recipient = rewrite.qualified(question.recipient, domains) if question.recipient else sender
    return Question(sender=sender, recipient=recipient)


def _ids(request: Entry) -> list[str]:
    ids = request.get("ids") or []
    if not isinstance(ids, list) or len(ids) > MAX_IDS or not all(isinstance(one, str) for one in ids):
        raise ControlError(EX_USAGE, f"ids: a list of at most {MAX_IDS} names is expected")
    return ids


def _filters(request: Entry) -> tuple[QueueFilter, ...]:
    """`filters` of a request: values of ours, or objects with their three keys."""
    filters = request.get("filters") or ()
    if isinstance(filters, Sized) and len(filters) > MAX_FILTERS:
        raise ControlError(EX_USAGE, f"more than {MAX_FILTERS} filters")
    try:
        found = tuple(one if isinstance(one, QueueFilter) else QueueFilter(**one) for one in filters)
        if any(one.what not in FILTERED or not isinstance(one.text, str) for one in found):
            raise TypeError
    except (TypeError, ValueError):
        raise ControlError(EX_USAGE, "filters: a list of objects with what, text and negated is expected") from None
    return found


def _past(right: Right, request: Entry) -> listing.Past:
    return listing.Past(
        uid=right.only,
        since=_time(request, "since"),
        until=_time(request, "until") or None,
        to=_optional(request, "to"),
        sender=_optional(request, "from"),
        outcome=_optional(request, "outcome"),
        reason=_optional(request, "reason"),
    )


def _time(request: Entry, key: str) -> float:
    value = request.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_TIME:  # nor NaN
        raise ControlError(EX_USAGE, f"{key}: a number of seconds since the epoch is expected")
    return float(value)


def _optional(request: Entry, key: str) -> str | None:
    value = request.get(key)
    return None if value is None else str(value)
