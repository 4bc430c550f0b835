"""The measures. Each part is a function that takes a Bench; in each round every MTA has its turn, one after the other.

Nothing of one turn is left in the next: an MTA is started for its turn, with an empty queue, and is gone after it.
Mail is held in the queue while its acceptance is measured; while it is drained, nothing is accepted. A drain is timed
from the first connection that the smarthost sees to the last message that it takes.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

from sidebyside.figures import Figure, Figures
from sidebyside.goals import OUR_C, OURS
from sidebyside.mta import Mta
from sidebyside.place import Place
from torture.report import commit

SMALL, MEDIUM, LARGE = 2 << 10, 100 << 10, 5 << 20
SIZES = {SMALL: "2 KB", MEDIUM: "100 KB", LARGE: "5 MB"}
PARALLEL = (1, 4, 16)
ROUND_TRIPS_MS = (0, 20)
_MANY = 10_000  # more than so many queued takes too long to be done thrice


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything: `sample` shows that it works, `full` gives figures."""

    rounds: int
    singles: int  # submissions one after the other
    submissions: int  # some at a time
    bulk: int
    drains: Mapping[int, int]  # octets: messages
    drain_s: float  # who has not drained it all by then is judged by what he has
    backlogs: Sequence[int]
    million: int


FULL = Size(
    rounds=3,
    singles=60,
    submissions=300,
    bulk=1000,
    drains={SMALL: 2000, MEDIUM: 300, LARGE: 20},
    drain_s=8.0,
    backlogs=(0, 10_000, 100_000),
    million=1_000_000,
)
SAMPLE = Size(
    rounds=1,
    singles=5,
    submissions=20,
    bulk=50,
    drains={SMALL: 200, MEDIUM: 20, LARGE: 3},
    drain_s=2.0,
    backlogs=(0, 1000),
    million=10_000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A run: the MTAs in their places, how much, and where the figures go, under which beginning of their names."""

    mtas: Sequence[Mta]
    size: Size
    figures: Figures
    prefix: str = ""

    def words(self, size: str) -> str:
        """About this run, for whoever reads its figures."""
        versions = ", ".join(f"{mta.who} {mta.version()}" for mta in self.mtas)
        when = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}"
        return f"{commit()}, {when}, size {size}, {os.cpu_count()} cores, {self.mtas[0].place.disk()}; {versions}"

    def turns(self, rounds: int | None = None) -> Iterator[tuple[int, Mta]]:
        for number in range(self.size.rounds if rounds is None else rounds):
            for mta in self.mtas:
                os.sync()  # nobody pays for what another has written
                yield number, mta

    @contextmanager
    def excused(self, mta: Mta) -> Iterator[None]:
        """Who cannot do it has no figure, and the others their turn; we have to do it."""
        try:
            yield
        except RuntimeError as error:
            if mta.who in (OURS, OUR_C):
                raise
            print(f"{self.prefix}{mta.who} cannot: {error}", flush=True)

    def note(self, what: str, who: str, value: float, number: int) -> None:
        figure = Figure(what=self.prefix + what, who=who, value=round(value, 4), round=number)
        self.figures.add(figure)
        print(f"{figure.what:44} {who:14} {value:12.3f}", flush=True)


def submit(bench: Bench) -> None:
    """One `sendmail` after the other, then some at a time."""
    count = bench.size.singles
    for number, mta in bench.turns():
        with mta.running():
            place, message = mta.place, mta.place.message(SMALL)
            for who, sendmail in mta.clients.items():
                before = place.cpu_s()
                load = place.load("run", message, count, 1, *sendmail)
                everything = place.settle() - before - load.own_cpu_s
                bench.note("submit/wall ms", who, median(load.walls_ms), number)
                bench.note("submit/client CPU ms", who, load.client_cpu_s / count * 1000, number)
                bench.note("submit/CPU ms", who, everything / count * 1000, number)
                for parallel in PARALLEL:
                    load = place.load("run", message, bench.size.submissions, parallel, *sendmail)
                    bench.note(f"submit/{parallel} at a time, per s", who, load.rate, number)
                    place.settle()


def bulk(bench: Bench) -> None:
    """One program that has much to send: over our socket, and over SMTP on loopback and on standard input."""
    for number, mta in bench.turns():
        if not mta.ways:
            continue
        with bench.excused(mta), mta.running():
            for way, (how, *rest) in mta.ways.items():
                for parallel in PARALLEL:
                    load = mta.place.load(how, mta.place.message(SMALL), bench.size.bulk, parallel, *rest)
                    bench.note(f"bulk/{way} {parallel} at a time, per s", mta.who, load.rate, number)
                    mta.place.settle()


def arrival(bench: Bench) -> None:
    """From the end of `sendmail` to the final dot at the smarthost, of one message when there is nothing else to do."""
    for number, mta in bench.turns():
        with mta.running(), mta.place.sink() as sink:
            mta.release()
            came = sink.wait(mta.WARM).messages
            delays = []
            for _ in range(bench.size.singles // 3 or 1):
                load = mta.place.load("run", mta.place.message(SMALL), 1, 1, *mta.sendmail)
                came += 1
                delays.append((sink.wait(came).last - load.times[0][1]) * 1000)
            bench.note("arrival/ms after exit 0", mta.who, median(delays), number)


def drain(bench: Bench) -> None:
    """A queue that has filled while the smarthost was away."""
    for round_trip_ms in ROUND_TRIPS_MS:
        for octets, count in bench.size.drains.items():
            for number, mta in bench.turns():
                _drain(bench, mta, number, octets, count, round_trip_ms)


def _drain(bench: Bench, mta: Mta, number: int, octets: int, count: int, round_trip_ms: int) -> None:
    what = f"drain/{SIZES[octets]}, {round_trip_ms} ms"
    with mta.running(warm=False):
        mta.fill(count, octets)
        before = mta.place.settle()
        with mta.place.sink(round_trip_ms) as sink:
            mta.release()
            taken = sink.within(count, bench.size.drain_s)
            used = (mta.place.settle() if taken.messages == count else mta.place.cpu_s()) - before
            mta.place.stop()
    bench.note(f"{what}: per s", mta.who, taken.rate, number)
    bench.note(f"{what}: most connections", mta.who, taken.most_at_once, number)
    if taken.messages:
        bench.note(f"{what}: CPU ms each", mta.who, used / taken.messages * 1000, number)


def through(bench: Bench) -> None:
    """All the way: 16 submitters at a time while delivery goes on, until the smarthost has it all."""
    count = bench.size.submissions
    for number, mta in bench.turns():
        for who, sendmail in mta.clients.items():
            with mta.running(), mta.place.sink() as sink:
                mta.release()
                came = sink.wait(mta.WARM).messages
                load = mta.place.load("run", mta.place.message(SMALL), count, 16, *sendmail)
                taken = sink.within(came + count, bench.size.drain_s)
                mta.place.stop()
            begun = min(begin for begin, _ in load.times)
            bench.note("through/submitted, per s", who, load.rate, number)
            bench.note("through/arrived, per s", who, (taken.messages - came) / (taken.last - begun), number)


def memory(bench: Bench) -> None:
    """What the services take that wait for mail, when they have delivered some."""
    for number, mta in bench.turns():
        with mta.running(), mta.place.sink() as sink:
            mta.release()
            sink.wait(mta.WARM)
            mta.place.settle()
            if taken := mta.place.memory_mib():  # who has no daemon, takes none
                bench.note("memory/idle MiB", mta.who, taken, number)


@dataclass(slots=True)
class _Peak:
    mib: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self, place: Place) -> None:
        while not self._over.wait(0.25):
            self.mib = max(self.mib, place.memory_mib())


@contextmanager
def _watched(place: Place) -> Iterator[_Peak]:
    peak = _Peak()
    thread = threading.Thread(target=peak.watch, args=(place,))
    thread.start()
    try:
        yield peak
    finally:
        peak._over.set()
        thread.join()


def backlog(bench: Bench) -> None:
    """What a full queue costs: acceptance, delivery and listing with so many messages waiting."""
    for waiting in bench.size.backlogs:
        for number, mta in bench.turns(1 if waiting > _MANY else None):
            if waiting <= mta.most_queued:
                _backlog(bench, mta, number, waiting, f"backlog/{waiting:,}")


def million(bench: Bench) -> None:
    """The same with a million, for who can hold so many: ours."""
    for mta in bench.mtas:
        if mta.most_queued >= bench.size.million:
            _backlog(bench, mta, 0, bench.size.million, f"million/{bench.size.million:,}")


def _backlog(bench: Bench, mta: Mta, number: int, waiting: int, what: str) -> None:
    out = bench.size.drains[SMALL]
    with bench.excused(mta), mta.running(warm=False), _watched(mta.place) as peak:
        place, message = mta.place, mta.place.message(SMALL)
        begun = time.monotonic()
        if waiting:
            mta.fill(waiting, SMALL)
            bench.note(f"{what}: filled, per s", mta.who, waiting / (time.monotonic() - begun), number)
        place.settle()
        if waiting:
            listing = place.load("run", message, 1 if waiting > _MANY else 3, 1, *mta.mailq, user="root")
            bench.note(f"{what}: mailq s", mta.who, median(listing.walls_ms) / 1000, number)
            bench.note(f"{what}: mailq's first line s", mta.who, place.first_line_s(*mta.mailq), number)
        load = place.load("run", message, bench.size.submissions, 4, *mta.sendmail)
        bench.note(f"{what}: sendmail, 4 at a time, per s", mta.who, load.rate, number)
        for how, *rest in list(mta.ways.values())[:1]:
            load = place.load(how, message, bench.size.bulk, 4, *rest)
            bench.note(f"{what}: bulk, 4 at a time, per s", mta.who, load.rate, number)
        if not waiting:
            mta.fill(out, SMALL)
        place.settle()
        with place.sink() as sink:
            begun = time.monotonic()
            mta.release()
            taken = sink.within(out, bench.size.drain_s * 2)
            bench.note(f"{what}: drained, per s", mta.who, taken.rate, number)
            bench.note(f"{what}: first leaves after s", mta.who, taken.first - begun, number)
        bench.note(f"{what}: memory at most MiB", mta.who, peak.mib, number)


def slow_disk(bench: Bench) -> None:
    """Acceptance and delivery once more, on a disk that turns (slow_sync.c)."""
    size = bench.size
    slow = replace(
        bench,
        prefix="slow-disk/",
        size=replace(size, singles=size.singles // 3, bulk=size.bulk // 2, drains={SMALL: size.drains[SMALL] // 4}),
    )
    for mta in bench.mtas:
        mta.place.turn_the_disk(True)
    try:
        submit(slow)
        bulk(slow)
        for number, mta in slow.turns():
            _drain(slow, mta, number, SMALL, slow.size.drains[SMALL], 0)
    finally:
        for mta in bench.mtas:
            mta.place.turn_the_disk(False)


PARTS: Mapping[str, Callable[[Bench], None]] = {
    "submit": submit,
    "bulk": bulk,
    "arrival": arrival,
    "through": through,
    "drain": drain,
    "memory": memory,
    "backlog": backlog,
    "slow-disk": slow_disk,
    "million": million,
}
