"""A command on a terminal of its own: a pty of a given size, keys typed into it, and what it wrote there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PATIENCE_S = 30.0
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78])")


class Tty:
    """The command runs until it ends or the context does. `text`: all that it wrote, escape sequences too."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        rows: int = 24,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.text = ""
        self._master, self._slave = pty.openpty()
        self.resize(rows, columns)
        self.modes = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, rows: int, columns: int) -> None:
        """As a window does: the command gets SIGWINCH."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_for(self, wanted: str, *, after: int = 0) -> str:
        """What was written up to the wanted text, without escape sequences; beginning at the octet `after`."""
        deadline = time.monotonic() + PATIENCE_S
        while wanted not in (seen := plain(self.text[after:])):
            assert self._read(deadline - time.monotonic()), f"{wanted!r} never came:\n{self.text[after:]!r}"
        return seen

    def end(self) -> int:
        """The exit code, when all that was written has been read."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self._read(min(0.1, deadline - time.monotonic()))
            assert time.monotonic() < deadline, self.text
        while self._read(0):
            pass
        return self.process.returncode

    def modes_now(self) -> list[object]:
        """Of the terminal: what stty shows."""
        return list(termios.tcgetattr(self._slave))

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(seconds, 0))[0]:
            return False
        self.text += os.read(self._master, 65536).decode("utf-8", "replace")
        return True


def plain(text: str) -> str:
    """Without escape sequences, lines ended by LF."""
    return _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
