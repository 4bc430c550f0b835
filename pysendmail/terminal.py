"""Terminal: what waits, as a table for somebody who looks at it: `mailq` on a terminal, `pysendmail queue list`.

rich fits it to the terminal's width; elsewhere the columns are plain. All text is shown as it is, never as markup: some
of it comes from the network. At most MAX_ROWS are shown, and then how to see the rest.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

Entry = dict[str, Any]
MAX_ROWS = 2000  # rich takes a millisecond for each, and nobody reads so many

_TITLES = ("Queue id", "Size", "Arrived", "From", "To", "State", "Reason")


def show_queue(entries: Sequence[Entry]) -> None:
    """Print entries of the queue, as `mailq --json` has them."""
    if not entries:
        print("The queue is empty.")
        return
    rows = [row for entry in entries for row in _rows(entry, repeat=not sys.stdout.isatty())]
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
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*titles, box=None, header_style="bold", pad_edge=False)
        for column in table.columns[:3]:
            column.no_wrap = True  # an id that is cut in two cannot be copied
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    for row in (titles, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
