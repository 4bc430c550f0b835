"""Control: what people do with the queue, for those who may: list, explain, hold, release, remove, retry, expire,
flush, history, status, probe.

One `Control` serves a command, whether it reached the daemon's socket or owns the queue by itself. A caller of the
`submit` socket, root too, has his own messages; the `control` socket has all. What is another's looks as if it did
not exist. Answers are dictionaries, one a line of JSON; `ControlError` carries the exit code and the words.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from pysendmail import explain, listing, status
from pysendmail.config import Config
from pysendmail.events import Events
from pysendmail.exits import EX_DATAERR, EX_NOINPUT, EX_NOPERM, EX_UNAVAILABLE, EX_USAGE
from pysendmail.postmaster import Postmaster
from pysendmail.queue import Queue
from pysendmail.records import Ended
from pysendmail.relay import Relay
from pysendmail.settling import Settling

T = TypeVar("T")
MAX_IDS = 10_000
LOST_REPORTS_S = 5 * 86400.0  # how long `status` reminds of a bounce that reached nobody


class ControlError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Store(Protocol):
    """The two doors to queue.db: the daemon's threads, or a command's own connection."""

    async def look(self, step: Callable[[Queue], T]) -> T: ...
    async def change(self, step: Callable[[Queue], T]) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Who asks. `all`: everybody's messages, not only his own."""

    uid: int
    all: bool

    @property
    def only(self) -> int | None:
        return None if self.all else self.uid


Entry = dict[str, Any]
Verb = Callable[["Control", Right, Entry], AsyncIterator[Entry]]


