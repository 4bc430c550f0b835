"""Where the daemon's time goes: py-spy looks at all its threads while it accepts and while it delivers.

Each sample is given to the innermost function of ours that is on the stack: what a library or SQLite does for it is its
cost. The shares are of the samples in which a thread was at work.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sidebyside.measures import SMALL, Bench
from sidebyside.mta import Pysendmail

_RATE_HZ = 500
_OURS = "pysendmail/"
_SHOWN = 12


def profile(bench: Bench) -> None:
    """Of ours only; printed, and kept as shares."""
    for mta in bench.mtas:
        if isinstance(mta, Pysendmail):
            _submission(bench, mta)
            _drain(bench, mta)


def _submission(bench: Bench, mta: Pysendmail) -> None:
    with mta.running(), _watched(bench, mta, "submission"):
        mta.fill(bench.size.drains[SMALL] * 3, SMALL)


def _drain(bench: Bench, mta: Pysendmail) -> None:
    count = bench.size.drains[SMALL] * 3
    with mta.running(warm=False):
        mta.fill(count, SMALL)
        mta.place.settle()
        with mta.place.sink() as sink, _watched(bench, mta, "drain"):
            mta.release()
            sink.wait(count)


@contextmanager
def _watched(bench: Bench, mta: Pysendmail, what: str) -> Iterator[None]:
    with TemporaryDirectory() as directory:
        folded = Path(directory) / "stacks"
        pid = mta.daemon_pid()
        command = [str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(pid), "--format", "raw"]
        options = ["--threads", "--rate", str(_RATE_HZ), "--output", str(folded), "--duration", "unlimited"]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as watcher:
            assert watcher.stdout is not None
            said = watcher.stdout.readline()  # it says where it is going to write, once it looks
            assert watcher.poll() is None, said
            yield
            watcher.send_signal(2)
            watcher.stdout.read()
        shares = costs(folded.read_text())
    for name, share in shares.most_common(_SHOWN):
        bench.note(f"profile/{what}: {name}, %", mta.who, share, 0)


def costs(folded: str) -> Counter[str]:
    """The percentage of each function of ours, of lines like "thread;frame (file:line);frame (file:line) COUNT"."""
    samples: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        ours = [frame for frame in stack.split(";") if _OURS in frame]
        if ours:
            function, _, file = ours[-1].partition(" (")
            samples[f"{file.rpartition(_OURS)[2].partition('.py')[0]}.{function}"] += int(count)
    total = sum(samples.values())
    return Counter({name: 100 * count / total for name, count in samples.items()})
