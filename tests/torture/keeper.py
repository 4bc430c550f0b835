"""Keeper: what a service manager does for the daemon: whenever it ends, it is started again.

keeper = Keeper(subject)
keeper.start()              # returns when the daemon takes submissions, or one that came after it does
...                         # kill it as you like
keeper.close()              # it is killed for good
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from rig.instance import PATIENCE_S, Instance

MOST_STARTS = 20  # a daemon that ends so often does not stay up


class Keeper:
    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.restarts = 0
        self.at_death: Callable[[], object] = lambda: None  # what else happens before the next start
        self._lock = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self, *, wrapper: Sequence[str] = ()) -> None:
        """`wrapper` goes before the command of the first daemon only."""
        seen = len(self.instance.events)
        self.instance.launch(wrapper=wrapper)
        self._thread.start()
        self.instance.wait_through_deaths(lambda: self.instance.matching("start", seen))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The daemon of this moment."""
        assert self.instance.process is not None
        return self.instance.process

    def _watch(self) -> None:
        while True:
            self.process.wait()
            with self._lock:
                if self._closing or self.restarts >= MOST_STARTS:
                    return
                self.at_death()
                self.restarts += 1
                self.instance.launch()

    def close(self, how: int = signal.SIGKILL) -> None:
        """No daemon is left when this returns."""
        with self._lock:
            self._closing = True
            if self.instance.process is not None:
                self.process.send_signal(how)
                self.process.wait(PATIENCE_S)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
