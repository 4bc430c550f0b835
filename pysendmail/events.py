"""Events: one event, one line. The log's grammar lives in this file and in pysendmail(8), LOG.

A line is `key=value` pairs, keys in lower case; values are quoted where they hold a space or a quote. Text from
the network or a user is escaped and capped before it gets here or on its way out; secrets never come near.
Each outcome of a recipient is one line with `status=`. `Events.follow` lets `sendmail -v` follow one message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Protocol, TextIO

from pysendmail.records import Ended
from pysendmail.smtp.reply import printable

Value = str | int | float | None
_PLAIN = re.compile(r"[A-Za-z0-9@.,:;<>/+_=%~!*()\[\]{}|$#&?^'-]+")
MAX_VALUE = 1000
MAX_REFUSALS = 500  # lines a minute for one uid: he may go on for as long as he likes
MAX_FOLLOWED = 10_000  # events that wait for a follower who reads slowly, or not at all; he misses the rest
EVERY = ""  # instead of a queue id, to `follow` all that happens
MAX_LINE = select.PIPE_BUF - 1  # a pipe that is ready takes so much without blocking (pipe(7))


def line(event: str, fields: Mapping[str, Value]) -> str:
    """One event as it is written to stderr."""
    pairs = [f"event={event}"]
    pairs += [
        f"{key}={_quoted(value) if isinstance(value, str) else text_of(value)}"
        for key, value in fields.items()
        if value is not None
    ]
    return " ".join(pairs)


def text_of(value: str | int | float) -> str:
    """A value on its own: printable and capped."""
    if isinstance(value, str):
        return printable(value, MAX_VALUE)
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@lru_cache(512)  # smarthosts, addresses, senders and most replies come again
def _quoted(value: str) -> str:
    text = text_of(value)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Sink(Protocol):
    """Takes events. Never fails or waits: a full pipe or a closed stderr costs the line, not the mail."""

    def write(self, event: str, fields: Mapping[str, Value]) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Events as lines on a stream; None: there is no stderr at all."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lost = 0  # lines that nobody took
        self._poll = select.poll()
        self._fd = -1
        with suppress(OSError, ValueError):  # not a file: in memory
            if stream is not None:
                self._fd = stream.fileno()
                self._poll.register(self._fd, select.POLLOUT)

    def write(self, event: str, fields: Mapping[str, Value]) -> None:
        if self._stream is None:
            return
        text = line(event, fields)
        try:
            if self._fd < 0:
                self._stream.write(text + "\n")
                return
            # A pipe whose reader sleeps must not stop the mail. What poll says is ready takes PIPE_BUF octets without
            # waiting; O_NONBLOCK would be set for everybody who shares this stderr.
            if not self._poll.poll(0):
                self._lost += 1
                return
            if self._lost:
                text, self._lost = f"{line('lost', {'lines': self._lost})}\n{text}", 0
            os.write(self._fd, text.encode("utf-8", "backslashreplace")[:MAX_LINE] + b"\n")
        except (OSError, ValueError):
            pass  # nobody reads the log; the mail goes on

    def close(self) -> None:
        """The stream is not ours."""


class Events:
    """The events of a daemon or a command, by name."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._followers: dict[str, list[asyncio.Queue[tuple[str, dict[str, Value]]]]] = {}
        self._minute = 0
        self._refusals: Counter[int] = Counter()  # in this minute, by uid

    @contextmanager
    def follow(self, queue_id: str) -> Iterator[asyncio.Queue[tuple[str, dict[str, Value]]]]:
        """Every event of one message, or with EVERY all events, as they happen."""
        queue: asyncio.Queue[tuple[str, dict[str, Value]]] = asyncio.Queue(MAX_FOLLOWED)
        followers = self._followers.setdefault(queue_id, [])
        followers.append(queue)
        try:
            yield queue
        finally:
            followers.remove(queue)
            if not followers:
                self._followers.pop(queue_id, None)

    def emit(self, event: str, **fields: Value) -> None:
        """Write one event. Use the named functions below where there is one."""
        self._sink.write(event, fields)
        if self._followers:
            for about in (str(fields.get("queue_id")), EVERY):
                for follower in self._followers.get(about, ()):
                    with suppress(asyncio.QueueFull):
                        follower.put_nowait((event, fields))

    def accepted(
        self,
        *,
        queue_id: str,
        message_id: str,
        sender: str,
        uid: int,
        size: int,
        recipients: int,
        kind: str,
        stray: int = 0,
        reencoded: str = "",
        tag: str = "",
        pid: int | None = None,
        command: str | None = None,
        unit: str | None = None,
    ) -> None:
        self.emit(
            "accepted",
            queue_id=queue_id,
            message_id=message_id,
            sender=f"<{sender}>",
            uid=uid,
            size=size,
            recipients=recipients,
            kind=None if kind == "mail" else kind,
            stray_octets=stray or None,
            reencoded=reencoded or None,
            tag=tag or None,
            pid=pid,
            command=command,
            unit=unit,
        )

    def refused(self, *, uid: int, code: int, reason: str) -> None:
        """Of one uid MAX_REFUSALS a minute; the last one says that it is."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._refusals.clear()
        self._refusals[uid] += 1
        if self._refusals[uid] == MAX_REFUSALS:
            reason += "; more refusals of this uid are not logged before the next minute"
        if self._refusals[uid] <= MAX_REFUSALS:
            self.emit("refused", uid=uid, code=code, reason=reason)

    def attempt(
        self,
        *,
        queue_id: str,
        smarthost: str,
        address: str | None,
        tls: str | None,
        recipients: int,
        rewritten: str = "",
    ) -> None:
        self.emit(
            "attempt",
            queue_id=queue_id,
            smarthost=smarthost,
            address=address,
            tls=tls,
            recipients=recipients,
            rewritten=rewritten or None,
        )

    def ended(self, ended: Ended, *, smarthost: str | None, tls: str | None, address: str | None = None) -> None:
        """A recipient's outcome: the line with `status=`."""
        self.emit(
            "outcome",
            queue_id=ended.queue_id,
            recipient=f"<{ended.recipient}>",
            status=ended.outcome,
            dsn=ended.status,
            smarthost=smarthost,
            address=address,
            tls=tls,
            delay_s=ended.delay_s,
            attempt=ended.attempts,
            next_attempt_s=ended.next_attempt_s,
            uncertain="yes" if ended.uncertain else None,
            sender=f"<{ended.sender}>",
            message_id=ended.message_id,
            uid=ended.uid,
            reply=ended.reply,
        )

    def bounce(self, *, queue_id: str, about: str, kind: str, recipient: str) -> None:
        """A report was queued, in the same commit as the outcome that it tells of."""
        self.emit("bounce", queue_id=queue_id, about=about, kind=kind, recipient=f"<{recipient}>")

    def fallback(self, *, smarthost: str, address: str | None, reason: str) -> None:
        self.emit("fallback", smarthost=smarthost, address=address, tls="none", reason="fallback", failure=reason)

    def trouble(self, *, smarthost: str, reason: str, status: str, next_try_s: float) -> None:
        self.emit("trouble", smarthost=smarthost, dsn=status, next_try_s=next_try_s, reason=reason)

    def recovered(self, *, smarthost: str, after_s: float) -> None:
        self.emit("recovered", smarthost=smarthost, after_s=after_s)

    def bug(self, error: BaseException, *, queue_id: str | None = None, uid: int | None = None) -> None:
        """An error of ours, with the way to it: the innermost call first, so that a cap takes the outermost."""
        frames = reversed(traceback.extract_tb(error.__traceback__))
        way = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in frames)
        self.emit("bug", queue_id=queue_id, uid=uid, error=repr(error), traceback=way)

    def flush(self, *, uid: int, scope: str) -> None:
        self.emit("flush", uid=uid, scope=scope)


class Complaints(logging.Handler):
    """What asyncio and other libraries have to say becomes an event: the log has one grammar."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.emit("library", name=record.name, error=record.getMessage())
