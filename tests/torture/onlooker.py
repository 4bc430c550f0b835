"""Onlooker: somebody who looks again and again, in a thread of his own, from enter to exit.

class Watch(Onlooker):
    def look(self) -> None: ...         # every `pause` seconds, the first time at once

with Watch(1.0): ...
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self


class Onlooker(ABC):
    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while True:
            self.look()
            if self._over.wait(self._pause):
                return

    @abstractmethod
    def look(self) -> None: ...
