"""Traffic: submissions as load.c makes and times them, and the smarthost, sink.c, with what it has taken.

Times are seconds of CLOCK_MONOTONIC, which both programs and time.monotonic() share.
"""

from __future__ import annotations

import contextlib
import select
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What `load` has measured: begin and end of each submission, in seconds of CLOCK_MONOTONIC, and processor time."""

    times: tuple[tuple[float, float], ...]
    client_cpu_s: float  # of all processes that were started
    own_cpu_s: float  # of load itself

    @property
    def walls_ms(self) -> list[float]:
        return [(end - begin) * 1000 for begin, end in self.times]

    @property
    def span_s(self) -> float:
        """From the first begin to the last end."""
        return max(end for _, end in self.times) - min(begin for begin, _ in self.times)

    @property
    def rate(self) -> float:
        """Submissions a second."""
        return len(self.times) / self.span_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What the sink has taken; times as in Load."""

    messages: int
    connections: int
    most_at_once: int
    octets: int
    first: float  # connection
    last: float  # final dot

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / (self.last - self.first) if self.messages else 0.0


class Sink:
    """The smarthost, in that network, at that port (0: at any that is free)."""

    def __init__(self, program: Path, round_trip_ms: int, *, port: int, network: Path | None = None) -> None:
        enter = ["nsenter", f"--net={network}"] if network else []
        self._process = subprocess.Popen(
            [*enter, str(program), str(port), str(round_trip_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = int(self._line(PATIENCE_S).split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def wait(self, messages: int, seconds: float = PATIENCE_S) -> Taken:
        """When that many have come since the sink was started. TimeoutError."""
        self._ask(messages)
        return self._taken(seconds)

    def within(self, messages: int, seconds: float) -> Taken:
        """The same, or when time is up what has come by then."""
        self._ask(messages)
        with contextlib.suppress(TimeoutError):
            return self._taken(seconds)
        self._ask(0)
        return self._taken(PATIENCE_S)

    def _ask(self, messages: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % messages)
        self._process.stdin.flush()

    def _taken(self, seconds: float) -> Taken:
        figures = list(map(int, self._line(seconds).split()))
        return Taken(
            messages=figures[0],
            connections=figures[1],
            most_at_once=figures[2],
            octets=figures[3],
            first=figures[4] / 1e9,
            last=figures[5] / 1e9,
        )

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise TimeoutError(f"the sink has not got it all within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the sink has ended")
        return line


def submit(program: Sequence[str], how: str, message: str, count: int, parallel: int, *rest: str) -> Load:
    """Run load, see load.c; `program` is what its arguments are for. All submissions have to succeed."""
    command = [*program, how, message, str(count), str(parallel), *rest]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"load {how} {shlex.join(rest)}: {done.stderr.decode('utf-8', 'replace')[-500:]}")
    *lines, own = done.stdout.splitlines()
    figures = [tuple(map(int, line.split())) for line in lines]
    return Load(
        times=tuple((begun / 1e9, ended / 1e9) for begun, ended, _ in figures),
        client_cpu_s=sum(cpu for _, _, cpu in figures) / 1e6,
        own_cpu_s=int(own) / 1e6,
    )
