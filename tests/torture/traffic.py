"""Traffic: submitters that go on while something is done to the daemon, and how a run comes to its end.

    program = fast_sendmail(directory)                        # the stub that `pysendmail install-client` writes
    with Traffic(ledger, workers=50, seed=7, message=everyday) as traffic:
        traffic.let(100)                                      # so many calls, by whichever submitter is free
        subject.kill(); subject.launch()
    violations = verdict(ledger, recorder, settings)          # waits until the queue is empty

Submitters are threads with one real `sendmail` each. What they send is random as the seed says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Self

from rig.activation import Activation
from rig.instance import BIN, OTHERS, Table, can_be, smarthost
from torture.checker import check
from torture.evidence import Excuse, Rest, Settings, Violation
from torture.ledger import Ledger, Subject, gather
from torture.recorder import Plan, Recorder
from torture.report import Part, Size

SETTLE_S = 90.0
WORKERS = 2 * (os.cpu_count() or 1)  # half of a case is waiting
TEXT = 1000  # octets of what an error says
LOOK_S = 2.0  # at the queue, at least so often
RETRY = {"first": "0.2s", "factor": 1.0, "jitter": 0.0}
SETTINGS = Settings(first=0.2, factor=1.0, jitter=0.0)
ALONE = replace(SETTINGS, quiet_s=90.0, answer_s=90.0)  # of cases beside others, which are not about time
ACCESS = {"connections": 1000, "messages": 1_000_000, "bytes": "100GiB"}  # one user stands for many here

Message = dict[str, Any]  # arguments of Ledger.submit; "recipients" are the positional ones


def fast_sendmail(directory: Path) -> Path:
    """The `sendmail` of an installed system: it starts in the time of a bare interpreter."""
    folder = directory / "bin"
    folder.mkdir()
    subprocess.run([BIN / "pysendmail", "install-client", folder], check=True, stdout=subprocess.DEVNULL)
    return folder / "sendmail"


def somebody() -> int | None:
    """A user who may not write the queue, and so waits for the daemon; None (ourselves) where we cannot be another."""
    return OTHERS[0] if can_be(OTHERS[0]) else None


def everyday(random: Random) -> Message:
    """What a busy machine sends: most of it small and wanted, some large, some to several, some refused or late."""
    kinds = ["ok"] * 12 + ["no", "later2", "dot4x1", "dot5", "cut", "lost", "drop", "slow"]
    names = [random.choice(kinds)]
    if random.random() < 0.2:
        names += random.choices(["ok", "ok", "no", "later1"], k=random.randint(1, 4))
    recipients = [f"{name}.{random.randrange(10**9)}@d{random.randrange(5)}.example.org" for name in names]
    size = random.choice([0] * 16 + [5_000, 5_000, 100_000, 1_500_000])
    return {"recipients": recipients, "size": size, **({"sender": ""} if random.random() < 0.03 else {})}


Round = Callable[[Part, int, Path, Path], str]  # its number, its directory, the sendmail to use; a note


def in_rounds(part: Part, count: int, only: str, directory: Path, play: Round) -> Part:
    """A part in so many rounds, or the one that `only` names; each has a directory of its own."""
    program = fast_sendmail(directory)
    for number in [int(only)] if only else range(count):
        part.note(play(part, number, directory / "round", program))
    return part


@contextmanager
def stage(
    directory: Path, name: int, program: Path, plan: Plan | None = None, **tables: Table
) -> Iterator[tuple[Subject, Ledger, Recorder]]:
    """A daemon that is not started yet, its submitters and its smarthost; the directory is gone when all went well.

    `name` makes the tokens; `tables` are the configuration's.
    """
    directory.mkdir()
    directory.chmod(0o755)  # other users' sendmail reads the configuration there
    with Recorder(plan) as recorder:
        settings: dict[str, Table] = {"retry": RETRY, "access": ACCESS, **tables}
        subject = Subject(directory, smarthosts=[smarthost(recorder)], **settings)
        try:
            yield subject, Ledger(subject, name=name, program=program), recorder
        finally:
            subject.__exit__()
    shutil.rmtree(directory)


@contextmanager
def scene(
    directory: Path, name: int, program: Path, plan: Plan | None = None, *, held: bool = False, **tables: Table
) -> Iterator[tuple[Subject, Ledger, Recorder]]:
    """The same with the daemon at work. `held`: its sockets are somebody else's, and outlive it."""
    with stage(directory, name, program, plan, **tables) as (subject, ledger, recorder):
        if held:
            subject.activation = Activation(subject.socket)
        with subject:
            yield subject, ledger, recorder
        if subject.activation:
            subject.activation.close()


