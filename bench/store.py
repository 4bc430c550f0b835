"""What the queue costs by itself: acceptance (C1), claims and settling (C2) through the real writer, without a network.

    PYTHONPATH=tests python bench/store.py [--messages N] [--backlog N]... [--in-flight N] [--directory DIR]

For each backlog (0 and 100,000 unless told otherwise) N messages of 2 KB to one recipient are accepted, then claimed
and settled as sent, by so many at a time. A line for each: messages a second; processor microseconds a message of all
threads (the mean, and the tenth of the commits that was disturbed least); steps that shared a commit; the longest wait
for a commit in milliseconds; the largest WAL in MiB. Then the ratios to the first backlog. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, TypeVar

from pysendmail.lanes import Lanes
from pysendmail.outcome import Outcome
from pysendmail.queue import Queue
from pysendmail.records import Claim, LaneState, NewMessage
from pysendmail.settling import Ending
from pysendmail.spool import Reserve
from pysendmail.writer import Writer
from rig.store import MAIN, PlainPolicy, fill, new_message, settlement

T = TypeVar("T")
HEADER = b"".join(b"X-Header-%d: %s\r\n" % (n, b"y" * 50) for n in range(6))
BODY = (b"x" * 76 + b"\r\n") * 26
CLAIMS = 40  # at once, as twenty connections bear


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    rate: float
    cpu_us: float
    least_us: float


class Counted(Queue):
    """Notes the processor time at each commit."""

    marks: ClassVar[list[float]] = []

    def commit(self) -> None:
        super().commit()
        self.marks.append(time.process_time())


class Bench:
    def __init__(self, directory: Path, in_flight: int) -> None:
        self._in_flight = in_flight
        self._wal = directory / "queue.db-wal"
        self._policy = PlainPolicy()
        self._lanes = Lanes()
        self._steps = 0
        self._longest = 0.0
        self.queue = Counted.open(directory)
        self.writer = Writer(self.queue, Reserve(directory, 0), on_commit=self._committed, on_broken=print)

    async def begin(self) -> None:
        self._lanes.update(await self.writer.run(lambda queue: queue.lanes()), time.time())

    def _committed(self, lanes: list[LaneState], reports: list[NewMessage]) -> None:
        self._lanes.update(lanes, time.time())

    async def _step(self, step: Callable[[Queue], T]) -> T:
        begun = time.perf_counter()
        done = await self.writer.run(step)
        self._longest = max(self._longest, time.perf_counter() - begun)
        self._steps += 1
        return done

    async def accept(self, count: int) -> None:
        """As a submission does it."""
        new_id = self.queue.ids.new
        news = iter(
            [new_message(body=BODY, header=HEADER, lifetime=1e6, queue_id=new_id(time.time())) for _ in range(count)]
        )

        async def submitter() -> None:
            for new in news:
                now, submission = time.time(), os.urandom(16)

                def step(queue: Queue, new: NewMessage = new, now: float = now, submission: bytes = submission) -> None:
                    assert queue.known(submission) is None
                    queue.owned(new.uid)
                    queue.accept(new, submission=submission, now=now)

                await self._step(step)

        await asyncio.gather(*(submitter() for _ in range(self._in_flight)))

    async def drain(self, count: int) -> None:
        """As the delivery loop does it, for a smarthost that takes everything at once."""
        claims: list[Claim] = []
        claiming = asyncio.Lock()
        left = count

        async def claim_more() -> None:
            nonlocal left
            most = min(CLAIMS, left)
            picks = [lane for _ in range(most) if (lane := self._lanes.next(MAIN)) is not None]
            now = time.time()
            found = await self._step(lambda queue: queue.claim_each([(lane, "main") for lane in picks], now))
            claims.extend(claim for claim in found if claim is not None)
            left = left - len(claims) if claims else 0

        async def connection() -> None:
            while True:
                async with claiming:
                    if not claims and left:
                        await claim_more()
                    if not claims:
                        return
                    claim = claims.pop()
                await self._settle(claim)

        await asyncio.gather(*(connection() for _ in range(self._in_flight)))

    async def _settle(self, claim: Claim) -> None:
        now = time.time()
        sent = settlement(claim, Outcome.SENT, started_at=now)

        await self._step(Ending(self._policy, sent, now))

    async def measure(self, label: str, work: Callable[[int], Awaitable[None]], count: int) -> Measured:
        self._steps = 0
        self._longest = 0.0
        Counted.marks[:] = [time.process_time()]
        cpu, wall = time.process_time(), time.perf_counter()
        await work(count)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        each = [end - begin for begin, end in pairwise(Counted.marks)]
        least = statistics.quantiles(each, n=10)[0] * len(each) / count
        found = Measured(rate=count / wall, cpu_us=cpu / count * 1e6, least_us=least * 1e6)
        print(
            f"{label:7} {found.rate:8,.0f}/s  {found.cpu_us:7.1f} us, {found.least_us:7.1f} undisturbed  "
            f"{self._steps / len(each):5.1f} steps a commit, longest {self._longest * 1000:7.1f} ms  "
            f"WAL {self._wal.stat().st_size / 2**20:5.1f} MiB",
            flush=True,
        )
        return found


async def run(directory: Path, backlog: int, messages: int, in_flight: int) -> list[Measured]:
    fill(directory, backlog, body=BODY, header=HEADER)
    os.sync()  # what the kernel has still to write of that is not ours
    bench = Bench(directory, in_flight)
    await bench.begin()
    found = [
        await bench.measure("accept", bench.accept, messages),
        await bench.measure("drain", bench.drain, messages),
    ]
    await bench.writer.stop()
    bench.queue.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--backlog", type=int, action="append")
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--directory", type=Path)
    asked = parser.parse_args()
    first: list[Measured] = []
    for backlog in asked.backlog or (0, 100_000):
        with tempfile.TemporaryDirectory(prefix="pysendmail-bench-", dir=asked.directory) as directory:
            print(f"backlog {backlog:,}")
            found = asyncio.run(run(Path(directory), backlog, asked.messages, asked.in_flight))
        first = first or found
        ratios = [f"{one.rate / other.rate:.2f}" for one, other in zip(found, first, strict=True)]
        print(f"rate against the first: accept {ratios[0]}, drain {ratios[1]}")


if __name__ == "__main__":
    main()
