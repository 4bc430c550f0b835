"""L: two hundred submitters at once, and ten thousand messages that their destination defers, while others get through.

MANY submitters send everything as fast as they can: most of it to one destination that says 451 to all of it, and now
and then a message to another one, which accepts. That one has to leave within LIMIT_S of its acceptance, by the
daemon's own measure (`delay_s` in its log), less what the machine kept the daemon waiting for a processor meanwhile.
Then the destination recovers; after a flush every message arrives exactly once, and I1-I16 hold.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rig.instance import smarthost
from torture.checker import check
from torture.evidence import Settings, Violation
from torture.ledger import Ledger, Subject, gather
from torture.onlooker import Onlooker
from torture.recorder import Plan, Recorder
from torture.report import Part, Size
from torture.traffic import ACCESS, Message, fast_sendmail, rests, settle, somebody

MANY = 200
LIMIT_S = 30.0
GOOD_ONE_IN = 50
RETRY = {"first": "20s", "factor": 2.0, "jitter": 0.1}
RECOVERY_S = 600.0
SAMPLE_S = 0.25
LATE = "late.example.com"  # senders there write to the destination that defers


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(Plan):
    """What is from LATE is deferred until `over`."""

    over: threading.Event = field(default_factory=threading.Event)

    def mood(self, key: str, attempt: int) -> str:
        return "busy" if key.endswith(LATE) and not self.over.is_set() else ""


class Processor(Onlooker):
    """How long a process was ready to run and had to wait for a processor: sampled, as a line over time."""

    def __init__(self, pid: int) -> None:
        super().__init__(SAMPLE_S)
        self._file = Path(f"/proc/{pid}/schedstat")  # of its main thread
        self._samples: list[tuple[float, float]] = []

    def look(self) -> None:
        with suppress(OSError, IndexError):  # the process has ended, or this kernel does not tell
            self._samples.append((time.time(), int(self._file.read_text().split()[1]) / 1e9))

    def withheld(self, begun: float, ended: float) -> float:
        """Seconds of that time."""
        within = [waited for at, waited in self._samples if begun <= at <= ended]
        return within[-1] - within[0] if within else 0.0


class Departures:
    """When messages were delivered, and the seconds since their acceptance, as the daemon logged them.

    Each line of the log is looked at once: there are tens of thousands, and it is asked after each of them.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._looked_at = 0
        self._left: dict[str, tuple[float, float]] = {}

    def of(self, tokens: Sequence[str]) -> dict[str, tuple[float, float]]:
        """Of those of the messages that have left."""
        news = self._subject.events[self._looked_at :]
        self._looked_at += len(news)
        self._left |= {e["message_id"]: (e.at, float(e["delay_s"])) for e in news if e["status"] == "sent"}
        names = {token: f"<{token}@torture.example>" for token in tokens}
        return {token: self._left[name] for token, name in names.items() if name in self._left}


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="load", seed=seed)
    program = fast_sendmail(directory)
    count = size.of(sample=1000, nightly=10_000)
    plan = Outage(seed=seed)
    settings = Settings(first=20.0, factor=2.0, jitter=0.1, quiet_s=RECOVERY_S, answer_s=60.0)
    with Recorder(plan) as recorder:
        subject = Subject(directory, smarthosts=[smarthost(recorder)], retry=RETRY, access=ACCESS)
        ledger = Ledger(subject, name=seed, program=program)
        user = somebody()
        good: list[str] = []

        def messages() -> Iterator[Message]:
            for number in range(count):
                token = ledger.next_token()
                yield {
                    "recipients": [f"ok.{number}@slow.example.org"],
                    "token": token,
                    "uid": user,
                    "sender": f"{token}@{LATE}",
                }
                if number % GOOD_ONE_IN == 0:
                    good.append(ledger.next_token())
                    yield {"recipients": [f"ok.{number}@good.example.org"], "token": good[-1], "uid": user}

        with subject, _processor(subject) as processor:
            began = time.monotonic()
            submit(ledger, messages())
            submitted_s = time.monotonic() - began
            # Longer than the limit: a machine that is busy otherwise has its time deducted below.
            departures = Departures(subject)
            subject.happens(lambda: len(departures.of(good)) == len(good), RECOVERY_S)
            delays = departures.of(good)
            waiting = len(subject.mailq())
            began = time.monotonic()
            plan.over.set()
            subject.pysendmail("flush")
            left = settle(ledger, RECOVERY_S)
            recovered_s = time.monotonic() - began
            rest = [] if left else rests(ledger)
            found = check(gather(ledger, recorder, settings=settings, rests=rest))
    own = {token: delay - processor.withheld(at - delay, at) for token, (at, delay) in delays.items()}
    found += [
        Violation(invariant="L", text=f"{token}: left after {own.get(token)} s, others being deferred")
        for token in good
        if own.get(token, LIMIT_S + 1) > LIMIT_S
    ]
    found += [
        Violation(invariant="L", text=f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
        for call in ledger.calls
        if call.code != 0
    ]
    copies = Counter(attempt.token for attempt in recorder.accepted())
    found += [
        Violation(invariant="L", text=f"{call.token}: {copies[call.token]} copies")
        for call in ledger.calls
        if copies[call.token] != 1
    ]
    if left:
        found.append(Violation(invariant="L", text=f"{left} messages still wait {RECOVERY_S:.0f} s after the recovery"))
    if waiting < count:
        found.append(Violation(invariant="L", text=f"only {waiting} of {count} waited when the destination recovered"))
    part.note(f"{len(ledger.calls)} calls, {MANY} at a time, in {submitted_s:.0f} s")
    part.note(
        f"{len(good)} to a good destination left after {max(own.values(), default=0.0):.2f} s at most "
        f"({max((delay for _, delay in delays.values()), default=0.0):.2f} s with what the machine took), "
        f"{waiting} others being deferred; the limit is {LIMIT_S:.0f} s"
    )
    part.note(f"after the recovery all arrived within {recovered_s:.0f} s")
    for one in rest:
        part.note(f"the daemon took {one.memory >> 20} MiB at most; at rest {one.descriptors} descriptors")
    part.case("load", found, again=f"python -m torture load --seed {seed}")
    part.cases = len(ledger.calls)
    return part


def submit(ledger: Ledger, left: Iterator[Message]) -> None:
    """All of them, MANY at a time."""
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                message = next(left, None)
            if message is None:
                return
            ledger.submit(*message.pop("recipients"), **message)

    threads = [threading.Thread(target=work) for _ in range(MANY)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _processor(subject: Subject) -> Processor:
    assert subject.process is not None
    return Processor(subject.process.pid)
