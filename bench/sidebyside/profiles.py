"""Where the daemon's processor time goes: py-spy looks at all its threads while it accepts and while it delivers.

Each sample is given to the innermost function of ours that is on the stack: what a library or SQLite does for it is its
cost. The shares are of the samples in which a thread was at work; waiting, also for the disk, does not count.
"""

from __future__ import annotations

import linecache
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
_SOURCE = Path(__file__).parents[2] / "pysendmail"
_OURS = "pysendmail/"
_SHOWN = 12
_WAITS = (".get(timeout=", ".wait(")  # py-spy takes a thread that waits for a lock for a busy one, now and then


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
    for name, share in list(shares.items())[:_SHOWN]:
        bench.note(f"profile/{what}: {name}, %", mta.who, share, 0)


def _waits(frame: str) -> bool:
    """Whether that line of ours waits for another thread: `frame` is "function (file:line)"."""
    file, _, number = frame.partition(" (")[2].rstrip(")").rpartition(":")
    line = linecache.getline(str(_SOURCE / file.rpartition(_OURS)[2]), int(number))
    return any(word in line for word in _WAITS)


def costs(folded: str) -> dict[str, float]:
    """The percentage of each function of ours, the largest first; where most of it is another's function's, with that.

    `folded`: lines like "thread;frame (file:line);frame (file:line) COUNT".
    """
    samples: Counter[str] = Counter()
    leaves: dict[str, Counter[str]] = {}
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        ours = [frame for frame in frames if _OURS in frame]
        if ours and not _waits(ours[-1]):
            function, _, file = ours[-1].partition(" (")
            name = f"{file.rpartition(_OURS)[2].partition('.py')[0]}.{function}"
            samples[name] += int(count)
            leaves.setdefault(name, Counter())[frames[-1].partition(" (")[0]] += int(count)
    total = sum(samples.values())
    shares: dict[str, float] = {}
    for name, each in samples.most_common():
        leaf, most = leaves[name].most_common(1)[0]
        own = name.endswith(leaf) or most * 2 < each
        shares[name if own else f"{name} (mostly {leaf})"] = 100 * each / total
    return shares
