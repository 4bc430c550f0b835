"""Pruning: what retention says is forgotten, a little at a time; what a damaged page keeps costs nothing else.

`Queue.prune` does all kinds in one step. Where that fails for a damaged page, each row is a step of its own, and one
that cannot be deleted is told of, once, and left alone until the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pysendmail.queue import PRUNED, Queue
from pysendmail.writer import StoreDamaged, Writer


async def prune(
    writer: Writer, keep_history: float, now: float, on_kept: Callable[[str, str], None]
) -> tuple[float | None, bool]:
    """As `Queue.prune`; where a page is damaged, nobody knows when there is something to do next.

    `on_kept` hears of what is kept: its queue id, "" if that is unknown, and the error.
    """
    try:
        return await writer.run(lambda queue: queue.prune(keep_history, now))
    except StoreDamaged:
        more = [await _one_by_one(writer, kind, keep_history, now, on_kept) for kind in PRUNED]
        return None, any(more)


async def _one_by_one(
    writer: Writer, kind: str, keep_history: float, now: float, on_kept: Callable[[str, str], None]
) -> bool:
    """Whether there is more of it already."""

    async def kept(row: int | None, error: StoreDamaged) -> None:
        on_kept(await writer.run(partial(Queue.keep, kind=kind, row=row)), str(error))

    try:
        rows = await writer.run(partial(Queue.prunable, kind=kind, keep_history=keep_history, now=now))
    except StoreDamaged as error:
        await kept(None, error)
        return False
    for row in rows:
        try:
            await writer.run(partial(Queue.drop, kind=kind, row=row))
        except StoreDamaged as error:
            await kept(row, error)
    return len(rows) == PRUNED[kind]
