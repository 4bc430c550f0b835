"""Watch: looks whether mail leaves, and raises the alarm where it does not: a command, a file, an event.

What is to be told is decided by `alarms`. The book of what was told lies in the queue's directory and is written after
the telling: a crash in between tells twice, never not at all. A command that fails is tried again after RETRY_S, and
the book waits for it. The notice, for login shells and for systemd's path units, is a file that is replaced when its
text changes, and empty, or not there, when all is well. The book names it, so that it goes when the configuration has
another. It stays while no daemon runs, for then the mail does not leave either.

Nothing here holds up the mail: a look is one statement on the readers' thread, at most one in PAUSE_S.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pysendmail import alarms, command, small_file
from pysendmail.alarms import Book, Decision, Sight
from pysendmail.command import CommandError
from pysendmail.config import Config
from pysendmail.events import Events

BOOK = "alarms"  # in the queue's directory
NOTICE = "notice"  # in $RUNTIME_DIRECTORY
PAUSE_S = 1.0  # between two looks, however much happens
RETRY_S = 300.0  # after a command that failed
ROUND_S = 60.0  # while mail waits or an alarm is up: what nobody tells us of
MAX_OCTETS = 1 << 20  # of a file of ours; a longer one is not ours
# The command needs no more, and what we were started with is nobody else's business.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def notice_file(config: Config, environ: Mapping[str, str]) -> Path | None:
    """Where the notice is: as configured, else in the directory that systemd made for us (RuntimeDirectory=)."""
    if config.alarm.file:
        return Path(config.alarm.file)
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(directory, NOTICE) if directory else None


class Watch:
    """`look` says what is to be seen now. `wake` is called when something may have changed."""

    def __init__(self, config: Config, *, look: Callable[[], Awaitable[Sight]], events: Events) -> None:
        self._config = config
        self._look = look
        self._events = events
        self._changed = asyncio.Event()
        self._book: Book = {}
        self._retry_at = 0.0  # monotonic: after a command that failed
        self._notice = ""  # the file in which a notice of ours may stand
        self._posted: tuple[Path, str] | None = None  # the notice as it is
        self._complaint = ""  # about a file, once

    def configure(self, config: Config) -> None:
        self._config = config
        self.wake()

    @property
    def up(self) -> Counter[str]:
        """How many alarms of each kind were told and are not over."""
        return Counter(key.partition(" ")[0] for key, told in self._book.items() if not told.over)

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        book = await asyncio.to_thread(_content, self._config.queue.directory / BOOK)
        self._book, self._notice = alarms.from_text(book or b"")
        while True:
            self._changed.clear()
            wait: float | None = ROUND_S
            try:
                wait = await self._turn()
            except Exception as error:  # ours: the mail goes on, and we look again
                self._events.bug(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            await asyncio.sleep(PAUSE_S)  # an attempt's commit wakes us a moment before all of it is known

    async def _turn(self) -> float | None:
        """One look; seconds until the next that nobody asks for."""
        sight = await self._look()
        now = time.time()
        decision = alarms.decide(self._book, sight, self._config.alarm, now)
        await self._post(decision.book)
        if decision.raised or decision.cleared:
            if time.monotonic() >= self._retry_at:
                await self._tell(decision)
        elif decision.book != self._book:
            await self._keep(decision.book)
        quiet = sight.oldest_at is None and all(told.over for told in self._book.values())
        waits = [] if quiet else [ROUND_S]
        if decision.look_at is not None:
            waits.append(max(decision.look_at - now, 0.0))
        return min(waits, default=None)

    async def _tell(self, decision: Decision) -> None:
        """The command first: what it has not heard is not in the book."""
        settings = self._config.alarm
        if settings.command:
            text = alarms.letter(decision, self._config.hostname)
            try:
                await command.run(settings.command, environment=ENVIRONMENT, stdin=text)
            except CommandError as error:
                self._retry_at = time.monotonic() + RETRY_S
                self._events.emit("alarm", state="untold", error=f"{settings.command[0]}: {error}", retry_s=RETRY_S)
                return
        for one in decision.raised:
            self._events.emit(
                "alarm", state="raised", kind=one.kind, smarthost=one.smarthost or None, reason=one.reason or None
            )
        for key in decision.cleared:
            kind, _, smarthost = key.partition(" ")
            self._events.emit("alarm", state="cleared", kind=kind, smarthost=smarthost or None)
        await self._keep(decision.book)

    async def _keep(self, book: Book) -> None:
        self._book = book
        await self._write(self._config.queue.directory / BOOK, alarms.to_text(book, self._notice), 0o600)

    async def _post(self, book: Book) -> None:
        """The notice, where it says something else by now: whoever watches the file is woken by that only."""
        path = notice_file(self._config, os.environ)
        if self._notice and self._notice != str(path):
            await self._try(_withdraw, Path(self._notice))
            self._notice = ""
        if path is None:
            return
        text = alarms.notice(book, self._config.hostname)
        if self._posted == (path, text):
            return
        if text and not self._notice:
            self._notice = str(path)
            await self._keep(self._book)  # first, so that whoever starts next knows where it stands
        old = await asyncio.to_thread(_content, path)
        if (old or b"") == text.encode() or await self._write(path, text.encode(), 0o644):
            self._posted = path, text

    async def _write(self, path: Path, text: bytes, mode: int) -> bool:
        return await self._try(small_file.replace, path, text, mode)

    async def _try(self, work: Callable[..., None], path: Path, *arguments: object) -> bool:
        """Work on a file; what goes wrong is said once."""
        try:
            await asyncio.to_thread(work, path, *arguments)
        except OSError as error:
            complaint = f"{path}: {error.strerror}"
            if complaint != self._complaint:
                self._complaint = complaint
                self._events.emit("alarm", state="unwritten", error=complaint)
            return False
        return True


def _withdraw(path: Path) -> None:
    """Take away a notice that nobody keeps any more; what somebody else has put there stays."""
    if alarms.is_notice(_content(path) or b""):
        path.unlink()


def _content(path: Path) -> bytes | None:
    try:
        return small_file.read(path, MAX_OCTETS)
    except OSError:
        return None
