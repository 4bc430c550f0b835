"""soak: ten messages a second for half an hour, on a daemon that is started anew every five minutes, and nothing grows.

5 % of all attempts meet a 4xx, 1 % a connection that is cut; one recipient in fifty does not exist. Records are kept
for KEEP_S only, so that the queue, too, should come to a level. A sampler looks at the daemon once a second. Judged:

    I1-I16      by the checker, at the end; as in K4, a daemon that is told to stop has no excuse
    answers     every `sendmail` says 0 and nothing else, every daemon ends with 0
    memory      within a life: VmRSS in its last minute against its second, the median of all lives, by at most
                LIFE_KIB; from life to life: the last one's end against the second one's, by at most RUN_KIB
    files       the least that was open in a minute, which a leak lifts and traffic does not: as memory within a life
    queue.db    its largest in the last life against the second one's, by at most DATABASE_KIB; and its pages in use
                when the queue is empty and the last record is gone, against those of a new queue

RSS of half an hour says nothing about per cents an hour: one arena more of the allocator (1 MiB) would be as much as
6 %/h of a daemon of 30 MiB. What can be seen honestly is a leak per message: a life has 1,800 messages between its
second and its last minute, so LIFE_KIB finds 0.6 KiB a message, less than the smallest message has; between the
second life's end and the last one's are 12,000 in the queue, so DATABASE_KIB finds 90 octets a message, less than a
row. A sample is too short for all of this, and prints the figures only.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from rig.instance import PATIENCE_S
from torture.checker import check
from torture.evidence import Settings, Violation
from torture.ledger import Subject, figure, gather
from torture.onlooker import Onlooker
from torture.recorder import Plan
from torture.report import Part, Size
from torture.traffic import Message, Traffic, fast_sendmail, rests, scene, settle, somebody

RATE = 10  # messages a second
LIFE_S = 300
SAMPLE_LIFE_S = 8
SUBMITTERS = 30  # who are enough for the rate while a call takes less than three seconds
SLOWEST = 0.9  # of the rate: where a machine does less, the results say so
TROUBLE = ("later",) * 8 + ("dot4x",) * 7 + ("drop", "cut", "lost")  # five 4xx for each connection that is cut
TROUBLE_RATE = 0.06
RETRY = {"first": "5s", "factor": 2.0, "jitter": 0.1}  # a sixtieth of what is usual
# A machine that is too slow for the rate lets new mail pass retries, and submitters wait: that is no fault.
SETTINGS = Settings(first=5.0, factor=2.0, jitter=0.1, quiet_s=600.0, answer_s=120.0)
KEEP_S = 120
PRUNED_S = 300.0  # records are gone so long after the last outcome: retention is looked at every minute
LOOK_S = 1.0
START_S = 120.0
MINUTE_S = 60.0
LIFE_KIB = 1024
RUN_KIB = 2048
DATABASE_KIB = 1024
FILES = 2
EMPTY = 2.0  # times the pages in use of a new queue, when all is gone again


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """At the daemon, from outside; sizes in KiB."""

    at: float
    pid: int
    memory: int
    files: int
    database: int
    log: int  # the write-ahead log


Figure = Callable[[Look], int]


class Watch(Onlooker):
    """Looks at whichever daemon runs, once a second."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(LOOK_S)
        self.looks: list[Look] = []
        self._subject = subject

    def look(self) -> None:
        process = self._subject.process
        assert process is not None
        with suppress(OSError, ValueError):  # one daemon has just ended, the next is not there yet
            self.looks.append(_look(process.pid, self._subject.queue_directory))


