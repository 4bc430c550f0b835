"""A daemon's wall clock, set by the test; its monotonic clock is the machine's. libfaketime is from Debian.

clock = WallClock(directory)
instance.start(environment=clock.environment)
clock.set(-3600)                                # an hour behind ours, at once
"""

from __future__ import annotations

from pathlib import Path

from rig import debian


class WallClock:
    """See the module. Skips the calling test where the library cannot be had."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0.0)
        self.environment = {
            "LD_PRELOAD": debian.file("/usr/lib/*/faketime/libfaketime.so.1", "libfaketime"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }

    def set(self, ahead_s: float) -> None:
        """So many seconds ahead of ours; in one step, for the library reads the file at any moment."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+.3f}\n")
        new.replace(self._file)
