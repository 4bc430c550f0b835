"""The small C programs of the harness, compiled for this run: load, sink, slow_sync.so; see each source's comment.

The programs are static, so that they run in any root.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from rig.debian import file, program

SLOW_SYNC_MS = 10  # what a write costs a disk of 7200 revolutions a minute that has to turn to its place, about

_HERE = Path(__file__).parent


def build(directory: Path) -> Path:
    """All of them in `directory`. Raises CalledProcessError, with what the compiler said on standard error."""
    cc = program("cc", "gcc")
    file("/usr/lib/*/libc.a", "libc6-dev")
    for name in ("load", "sink"):
        _compile(cc, "-static", "-pthread", str(_HERE / f"{name}.c"), "-o", str(directory / name))
    shared = ("-shared", "-fPIC", f"-DDELAY_US={SLOW_SYNC_MS * 1000}")
    _compile(cc, *shared, str(_HERE / "slow_sync.c"), "-o", str(directory / "slow_sync.so"))
    return directory


def _compile(cc: str, *arguments: str) -> None:
    subprocess.run([cc, "-O2", "-Wall", *arguments], check=True)
