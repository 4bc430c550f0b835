"""A person at a terminal: a command on a pty of its own, what it shows, and what is typed.

    with Terminal([program, "setup"], environment) as terminal:
        terminal.expect("Password: ")
        terminal.type("secret")
    terminal.text, terminal.code

`expect` returns when the text has appeared after what was expected before; nothing sleeps. Echo is the terminal's own.
"""

from __future__ import annotations

import os
import pty
import select
import time
from collections.abc import Mapping, Sequence
from typing import Self

PATIENCE_S = 30.0


class Terminal:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.text = ""  # all that was shown
        self.code: int | None = None
        self._seen = 0
        self._pid, self._ours = pty.fork()
        if self._pid == 0:
            os.execve(command[0], list(command), {**os.environ, "TERM": "dumb", **(environment or {})})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Reads to the end, and waits for the command."""
        try:
            if failed is None:
                self._read_until(None)
        finally:
            os.close(self._ours)  # SIGHUP, if it is still there
            self.code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def expect(self, text: str) -> None:
        self._read_until(text)
        self._seen = self.text.index(text, self._seen) + len(text)

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode() + b"\n")

    def _read_until(self, text: str | None) -> None:
        """Until this is shown; None: until the command has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while text is None or text not in self.text[self._seen :]:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {self.text!r}"
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                data = b""
            if not data:
                assert text is None, f"no {text!r} in {self.text!r}"
                return
            self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
