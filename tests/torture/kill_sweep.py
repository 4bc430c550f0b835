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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rig import debian
from torture.evidence import Violation
from torture.report import Part, Size
from torture.scenarios import SCENARIOS, Scenario, Stage, Template

CALLS = (
    "pwrite64 pwritev pwritev2 write writev fdatasync fsync ftruncate fallocate unlink unlinkat rename renameat "
    "renameat2 link linkat mkdir mkdirat flock chmod fchmod chown fchown fchownat "
    "socket connect bind listen accept accept4 sendto sendmsg recvfrom recvmsg shutdown"
).split()
THREADS = ("main", "writer")  # in the order in which they are born
MOST = 60
SAMPLE = 200
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What all points share."""

    strace: str
    directory: Path
    templates: dict[str, Template]

    def wrapper(self, what: Sequence[str], output: Path | str) -> list[str]:
        """strace from the first instruction, beside the program and not above it: the program stays our child."""
        return [self.strace, "-D", "-f", "--seccomp-bpf", "-qqq", "-o", str(output), *what]

    @contextmanager
    def attached(self, stage: Stage, who: str, what: Sequence[str], output: Path | str) -> Iterator[None]:
        """strace on one thread of the daemon that runs."""
        pid = stage.keeper.process.pid
        threads = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
        thread = threads[THREADS.index(who)]
        command = [self.strace, "-p", str(thread), "-o", str(output), *what]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            try:
                said = tracer.stderr.readline()
                assert "attached" in said, said
                yield
            finally:
                tracer.terminate()

    def stage(self, scenario: Scenario, name: str, *, fresh: bool = False) -> Stage:
        return Stage(scenario, self.directory / name, None if fresh else self.templates[scenario.name])

    def count(self, scenario: Scenario) -> dict[tuple[str, str], int]:
        """(who, call) -> the most calls that one thread made, in runs without a kill."""
        counts: dict[tuple[str, str], int] = {}
        for who in players(scenario):
            outputs = {name: self.directory / f"{scenario.name}.{name}" for name in ([who], THREADS)[who == "main"]}
            if who == "writer":
                continue  # watched beside main
            self._run(scenario, who, ALL, outputs, f"{scenario.name}-{who}-count")
            for name, output in outputs.items():
                counts |= {(name, call): most for call, most in _most(output).items()}
        return counts
