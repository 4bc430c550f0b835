"""python -m torture.mutants [GROUP...] [--only TEXT]: do the tests notice when the code that matters most is wrong?

Small faults are put one at a time into what an error would be worst in (GROUPS), and the quick tests that belong to it
are run, to the first failure. A mutant that they do not notice is a survivor. MUTANTS.md keeps the count, and why each
survivor may live; the exit code is 1 where fewer than GOAL are killed or a survivor has no reason there yet.

What the faults are says `mutator`. `--only` runs the mutants with that text in their names, and changes no page.

The checkout is never touched: each of the processes works on a copy of it. A mutant runs in a fork, which costs no
start of an interpreter; the tests that reach the place of the fault come first, the quickest of them before the others.

A kill is worth nothing where the same tests fail without a fault. So each process first runs them against the file as
a mutant is written, but for the fault (`Control`), again after every CONTROL_EVERY mutants, and all of it ends where
they fail. Nor does a busy machine kill: what never ends is what has taken CPU_TIMES of the processor time that the
control took, or has waited IDLE_S without any; what is under way after WALL_S is taken for a survivor.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import multiprocessing
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from torture.mutator import of_python, of_sql

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("MUTANTS.md")
GOAL = 0.9
CPU_TIMES, CPU_MORE_S = 5, 5  # a fault may make the code slower, and the first failure is shown in full
IDLE_S, WALL_S = 20, 900
MEMORY = 2 << 30
CONTROL_EVERY = 50
PROCESSES = 1 + (os.cpu_count() or 1)  # much of a test is waiting
PRELOADED = ("aiosmtplib", "aiosmtpd.smtp", "hypothesis", "idna", "pytest_asyncio.plugin", "sqlite3", "trustme")
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # for what is preloaded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file, of which perhaps only some functions or statements, and the tests that are to notice."""

    file: str
    parts: tuple[str, ...] = ()
    tests: tuple[str, ...]


