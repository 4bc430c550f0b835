"""Manager: what systemd is told of the daemon's life (sd_notify(3)); where there is none, nothing.

READY when submissions are taken, RELOADING and READY around a reload, STOPPING, STATUS in words, and WATCHDOG, which
the daemon feeds only when its scheduler and its writer have answered since the last time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress

STATUS_S = 10.0  # the words change at most so often: counting a long queue takes time
WITHOUT_WATCHDOG_S = 60.0


class Manager:
    """`notify` takes the lines of one notification, None: nobody wants to know. `watchdog_s`: systemd waits so long for
    the next WATCHDOG.
    """

    def __init__(self, notify: Callable[[str], object] | None = None, *, watchdog_s: float | None = None) -> None:
        self._notify = notify
        self._status = ""
        self._watchdog = watchdog_s is not None
        self.interval_s = WITHOUT_WATCHDOG_S if watchdog_s is None else watchdog_s / 3

    @property
    def listens(self) -> bool:
        return self._notify is not None

    def ready(self) -> None:
        self._tell("READY=1")

    def reloading(self) -> None:
        """systemd asks for the monotonic time: it tells this reload's notifications from those of one before."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self) -> None:
        if self._watchdog:
            self._tell("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line, shown by `systemctl status`."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _tell(self, text: str) -> None:
        if self._notify is None:
            return
        with suppress(OSError):  # systemd is not there to listen: that stops no mail
            self._notify(text)


def from_environment() -> Manager:
    """The manager that started us, if it wants to be told (NOTIFY_SOCKET, WATCHDOG_USEC)."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return Manager()
    try:
        from systemd import daemon
    except ImportError:
        print(
            "pysendmail: the service manager wants to be told when we are ready (NOTIFY_SOCKET), and systemd-python is "
            "not installed here: install python3-systemd or pysendmail-mta[systemd], or use Type=exec",
            file=sys.stderr,
        )
        return Manager()
    return Manager(daemon.notify, watchdog_s=_watchdog_s())


def _watchdog_s() -> float | None:
    """sd_watchdog_enabled(3)"""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
