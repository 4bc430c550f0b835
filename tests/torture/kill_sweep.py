"""K1, the kill sweep: each scenario once for each write and network call, with kill -9 just before that call.

A point is `SCENARIO:WHO:CALL:K`: SIGKILL as WHO makes its K-th CALL. WHO is one thread of the daemon, `main` (the
event loop) or `writer`, by strace attached to it alone once it has started; `start`, the daemon from its first
instruction, whichever of its threads comes to its K-th CALL first; `client`, one sendmail; or `direct`, a sendmail
that finds no daemon and opens the queue itself. What died is started again, as a service manager would, and once
nothing waits the evidence is judged.

How many calls there are is counted by strace in a run without a kill. A point that a run does not come to is counted
as not reached, and is no case. Of more than MOST calls of one kind (scenario, player, call, file) a night takes MOST,
others each night: nearly all of them are the pages of one transaction, which are alike until its commit.

Not reached: the reader threads, which write nothing but a wake-up for the loop; calls that leave nothing behind which
the call after them would not show (openat, close, fcntl); what is written through memory, the WAL's index; and in
`start` the first calls of the writer, as many as the main thread makes of that kind.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shlex
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from rig.instance import BIN
from torture import faults
from torture.evidence import Violation
from torture.report import Part, Size
from torture.scenarios import SCENARIOS, Scenario, Stage, Template
from torture.traffic import WORKERS

CALLS = (
    *("pwrite64", "pwritev", "pwritev2", "write", "writev", "fdatasync", "fsync", "ftruncate", "fallocate"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat", "flock"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat"),
    *("socket", "connect", "bind", "listen", "accept", "accept4", "shutdown"),
    *("sendto", "sendmsg", "recvfrom", "recvmsg"),
)
VISITS = 5  # at most, until a control is caught
THREADS = {"main": 0, "writer": -1}  # of those that a start begins, in the order in which they are born
MOST = 16
SAMPLE = 200
NEVER = 65535  # the K of a point that no run comes to; strace takes no larger one
SHOWN = 3000  # octets of a log
ACCEPTED = "half-refused:writer:fdatasync:4"  # when one message is accepted, its submitter knows, and not all is sent
HANDED_OVER = "submit:main:accept4:1"  # when sendmail has said all, and the daemon has read nothing of it
S = TypeVar("S", bound="Sweep")
_LINE = re.compile(
    r"(?:(?P<thread>\d+) +)?(?P<call>\w+)\((?:\d+<(?P<file>/[^>]*)>|AT_FDCWD<[^>]*>, \"(?P<name>[^\"]*)\")?"
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Point:
    scenario: str
    who: str
    call: str
    k: int
    error: str = ""  # instead of the kill, the call fails with it
    file: str = field(default="", compare=False)  # what it is a call on, where a count told

    @classmethod
    def parse(cls, text: str) -> Self:
        scenario, who, call, k, *error = text.split(":")
        return cls(scenario=scenario, who=who, call=call, k=int(k), error="".join(error))

    def __str__(self) -> str:
        return f"{self.scenario}:{self.who}:{self.call}:{self.k}" + (f":{self.error}" if self.error else "")

    @property
    def inject(self) -> list[str]:
        how = f"error={self.error}" if self.error else "signal=KILL"
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{how}:when={self.k}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run gave. `lived`: the sendmails that were at work when the daemon died, and were told 0 all the same."""

    reached: bool
    violations: Sequence[Violation]
    lived: int


