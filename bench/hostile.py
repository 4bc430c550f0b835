"""What another user's submission takes while one user does his worst, and what it costs the daemon.

    PYTHONPATH=tests python bench/hostile.py [--seconds N] [ATTACK...]

As root, with setpriv: attacker, victim and daemon have uids of their own. For each attack (tests/rig/hostile.py) a
line: submissions of the victim, those of them that were refused, their durations in milliseconds (median, 99th
percentile, longest), the daemon's processor time in per cent, the memory that it began with and came to in MiB, the
lines in its log, and those of them that are errors of ours. Nothing is asserted; the 99th percentile should stay below
2 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from rig.hostile import ATTACKS, attack, submissions
from rig.instance import OTHERS, Instance, smarthost
from rig.peer import Ordinary, PeerThread

ATTACKER, VICTIM, _ = OTHERS
WARM_S = 2.0


def memory(pid: int, what: str) -> int:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) >> 10
    raise KeyError(what)


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, seconds: float) -> str:
    with tempfile.TemporaryDirectory(prefix="pysendmail-bench-") as directory:
        Path(directory).chmod(0o755)
        with (
            PeerThread(Ordinary(rcpt={"bob@example.org": "451 4.2.1 mailbox is busy"})) as peer,
            Instance(Path(directory), smarthosts=[smarthost(peer)]) as instance,
        ):
            assert instance.process is not None
            pid = instance.process.pid
            before = memory(pid, "VmRSS")
            with attack(name, instance.socket, uid=ATTACKER):
                time.sleep(WARM_S)
                busy = processor_s(pid)
                begun = time.monotonic()
                taken = submissions(instance.socket, uid=VICTIM, seconds=seconds)
                load = (processor_s(pid) - busy) / (time.monotonic() - begun)
                peak = memory(pid, "VmHWM")
            assert instance.process.poll() is None, instance.log
            durations = sorted(duration * 1000 for _, duration in taken)
            refused = len([code for code, _ in taken if code != 0])
            bugs = len(instance.matching("bug"))
            high = durations[min(len(durations) * 99 // 100, len(durations) - 1)]
            return (
                f"{name:28} {len(taken):6} {refused:7} {statistics.median(durations):8.1f} {high:8.1f} "
                f"{durations[-1]:8.1f} {load:5.0%} {before:5} {peak:5} {len(instance.events):7} {bugs:5}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("attacks", nargs="*", default=list(ATTACKS), metavar="ATTACK")
    arguments = parser.parse_args()
    print(f"{'attack':28}  taken refused   median      p99  longest   cpu   MiB  peak   lines  bugs")
    for name in arguments.attacks:
        print(measure(name, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