C2 = (  # of these, those with something in them that can be another
    "clear_warning", "failed_recipients", "finish_message", "finish_sent", "finished", "give_back", "mark_removed",
    "open_recipients", "prune_attempts", "removed_recipients", "running", "sent", "set_warned", "settle_recipient",
    "taken",
)  # fmt: skip
ENFORCED = ("open", "_start_tls", "_handshake_failure", "_check_tls", "_demanded")
DIALOGUES = "unit/test_transaction.py"
QUEUE = ("integration/test_settling.py", "integration/test_queue.py")
GROUPS = {
    "encoder": (Target(file="smtp/wire.py", tests=("unit/test_wire.py", DIALOGUES)),),
    "replies": (Target(file="smtp/reply.py", tests=("unit/test_reply.py", DIALOGUES)),),
    "outcomes": (Target(file="settling.py", tests=QUEUE), Target(file="queue.sql", parts=C2, tests=QUEUE)),
    "tls": (
        Target(file="tlspolicy.py", tests=("unit/test_tlspolicy.py",)),
        Target(file="gate.py", tests=("integration/test_gate.py", "integration/test_auth.py")),
        Target(file="connection.py", parts=ENFORCED, tests=("integration/test_tls_table.py",)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    group: str
    name: str  # file:function: what was -> what is
    place: str  # the function, or the statement
    target: Target
    text: str = field(repr=False)

    @property
    def shown(self) -> str:
        """The name as a cell of a table can have it."""
        return self.name.replace("|", "¦")


def mutants(groups: Sequence[str]) -> list[Mutant]:
    """All of them, each with a name of its own that survives changes elsewhere in the file."""
    found: dict[str, Mutant] = {}
    for group in groups:
        for target in GROUPS[group]:
            text = (ROOT / "pysendmail" / target.file).read_text(encoding="utf-8")
            sql = target.file.endswith(".sql")
            for fault in of_sql(text, target.parts) if sql else of_python(text, target.parts):
                name = f"{target.file}:{fault.name}"
                while name in found:
                    name += "'"
                found[name] = Mutant(group=group, name=name, place=fault.place, target=target, text=fault.text)
    return list(found.values())


class Verdict(StrEnum):
    """What the tests of a file say of it."""

    SOUND = "they pass"
    FAILS = "one fails"
    STUCK = "one never ends"


@dataclass(slots=True, kw_only=True)
class Control:
    """What the tests of a file do while there is no fault in it."""

    cpu_s: float
    costs: dict[str, float]  # test -> seconds of the processor
    reached: dict[str, list[str]]  # function or statement -> the tests that run it
    uses: int = 0

    def first(self, place: str) -> list[str]:
        """The tests that run it, the cheapest first; then the others in the same order."""
        at_it = set(self.reached.get(place, ()))
        return sorted(self.costs, key=lambda test: (test not in at_it, self.costs[test]))


class _Watch:
    """A plugin of pytest that writes down a Control."""

    def __init__(self, target: Target, file: Path) -> None:
        self._statements = target.file.endswith(".sql")
        self._code = str(_here / "pysendmail" / ("store.py" if self._statements else target.file))
        self._file = file
        self._costs: dict[str, float] = {}
        self._reached: dict[str, set[str]] = {}
        self._test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._test = item.nodeid
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        began = time.process_time()
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            self._costs[item.nodeid] = time.process_time() - began

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == self._code:
            place = frame.f_code.co_qualname.replace(".<locals>", "")
            if self._statements:
                place = frame.f_locals.get("statement", "")
            self._reached.setdefault(place, set()).add(self._test)

    def pytest_sessionfinish(self) -> None:
        reached = {place: sorted(tests) for place, tests in self._reached.items()}
        self._file.write_text(json.dumps({"costs": self._costs, "reached": reached}))


class _Order:
    """A plugin of pytest that puts tests into this order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ranks = {name: rank for rank, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._ranks.get(item.nodeid, len(self._ranks)))


_here: Path  # this process's copy
_controls: dict[Target, Control] = {}


def _copy(place: Path) -> None:
    """What the tests need of the checkout; from here on it is this process's."""
    global _here
    _here = place / str(os.getpid())
    for name in ("pysendmail", "tests"):
        shutil.copytree(ROOT / name, _here / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", _here)
    for name in PRELOADED:
        importlib.import_module(name)


def _run(target: Target, text: str, plugin: object, *, cpu_s: int, compiling: bool = False) -> tuple[Verdict, float]:
    """The tests of a file that has this text in the copy, and the seconds of the processor that they took."""
    file = _here / "pysendmail" / target.file
    sound = file.read_bytes()
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
        compiled.unlink()
    file.write_text(text, encoding="utf-8")
    try:
        if (child := os.fork()) == 0:
            _run_here(target, plugin, cpu_s, compiling=compiling)
        ended = _let_it_run(child)
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it had started
        return _verdict(os.waitstatus_to_exitcode(status), ended=ended), usage.ru_utime + usage.ru_stime
    finally:
        file.write_bytes(sound)


def _run_here(target: Target, plugin: object, cpu_s: int, *, compiling: bool) -> None:
    """Does not return."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.chdir(_here)
    sys.dont_write_bytecode = not compiling  # or one mutant would be taken for the next of the same second
    sys.path[:0] = [str(_here), str(_here / "tests")]
    try:
        os._exit(pytest.main([*PYTEST, *(f"tests/{name}" for name in target.tests)], plugins=[plugin]))
    finally:  # nothing else may go on in this process
        os._exit(pytest.ExitCode.INTERNAL_ERROR)


def _let_it_run(child: int) -> Verdict | None:
    """Until it has ended, or has to be: then what that means."""
    descriptor = os.pidfd_open(child)
    try:
        idle, before = 0, -1
        for _ in range(WALL_S):
            if select.select([descriptor], [], [], 1.0)[0]:
                return None
            waits, used = _activity(child)
            idle = idle + 1 if waits and used == before else 0
            before = used
            if idle == IDLE_S:
                os.kill(child, signal.SIGKILL)
                return Verdict.STUCK
        os.kill(child, signal.SIGKILL)
        return Verdict.SOUND
    finally:
        os.close(descriptor)


def _activity(process: int) -> tuple[bool, int]:
    """Whether all its threads wait for something other than the processor, and the ticks that they have had of it."""
    waits, used = True, 0
    for file in Path(f"/proc/{process}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            values = file.read_text().rpartition(")")[2].split()
            waits = waits and values[0] == "S"
            used += int(values[11]) + int(values[12])
    return waits, used


def _verdict(code: int, *, ended: Verdict | None) -> Verdict:
    if ended is not None:
        return ended
    if code == -signal.SIGKILL:  # RLIMIT_CPU
        return Verdict.STUCK
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED) or code < 0:
        return Verdict.FAILS if code else Verdict.SOUND
    raise RuntimeError(f"pytest could not run: exit code {code}")


def _control(target: Target) -> Control:
    """This process's, for one more use of it."""
    control = _controls.get(target)
    if control is None or control.uses == CONTROL_EVERY:
        text = (_here / "pysendmail" / target.file).read_text(encoding="utf-8")
        if target.file.endswith(".py"):
            text = ast.unparse(ast.parse(text))
        notes = _here / "control.json"
        verdict, cpu_s = _run(target, text, _Watch(target, notes), cpu_s=WALL_S, compiling=True)
        if verdict is not Verdict.SOUND:
            raise RuntimeError(f"without any fault, of the tests of {target.file} {verdict}: {', '.join(target.tests)}")
        control = _controls[target] = Control(cpu_s=cpu_s, **json.loads(notes.read_text()))
    control.uses += 1
    return control


def _try(mutant: Mutant) -> tuple[Mutant, Verdict]:
    control = _control(mutant.target)
    limit = int(CPU_TIMES * control.cpu_s) + CPU_MORE_S
    return mutant, _run(mutant.target, mutant.text, _Order(control.first(mutant.place)), cpu_s=limit)[0]


@dataclass(slots=True, kw_only=True)
class Page:
    """MUTANTS.md: of each group how many mutants there are and what came of them, and why survivors may live."""

    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # all, killed, of these for never ending
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)  # (group, mutant) -> why; "": nobody knows yet

    @classmethod
    def read(cls) -> Self:
        rows = [line[2:-2].split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
        counts = {row[0]: (int(row[1]), int(row[2]), int(row[3])) for row in rows if len(row) == 5 and row[0] in GROUPS}
        reasons = {(row[0], row[1].strip("`")): row[2] for row in rows if len(row) == 3 and row[0] in GROUPS}
        return cls(counts=counts, reasons=reasons)

    def add(self, group: str, verdicts: Sequence[tuple[Mutant, Verdict]]) -> None:
        """What came of a group, in place of what the page has of it; reasons stay."""
        survivors = [one for one, verdict in verdicts if verdict is Verdict.SOUND]
        stuck = sum(verdict is Verdict.STUCK for _, verdict in verdicts)
        self.counts[group] = len(verdicts), len(verdicts) - len(survivors), stuck
        others = {key: why for key, why in self.reasons.items() if key[0] != group}
        self.reasons = others | {(group, one.shown): self.reasons.get((group, one.shown), "") for one in survivors}

    def write(self) -> None:
        rows = []
        for group in filter(self.counts.__contains__, GROUPS):
            total, killed, stuck = self.counts[group]
            rows.append(f"| {group} | {total} | {killed} | {stuck} | {killed / total:.1%} |")
        lives = [f"| {group} | `{name}` | {why} |" for (group, name), why in sorted(self.reasons.items())]
        head = ["# Mutants", "", *(__doc__ or "").split("\n\n")[1].splitlines(), ""]
        table = [
            "| group | mutants | killed | of these by a test that never ends | share |",
            "|---|---|---|---|---|",
            *rows,
        ]
        reasons = ["", "| group | survivor | why it may live |", "|---|---|---|", *lives, ""]
        PAGE.write_text("\n".join([*head, *table, *reasons]))

    @property
    def good(self) -> bool:
        return all(self.reasons.values()) and all(killed >= GOAL * total for total, killed, _ in self.counts.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture.mutants", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="the mutants with this text in their names")
    asked = parser.parse_args()
    groups = asked.groups or list(GROUPS)
    chosen = [one for one in mutants(groups) if asked.only in one.name]
    verdicts: list[tuple[Mutant, Verdict]] = []
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as place,
        multiprocessing.get_context("fork").Pool(PROCESSES, _copy, (Path(place),)) as pool,
    ):
        for one, verdict in pool.imap_unordered(_try, chosen):
            verdicts.append((one, verdict))
            if verdict is not Verdict.FAILS:
                print(f"{'survives' if verdict is Verdict.SOUND else verdict}: {one.name}", flush=True)
            if len(verdicts) % CONTROL_EVERY == 0:
                print(f"{len(verdicts)} of {len(chosen)} tried", flush=True)
    if asked.only:
        return int(any(verdict is Verdict.SOUND for _, verdict in verdicts))
    page = Page.read()
    for group in groups:
        page.add(group, [(one, verdict) for one, verdict in verdicts if one.group == group])
        print(f"{group}: {page.counts[group][1]} of {page.counts[group][0]} killed", flush=True)
    page.write()
    return 0 if page.good else 1


if __name__ == "__main__":
    sys.exit(main())