def _look(pid: int, queue: Path) -> Look:
    process = Path(f"/proc/{pid}")
    return Look(
        at=time.monotonic(),
        pid=pid,
        memory=figure(process / "status", "VmRSS"),
        files=len(os.listdir(process / "fd")),
        database=(queue / "queue.db").stat().st_size >> 10,
        log=(queue / "queue.db-wal").stat().st_size >> 10,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What was seen of one daemon; the first minute is its warm-up, the second and the last are compared."""

    looks: Sequence[Look]

    @property
    def second(self) -> Sequence[Look]:
        began = self.looks[0].at + MINUTE_S
        return [one for one in self.looks if began <= one.at < began + MINUTE_S]

    @property
    def last(self) -> Sequence[Look]:
        return [one for one in self.looks if one.at >= self.looks[-1].at - MINUTE_S]

    @property
    def whole(self) -> bool:
        """Long enough for its figures to be judged."""
        return self.looks[-1].at - self.looks[0].at > 3 * MINUTE_S

    def growth(self, of: Figure, level: Callable[[list[int]], float]) -> float:
        return level([of(one) for one in self.last]) - level([of(one) for one in self.second])

    def __str__(self) -> str:
        early = self.second if self.whole else self.looks
        files = [one.files for one in self.looks]
        return (
            f"memory {median(map(_memory, early)) / 1024:.1f} -> {median(map(_memory, self.last)) / 1024:.1f} MiB, "
            f"{min(files)} to {max(files)} files open, queue.db {max(map(_database, self.looks)) / 1024:.1f} MiB and "
            f"its log {max(one.log for one in self.looks) / 1024:.1f} MiB at most"
        )


def _memory(look: Look) -> int:
    return look.memory


def _files(look: Look) -> int:
    return look.files


def _database(look: Look) -> int:
    return look.database


def lives(looks: Sequence[Look]) -> list[Life]:
    """By the daemon that was looked at."""
    by_pid: dict[int, list[Look]] = {}
    for one in looks:
        by_pid.setdefault(one.pid, []).append(one)
    return [Life(looks=seen) for seen in by_pid.values()]


def growth(all_lives: Sequence[Life]) -> dict[str, tuple[float, int]]:
    """What grew by how much, and the bound of it. At least three lives, all of them whole."""
    second, last = all_lives[1], all_lives[-1]
    return {
        "KiB of memory within a life": (median(one.growth(_memory, median) for one in all_lives), LIFE_KIB),
        "KiB of memory from life to life": (
            median(map(_memory, last.last)) - median(map(_memory, second.last)),
            RUN_KIB,
        ),
        "open files within a life": (median(one.growth(_files, min) for one in all_lives), FILES),
        "KiB of queue.db": (max(map(_database, last.looks)) - max(map(_database, second.looks)), DATABASE_KIB),
    }


def message(random: Random) -> Message:
    """Small mail, mostly; one recipient in fifty does not exist, and the sender hears of it."""
    name = random.choice(["ok"] * 49 + ["no"])
    size = random.choice([0] * 40 + [5_000] * 9 + [100_000])
    return {"recipients": [f"{name}.{random.randrange(10**9)}@d{random.randrange(5)}.example.org"], "size": size}


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="soak", seed=seed)
    nightly = size.name != "sample"
    count, life_s = size.of(sample=3, nightly=6), LIFE_S if nightly else SAMPLE_LIFE_S
    plan, user = Plan(seed=seed, rate=TROUBLE_RATE, moods=TROUBLE), somebody()
    program = fast_sendmail(directory)
    found: list[Violation] = []
    retention = {"keep_history": f"{KEEP_S}s", "keep_failed": f"{KEEP_S}s"}
    with scene(directory / "round", seed, program, plan, retry=RETRY, queue=retention) as (subject, ledger, recorder):
        found += _restart(subject)  # what a new queue takes stands in the file only then
        new = pages_in_use(subject)
        with Watch(subject) as watch:
            began = time.monotonic()
            with Traffic(
                ledger, workers=SUBMITTERS, seed=seed, message=lambda random: message(random) | {"uid": user}
            ) as traffic:
                for number in range(count):
                    _let_flow(traffic, began + number * life_s, life_s)
                    part.case(f"life {number}", (), again="")
                    if number < count - 1:
                        found += _restart(subject)
            took = time.monotonic() - began
            seen = lives(watch.looks)
            left = settle(ledger)
        rest = [] if left else rests(ledger)
        found += check(gather(ledger, recorder, settings=SETTINGS, stops=(), rests=rest, history=False))
        kept = _records_left(subject) if nightly else 0
        found += _ended(subject)
        last = pages_in_use(subject)
    found += [_soak(f"{left} messages still wait")] if left else []
    found += [
        _soak(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
        for call in ledger.calls
        if call.code != 0 or call.stderr
    ]
    part.note(
        f"{len(ledger.calls)} messages in {took:.0f} s, {len(recorder.attempts)} attempts, "
        f"{len(recorder.accepted())} copies and bounces; {len(seen)} daemons"
    )
    for number, life in enumerate(seen, 1):
        part.note(f"life {number}: {life}")
    if nightly:
        found += _grown(part, seen)
        part.note(f"pages in use of a new queue {new}, when the last record was gone {last}")
        if kept:
            found.append(_soak(f"{kept} records are kept {PRUNED_S:.0f} s after the last outcome"))
        elif last > EMPTY * new:
            found.append(_soak(f"{last} pages in use with nothing in the queue, {new} when it was new"))
        if len(ledger.calls) / took < SLOWEST * RATE:
            part.skip(f"{RATE} messages a second", f"the machine did {len(ledger.calls) / took:.1f}")
    part.case("soak", found, again=f"python -m torture soak --size {size.name} --seed {seed}")
    part.cases -= 1  # a life is one
    return part


def _soak(text: str) -> Violation:
    return Violation(invariant="soak", text=text)


def _grown(part: Part, seen: Sequence[Life]) -> list[Violation]:
    """What grew beyond its bound."""
    if not all(life.whole for life in seen):
        return [_soak("a daemon had ended before its time")]
    figures = growth(seen)
    part.note("growth: " + ", ".join(f"{more:+.0f} {what} ({most})" for what, (more, most) in figures.items()))
    return [_soak(f"{more:+.0f} {what}: the bound is {most}") for what, (more, most) in figures.items() if more > most]


def _let_flow(traffic: Traffic, begin: float, seconds: float) -> None:
    """So many messages a second from `begin` on, however long a restart took of it."""
    pause = threading.Event().wait
    for number in range(int(seconds * RATE)):
        pause(max(0.0, begin + number / RATE - time.monotonic()))
        traffic.let(1)


def _restart(subject: Subject) -> list[Violation]:
    found = _ended(subject)
    seen = len(subject.events)
    subject.launch()
    if not subject.happens(lambda: subject.matching("start", seen), START_S):
        found.append(_soak(f"the next daemon did not start ({subject.process and subject.process.poll()})"))
    return found


def _ended(subject: Subject) -> list[Violation]:
    code = subject.stop()
    return [_soak(f"a daemon ended with {code}")] if code else []


def _records_left(subject: Subject) -> int:
    """How many the history has when all of them should be gone."""
    deadline = time.monotonic() + PRUNED_S
    while (records := len(subject.history())) and time.monotonic() < deadline:
        threading.Event().wait(PATIENCE_S / 6)
    return records


def pages_in_use(subject: Subject) -> int:
    """Of queue.db, while no daemon runs: all but the free ones (https://www.sqlite.org/fileformat.html, 1.3)."""
    with (subject.queue_directory / "queue.db").open("rb") as file:
        header = file.read(100)
    (pages,), (free,) = (struct.unpack_from(">I", header, offset) for offset in (28, 36))
    return int(pages - free)
