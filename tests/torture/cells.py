"""Cells of a declared table, played many at a time on one loop: what the table says, and what became of a message.

A table is a page for people in Markdown: its first column says what happens, its heading where, each cell in a word or
two what has to become of the mail. The code reads the page, so that there is no second truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rig.engine import Engine
from torture.evidence import Violation
from torture.report import Part

AT_ONCE = 48
PATIENCE_S = 60.0
TEXT = b"a line of the text\r\n"
_Cell = TypeVar("_Cell")


def declared(page: str) -> Iterator[tuple[str, str, str]]:
    """Of a page, or a piece of one, that has one table: each row's name, each column's, and the word there."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    heading, *rows = [[cell.strip() for cell in line.removeprefix("| ").rstrip("| ").split(" | ")] for line in lines]
    for row, *words in rows:
        for column, word in zip(heading[1:], words, strict=True):
            yield row, column, word


async def send(
    running: Engine, name: str, queue_id: str, recipients: Sequence[str], text: bytes, **options: Any
) -> dict[str, str]:
    """One message to the smarthost of that name, and what the log says of each recipient when all have an outcome.

    sent, deferred or bounced; uncertain: deferred, and it may have arrived; rests: deferred without an attempt of his.
    `options`: as for `new_message`.
    """
    found: dict[str, str] = {}
    with running.events.follow(queue_id) as events:
        await running.accept(*recipients, route=(name,), queue_id=queue_id, body=text, **options)
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < len(recipients):
                event, fields = await events.get()
                if event == "outcome":
                    deferred = "uncertain" if fields["uncertain"] else "deferred" if fields["attempt"] else "rests"
                    status = str(fields["status"])
                    found[str(fields["recipient"]).strip("<>")] = deferred if status == "deferred" else status
    return found


def batches(chosen: Sequence[_Cell]) -> Iterator[Sequence[_Cell]]:
    for start in range(0, len(chosen), AT_ONCE):
        yield chosen[start : start + AT_ONCE]


def judge(part: Part, batch: Sequence[object], wrong: Sequence[str]) -> None:
    """`wrong`: what was wrong with each cell; empty: nothing."""
    for cell, text in zip(batch, wrong, strict=True):
        found = [Violation(invariant=part.name, text=text)] if text else []
        part.case(str(cell), found, again=f"python -m torture {part.name} --only {str(cell)!r}")


def fresh(directory: Path, name: str) -> Path:
    new = directory / name
    new.mkdir()
    return new
