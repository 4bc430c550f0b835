"""Reader: a thread with a read-only connection, so that who looks waits for no commit.

The daemon has one for bodies that are sent and one for people who look, so that neither of these waits for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pysendmail import threads
from pysendmail.queue import Queue

T = TypeVar("T")


class Reader:
    def __init__(self, directory: Path, name: str = "reader") -> None:
        self._directory = directory
        self._thread = threads.pool(1, name)
        self._queue: Queue | None = None

    async def run(self, look: Callable[[Queue], T]) -> T:
        """Run one short look at the queue; long ones go page by page."""
        return await self.hand_in(look)

    def hand_in(self, look: Callable[[Queue], T]) -> asyncio.Future[T]:
        """Have a look at the queue begun, to be awaited later, or to be cancelled."""
        return asyncio.get_running_loop().run_in_executor(self._thread, self._look, look)

    def _look(self, look: Callable[[Queue], T]) -> T:
        if self._queue is None:
            self._queue = Queue.open_readonly(self._directory)
        return look(self._queue)

    def _close(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    async def stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()
