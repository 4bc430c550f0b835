"""Everything that delivers, without the daemon around it: a queue, a writer, Delivery, and a log to wait on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pysendmail.config import Config, Retry, Smarthost
from pysendmail.delivery import Delivery
from pysendmail.events import Events, Lines, Value
from pysendmail.queue import Queue
from pysendmail.reader import Reader
from pysendmail.records import LaneState, NewMessage
from pysendmail.secrets import Secrets
from pysendmail.spool import Reserve
from pysendmail.writer import Writer
from rig.peer import Peer
from rig.store import PlainPolicy, config, new_message

RETRY = Retry(first=30.0, maximum=3600.0, jitter=0.0)
PATIENCE_S = 20.0


class Log(Events):
    """Events as values, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__(Lines(None))
        self.all: list[tuple[str, dict[str, Value]]] = []
        self._news = asyncio.Event()

    def emit(self, event: str, **fields: Value) -> None:
        super().emit(event, **fields)
        self.all.append((event, fields))
        self._news.set()

    def named(self, event: str, **fields: Value) -> list[dict[str, Value]]:
        return [f for name, f in self.all if name == event and all(f[key] == value for key, value in fields.items())]

    async def wait_for(self, event: str, count: int = 1, **fields: Value) -> dict[str, Value]:
        """The `count`-th event of this name with these fields."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(found := self.named(event, **fields)) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {event} {fields} (x{count}) in {self.all}") from None
        return found[count - 1]


class Engine:
    """Everything that delivers, without the daemon around it."""

    def __init__(self, directory: Path, configuration: Config) -> None:
        self.events = Log()
        self.policy = PlainPolicy()
        self.queue = Queue.open(directory)
        self.reserve = Reserve(directory, 65536)
        self.reserve.fill()
        self.writer = Writer(
            self.queue, self.reserve, on_commit=self._committed, on_damage=self._damaged, on_broken=self._broken
        )
        self.delivery = Delivery(
            configuration,
            writer=self.writer,
            reader=Reader(directory),
            reserve=self.reserve,
            events=self.events,
            policy=self.policy,
            secrets=Secrets(),
        )
        self.now: Callable[[], float] = asyncio.get_running_loop().time

    def _committed(self, lanes: list[LaneState], reports: list[NewMessage]) -> None:
        self.delivery.lanes_changed(lanes)

    def _damaged(self, queue_id: str, error: str) -> None:
        pass

    def _broken(self, error: str) -> None:
        self.events.emit("broken", error=error)

    async def accept(self, *recipients: str, **options: Any) -> str:
        new = new_message(*recipients, **options)
        await self.writer.run(lambda queue: queue.accept(new, submission=None, now=time.time()))
        return new.queue_id

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self.writer.run(
            lambda queue: [tuple(row) for row in queue.connection.execute(statement, values).fetchall()]
        )

    async def close(self) -> None:
        await self.delivery.stop(5.0)
        await self.delivery._reader.stop()
        await self.writer.stop()
        self.queue.close()


def smarthost(peer: Peer, name: str = "main", **settings: Any) -> Smarthost:
    return Smarthost(name=name, host=peer.host, port=peer.port, **{"tls": "none", **settings})


@contextlib.asynccontextmanager
async def engine(directory: Path, *smarthosts: Smarthost, run: bool = True, **sections: Any) -> AsyncIterator[Engine]:
    engine = Engine(directory, config(directory, *smarthosts, **{"retry": RETRY, **sections}))
    task = asyncio.get_running_loop().create_task(engine.delivery.run()) if run else None
    try:
        yield engine
        assert not engine.events.named("bug"), engine.events.named("bug")
    finally:
        await engine.close()
        if task is not None:
            await asyncio.wait_for(task, 5)