class Control:
    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        events: Events,
        postmaster: Postmaster,
        circumstances: Callable[[], status.Circumstances],
        relays: Callable[[], dict[str, Relay]],
        flush: Callable[[], None],
        probe: Callable[[str], Awaitable[Entry]],
        forget_tls: Callable[[str], Awaitable[None]],
    ) -> None:
        self._config = config
        self._store = store
        self._events = events
        self._postmaster = postmaster
        self._circumstances = circumstances
        self._relays = relays
        self._flush = flush
        self._probe = probe
        self._forget_tls = forget_tls

    async def answer(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        """The answer to one request, `{"verb": ..., ...}`, entry by entry. Raises ControlError."""
        verb = _VERBS.get(str(request.get("verb")))
        if verb is None:
            raise ControlError(EX_USAGE, f"no such verb: {request.get('verb')!r:.80}")
        async for entry in verb(self, right, request):
            yield entry

    # -- looking --

    def obstacle(self, route: tuple[str, ...]) -> status.Obstacle | None:
        """Why mail on this route cannot leave now, when the smarthosts are the reason."""
        return status.obstacle(route, self._relays())

    async def _pages(self, page: Callable[..., listing.Page]) -> AsyncIterator[Entry]:
        """All entries, page by page; `page(queue, after=...)` reads one."""
        after: int | None = 0
        while after is not None:
            entries, after = await self._store.look(partial(page, after=after))
            for entry in entries:
                yield entry

    async def waiting(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        for queue_id in _ids(request):
            row = await self._waiting(right, queue_id)
            yield await self._store.look(partial(listing.waiting_entry, row=row, obstacle=self.obstacle))
        if not _ids(request):
            async for entry in self._pages(partial(listing.waiting_page, uid=right.only, obstacle=self.obstacle)):
                yield entry

    async def history(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        since, to, ids = _time(request, "since"), _optional(request, "to"), _ids(request)
        if request.get("bounces"):
            for about in ids or (None,):
                page = partial(listing.bounces_page, uid=right.only, since=since, to=to, about=about)
                async for entry in self._pages(page):
                    yield entry
        elif ids:
            for queue_id in ids:
                row = await self._find(right, queue_id)
                yield await self._store.look(partial(listing.history_entry, row=row))
        else:
            async for entry in self._pages(partial(listing.history_page, uid=right.only, since=since, to=to)):
                yield entry

    async def explain(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        async for queue_id in self._named(right, request):
            row = await self._find(right, queue_id)
            history = await self._store.look(partial(listing.history_entry, row=row))
            waiting = await self._store.look(partial(listing.waiting_entry, row=row, obstacle=self.obstacle))
            removers = await self._store.look(partial(listing.removers, row=row))
            yield explain.message(
                history, waiting, removers=removers, relays=self._relays(), config=self._config, now=time.time()
            )

    async def show(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        async for queue_id in self._named(right, request):
            row = await self._find(right, queue_id)

            def look(queue: Queue, row: Any = row) -> Entry:
                entry = listing.history_entry(queue, row)
                entry["header"] = queue.rows("claim_message", message=row["id"])[0]["header"].decode("utf-8", "replace")
                return entry

            yield await self._store.look(look)

    async def status(self, right: Right, _request: Entry) -> AsyncIterator[Entry]:
        now = time.time()

        def look(queue: Queue) -> status.Counts:
            row = queue.rows("counts", uid=right.only)[0]
            routes = [r["route"] for r in queue.rows("waiting_routes")] if right.all or row[0] else []
            return status.Counts(
                queued=row[0],
                deferred=row[1],
                held=row[2],
                in_flight=row[3],
                failed=row[4],
                oldest_at=row[5] if isinstance(row[5], float) else None,
                damaged=row[6] if right.all else 0,
                lost_reports=queue.rows("lost_reports", since=now - LOST_REPORTS_S)[0][0] if right.all else 0,
                waiting_routes=tuple(tuple(str(route).split("\n")) if route else () for route in routes),
            )

        counts = await self._store.look(look)
        yield status.report(self._config, counts, list(self._relays().values()), self._circumstances(), now)

    # -- changing --

    async def flush(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        now = time.time()
        await self._store.change(lambda queue: queue.flush(now, right.only))
        self._events.flush(uid=right.uid, scope="all" if right.all else "own")
        if right.all:
            self._flush()
        yield {"flushed": "all" if right.all else "own"}

    async def hold(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
        def step(queue: Queue, message: int, now: float) -> list[Ended]:
            queue.hold(message)
            return []

        async for entry in self._each(right, request, "held", step):
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
            yield {"queue_id": queue_id, "done": "due now"}

    async def expire(self, right: Right, request: Entry) -> AsyncIterator[Entry]:
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
        done: str,
        step: Callable[..., list[Ended]],
    ) -> AsyncIterator[Entry]:
        """Do one thing to each message named, a commit each."""
        async for queue_id in self._named(right, request):
            try:
                row = await self._waiting(right, queue_id)
            except ControlError:
                if request.get("all"):
                    continue  # it left since we began: there is nothing to do to it
                raise
            ended = await self._store.change(partial(step, message=row["id"], now=time.time()))
            self._events.emit(done, queue_id=queue_id, uid=right.uid)
            for one in ended:
                self._events.ended(one, smarthost=None, tls=None)
            yield {"queue_id": queue_id, "done": done}

    async def _named(self, right: Right, request: Entry) -> AsyncIterator[str]:
        """The queue ids that a request is about: those given, or with `all` every waiting one that he may touch."""
        ids = _ids(request)
        if not request.get("all"):
            if not ids:
                raise ControlError(EX_USAGE, "name a queue id, or --all")
            for queue_id in ids:
                yield queue_id
            return
        page = partial(listing.waiting_page, uid=right.only, obstacle=self.obstacle)
        async for entry in self._pages(page):
            yield entry["queue_id"]

    async def _find(self, right: Right, queue_id: str) -> Any:
        rows = await self._store.look(lambda queue: queue.rows("one", queue_id=queue_id))
        if not rows or not (right.all or rows[0]["uid"] == right.uid):
            raise ControlError(EX_NOINPUT, f"{queue_id[:40]}: no such queue id; mailq lists those that wait")
        return rows[0]

    async def _waiting(self, right: Right, queue_id: str) -> Any:
        row = await self._find(right, queue_id)
        if row["state"] not in ("queued", "damaged"):
            raise ControlError(EX_NOINPUT, f"{queue_id}: is not in the queue any more: pysendmail history {queue_id}")
        return row

    # -- smarthosts --

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
        for name in names:
            if request.get("forget"):
                await self._forget_tls(name)
                self._events.emit("forget", smarthost=name, uid=right.uid)
                yield {"name": name, "forgotten": True}
            else:
                yield await self._probe(name)


_VERBS: dict[str, Verb] = {
    "list": Control.waiting,
    "history": Control.history,
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
}


def _ids(request: Entry) -> list[str]:
    ids = request.get("ids") or []
    if not isinstance(ids, list) or len(ids) > MAX_IDS or not all(isinstance(one, str) for one in ids):
        raise ControlError(EX_USAGE, f"ids: a list of at most {MAX_IDS} names is expected")
    return ids


def _time(request: Entry, key: str) -> float:
    value = request.get(key) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ControlError(EX_USAGE, f"{key}: a number of seconds since the epoch is expected")
    return float(value)


def _optional(request: Entry, key: str) -> str | None:
    value = request.get(key)
    return None if value is None else str(value)
