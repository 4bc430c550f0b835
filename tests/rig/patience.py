"""Patience: waiting for what no event tells.

until(lambda: file.exists(), PATIENCE_S, lambda: f"there is no {file}")
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LOOK_S = 0.02


def until(look: Callable[[], T], seconds: float, words: Callable[[], str]) -> T:
    """Look again and again; what was seen as soon as it is true. AssertionError, with these words, if it never is."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, words()
        time.sleep(LOOK_S)
    return seen
