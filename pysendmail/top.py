"""Top: a live view of queue, rates and smarthosts on a terminal (pysendmail(8)).

It asks as every command does, over `control` or `submit`, and says what it cannot see. A frame is written in one piece
over the one before, so that nothing flickers; it fits the window, also when that changes. q ends it, a key asks anew.

The terminal is left as it was found, whatever ends it: q, SIGINT, SIGTERM, SIGHUP, an error; and while it is stopped
(^Z). ANSI sequences (ECMA-48, and xterm's alternate screen) that all terminals of this century know; no curses.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self

from pysendmail import chart, terminal
from pysendmail.terminal import Look
from pysendmail.units import parse_time, words_for_duration

Entry = dict[str, Any]
REFRESH_S = 2.0
WINDOW_S = 300.0  # of which rates are shown
SLOTS = 30  # in it
IN_A_MINUTE = 6  # of them
MAX_WARNINGS = 5
BEFORE_TO, MIN_TO, MAX_TO = 37, 12, 40  # columns: what is left is shared by recipient and reason
_ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # to be shown at once, where the terminal knows that
_BOLD, _REVERSE = "\x1b[1m", "\x1b[7m"
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was found out at one time: the answers of `status`, `traffic` and `list`, or why there are none."""

    now: float
    name: str  # the instance
    status: Entry = field(default_factory=dict)
    traffic: Sequence[Entry] = ()
    waiting: Sequence[Entry] = ()
    problem: str = ""


# -- what is shown --


def compose(view: View, look: Look) -> list[str]:
    """The lines of a frame, none longer than the window is wide, and no more of them than it has."""
    lines = [_bar(f"pysendmail top  {view.name}", f"{view.status.get('health') or 'unknown'}  q: quit", look)]
    if view.problem:
        lines += ["", *(look.cut(f"! {words}") for words in view.problem.splitlines())]
    if view.status:
        lines += [look.cut(line) for line in _counts(view)]
        lines += [look.cut(line) for line in _rates(view, look)]
        lines += [look.cut(f"! {words}") for words in view.status["warnings"][:MAX_WARNINGS]]
        lines += ["", *_smarthosts(view, look)]
        room = look.rows - len(lines) - 2
        lines += ["", *_waiting(view, look, room)] if room > 0 else []
    return lines[: look.rows]


def _bar(left: str, right: str, look: Look) -> str:
    """The right end is what matters: the health, and how to leave."""
    text = look.cut(f"{terminal.fit(left, max(look.columns - len(right) - 1, 0))} {right}")
    return f"{_REVERSE}{text}{chart.RESET}" if look.colour else text


def _counts(view: View) -> Iterator[str]:
    status = view.status
    oldest = f"; oldest {words_for_duration(status['oldest_age_s'])}" if status["oldest_age_s"] else ""
    yield (
        f"{status['queued']} queued, {status['deferred']} deferred, {status['held']} held, "
        f"{status['in_flight']} on the way, {status['failed']} failed{oldest}"
    )
    if status["scope"] == "own":
        yield "Your own messages only, here and below: root, and the queue's owner, see all."


def _rates(view: View, look: Look) -> Iterator[str]:
    def total(key: str, slots: Sequence[Entry]) -> int:
        return sum(slot[key] for slot in slots)

    for words, key in (("sent", "sent"), ("deferred", "deferred"), ("bounced", "bounced")):
        minute, window = total(key, view.traffic[-IN_A_MINUTE:]), total(key, view.traffic)
        numbers = f"{words:<9}{minute:>7} in 1 min {window:>7} in 5 min  "
        shape = chart.line([slot[key] for slot in view.traffic], unicode=look.unicode)
        yield numbers + shape[-max(look.columns - len(numbers), 1) :]  # the latest, where there is no room for all


def _smarthosts(view: View, look: Look) -> Iterator[str]:
    yield _title(f"{'SMARTHOST':<16} {'STATE':<8} {'CONN':>7} {'SENT':>6} {'DEFER':>6}  NOTE", look)
    for smarthost in view.status["smarthosts"]:
        tried = [one for slot in view.traffic for one in slot["smarthosts"] if one["name"] == smarthost["name"]]
        sent, deferred = (sum(one[key] for one in tried) for key in ("sent", "deferred"))
        connections = f"{smarthost['connections']}/{smarthost['limit']}" if smarthost["limit"] is not None else "-"
        name = terminal.fit(smarthost["name"], 16)
        yield look.cut(
            f"{name} {smarthost['state']:<8} {connections:>7} {sent:>6} {deferred:>6}  {_note(smarthost, view.now)}"
        )


