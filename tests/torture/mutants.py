"""python -m torture.mutants [GROUP...] [--only TEXT]: do the tests notice when the code that matters most is wrong?

Small faults are put one at a time into what an error would be worst in (GROUPS), and the quick tests that belong to it
are run, to the first failure. A mutant that they do not notice is a survivor. MUTANTS.md keeps the count, and why each
survivor may live; the exit code is 1 where fewer than GOAL are killed or a survivor has no reason there yet.

What the faults are says `mutator`. `--only` runs the mutants with that text in their names, and changes no page.

The checkout is never touched: each of the processes works on a copy of it. A mutant runs in a fork, which costs no
start of an interpreter, within CPU_S, WALL_S and MEMORY, each of which kills it, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from torture.mutator import of_python, of_sql

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("MUTANTS.md")
GOAL = 0.9
CPU_S, WALL_S, MEMORY = 60, 600, 2 << 30
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
QUEUE = "integration/test_queue.py"
GROUPS = {
    "encoder": (Target(file="smtp/wire.py", tests=("unit/test_wire.py", DIALOGUES)),),
    "replies": (Target(file="smtp/reply.py", tests=("unit/test_reply.py", DIALOGUES)),),
    "outcomes": (Target(file="settling.py", tests=(QUEUE,)), Target(file="queue.sql", parts=C2, tests=(QUEUE,))),
    "tls": (
        Target(file="tlspolicy.py", tests=("unit/test_tlspolicy.py",)),
        Target(
            file="gate.py",
            tests=("integration/test_gate.py", "integration/test_session.py", "integration/test_auth.py"),
        ),
        Target(file="connection.py", parts=ENFORCED, tests=("integration/test_tls_table.py",)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    group: str
    name: str  # file:function: what was -> what is
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
                found[name] = Mutant(group=group, name=name, target=target, text=fault.text)
    return list(found.values())


_here: Path  # this process's copy


def _copy(place: Path) -> None:
    """What the tests need of the checkout; from here on it is this process's."""
    global _here
    _here = place / "sound"
    for name in ("pysendmail", "tests"):
        shutil.copytree(ROOT / name, _here / name)
    shutil.copy(ROOT / "pyproject.toml", _here)


def _copy_again() -> None:
    """For one of several processes, with what was compiled there."""
    global _here
    _here = shutil.copytree(_here, _here.with_name(str(os.getpid())))
    for name in PRELOADED:
        importlib.import_module(name)


def _noticed(target: Target, *, compiling: bool = False) -> bool:
    """Whether the tests of a file fail in the copy as it is."""
    if (child := os.fork()) == 0:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(WALL_S)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.chdir(_here)
        sys.dont_write_bytecode = not compiling  # or one mutant would be taken for the next of the same second
        sys.path[:0] = [str(_here), str(_here / "tests")]
        try:
            os._exit(pytest.main([*PYTEST, *(f"tests/{name}" for name in target.tests)]))
        except BaseException:  # of pytest itself; nothing else may go on in this process
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it had started
    return status != 0


def _try(mutant: Mutant) -> tuple[Mutant, bool]:
    file = _here / "pysendmail" / mutant.target.file
    sound = file.read_bytes()
    for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
        compiled.unlink()
    file.write_text(mutant.text, encoding="utf-8")
    try:
        return mutant, _noticed(mutant.target)
    finally:
        file.write_bytes(sound)


@dataclass(slots=True, kw_only=True)
class Page:
    """MUTANTS.md: of each group how many mutants there are and how many were killed, and why the others may live."""

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)  # (group, mutant) -> why; "": nobody knows yet

    @classmethod
    def read(cls) -> Self:
        rows = [line[2:-2].split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
        counts = {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) == 4 and row[1].isdecimal()}
        reasons = {(row[0], row[1].strip("`")): row[2] for row in rows if len(row) == 3 and row[1][0] == "`"}
        return cls(counts=counts, reasons=reasons)

    def add(self, group: str, total: int, survivors: Sequence[Mutant]) -> None:
        """What came of a group, in place of what the page has of it; reasons stay."""
        self.counts[group] = total, total - len(survivors)
        others = {key: why for key, why in self.reasons.items() if key[0] != group}
        self.reasons = others | {(group, one.shown): self.reasons.get((group, one.shown), "") for one in survivors}

    def write(self) -> None:
        rows = [
            f"| {group} | {total} | {killed} | {killed / total:.0%} |" for group, (total, killed) in self.counts.items()
        ]
        lives = [f"| {group} | `{name}` | {why} |" for (group, name), why in sorted(self.reasons.items())]
        head = ["# Mutants", "", *(__doc__ or "").split("\n\n")[1].splitlines(), ""]
        table = ["| group | mutants | killed | share |", "|---|---|---|---|", *rows, ""]
        PAGE.write_text(
            "\n".join([*head, *table, "| group | survivor | why it may live |", "|---|---|---|", *lives, ""])
        )

    @property
    def good(self) -> bool:
        return all(self.reasons.values()) and all(killed >= GOAL * total for total, killed in self.counts.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture.mutants", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--only", default="", metavar="TEXT", help="the mutants with this text in their names")
    asked = parser.parse_args()
    groups = asked.groups or list(GROUPS)
    chosen = [one for one in mutants(groups) if asked.only in one.name]
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        _copy(Path(place))
        for target in {one.target for one in chosen}:
            if _noticed(target, compiling=True):
                sys.exit(f"without any fault, the tests of {target.file} fail: {', '.join(target.tests)}")
        with multiprocessing.get_context("fork").Pool(os.cpu_count(), _copy_again) as pool:
            for one, killed in pool.imap_unordered(_try, chosen):
                if not killed:
                    survivors.append(one)
                    print(f"survives: {one.name}", flush=True)
    if asked.only:
        return int(bool(survivors))
    page = Page.read()
    for group in groups:
        page.add(group, sum(one.group == group for one in chosen), [one for one in survivors if one.group == group])
        print(f"{group}: {page.counts[group][1]} of {page.counts[group][0]} killed", flush=True)
    page.write()
    return 0 if page.good else 1


if __name__ == "__main__":
    sys.exit(main())