class Sweep:
    """What all points share: strace, and each scenario's queue to begin with."""

    calls: Sequence[str] = CALLS
    on_files: Sequence[str] = ()  # those that count only on the queue's files, and what else is beside it

    def __init__(self, directory: Path, strace: str) -> None:
        self._strace = strace
        self._directory = directory
        self._numbers = itertools.count()
        self._templates: dict[str, Template] = {}

    def prepare(self, scenarios: Iterable[Scenario]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            made = pool.map(lambda one: (one.name, Template.make(one, self._new_directory())), scenarios)
            self._templates = dict(made)

    def count(self, scenario: Scenario, who: str) -> tuple[list[Point], Verdict]:
        """Every point of one player: for each call as many as the thread makes that makes the most of them."""
        output = self._directory / f"{scenario.name}.{who}"
        everything = ["-y", "-e", f"trace={','.join(f'?{call}' for call in self.calls)}"]
        verdict = self._run(scenario, who, everything, output)
        made: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # call -> thread -> files
        for line in output.read_text(errors="replace").splitlines():
            if match := _LINE.match(line):
                made[match["call"]][match["thread"]].append(match["file"] or match["name"] or "")
        points = [
            Point(scenario=scenario.name, who=who, call=call, k=k, file=Path(file).name)
            for call, threads in sorted(made.items())
            for k, file in enumerate(max(threads.values(), key=len), 1)
            if call not in self.on_files or file.startswith(str(self._directory))
        ]
        return points, verdict

    def visit(self, point: Point, sabotage: Callable[[Stage], None] = lambda stage: None) -> Verdict:
        """The scenario with what happens at this point. `sabotage`: what else is broken, for a control."""
        output = Path(os.devnull)
        what = point.inject
        if point.error:
            output = self._directory / f"{next(self._numbers)}.strace"
            what = ["-ttt", *what]
        return self._run(SCENARIOS[point.scenario], point.who, what, output, sabotage)

    def _run(
        self,
        scenario: Scenario,
        who: str,
        what: Sequence[str],
        output: Path,
        sabotage: Callable[[Stage], None] = lambda stage: None,
    ) -> Verdict:
        """One run under strace."""
        directory = self._new_directory()
        stage = Stage(scenario, directory, self._templates[scenario.name])
        sabotage(stage)
        old_stops, old_calls = len(stage.subject.stops), len(stage.ledger.calls)
        reached = False
        wrapper = [self._strace, "-D", "-f", "-qqq", "-o", str(output), *what]
        with stage:
            try:
                if who == "direct":
                    stage.client = wrapper
                    scenario.play(stage)
                    stage.start()
                else:
                    stage.start(wrapper=wrapper if who == "start" else ())
                    stage.client = wrapper if who == "client" else ()
                    with self._watched(stage, who, what, output):
                        scenario.play(stage)
                        stage.settle()
                stage.settle()
                reached = self._reached(stage, output)
                violations = stage.judge()
            except (AssertionError, subprocess.TimeoutExpired) as error:
                violations = [Violation(invariant="rest", text=f"it does not come to rest: {str(error)[-SHOWN:]}")]
            stops, calls = stage.subject.stops[old_stops:], stage.ledger.calls[old_calls:]
        if not violations:
            shutil.rmtree(directory)
        return Verdict(
            reached=reached or bool(stops) or any(call.killed for call in calls),
            violations=violations,
            lived=sum(call.accepted and any(call.started < stop.at < call.ended for stop in stops) for call in calls),
        )

    def _reached(self, _stage: Stage, _output: Path) -> bool:
        """Whether what was to happen did, where neither a daemon's end nor a client's shows it."""
        return False

    @contextmanager
    def _watched(self, stage: Stage, who: str, what: Sequence[str], output: Path) -> Iterator[None]:
        """strace on one thread of the daemon that runs, where `who` is one."""
        if who not in THREADS:
            yield
            return
        threads = threads_of(stage.keeper.process.pid)
        with attached(self._strace, threads[THREADS[who]], what, output):
            yield

    def _new_directory(self) -> Path:
        return self._directory / str(next(self._numbers))


def lose_the_log(stage: Stage) -> None:
    """queue.db-wal does not outlive the daemon."""
    stage.keeper.at_death = (stage.subject.queue_directory / "queue.db-wal").unlink


def break_the_client(stage: Stage) -> None:
    """sendmail says 0 when it has lost the daemon before its answer."""
    script = stage.directory / "sendmail"
    words = (BIN / "python", "-P", faults.__file__, faults.CLIENT, stage.ledger.program)
    script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    script.chmod(0o755)
    stage.ledger.program = script


CONTROLS = {
    "queue.db-wal lost with the daemon": (ACCEPTED, lose_the_log),
    "0 without an answer": (HANDED_OVER, break_the_client),
}


def is_caught(sweep: Sweep, control: str) -> bool:
    """Whether the loss is seen, in some visit: a sendmail that the daemon's death met too early asks the next one."""
    point, sabotage = CONTROLS[control]
    visits = (sweep.visit(Point.parse(point), sabotage).violations for _ in range(VISITS))
    return any("I1" in {one.invariant for one in found} for found in visits)


def threads_of(pid: int) -> list[int]:
    """In the order in which they began: numbers go up, and begin anew at the kernel's last one."""
    last = int(Path("/proc/sys/kernel/pid_max").read_text())
    return sorted((int(name) for name in os.listdir(f"/proc/{pid}/task")), key=lambda number: (number - pid) % last)


@contextmanager
def attached(strace: str, thread: int, what: Sequence[str], output: Path) -> Iterator[None]:
    """strace on one thread, from here on. AssertionError where that is not allowed."""
    command = [strace, "-p", str(thread), "-o", str(output), *what]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        try:
            said = tracer.stderr.readline()
            assert "attached" in said, said
            yield
        finally:
            tracer.terminate()


def players(scenario: Scenario) -> list[str]:
    """Who is killed in this scenario."""
    return [*(["start"] if scenario.starts else []), *THREADS, *(["client", "direct"] if scenario.submits else [])]


def traces(strace: str) -> bool:
    """Whether it may trace here: what it starts itself, and what it is attached to."""
    command = [strace, "-D", "-f", "-o", os.devnull, "true"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other, suppress(AssertionError):
        assert other.stdin is not None
        with other.stdin, attached(strace, other.pid, [], Path(os.devnull)):
            return True
    return False


def choose(points: Sequence[Point], size: Size, seed: int, most: int | None) -> list[Point]:
    """The points to go to, in the order in which they are gone to; `most`: no more than so many.

    Each kind has its turn again and again, so that the few of one are not lost among the many of another.
    """
    dice = random.Random(seed)
    kinds: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.scenario, point.who, point.call, point.error, point.file].append(point)
    hands = [dice.sample(kind, min(len(kind), MOST * size.times)) for kind in kinds.values()]
    dice.shuffle(hands)
    turns = [point for turn in itertools.zip_longest(*hands) for point in turn if point is not None]
    return turns[:most]


def prepared(part: Part, kind: type[S], directory: Path, only: str) -> S | None:
    """A sweep that knows its scenarios. None: there can be none here, or `only` was one point of it, and is done."""
    strace = shutil.which("strace")
    if strace is None or not traces(strace):
        part.skip("all of it", "there is no strace, or it may not trace")
        return None
    sweep = kind(directory, strace)
    if only:
        point = Point.parse(only)
        sweep.prepare([SCENARIOS[point.scenario]])
        told(part, sweep, point)
        return None
    sweep.prepare(SCENARIOS.values())
    return sweep


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    """The sweep; with `only`, one point of it."""
    part = Part(name="kill-sweep", seed=seed)
    if (sweep := prepared(part, Sweep, directory, only)) is None:
        return part
    jobs = [(scenario, who) for scenario in SCENARIOS.values() for who in players(scenario)]
    with ThreadPoolExecutor(WORKERS) as pool:
        points = [point for found in pool.map(lambda job: _count(part, sweep, *job), jobs) for point in found]
        chosen = choose(points, size, seed, SAMPLE if size.name == "sample" else None)
        verdicts = list(pool.map(lambda point: told(part, sweep, point), chosen))
    missed = [point for point, verdict in zip(chosen, verdicts, strict=True) if not verdict.reached]
    for name in CONTROLS:
        part.control(name, caught=is_caught(sweep, name))
    part.note(f"{len(points)} points counted, {len(chosen)} chosen, {len(chosen) - len(missed)} reached")
    part.note(f"chosen: {_figures(f'{point.scenario}:{point.who}' for point in chosen)}")
    part.note(f"calls: {_figures(point.call for point in chosen)}")
    part.note(f"{sum(verdict.lived for verdict in verdicts)} sendmails lived through a daemon's death and were told 0")
    if missed:
        part.note(f"not reached: {_figures(f'{point.scenario}:{point.who}:{point.call}' for point in missed)}")
    return part


def _figures(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(names).items()))


def _count(part: Part, sweep: Sweep, scenario: Scenario, who: str) -> list[Point]:
    points, verdict = sweep.count(scenario, who)
    if verdict.violations:  # without a kill
        _tell(part, Point(scenario=scenario.name, who=who, call="write", k=NEVER), verdict)
    return points


def told(part: Part, sweep: Sweep, point: Point) -> Verdict:
    """Go to this point, and count it if it was reached."""
    verdict = sweep.visit(point)
    if verdict.reached or verdict.violations:
        _tell(part, point, verdict)
    return verdict


def _tell(part: Part, point: Point, verdict: Verdict) -> None:
    again = f"python -m torture {part.name} --only {point} --seed {part.seed}"
    part.case(str(point), verdict.violations, again=again)