def _note(smarthost: Entry, now: float) -> str:
    if smarthost["reason"]:
        return f"{smarthost['reason']}{_until('next try', smarthost['next_try_at'], now)}"
    return f"{smarthost['host']}:{smarthost['port']}{_until('certificate', smarthost['certificate_until'], now)}"


def _until(words: str, at: str | None, now: float) -> str:
    if not at:
        return ""
    return f"; {words} {words_for_duration(parse_time(at, now) - now)}"


def _waiting(view: View, look: Look, room: int) -> Iterator[str]:
    width = max(min((look.columns - BEFORE_TO) // 2, MAX_TO), MIN_TO)
    yield _title(f"{'QUEUE ID':<15} {'AGE':>10} {'STATE':<8} {'TO':<{width}} REASON", look)
    for entry in view.waiting[:room]:
        recipients = entry["recipients"]
        first = str(recipients[0]["address"]) if recipients else ""
        reason = str(recipients[0]["delay_reason"] or "") if recipients else ""
        more = f" +{len(recipients) - 1}" if len(recipients) > 1 else ""
        age = words_for_duration(view.now - entry["arrival_time"])
        yield look.cut(
            f"{terminal.fit(entry['queue_id'], 15)} {age:>10} {entry['queue_name']:<8} "
            f"{terminal.fit(first + more, width)} {reason}"
        )


def _title(text: str, look: Look) -> str:
    return f"{_BOLD}{look.cut(text)}{chart.RESET}" if look.colour else look.cut(text)


# -- the terminal --


class _Ended(Exception):
    """A signal that ends us has come. Whoever catches everything, an event loop for one, may have caught this, too."""


class _Screen(AbstractContextManager["_Screen"]):
    """The terminal, ours as long as the context lasts."""

    def __init__(self) -> None:
        self._modes = termios.tcgetattr(0)
        self._wake_out, self._wake_in = os.pipe()
        self._handlers: dict[int, Any] = {}
        self.ended_by = 0  # a signal's number

    def __enter__(self) -> Self:
        for number in _ENDINGS:
            self._handlers[number] = signal.signal(number, self._end)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resized)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stopped)
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        for number in _ENDINGS:
            signal.signal(number, signal.SIG_IGN)  # nothing comes between us and the modes of the terminal
        self._give_back()
        for known, handler in self._handlers.items():
            signal.signal(known, handler)
        os.close(self._wake_out)
        os.close(self._wake_in)

    def _take(self) -> None:
        tty.setcbreak(0)
        _write(_ENTER)

    def _give_back(self) -> None:
        with suppress(OSError):  # the terminal is gone
            _write(_LEAVE)
        with suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, self._modes)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.ended_by = number
        raise _Ended

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        os.write(self._wake_in, b"\0")

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        """^Z: the shell has the terminal until we go on."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stopped)
        self._take()
        os.write(self._wake_in, b"\0")

    def show(self, lines: Sequence[str]) -> None:
        _write(f"{_BEGIN}\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + f"\x1b[J{_END}")

    def key(self, seconds: float) -> str | None:
        """What was typed within that time; "" if the window has changed, None if nothing came."""
        ready = select.select([0, self._wake_out], [], [], seconds)[0]
        if self._wake_out in ready:
            os.read(self._wake_out, 4096)
            return ""
        if not ready:
            return None
        return os.read(0, 1).decode("ascii", "replace") or "q"  # its end


def _write(text: str) -> None:
    octets = text.encode(sys.stdout.encoding, "backslashreplace")
    while octets:
        octets = octets[os.write(1, octets) :]


def run(view: Callable[[], View]) -> int:
    """Until q or a signal; returns the exit code. `view` finds out what is to be shown."""
    screen = _Screen()
    with suppress(_Ended), screen:
        while not screen.ended_by:
            seen = view()
            if screen.ended_by:
                break
            screen.show(compose(seen, terminal.look()))
            while (key := screen.key(REFRESH_S)) == "":
                screen.show(compose(seen, terminal.look()))
            if key in ("q", "Q"):
                return 0
    return 128 + screen.ended_by
