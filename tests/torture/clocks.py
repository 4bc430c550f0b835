"""F4, clocks: promise 12. The daemon's wall clock is set while it is idle, while mail waits for its next try, and
while a message is on the wire; its monotonic clock goes on (libfaketime).

A case is `JUMP:MOMENT`; `drifting` gains DRIFT of a second in each, for as long as the case lasts. What is
submitted before and after arrives once, after the real pauses of the schedule: the checker has the machine's clock.
Nothing expires, and a daemon that waits does not wake up more often than it may.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rig.clock import WallClock
from torture.evidence import Call, Rest, Violation
from torture.ledger import Ledger, Subject
from torture.recorder import Recorder
from torture.report import Part, Size
from torture.traffic import ALONE, in_cases, stage, verdict

HOUR, DAY = 3600.0, 86400.0
END_OF_32_BITS = datetime.datetime(2038, 1, 19, 3, 14, 7, tzinfo=datetime.UTC).timestamp()
SOON_S = 2.0  # before that, so that it passes while we look
DRIFTING = "drifting"
DRIFT, TICK_S = 0.1, 0.1
JUMPS: Mapping[str, Callable[[], float]] = {
    "-10y": lambda: -3652 * DAY,
    "-1h": lambda: -HOUR,
    "-1s": lambda: -1.0,
    "+1h": lambda: HOUR,
    "+30d": lambda: 30 * DAY,
    "2038": lambda: END_OF_32_BITS - SOON_S - time.time(),
    DRIFTING: lambda: 0.0,
}
MOMENTS = ("idle", "back-off", "session")
CASES = [f"{jump}:{moment}" for jump in JUMPS for moment in MOMENTS]
SAMPLE = 3
FIRST_S = 4.0  # longer than a look at the daemon at rest
RETRY = {"first": f"{FIRST_S}s", "factor": 1.0, "jitter": 0.0}


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="clocks", seed=seed)
    try:
        WallClock(directory)
    except pytest.skip.Exception as why:
        part.skip("all of it", str(why))
        return part
    return in_cases(part, CASES, size, SAMPLE, only, directory, _play)


def _play(case: str, directory: Path, program: Path, name: int) -> list[Violation]:
    jump, _, moment = case.partition(":")
    with stage(directory, name, program, retry=RETRY) as (subject, ledger, recorder):
        clock = WallClock(directory)
        subject.start(environment=clock.environment)
        with _set(clock, jump) as go:
            calls, rest = MEANWHILE[moment](subject, ledger, recorder, go)
            calls += [ledger.submit("ok.1@example.org"), ledger.submit("later1.2@example.org")]
            found = verdict(ledger, recorder, replace(ALONE, first=FIRST_S))
        copies = [attempt.token for attempt in recorder.accepted()]
        found += [
            _wrong(f"{call.token}: sendmail said {call.code}, and {copies.count(call.token)} copies arrived")
            for call in calls
            if call.code != 0 or copies.count(call.token) != 1
        ]
        if rest is None or rest.wake_ups > ALONE.wake_ups:
            found.append(_wrong(f"after the jump the daemon woke up {rest and rest.wake_ups} times a second"))
        found += [_wrong(f"an error of ours: {event['error']}") for event in subject.matching("bug")]
    return found


def _wrong(text: str) -> Violation:
    return Violation(invariant="F4", text=text)


@contextmanager
def _set(clock: WallClock, jump: str) -> Iterator[Callable[[], None]]:
    """What sets the clock, once."""
    over = threading.Event()

    def drift() -> None:
        begun = time.monotonic()
        while not over.wait(TICK_S):
            clock.set((time.monotonic() - begun) * DRIFT)

    thread = threading.Thread(target=drift)
    begun: list[str] = []

    def go() -> None:
        if begun:
            return
        begun.append(jump)
        if jump == DRIFTING:
            thread.start()
        else:
            clock.set(JUMPS[jump]())

    try:
        yield go
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()


# -- the moments: what was submitted before, and how the daemon is at rest after it --

Moment = Callable[[Subject, Ledger, Recorder, Callable[[], None]], tuple[list[Call], Rest | None]]


def _idle(
    subject: Subject, ledger: Ledger, recorder: Recorder, go: Callable[[], None]
) -> tuple[list[Call], Rest | None]:
    go()
    return [], subject.rest()


def _back_off(
    subject: Subject, ledger: Ledger, recorder: Recorder, go: Callable[[], None]
) -> tuple[list[Call], Rest | None]:
    call = ledger.submit("later2.1@example.org")
    subject.wait_for("outcome", status="deferred")
    go()
    return [call], subject.rest()


def _session(
    subject: Subject, ledger: Ledger, recorder: Recorder, go: Callable[[], None]
) -> tuple[list[Call], Rest | None]:
    """Before the answer to the dot, which is a 4xx for one of two."""
    recorder.meanwhile = lambda verb: go() if verb == "dot" else None
    calls = [ledger.submit("dot4x1.1@example.org"), ledger.submit("ok.2@example.org")]
    subject.wait_for("outcome", count=2)
    return calls, subject.rest()


MEANWHILE: Mapping[str, Moment] = {"idle": _idle, "back-off": _back_off, "session": _session}
