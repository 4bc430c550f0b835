"""K1, the kill sweep: each scenario once for each write and network call, with kill -9 just before that call.

A point is `SCENARIO:WHO:CALL:K`: SIGKILL as WHO makes its K-th CALL. WHO is one thread of the daemon, `main` (the
event loop) or `writer`, by strace attached to it alone once it has started; `start`, the daemon from its first
instruction, whichever of its threads comes to its K-th CALL first; `client`, one sendmail; or `direct`, a sendmail
that finds no daemon and opens the queue itself. What died is started again, as a service manager would, and once
nothing waits the evidence is judged.

How many calls there are is counted by strace in a run without a kill. A point that a run does not come to is counted
as not reached, and is no case. Of more than MOST calls of one kind a night takes a sample, another one each night:
these are the pages of one transaction, all alike until its commit.

Not reached: the reader threads, which write nothing but a wake-up for the loop; calls that leave nothing behind which
the call after them would not show (openat, close, fcntl); the first calls of the writer in `start` where the main
thread has as many, which `writer` makes up for but for the recovery itself.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torture.evidence import Violation
from torture.report import Part, Size
from torture.scenarios import SCENARIOS, Scenario, Stage, Template

CALLS = (
    *("pwrite64", "pwritev", "pwritev2", "write", "writev", "fdatasync", "fsync", "ftruncate", "fallocate"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat", "flock"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat"),
    *("socket", "connect", "bind", "listen", "accept", "accept4", "shutdown"),
    *("sendto", "sendmsg", "recvfrom", "recvmsg"),
)
THREADS = ("main", "writer")  # in the order in which they are born
MOST = 60
SAMPLE = 200
WORKERS = os.cpu_count() or 1
_LINE = re.compile(r"(?:(\d+) +)?(\w+)\(")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    scenario: str
    who: str
    call: str
    k: int

    @classmethod
    def parse(cls, text: str) -> Self:
        scenario, who, call, k = text.split(":")
        return cls(scenario=scenario, who=who, call=call, k=int(k))

    def __str__(self) -> str:
        return f"{self.scenario}:{self.who}:{self.call}:{self.k}"

    @property
    def inject(self) -> list[str]:
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:signal=KILL:when={self.k}"]


ALL = ["-e", f"trace={','.join(f'?{call}' for call in CALLS)}"]


class Sweep:
    """What all points share: strace, and each scenario's queue to begin with."""

    def __init__(self, directory: Path, strace: str) -> None:
        self._strace = strace
        self._directory = directory
        self._numbers = itertools.count()
        self._templates: dict[str, Template] = {}

    def prepare(self, scenarios: Iterable[Scenario]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            made = pool.map(lambda one: (one.name, Template.make(one, self._new_directory())), scenarios)
            self._templates = dict(made)

    def count(self, scenario: Scenario, who: str) -> list[Point]:
        """Every point of one player: for each call as many as the thread makes that makes the most of them."""
        output = self._directory / f"{scenario.name}.{who}"
        self._run(scenario, who, ALL, output)
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for line in output.read_text(errors="replace").splitlines():
            if match := _LINE.match(line):
                counts[match[2]][match[1]] += 1
        return [
            Point(scenario=scenario.name, who=who, call=call, k=k)
            for call, threads in sorted(counts.items())
            for k in range(1, max(threads.values()) + 1)
        ]

    def kill(self, point: Point) -> list[Violation] | None:
        """The scenario with a kill at this point; None when it was not reached."""
        return self._run(SCENARIOS[point.scenario], point.who, point.inject, Path(os.devnull))

    def _run(self, scenario: Scenario, who: str, what: Sequence[str], output: Path) -> list[Violation] | None:
        """One run under strace; None when nobody was killed in it."""
        directory = self._new_directory()
        stage = Stage(scenario, directory, self._templates[scenario.name])
        stops, calls = len(stage.subject.stops), len(stage.ledger.calls)
        wrapper = [self._strace, "-D", "-f", "--seccomp-bpf", "-qqq", "-o", str(output), *what]
        with stage:
            try:
                if who == "direct":
                    stage.client = wrapper
                    scenario.play(stage)
                    stage.start()
                else:
                    stage.start(wrapper=wrapper if who == "start" else ())
                    stage.client = wrapper if who == "client" else ()
                    with self._attached(stage, who, what, output):
                        scenario.play(stage)
                        stage.settle()
                stage.settle()
                violations = stage.judge()
            except AssertionError as error:
                violations = [Violation(invariant="rest", text=f"it does not come to rest: {error}")]
            killed = len(stage.subject.stops) > stops or any(call.killed for call in stage.ledger.calls[calls:])
        if not violations:
            shutil.rmtree(directory)
        return violations if killed or violations else None

    @contextmanager
    def _attached(self, stage: Stage, who: str, what: Sequence[str], output: Path) -> Iterator[None]:
        """strace on one thread of the daemon that runs, where `who` is one."""
        if who not in THREADS:
            yield
            return
        threads = sorted(int(name) for name in os.listdir(f"/proc/{stage.keeper.process.pid}/task"))
        command = [self._strace, "-p", str(threads[THREADS.index(who)]), "-o", str(output), *what]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            try:
                said = tracer.stderr.readline()
                assert "attached" in said, said
                yield
            finally:
                tracer.terminate()

    def _new_directory(self) -> Path:
        return self._directory / str(next(self._numbers))


def players(scenario: Scenario) -> list[str]:
    """Who is killed in this scenario."""
    return [*(["start"] if scenario.starts else []), *THREADS, *(["client", "direct"] if scenario.submits else [])]


def choose(points: Sequence[Point], size: Size, seed: int) -> list[Point]:
    """The points to go to, in the order in which they are gone to.

    A sample takes from each call of each player in turn, so that the few of one kind are not lost among the many.
    """
    dice = random.Random(seed)
    kinds: dict[tuple[str, str, str], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.scenario, point.who, point.call].append(point)
    most = MOST * size.times
    hands = [dice.sample(kind, min(len(kind), most)) for kind in kinds.values()]
    dice.shuffle(hands)
    turns = [point for turn in itertools.zip_longest(*hands) for point in turn if point is not None]
    return turns[:SAMPLE] if size.name == "sample" else turns


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    """The sweep; with `only`, one point of it."""
    part = Part(name="kill-sweep", seed=seed)
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-D", "-o", "/dev/null", "true"], check=False).returncode:
        part.skip("all of it", "there is no strace, or it may not trace")
        return part
    sweep = Sweep(directory, strace)
    if only:
        point = Point.parse(only)
        sweep.prepare([SCENARIOS[point.scenario]])
        _case(part, sweep, point)
        return part
    sweep.prepare(SCENARIOS.values())
    jobs = [(scenario, who) for scenario in SCENARIOS.values() for who in players(scenario)]
    with ThreadPoolExecutor(WORKERS) as pool:
        points = [point for found in pool.map(lambda job: sweep.count(*job), jobs) for point in found]
        chosen = choose(points, size, seed)
        reached = list(pool.map(lambda point: _case(part, sweep, point), chosen))
    missed = Counter(
        f"{point.scenario}:{point.who}:{point.call}" for point, was in zip(chosen, reached, strict=True) if not was
    )
    part.note(f"{len(points)} points counted, {len(chosen)} chosen, {sum(reached)} reached")
    part.note(f"points of each player: {_figures(Counter(f'{point.scenario}:{point.who}' for point in chosen))}")
    if missed:
        part.note(f"not reached: {_figures(missed)}")
    return part


def _figures(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _case(part: Part, sweep: Sweep, point: Point) -> bool:
    violations = sweep.kill(point)
    if violations is None:
        return False
    part.case(str(point), violations, again=f"python -m torture kill-sweep --only {point} --seed {part.seed}")
    return True