Play = Callable[[str, Path, Path, int], Iterable[Violation]]  # a case, its directory, the sendmail to use, a seed


def in_cases(part: Part, cases: Sequence[str], size: Size, sample: int, only: str, directory: Path, play: Play) -> Part:
    """Each case, or so many of them in a sample, or the one that `only` names; several at a time."""
    program = fast_sendmail(directory)
    all_of_them = [*cases] * size.times
    most = min(size.of(sample=sample, nightly=len(cases)), len(all_of_them))
    chosen = [only] if only else Random(part.seed).sample(all_of_them, most)

    def one(number: int, case: str) -> None:
        try:
            found = play(case, directory / f"case{number}", program, Random(f"{part.seed}/{case}").getrandbits(24))
        except AssertionError as error:  # something that was waited for did not come; the others have their turn
            found = [Violation(invariant="case", text=str(error)[-TEXT:])]
        part.case(case, found, again=f"python -m torture {part.name} --seed {part.seed} --only {case}")

    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(one, number, case) for number, case in enumerate(chosen)]:
            done.result()
    return part


class Traffic:
    """See the module. On leaving, the calls that were let go are waited for; a submitter's error is raised."""

    def __init__(self, ledger: Ledger, *, workers: int, seed: object, message: Callable[[Random], Message]) -> None:
        self._ledger = ledger
        self._message = message
        self._tickets = threading.Semaphore(0)
        self._left = 0
        self._lock = threading.Lock()
        self._over = False
        self._workers = workers
        self._seed = seed
        self._pool = ThreadPoolExecutor(workers)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._work, Random(f"{self._seed}/{n}")) for n in range(self._workers)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._tickets.release(self._workers)
        self._pool.shutdown()
        for one in self._running:
            one.result()

    def let(self, calls: int) -> None:
        """Let so many more calls be made."""
        with self._lock:
            self._left += calls
        self._tickets.release(calls)

    def _take(self) -> bool:
        """A ticket; False when there will be none any more."""
        self._tickets.acquire()
        with self._lock:
            taken = self._left > 0
            self._left -= taken
        return taken

    def _work(self, random: Random) -> None:
        while self._take():
            message = self._message(random)
            self._ledger.submit(*message.pop("recipients"), **message)


def settle(ledger: Ledger, seconds: float = SETTLE_S) -> int:
    """Wait until nothing is in the queue any more; how many messages still are when `seconds` are over."""
    instance = ledger.instance
    deadline = time.monotonic() + seconds
    while (waiting := instance.listed()) is None or waiting:
        seen = len(instance.events)
        if time.monotonic() > deadline:
            break
        instance.happens(lambda seen=seen: instance.matching("outcome", seen), LOOK_S)  # type: ignore[misc]
    return len(instance.mailq() if waiting is None else waiting)


def rests(ledger: Ledger) -> list[Rest]:
    """The daemon, once its queue is empty, if it is still there."""
    assert isinstance(ledger.instance, Subject)
    rest = ledger.instance.rest()
    return [rest] if rest is not None else []


def verdict(
    ledger: Ledger, recorder: Recorder, settings: Settings = SETTINGS, excuses: Sequence[Excuse] = ()
) -> list[Violation]:
    """What the checker finds once the queue is empty, and that it did not become so."""
    left = settle(ledger)
    rest = [] if left else rests(ledger)
    found = check(gather(ledger, recorder, settings=settings, excuses=excuses, rests=rest))
    if left:
        found.append(Violation(invariant="I16", text=f"{left} messages still wait after {SETTLE_S:.0f} s of peace"))
    return found
