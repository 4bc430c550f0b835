"""Threads: all that a pool may have are there from its beginning.

Python waits without end for a thread that had no memory to begin (its `Thread.start`), and a pool begins them one by
one as work comes: under a limit on memory the event loop would stand still for good, one day.
"""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

STACK_OCTETS = 1 << 20  # of address space, eight times less than is usual


def pool(number: int, name: str) -> ThreadPoolExecutor:
    """So many threads, at work when this returns. Raises OSError where there cannot be so many."""
    executor = ThreadPoolExecutor(number, thread_name_prefix=name)
    all_there = threading.Barrier(number + 1)
    usual = threading.stack_size(STACK_OCTETS)
    try:
        for _ in range(number):
            executor.submit(all_there.wait)  # while it waits it is not idle: the next begins a thread of its own
    except RuntimeError as error:
        all_there.abort()
        executor.shutdown(wait=False)
        raise OSError(errno.EAGAIN, str(error)) from None
    finally:
        threading.stack_size(usual)
    all_there.wait()
    return executor
