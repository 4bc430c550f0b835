"""Journal: events as fields of systemd's journal, so that `journalctl QUEUE_ID=...` or `RECIPIENT=...` finds them.

Fields are the log's keys in upper case; addresses stand without angle brackets. MESSAGE is the line as stderr would
have it. journald makes a sender wait while it is behind: a thread of its own does the waiting, and what does not
fit in its line is counted and lost, never the mail.

An entry is one datagram of FIELD=value lines (systemd's "native journal protocol"). systemd-python, which has a
function for it, waits without letting go of the interpreter's lock, and the whole daemon with it.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from pysendmail.events import Lines, Sink, Value, line, text_of

MAX_WAITING = 10_000  # events, some 5 MB
SOCKET = "/run/systemd/journal/socket"
CLOSE_S = 2.0  # a journal that still does not take them then loses the rest

ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7  # syslog(3)
PRIORITIES: Mapping[str, int] = {
    "broken": ERROR,
    "bug": ERROR,
    "full": ERROR,
    "trouble": WARNING,
    "fallback": WARNING,
    "alarm": ERROR,
    "socket": WARNING,
    "lost": WARNING,
    "library": WARNING,
    "metrics": WARNING,
    "bounce": NOTICE,
    "clock": NOTICE,
    "refused": NOTICE,
    "recovered": NOTICE,
    "attempt": DEBUG,
}
OUTCOMES: Mapping[str, int] = {"bounced": WARNING, "expired": WARNING, "discarded": WARNING, "deferred": NOTICE}


def priority(event: str, fields: Mapping[str, Value]) -> int:
    """syslog(3)'s level of one event."""
    if event == "outcome":
        return OUTCOMES.get(str(fields.get("status")), INFO)
    if event in ("reload", "listen") and fields.get("error"):
        return WARNING
    if event == "alarm" and fields.get("state") == "cleared":
        return NOTICE
    return PRIORITIES.get(event, INFO)


def entry(event: str, fields: Mapping[str, Value]) -> list[str]:
    """One event as the journal's FIELD=value."""
    pairs = [
        f"MESSAGE={line(event, fields)}",
        f"PRIORITY={priority(event, fields)}",
        "SYSLOG_IDENTIFIER=pysendmail",
        f"EVENT={event}",
    ]
    for key, value in fields.items():
        if value is not None:
            text = text_of(value)
            if key in ("sender", "recipient"):
                text = text.removeprefix("<").removesuffix(">")
            pairs.append(f"{key.upper()}={text}")
    return pairs


class Journal:
    """The sink for events where stderr is the journal. `send` takes the fields of one entry and may wait."""

    def __init__(self, send: Callable[[list[str]], None]) -> None:
        self._send = send
        self._entries: queue.Queue[list[str] | None] = queue.Queue(MAX_WAITING)
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def write(self, event: str, fields: Mapping[str, Value]) -> None:
        try:
            if self._lost:
                self._entries.put_nowait(entry("lost", {"lines": self._lost}))
                self._lost = 0
            self._entries.put_nowait(entry(event, fields))
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """Wait for what was written, but not for ever."""
        with suppress(queue.Full):
            self._entries.put_nowait(None)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        while (pairs := self._entries.get()) is not None:
            with suppress(OSError):  # no journald any more: the mail goes on
                self._send(pairs)


def sink() -> Sink:
    """Where this process's events go: to the journal if stderr is its stream (systemd.exec(5), JOURNAL_STREAM)."""
    return Journal(sender(SOCKET)) if _stderr_is_journal() else Lines(sys.stderr)


def sender(path: str) -> Callable[[list[str]], None]:
    """What sends an entry to the journal's socket, found by its path each time. Values have no line ends."""

    def send(pairs: list[str]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("".join(f"{pair}\n" for pair in pairs).encode("utf-8", "replace"), path)

    return send


def _stderr_is_journal() -> bool:
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
