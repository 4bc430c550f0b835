"""What a part of the torture gave, how much of it there is to be, and the table at the end.

A part is a function `run(size, seed, directory) -> Part`. It counts its cases, prints a violation as it comes,
with how to see it again, and names what it had to leave out and why.
"""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torture.evidence import Violation

RESULTS = ("RESULTS.md", "results.svg")  # what a run writes into the checkout
PROGRESS_S = 60.0  # a line of progress at most so often


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much: `sample` (CI), or `nightly` times `times`."""

    name: str = "sample"
    times: int = 1

    def of(self, *, sample: int, nightly: int) -> int:
        """The number of cases: one of the two, and the multiplier for what is nightly."""
        return sample if self.name == "sample" else nightly * self.times


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A violation, the case where it was seen, and the command that runs only that case again."""

    case: str
    violation: Violation
    again: str

    def __str__(self) -> str:
        return f"{self.case}: {self.violation}\n    again: {self.again}"


@dataclass(slots=True, kw_only=True)
class Part:
    """One part, while it runs and when it is done. Its methods may be called from any thread."""

    name: str
    seed: int
    cases: int = 0
    problems: list[Problem] = field(default_factory=list)
    skips: dict[str, str] = field(default_factory=dict)  # what was left out -> why
    notes: list[str] = field(default_factory=list)  # figures worth a line in the results
    controls: dict[str, bool] = field(default_factory=dict)  # negative control -> was it caught
    broken: str = ""  # it did not come to its end: the traceback
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _spoke: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def case(self, name: str, violations: Iterable[Violation], *, again: str) -> None:
        """One case is done; `again` is the command line that repeats it."""
        problems = [Problem(case=name, violation=one, again=again) for one in violations]
        with self._lock:
            self.cases += 1
            self.problems += problems
            for problem in problems:
                print(f"{self.name}: VIOLATION: {problem}", flush=True)
            if time.monotonic() - self._spoke > PROGRESS_S:
                self._spoke = time.monotonic()
                took = self._spoke - self._started
                print(f"{self.name}: {self.cases} cases in {took:.0f} s, seed {self.seed}", flush=True)

    def control(self, name: str, *, caught: bool) -> None:
        """A negative control ran: something was broken on purpose, and had to be found."""
        with self._lock:
            self.controls[name] = caught
        if not caught:
            print(f"{self.name}: CONTROL NOT CAUGHT: {name}", flush=True)

    def skip(self, what: str, why: str) -> None:
        with self._lock:
            self.skips[what] = why

    def note(self, text: str) -> None:
        with self._lock:
            self.notes.append(text)

    def done(self) -> Part:
        self.seconds = time.monotonic() - self._started
        print(f"{self.name}: {self.cases} cases, {len(self.problems)} violations, {self.seconds:.0f} s", flush=True)
        return self

    @property
    def good(self) -> bool:
        """No violation, every control caught, and it came to its end."""
        return not self.broken and not self.problems and all(self.controls.values())


def table(parts: Iterable[Part]) -> str:
    """The parts, a row each, as Markdown that a terminal can show too."""
    return _aligned([HEADING, *(_row(part) for part in parts)])


HEADING = ("part", "commit", "date", "cases", "violations", "controls caught", "skipped", "seconds", "seed")


def _row(part: Part) -> tuple[str, ...]:
    controls = f"{sum(part.controls.values())} of {len(part.controls)}" if part.controls else "-"
    figures = (part.cases, len(part.problems), controls, len(part.skips), f"{part.seconds:.0f}", part.seed)
    return (part.name, commit(), f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", *map(str, figures))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADING))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def details(parts: Iterable[Part]) -> str:
    """What the table has no room for: skips by name with their reasons, notes; and last, where a log ends, problems."""
    lines: list[str] = []
    wrong: list[str] = []
    for part in parts:
        lines += [f"- {part.name}: skipped {what}: {why}" for what, why in part.skips.items()]
        lines += [f"- {part.name}: {note}" for note in part.notes]
        if caught := sorted(name for name, ok in part.controls.items() if ok):
            lines.append(f"- {part.name}: controls caught: {', '.join(caught)}")
        wrong += [f"- {part.name}: BROKEN: {part.broken.strip().splitlines()[-1]}"] if part.broken else []
        wrong += [f"- {part.name}: CONTROL NOT CAUGHT: {name}" for name, ok in part.controls.items() if not ok]
        wrong += [f"- {part.name}: VIOLATION in {problem.case}: {problem.violation}" for problem in part.problems]
    return "\n".join(lines + wrong)


def machine() -> str:
    """Where it ran, in words that name nobody's machine."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} cores, {platform.system()}, Python {python}, SQLite {sqlite3.sqlite_version}"


def commit() -> str:
    """The checkout's commit, marked where files other than pages of results differ from it."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, check=False)
    status = [*git, "status", "--porcelain", "--", ":/", *(f":(top,exclude,glob)**/{name}" for name in RESULTS)]
    changed = subprocess.run(status, capture_output=True, check=False).stdout
    return (head.stdout.decode().strip() or "unknown") + ("-dirty" if changed else "")


def results(parts: Sequence[Part], size: Size, page: str = "") -> str:
    """The page that is kept, RESULTS.md: the parts of this run, and of `page`, its last state, all other parts."""
    times = f" x {size.times}" if size.times > 1 else ""
    names = {part.name for part in parts}
    table_lines = [line for line in page.splitlines() if line.startswith("| ")]
    old_rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table_lines]
    rows = [row for row in old_rows if len(row) == len(HEADING) and row[0] not in {HEADING[0], *names}]
    old = [line for line in page.splitlines() if line.startswith("- ") and line[2:].partition(":")[0] not in names]
    said = "\n".join([*details(parts).splitlines(), *(line for line in old if not line.startswith("- Machine"))])
    return f"""# Results of the torture

The last nightly run of each part (`make torture`). What the parts do stands in their modules' docstrings; what the
invariants are, in `checker.py`.

{_aligned([HEADING, *map(_row, parts), *rows])}

- Machine: {machine()}; size {size.name}{times}

{said or "Nothing was skipped."}
"""
