"""A real terminal: tmux draws it, a shell runs in it, keys are typed, and what is on the screen is read.

    with Tmux(tmp_path, environment) as terminal:
        terminal.run("pysendmail top")
        terminal.see("SMARTHOST")                  # the screen, when this is on it
        terminal.keys("q")
        terminal.see(ended(0))                     # the shell's prompt says how the command ended

The lines of a screen are as wide as the terminal at most: what was wider has been wrapped by it, and stands on two.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from rig.debian import program

PATIENCE_S = 30.0
COLUMNS, ROWS = 80, 24
_CLEAR = "clear; "


def ended(code: int) -> str:
    """The shell's prompt after a command that has ended so."""
    return f"<{code}>$"


class Tmux:
    """The server is one of our own. Up between __enter__ and __exit__."""

    def __init__(
        self, directory: Path, environment: Mapping[str, str] | None = None, *, columns: int = COLUMNS, rows: int = ROWS
    ) -> None:
        self._call = [program("tmux", "tmux"), "-u", "-f", "/dev/null", "-S", str(directory / "tmux")]
        self._size = ["-x", str(columns), "-y", str(rows)]
        self._environment = {
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "PS1": ended(1).replace("1", "$?"),
            **(environment or {}),
        }

    def __enter__(self) -> Self:
        self._tmux("new-session", "-d", *self._size, "sh", "-i")
        self.see(ended(0))
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        command = [*self._call, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=self._environment).stdout

    def run(self, command: str) -> None:
        """On a screen that is empty but for this line."""
        self._tmux("send-keys", "-l", f"{_CLEAR}{command}")
        self.see(_CLEAR)
        self.keys("Enter")
        self._until(lambda seen: _CLEAR not in seen, "an empty screen")  # nor is the prompt there that was before it

    def keys(self, *keys: str) -> None:
        """As tmux names them: Enter, Space, C-c; anything else is typed."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def see(self, wanted: str) -> str:
        """What is on the screen once this is there; tmux tells nobody, so it is asked until then."""
        return self._until(lambda seen: wanted in seen, repr(wanted))

    def _until(self, true: Callable[[str], bool], what: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while not true(seen := self.screen()):
            assert time.monotonic() < deadline, f"{what} never came:\n{seen}"
            time.sleep(0.02)
        return seen

    def is_as_found(self) -> bool:
        """Whether the cursor is there, the screen is the ordinary one, and what is typed is seen and taken by lines."""
        if self._tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}").split() != ["1", "0"]:
            return False
        self.run("stty -a | tr ' ;' '\\n\\n' | grep -cxE -- '-(echo|icanon|isig|icrnl|opost)'")
        return self.see(ended(1)).splitlines()[0] == "0"
