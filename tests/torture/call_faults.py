"""F1, calls that fail: each scenario once for each write of the daemon, with an error of the disk or the kernel for it.

A point is `SCENARIO:WHO:CALL:K:ERROR`: as in the kill sweep, but WHO lives on, and is told that its K-th CALL failed.
A daemon that cannot go on ends, and is started again. Whoever submits may be told 75, never 0 for mail that is lost;
what has arrived may arrive once more if its record failed; and then all is as ever, since only one call fails.

Files of Python itself are always opened: a start that fails over them is as one that is killed. write(2) never fails:
it writes the log, of which lines are lost then, and the judge reads it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from torture.evidence import Excuse
from torture.kill_sweep import Sweep, choose, players, prepared, told
from torture.report import Part, Size
from torture.scenarios import SCENARIOS, Stage
from torture.traffic import WORKERS

DISK = ("EIO", "ENOSPC", "EDQUOT")
ERRORS: dict[str, Sequence[str]] = {
    "pwrite64": DISK,
    "fdatasync": DISK,
    "fsync": DISK,
    "ftruncate": ("EIO", "ENOSPC"),
    "fallocate": DISK,
    "openat": ("EMFILE", "ENFILE", "EIO"),
    "unlink": ("EIO",),
    "rename": ("EIO", "ENOSPC"),
    "mkdir": ("ENOSPC", "EDQUOT"),
    "flock": ("EINTR", "ENOLCK"),
    "chmod": ("EIO",),
    "fchown": ("EIO",),
    "socket": ("EMFILE", "ENFILE", "ENOBUFS"),
    "connect": ("ENETUNREACH",),
    "accept4": ("EMFILE", "ECONNABORTED", "ENOBUFS"),
}
AROUND_S = 0.5
_INJECTED = re.compile(r"^(?:\d+ +)?(\d+\.\d+) .*\(INJECTED\)", re.MULTILINE)


class Faults(Sweep):
    """A sweep whose points are errors."""

    calls = tuple(ERRORS)
    on_files = ("openat",)

    def _reached(self, stage: Stage, output: Path) -> bool:
        """Also keeps when it was, as what excuses a 75 and a second copy."""
        times = [float(at) for at in _INJECTED.findall(output.read_text(errors="replace"))] if output.exists() else []
        stage.excuses = [Excuse(kind="call", begun=at - AROUND_S, ended=at + AROUND_S) for at in times]
        return bool(times)


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    """The sweep; with `only`, one point of it."""
    part = Part(name="call-faults", seed=seed)
    if (sweep := prepared(part, Faults, directory, only)) is None:
        return part
    jobs = [(scenario, who) for scenario in SCENARIOS.values() for who in players(scenario) if who != "client"]
    with ThreadPoolExecutor(WORKERS) as pool:
        counted = [point for found in pool.map(lambda job: sweep.count(*job)[0], jobs) for point in found]
        points = [replace(point, error=error) for point in counted for error in ERRORS[point.call]]
        chosen = choose(points, size, seed, size.of(sample=60, nightly=600))
        verdicts = list(pool.map(lambda point: told(part, sweep, point), chosen))
    reached = sum(verdict.reached for verdict in verdicts)
    part.note(f"{len(points)} points counted, {len(chosen)} chosen, {reached} reached")
    return part
