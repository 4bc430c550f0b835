"""F5, descriptors: 0, 1 and 2 closed in every combination, and standard inputs and outputs that no mail program likes.

A case is `WHAT:WHO`. WHO is sendmail in Python, in C (contrib/client), in Python without a daemon (`direct`), or the
`daemon` itself, for closed descriptors. WHAT is `closed-012` and its like; `directory`, `endless` or `sparse`, a file
of 2 GiB with hardly a block, for its input; or `full`, /dev/full for its output. Each has its exit code, and ends
within ADDRESS_SPACE of memory; the daemon's memory is the checker's. Nothing of what was refused stays, and mail that
comes after it is taken and arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path

import pytest

from pysendmail.spool import answers
from rig.clients import Clients
from rig.instance import PATIENCE_S
from rig.patience import until
from torture.evidence import Violation
from torture.ledger import Ledger, Subject
from torture.report import Part, Size
from torture.traffic import ALONE, in_cases, somebody, stage, verdict

PYTHON, C, DIRECT, DAEMON = "Python", "C", "direct", "daemon"
CLOSED = ["".join(some) for some in chain.from_iterable(combinations("012", size) for size in range(4))]
CODES = {**{f"closed-{some}": 0 for some in CLOSED}, "directory": 74, "endless": 65, "sparse": 65, "full": 0}
NO_PYTHON = 1  # a directory as standard input: Python does not come to our first line
CASES = [
    *(f"{what}:{who}" for who in (PYTHON, C, DIRECT) for what in CODES),
    *(f"closed-{some}:{DAEMON}" for some in CLOSED),
]
SAMPLE = 8
ADDRESS_SPACE = 256 << 20
SPARSE = 2 << 30
MOST = "4MiB"  # of a message
MEMORY = 128 << 20  # of the daemon


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="descriptors", seed=seed)
    part.skip("74 of the client in Python for a directory", f"Python itself ends with {NO_PYTHON} then")
    cases = CASES
    in_c: Path | None = None
    try:
        in_c = Clients(C, directory / "c").install() / "sendmail"
    except pytest.skip.Exception as why:
        part.skip("the client in C", str(why))
        cases = [case for case in CASES if not case.endswith(f":{C}")]
    with (directory / "sparse").open("wb") as file:
        file.write(b"Subject: nothing\n\n")
        file.truncate(SPARSE)
    return in_cases(part, cases, size, SAMPLE, only, directory, partial(_play, in_c=in_c))


def _play(case: str, directory: Path, program: Path, name: int, *, in_c: Path | None) -> list[Violation]:
    what, _, who = case.partition(":")
    queue = {"max_message_size": MOST}
    with stage(directory, name, program, queue=queue) as (subject, ledger, recorder):
        if who == DAEMON:
            subject.launch(wrapper=_around(what, directory))
            _wait_for_answers(subject)
        elif who != DIRECT:
            subject.start()
        if who == C and in_c is not None:
            ledger.program = in_c
        if who == DAEMON:
            found = list(_serves(ledger))
        else:
            limited = ("prlimit", f"--as={ADDRESS_SPACE}")
            unread = CODES[what] != 0 or "0" in what
            call = ledger.submit(
                "ok.1@example.org",
                text=b"" if unread else None,
                uid=None if who == DIRECT else somebody(),
                wrapper=(*limited, *_around(what, directory)),
            )
            found = []
            due = NO_PYTHON if what == "directory" and who != C else CODES[what]
            if call.code != due:
                found.append(_wrong(f"sendmail said {call.code} {call.stderr.strip()!r}, and {due} is due"))
        subject.come_back()
        found += _serves(ledger)
        return found + verdict(ledger, recorder, replace(ALONE, memory=MEMORY))


def _wait_for_answers(subject: Subject) -> None:
    """Until the daemon serves, or has ended: its log, which would say so, may be what is closed."""
    process = subject.process
    assert process is not None
    until(
        lambda: answers(subject.socket) or process.poll() is not None, PATIENCE_S, lambda: "the daemon does not serve"
    )


def _serves(ledger: Ledger) -> Iterator[Violation]:
    call = ledger.submit("ok.2@example.org", uid=somebody())
    if call.code != 0:
        yield _wrong(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")


def _around(what: str, directory: Path) -> tuple[str, ...]:
    """What goes before a command, for these descriptors."""
    closed = " ".join(f"{number}>&-" for number in what.partition("closed-")[2])
    script = {
        "directory": 'exec "$@" </',
        "endless": '{ echo Subject: nothing; echo; yes; } | "$@"',
        "sparse": f'exec "$@" <{directory.parent}/sparse',
        "full": 'exec "$@" >/dev/full 2>/dev/full',
    }.get(what, f'exec "$@" {closed}')
    return ("sh", "-c", script, "sh")


def _wrong(text: str) -> Violation:
    return Violation(invariant="F5", text=text)
