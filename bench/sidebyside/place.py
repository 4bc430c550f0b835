"""Where one MTA is measured: a throwaway Debian of its own, as `rig.root`, with what measuring needs.

    with Place(base, directory, tools) as place:
        place.start("nullmailer-send", user="mail")        # a service: its memory and processor time are told apart
        with place.sink(round_trip_ms=20) as sink:         # the smarthost, on port SINK_PORT of its loopback
            load = place.load("smtp", message, 1000, 16, "25")
            taken = sink.wait(1000)

/var is a directory of the machine's real disk, not part of the overlay: a queue there costs what it costs elsewhere.
Every process that was started here is in one control group, whose first member it joins before it enters the
namespaces, so that processor time is known also of those that have ended; the sink is outside.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from rig.patience import until
from rig.root import BOOT, Root, stop
from sidebyside.traffic import PATIENCE_S, Load, Sink, submit

SINK_PORT = 2525
USER = "alice"
_TOOLS = "/usr/local/lib/bench"
_PRELOAD = "/etc/ld.so.preload"
_QUIET_SHARE = 0.02
_REST_S = 60.0

_DISK = 'mkdir "$directory/disk"\ncp -a var "$directory/disk/"\nmount --bind "$directory/disk/var" var\npivot_root'


class Place(Root):
    """See the module. `tools`: a directory with load, sink and slow_sync.so, see `tools.py`."""

    boot = BOOT.replace("pivot_root", _DISK)
    quiet_s = 0.3  # who uses next to no processor for so long has nothing left to do
    load_program = f"{_TOOLS}/load"
    scratch = "/var/tmp"

    def __init__(self, base: Path, directory: Path, tools: Path) -> None:
        super().__init__(base, directory)
        self._tools = tools
        self._group = cgroup2() / f"pysendmail-bench-{os.getpid()}-{directory.name}"
        self._services = self._group / "services"
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._services.mkdir(parents=True)
        (self._group / "rest").mkdir()
        super().__enter__()
        shutil.copytree(self._tools, self.path(_TOOLS))
        self.path("/etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 box.example.com box\n")
        self.path("/etc/mailname").write_text("box.example.com\n")
        self.must("useradd", "--create-home", "--uid=1000", USER)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        super().__exit__()
        for group in (self._services, self._group / "rest", self._group):
            _remove(group)

    def command(self, *argv: str, user: str = "root", environment: Mapping[str, str] | None = None) -> list[str]:
        """As Root's, in the control group."""
        return [*_joining(self._group / "rest"), *super().command(*argv, user=user, environment=environment)]

    # -- services --

    def start(self, *argv: str, user: str = "root", log: str = "/dev/null") -> subprocess.Popen[bytes]:
        """A service: it stays in the foreground, or leaves daemons behind."""
        command = [*_joining(self._services), *super().command(*argv, user=user)]
        with self.path(log).open("ab") as output:
            # In a session of its own, as services have it: the kernel shares the processors out by sessions, and a
            # service that signals its process group does not mean us.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._started.append(process)
        return process

    def stop(self) -> None:
        """Kill all services: what they have promised is on the disk."""
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for process in self._started:
            process.wait()
        self._started.clear()

    def _pids(self) -> list[int]:
        """Of the services and of those who hold them, as this machine numbers them."""
        listed = map(int, (self._services / "cgroup.procs").read_text().split())
        return [pid for pid in listed if pid > 0]  # 0: it has ended meanwhile; and as a target, it is all of us

    def inside(self) -> list[int]:
        """The services alone."""
        return [pid for pid in self._pids() if re.search(r"^NSpid:\t\d+\t", _about(pid, "status"), re.M)]

    def memory_mib(self) -> float:
        """The proportional set size of all services."""
        found = [re.search(r"^Pss: +(\d+) kB$", _about(pid, "smaps_rollup"), re.M) for pid in self.inside()]
        return sum(int(pss[1]) for pss in found if pss) / 1024

    def cpu_s(self) -> float:
        """The processor time of all that ever ran here."""
        return int((self._group / "cpu.stat").read_text().split()[1]) / 1e6

    def settle(self) -> float:
        """When nothing goes on here any more, or somebody finds no rest: the processor time up to then."""
        used, deadline = self.cpu_s(), time.monotonic() + _REST_S
        while True:
            time.sleep(self.quiet_s)
            before, used = used, self.cpu_s()
            if used - before < _QUIET_SHARE * self.quiet_s or time.monotonic() > deadline:
                return used

    def disk(self) -> str:
        """What /var is, and what it costs to have a page of it written."""
        mounts = map(str.split, self.must("cat", "/proc/self/mounts").splitlines())
        kind = next(kind for _, where, kind, *_ in mounts if where == "/var")
        times = []
        with self.path("/var/tmp/page").open("wb") as file:
            for _ in range(100):
                begun = time.monotonic()
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
                times.append((time.monotonic() - begun) * 1000)
        return f"{kind}, {statistics.median(times):.2f} ms an fsync"

    def turn_the_disk(self, delayed: bool) -> None:
        """Make each fsync of what starts from now on take as long as on a disk that turns, or no longer so."""
        self.path(_PRELOAD).write_text(f"{_TOOLS}/slow_sync.so\n" if delayed else "")

    # -- load --

    def message(self, octets: int) -> str:
        """The path of a message of about this size."""
        path = f"{self.scratch}/{octets}.eml"
        if not self.path(path).exists():
            self.path(path).write_text(text(octets))
        return path

    def load(self, how: str, message: str, count: int, parallel: int, *rest: str, user: str = USER) -> Load:
        """See load.c. All have to succeed."""
        return submit(self.command(self.load_program, user=user), how, message, count, parallel, *rest)

    def first_line_s(self, *argv: str) -> float:
        """How long root waits for the first line of this command, within some milliseconds."""
        begun = time.monotonic()
        with subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            took = time.monotonic() - begun
            with contextlib.suppress(ValueError, ProcessLookupError):  # it has come to its end already
                stop(process)
        return took

    def sink(self, round_trip_ms: int = 0) -> Sink:
        return Sink(self._tools / "sink", round_trip_ms, port=SINK_PORT, network=self.network)


def text(octets: int) -> str:
    """A message of lines as long as people's, with line feeds."""
    header = "From: alice@example.com\nTo: bob@example.org\nSubject: nightly\n\n"
    line = "The quick brown fox jumps over the lazy dog, and does it again every night.\n"
    return header + line * max((octets - len(header)) // len(line), 1)


def cgroup2() -> Path:
    """Where control groups of version 2 are mounted."""
    for mount in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = mount.split()
        if kind == "cgroup2":
            return Path(where)
    raise FileNotFoundError("no cgroup2 is mounted here")


def _about(pid: int, what: str) -> str:
    """Nothing, of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:
        return ""


def _remove(group: Path) -> None:
    """When the last ones in it have ended."""
    until(lambda: not (group / "cgroup.procs").read_text(), PATIENCE_S, lambda: f"{group} is never left")
    group.rmdir()


def _joining(group: Path) -> list[str]:
    return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', f"{group}/cgroup.procs"]
