"""Threads: all that are ever wanted are begun together, and within a bound.

Python waits without end for a thread that had no memory to begin (its `Thread.start`), and a pool begins them one by
one as work comes: under a limit on memory the event loop would stand still for good, one day.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

BEGIN_S = 10.0
STACK_OCTETS = 1 << 20  # of address space, eight times less than is usual


class Loop(asyncio.SelectorEventLoop):
    """asyncio's own, which begins no thread to wait for the end of its pool: that ends with the process."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's name
        pass


def pool(number: int, name: str) -> ThreadPoolExecutor:
    """So many threads, at work when this returns."""
    executor = ThreadPoolExecutor(number, thread_name_prefix=name)
    all_there = threading.Barrier(number + 1)
    usual = threading.stack_size(STACK_OCTETS)
    try:
        for _ in range(number):
            executor.submit(all_there.wait)  # while it waits it is not idle: the next begins a thread of its own
        all_there.wait()
    except BaseException:
        all_there.abort()  # those that are there would wait for ever, and the interpreter's end for them
        executor.shutdown(wait=False)
        raise
    finally:
        threading.stack_size(usual)
    return executor


@contextmanager
def begun_within(seconds: float) -> Iterator[None]:
    """Whatever begins threads here: OSError, where one cannot begin, or does not in time. For the main thread."""

    def late(*_: object) -> None:
        raise OSError(errno.ENOMEM, "a thread does not begin, most likely for want of memory")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except RuntimeError as error:  # Python's, where the kernel gives it none
        raise OSError(errno.EAGAIN, str(error)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
