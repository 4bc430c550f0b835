"""python -m sidebyside [PART...] [--size sample|full] [--only WHO[,WHO...]] [--figures FILE] [--results DIRECTORY]

Measures pysendmail beside Postfix, nullmailer, dma and OpenSMTPD, each from Debian in a throwaway root of its own, on
this machine's disk, against a smarthost on loopback that takes everything. Root only; needs namespaces, overlay mounts,
mmdebstrap and a C compiler. The parts, all but `million` and `profile` where none is named:

    submit     one sendmail after the other, and 1, 4, 16 at a time: wall clock, processor time
    bulk       one program with much to send: our socket, SMTP on loopback, -bs
    arrival    from exit 0 to the smarthost
    through    16 submitters, until the smarthost has it all
    drain      2 KB, 100 KB, 5 MB at a round trip of 0 and 20 ms
    memory     idle
    backlog    acceptance, delivery, mailq and memory with 0, 10,000 and 100,000 queued
    slow-disk  submit, bulk and drain, each fsync 10 ms slower
    million    backlog with 1,000,000, ours only
    profile    where our daemon's time goes while it accepts and while it delivers

Figures are kept as lines of JSON, part by part, and RESULTS.md is made from all that are kept; so parts may be run
again singly. Compare figures of one run on one machine only.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rig.root import debian
from sidebyside import tools
from sidebyside.figures import Figures
from sidebyside.measures import FULL, PARTS, SAMPLE, Bench
from sidebyside.mta import MTAS, Mta
from sidebyside.place import Place
from sidebyside.profiles import profile
from sidebyside.report import write

ALL = {**PARTS, "profile": profile}
ON_DEMAND = ("million", "profile")
_NEEDS = ("iproute2", "procps")  # what a place itself runs, and who looks into it


@contextlib.contextmanager
def places(kinds: Sequence[type[Mta]]) -> Iterator[list[Mta]]:
    """Each in its place, installed."""
    with tempfile.TemporaryDirectory(prefix="pysendmail-bench-", dir="/var/tmp") as name, contextlib.ExitStack() as up:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "tools").mkdir()
        built = tools.build(directory / "tools")
        mtas = []
        for kind in kinds:
            stand_in = {"stand_in": ""} if kind.is_package else {}
            base = debian([*kind.packages, *_NEEDS], **stand_in)
            (directory / kind.who).mkdir()
            mta = kind(up.enter_context(Place(base, directory / kind.who, built)))
            mta.install()
            print(f"{mta.who}: {mta.version()}", flush=True)
            mtas.append(mta)
        yield mtas


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sidebyside", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(ALL)}")
    parser.add_argument("--size", choices=("sample", "full"), default="sample")
    parser.add_argument("--only", default="", metavar="WHO[,WHO...]", help="not all MTAs")
    parser.add_argument("--figures", type=Path, default=Path("build/bench.jsonl"), metavar="FILE")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help="where RESULTS.md and its chart go")
    asked = parser.parse_args()
    names: list[str] = asked.parts or [name for name in ALL if name not in ON_DEMAND]
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"no such part: {', '.join(unknown)} (there are {', '.join(ALL)})")
    only = asked.only.split(",") if asked.only else list(MTAS)
    if unknown := [who for who in only if who not in MTAS]:
        parser.error(f"no such MTA: {', '.join(unknown)} (there are {', '.join(MTAS)})")
    asked.figures.parent.mkdir(parents=True, exist_ok=True)
    figures = Figures(asked.figures)
    with places([MTAS[who] for who in only]) as mtas:
        bench = Bench(mtas=mtas, size=FULL if asked.size == "full" else SAMPLE, figures=figures)
        broken: list[str] = []
        words = bench.words(asked.size)
        for name in names:
            begun = time.monotonic()
            figures.begin(name, words)
            try:
                ALL[name](bench)
            except Exception:  # the others have their turn all the same
                broken.append(name)
                traceback.print_exc()
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
            if asked.results is not None:  # after each: a long run may be cut off
                write(figures, asked.results)
    print(f"broken: {', '.join(broken)}" if broken else "all parts came to their end")
    return 1 if broken else 0


def _stopped(*_: object) -> None:
    """Leave nothing behind, also when somebody has had enough."""
    sys.exit("sidebyside: stopped")


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped)
    try:
        sys.exit(main())
    except pytest.skip.Exception as missing:
        sys.exit(f"sidebyside: {missing}")
