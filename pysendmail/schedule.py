"""Schedule: when a recipient is tried again, and when a smarthost in trouble is probed. Pure functions.

next = end of the last attempt + interval(attempts). The jitter comes from the queue id, so that a restart changes
nothing and two messages refused together do not come back together. Seconds throughout.
"""

from __future__ import annotations

import hashlib

from pysendmail.config import MINUTE, Retry

# A smarthost in trouble is probed at least this often: one connection is cheap, an idle queue is not.
MAX_REST_S = 5 * MINUTE


def interval(retry: Retry, attempts: int) -> float:
    """The wait after the `attempts`-th attempt (1, 2, ...), without jitter."""
    wait = retry.first
    for _ in range(attempts - 1):
        if wait >= retry.maximum or retry.factor <= 1:
            break
        wait *= retry.factor
    return min(wait, retry.maximum)


def next_attempt_at(retry: Retry, ended_at: float, attempts: int, queue_id: str) -> float:
    """When a recipient whose `attempts`-th attempt ended at `ended_at` is due again."""
    digest = hashlib.sha256(f"{queue_id}/{attempts}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64  # [0, 1)
    return ended_at + interval(retry, attempts) * (1 + retry.jitter * (2 * share - 1))


def longest_interval(retry: Retry) -> float:
    """No due time lies further off than this; one that does comes from a clock that was set back."""
    return max(retry.first, retry.maximum) * (1 + retry.jitter)


def rest(retry: Retry, failures: int) -> float:
    """How long a smarthost rests after its `failures`-th failure in a row."""
    return min(interval(retry, failures), MAX_REST_S)
