"""F3, limits on a process: descriptors, memory, sizes of files, a quota, each met by a daemon with mail to take.

A case is `LIMIT:FIGURE`:

    descriptors:N   the daemon starts with RLIMIT_NOFILE at N
    files:N         RLIMIT_NOFILE N above what the running daemon has open
    memory:N        RLIMIT_AS N octets above what the running daemon has already
    starting:N      RLIMIT_AS of N octets from its start on
    size:N          RLIMIT_FSIZE of N octets for the running daemon
    quota:all       every write of the running daemon to a file fails with EDQUOT (strace)

Under the limit messages of several sizes are submitted at once: each is told 0 or 75, in time. A daemon may end over
it, with 75. Then the limit is taken away and what has ended is started, as a service manager would: what was accepted
arrives, and so does what is submitted then.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from torture.checker import TEMPFAIL
from torture.evidence import Call, Excuse, Violation
from torture.kill_sweep import attached, traces
from torture.ledger import Ledger, Subject
from torture.report import Part, Size
from torture.traffic import ALONE, in_cases, somebody, stage, verdict

KIB, MIB = 1 << 10, 1 << 20
ENDS = ("0", str(TEMPFAIL))
MEMORY = "memory"  # Python's Thread.start waits for ever for a thread that has no memory to begin: the watchdog's work
STARTING = "starting"  # so little memory that Python itself may not come to its first line
FIGURES = {
    "descriptors": range(12, 65),
    "files": (0, 1, 2, 3, 4, 6, 8),
    MEMORY: (0, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB),
    STARTING: (16 * MIB, 32 * MIB, 48 * MIB, 64 * MIB, 96 * MIB, 128 * MIB, 256 * MIB),
    "size": (0, 4096, 40_000, 70_000, 100_000, 200_000, 300_000, 1_000_000),
}
QUOTA = "quota:all"
CASES = [*(f"{limit}:{figure}" for limit, figures in FIGURES.items() for figure in figures), QUOTA]
SAMPLE = 3
BODIES = (0, 1_000, 100_000, 1_200_000)  # octets
# What goes before the command of a daemon that begins under its limit; the soft limit is raised to the hard one.
WRAPPERS = {"descriptors": ("prlimit", "--nofile={0}:{0}"), STARTING: ("prlimit", "--as={0}:")}
OVER_QUOTA = ("-f", "-e", "trace=pwrite64,fallocate", "-e", "inject=pwrite64,fallocate:error=EDQUOT")
LATER_S = 6.0  # a full disk is looked at again each five seconds


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="limits", seed=seed)
    part.skip("MemoryMax, TasksMax", "they are the service manager's; what they refuse, RLIMIT_AS refuses here")
    cases = list(CASES)
    strace = shutil.which("strace")
    if strace is None or not traces(strace):
        part.skip(QUOTA, "there is no strace, or it may not trace")
        cases.remove(QUOTA)
    return in_cases(part, cases, size, SAMPLE, only, directory, _play)


def _play(case: str, directory: Path, program: Path, name: int) -> list[Violation]:
    with stage(directory, name, program) as (subject, ledger, recorder):
        begun = time.time()
        with _limited(case, subject), ThreadPoolExecutor(len(BODIES)) as pool:
            calls = list(pool.map(lambda size: _submit(ledger, size), BODIES))
        excuse = Excuse(kind=case, begun=begun, ended=time.time() + LATER_S)
        if case.startswith(MEMORY) and _stands_still(subject):
            subject.kill()
        subject.come_back()
        found = _told(calls, (0, TEMPFAIL)) + _told([_submit(ledger, 0)], (0,))
        found += [
            _wrong(f"a daemon ended with {stop.how}: {subject.log[-500:]!r}")
            for stop in subject.stops
            if stop.how not in ENDS and not case.startswith((STARTING, MEMORY))
        ]
        return found + verdict(ledger, recorder, ALONE, [excuse])


def _stands_still(subject: Subject) -> bool:
    """What a watchdog finds out: no answer, or none in time."""
    try:
        return subject.listed() is None
    except subprocess.TimeoutExpired:
        return True


def _submit(ledger: Ledger, size: int) -> Call:
    return ledger.submit(f"ok.{size}@example.org", size=size, uid=somebody())


def _told(calls: Sequence[Call], allowed: Sequence[int]) -> list[Violation]:
    return [
        _wrong(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
        for call in calls
        if call.code not in allowed
    ]


def _wrong(text: str) -> Violation:
    return Violation(invariant="F3", text=text)


@contextmanager
def _limited(case: str, subject: Subject) -> Iterator[None]:
    """A daemon that runs, or has ended over it, under this limit; afterwards there is none.

    One that was started under its limit is stopped then: not everybody may raise another's limits.
    """
    limit, _, figure = case.partition(":")
    wrapper = [word.format(figure) for word in WRAPPERS.get(limit, ())]
    subject.come_back(wrapper=wrapper)
    daemon = subject.process
    assert daemon is not None
    if case == QUOTA:
        with attached("strace", daemon.pid, OVER_QUOTA, Path(os.devnull)):
            yield
        return
    if wrapper:
        yield
        if daemon.poll() is None:
            subject.stop()
        return
    kind, has = RUNNING[limit]
    with suppress(ProcessLookupError):
        limits = resource.prlimit(daemon.pid, kind)
        resource.prlimit(daemon.pid, kind, (has(daemon.pid) + int(figure), limits[1]))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(daemon.pid, kind, limits)


def _address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _open_files(pid: int) -> int:
    return max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1


# What is set for a daemon that runs, and what it has of it already.
RUNNING: Mapping[str, tuple[int, Callable[[int], int]]] = {
    "files": (resource.RLIMIT_NOFILE, _open_files),
    MEMORY: (resource.RLIMIT_AS, _address_space),
    "size": (resource.RLIMIT_FSIZE, lambda pid: 0),
}
