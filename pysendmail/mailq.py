"""Mailq: the queue as people and programs read it: Postfix's long-id layout, Sendmail's, a table, JSON Lines.

Entries are those of `listing.waiting_page`, and come a page at a time; so does the text. Postfix's and Sendmail's
layouts are held to what the real programs print (tests/golden/mailq), since monitoring scripts parse both. Text from
the network was escaped when it was recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from pysendmail.argv import Invocation, Mode

Entry = dict[str, Any]
Pages = AsyncIterator[list[Entry]]
_MARKS = {"active": "*", "hold": "!"}
SYSTEM_FILE = Path("/etc/pysendmail/pysendmail.toml")
_POSTFIX_TITLE = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
_POSTFIX_INDENT = " " * 47
_LINES_AT_ONCE = 1000
_REASON_END = 76  # a reason ends at this column
# What Sendmail shows, in characters: the line ends there.
_SHOWN_SENDER, _SHOWN_RECIPIENT, _SHOWN_REASON = 39, 38, 60


def heading(asked: Invocation, file: Path) -> str:
    """Which queue a listing is of, for stderr; nothing for the machine's own, whose listing programs read."""
    return (
        "" if asked.mode is not Mode.LIST or asked.format == "json" or file == SYSTEM_FILE else f"the queue of {file}"
    )


def is_table(asked: Invocation) -> bool:
    """Whether a listing on a terminal is to be a table: by default it is. Programs read Postfix's layout by default."""
    return asked.mode is Mode.LIST and asked.format in (None, "table")


async def postfix(pages: Pages, directory: str) -> AsyncIterator[str]:
    octets = requests = 0
    async for entries in pages:
        lines = []
        for entry in entries:
            lines.append("\n" if requests else _POSTFIX_TITLE)
            requests += 1
            octets += entry["message_size"]
            queue_id = entry["queue_id"] + ("#" if entry["forced_expire"] else _MARKS.get(entry["queue_name"], ""))
            lines.append(
                f"{queue_id:<17} {entry['message_size']:>8} {_arrived(entry['arrival_time']):>19} {entry['sender']}\n"
            )
            reason = None
            for recipient in entry["recipients"]:
                if (why := recipient["delay_reason"]) and why != reason:
                    reason = why
                    lines.append(f"{' ' * max(_REASON_END - len(reason), 0)}({reason})\n")
                lines.append(f"{_POSTFIX_INDENT}{recipient['address']}\n")
        if lines:
            yield "".join(lines)
    if not requests:
        yield "Mail queue is empty\n"
    else:
        yield f"\n-- {octets // 1024} Kbytes in {requests} Request{'s' if requests != 1 else ''}.\n"


async def sendmail(pages: Pages, directory: str) -> AsyncIterator[str]:
    """Sendmail's layout, for entries with a `body_type`. All are read before the first line, which tells how many."""
    lines: list[str] = []
    requests = 0
    async for entries in pages:
        for entry in entries:
            requests += 1
            mark = "*" if entry["queue_name"] == "active" else " "
            sender = "<>" if entry["sender"] == "MAILER-DAEMON" else f"<{entry['sender']}>"
            lines.append(
                f"{entry['queue_id']:>13}{mark}{entry['message_size']:>8} {_arrived(entry['arrival_time']):.16} "
                f"{sender:.{_SHOWN_SENDER}}\n"
            )
            reason = next((r["delay_reason"] for r in entry["recipients"] if r["delay_reason"]), "")
            if reason or entry["body_type"]:
                lines.append(f"    {entry['body_type']:>10}" + f"   ({reason:.{_SHOWN_REASON}})" * bool(reason) + "\n")
            for recipient in entry["recipients"]:
                address = f"<{recipient['address']}>"
                lines.append(f"\t\t\t\t\t {address:.{_SHOWN_RECIPIENT}}\n")
    if not requests:
        yield f"{directory} is empty\n\t\tTotal requests: 0\n"
        return
    yield f"\t\t{directory} ({requests} request{'s' if requests != 1 else ''})\n"
    yield "-----Q-ID----- --Size-- -----Q-Time----- ------------Sender/Recipient-----------\n"
    for at in range(0, len(lines), _LINES_AT_ONCE):
        yield "".join(lines[at : at + _LINES_AT_ONCE])
    yield f"\t\tTotal requests: {requests}\n"


async def table(pages: Pages, directory: str) -> AsyncIterator[str]:
    """One line a recipient."""
    row = "{:<15} {:>9} {:<12} {:<28} {:<28} {}\n"
    empty = True
    async for entries in pages:
        lines = []
        if empty and entries:
            lines.append(row.format("QUEUE ID", "SIZE", "ARRIVED", "FROM", "TO", "STATE"))
            empty = False
        for entry in entries:
            arrived = time.strftime("%b %d %H:%M", time.localtime(entry["arrival_time"]))
            for recipient in entry["recipients"]:
                state = (
                    f"{entry['queue_name']}: {recipient['delay_reason']}"
                    if recipient["delay_reason"]
                    else entry["queue_name"]
                )
                facts = (entry["queue_id"], entry["message_size"], arrived, entry["sender"], recipient["address"])
                lines.append(row.format(*facts, state))
        if lines:
            yield "".join(lines)
    if empty:
        yield "The queue is empty.\n"


async def jsonl(pages: Pages, directory: str) -> AsyncIterator[str]:
    async for entries in pages:
        if entries:
            yield "".join(json.dumps(entry) + "\n" for entry in entries)


@lru_cache(maxsize=1024)
def _arrived(at: int) -> str:
    """ "Sun Nov 22 09:26:11", in local time."""
    return time.asctime(time.localtime(at))[:19]


LAYOUTS: dict[str, Callable[[Pages, str], AsyncIterator[str]]] = {
    "postfix": postfix,
    "sendmail": sendmail,
    "table": table,
    "json": jsonl,
}


async def hosts(entries: AsyncIterator[Entry]) -> AsyncIterator[str]:
    """hoststat: one line a smarthost, with its trouble and when it is tried again. Entries as in `status --json`."""
    row = "{:<20} {:<8} {:<20} {:<20} {}"
    title = row.format("SMARTHOST", "STATE", "SINCE", "NEXT TRY", "REASON") + "\n"
    async for entry in entries:
        if title:
            yield title
            title = ""
        facts = (entry[key] or "-" for key in ("name", "state", "since", "next_try_at"))
        yield row.format(*facts, entry["reason"] or "").rstrip() + "\n"
