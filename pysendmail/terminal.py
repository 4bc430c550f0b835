"""Terminal: how answers look to a person: what waits as a table, a question, how far long work is.

Much of the text comes from the network or from users. All of it is escaped and capped (`say`, `show_queue`), and shown
as it is, never as markup. rich fits a table to the terminal's width; elsewhere the columns are plain. At most MAX_ROWS
are shown, and then how to see the rest. A question and a bar are for a person alone (`somebody_looks`).
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Self

from pysendmail.smtp.reply import printable

if TYPE_CHECKING:
    from rich.progress import Progress

Entry = dict[str, Any]
MAX_ROWS = 2000  # rich takes a millisecond for each, and nobody reads so many
MAX_LINE = 2000  # characters: a whole reply and what stands before it
GAP, BELOW, MIN_ADDRESS = 2, 4, 12  # columns: between two, before a line that belongs to the one above, for an address

_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")
_TITLES = ("Queue id", "Size", "Arrived", "From", "To", "State", "Reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the terminal can show."""

    columns: int
    rows: int
    unicode: bool
    colour: bool

    def cut(self, text: str) -> str:
        """A line of text from anywhere, as long as there is room for it."""
        if not self.unicode:
            text = text.encode("ascii", "backslashreplace").decode()
        return _cut(printable(text, MAX_LINE), self.columns)


def look() -> Look:
    """Of standard output."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        columns, rows = 0, 0
    return Look(
        columns=columns or 80,
        rows=rows or 24,
        unicode=_speaks_utf8(os.environ),
        colour=os.isatty(1) and not os.environ.get("NO_COLOR"),
    )


def _speaks_utf8(environ: Mapping[str, str]) -> bool:
    """Whether the locale does. LC_CTYPE may be what Python itself has made of the locale C (PEP 538): no sign of it."""
    language = environ.get("LANG") or "C"
    kind = environ.get("LC_CTYPE") or language
    if kind in _COERCED and language in ("C", "POSIX"):
        kind = "C"
    return "utf8" in (environ.get("LC_ALL") or kind).lower().replace("-", "")


def fit(text: str, cells: int) -> str:
    """Text from anywhere, as wide as that."""
    shown = _cut(printable(text, MAX_LINE), cells)
    return shown + " " * (cells - sum(map(_cells, shown)))


def _cut(text: str, cells: int) -> str:
    if len(text) <= cells and text.isascii():
        return text
    used = 0
    for at, letter in enumerate(text):
        used += _cells(letter)
        if used > cells:
            return text[:at]
    return text


def _cells(letter: str) -> int:
    """How much room a letter takes: none if it stands over another, two if it is a wide one."""
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def say(*lines: object) -> None:
    """Print lines, each of which may have text from anywhere in it."""
    for line in lines:
        print(printable(str(line), MAX_LINE))


def somebody_looks() -> bool:
    """Whether a person is there, to be asked and to be shown how far work is."""
    return all(map(os.isatty, (0, 1, 2)))  # the stream of one that is closed is no stream


def confirmed(question: str) -> bool:
    """Whether the person says yes."""
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class Bar(AbstractContextManager["Bar"]):
    """How far long work is, on standard error; `shown` says whether there is somebody to see it."""

    def __init__(self, what: str, total: int | None = None, *, shown: bool) -> None:
        self._progress: Progress | None = None
        if not shown:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # TextColumn would read markup: `what` is ours.
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def expect(self, total: int) -> None:
        """So much there is to do."""
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    def reach(self, done: int, total: int) -> None:
        """It is as far as this."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    def step(self) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)


def show_queue(entries: Sequence[Entry]) -> None:
    """Print entries of the queue, as `mailq --json` has them."""
    if not entries:
        print("The queue is empty.")
        return
    repeat = not os.isatty(1)
    rows = [tuple(map(printable, row)) for entry in entries for row in _rows(entry, repeat=repeat)]
    _show_table(_TITLES, rows[:MAX_ROWS])
    more = f"; these are the first {MAX_ROWS} of {len(rows)} lines, see mailq --format postfix" * (len(rows) > MAX_ROWS)
    print(f"{len(entries)} message{'s' if len(entries) != 1 else ''}{more}")


def _rows(entry: Entry, *, repeat: bool) -> Iterator[tuple[str, ...]]:
    """A line for each recipient. For people, what holds of the whole message stands in the first of them only."""
    arrived = time.strftime("%b %d %H:%M", time.localtime(entry["arrival_time"]))
    message = (entry["queue_id"], str(entry["message_size"]), arrived, entry["sender"])
    for recipient in entry["recipients"] or [{"address": "", "delay_reason": None}]:
        yield (*message, recipient["address"], entry["queue_name"], recipient["delay_reason"] or "")
        message = message if repeat else ("", "", "", "")


def _show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(sum(map(_cells, row[column])) for row in (titles, *rows)) for column in range(len(titles))]
    if os.isatty(1):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        if sum(widths) + GAP * (len(widths) - 1) > console.width:
            first, *others = _narrow(titles, rows, widths, console.width)
            console.print(Text.assemble((first, "bold"), *(f"\n{line}" for line in others)), soft_wrap=True)
            return
        table = Table(*titles, box=None, header_style="bold", pad_edge=False)
        for column in table.columns[:3]:
            column.no_wrap = True  # an id that is cut in two cannot be copied
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        return
    for row in (titles, *rows):
        print(_line(row, widths))


def _narrow(titles: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], columns: int) -> Iterator[str]:
    """Where a line has no room for the reason, it stands below. An address that was cut helps nobody: it is folded."""
    from textwrap import wrap

    *others, sender, recipient, state, _ = widths
    room = max(columns - sum(others) - state - GAP * len(others) - 2 * GAP, 2 * MIN_ADDRESS)
    sender = min(sender, max(room // 2, room - recipient))
    fitted = (*others, sender, min(recipient, room - sender), state)
    for *row, reason in (titles, *rows):
        folded = [_folded(cell, width) for cell, width in zip(row, fitted, strict=True)]
        for lines in zip_longest(*folded, fillvalue=""):
            yield _line(lines, fitted)
        if reason:
            yield from wrap(reason, columns, initial_indent=" " * BELOW, subsequent_indent=" " * BELOW)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell + " " * (width - sum(map(_cells, cell))) for cell, width in zip(row, widths, strict=True))
    return (" " * GAP).join(cells).rstrip()


def _folded(text: str, cells: int) -> list[str]:
    """Pieces of an address that are no wider than that; where it can be, the second begins with the @."""
    pieces = []
    while len(piece := _cut(text, cells)) < len(text):
        pieces.append(piece[: max(piece.rfind("@"), 0)] or piece or text[0])
        text = text[len(pieces[-1]) :]
    return [*pieces, text]
