"""Command: a program that the configuration names, run without a shell and brought to an end.

It has a session and a process group of its own; at its end, or at its deadline, what is left of that group is killed.
Its end is that of its first process: what that leaves in the background may hold its output open for as long as it
likes, and only what has been written by then counts.
Its standard error goes nowhere, for it may hold a secret, and of its output there is a bounded amount. Nothing that
a service manager says to its service alone reaches it. Everything expected that goes wrong is a CommandError, whose
text repeats neither arguments nor output.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

# An OAuth token has some KiB; more is the wrong command, or one gone mad.
MAX_OCTETS = 64 * 1024
DEADLINE_S = 30.0
LAST_WORDS_S = 1.0  # what has been written is with us at once, unless the pipe's other end is still held
# What a service manager says to its service alone; a command that believed it would speak in our name.
_FOR_THE_DAEMON = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "JOURNAL_STREAM", "INVOCATION_ID", "SYSTEMD_EXEC_PID")


class CommandError(Exception):
    """The command did not do its work."""


def own_environment() -> dict[str, str]:
    """This process's environment, for a command that works for us."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOR_THE_DAEMON)}


class _Talk(asyncio.SubprocessProtocol):
    """What a command writes, until it has ended, or until that is too much."""

    def __init__(self) -> None:
        self.octets = b""
        self.exited = asyncio.Event()
        self.over = asyncio.Event()  # it has ended, or is to be
        self.complete = asyncio.Event()  # nothing more comes

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.octets += data
        if len(self.octets) > MAX_OCTETS:
            self.over.set()
            self.complete.set()

    def process_exited(self) -> None:
        self.exited.set()
        self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.complete.set()


async def run(command: Sequence[str], *, environment: Mapping[str, str], stdin: bytes = b"") -> bytes:
    """The command's output, once it has ended with exit status 0. It need not read `stdin`."""
    try:
        transport, talk = await asyncio.get_running_loop().subprocess_exec(
            _Talk,
            *command,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise CommandError(str(error.strerror)) from None
    try:
        if stdin:
            pipe = transport.get_pipe_transport(0)
            assert isinstance(pipe, asyncio.WriteTransport)
            pipe.write(stdin)
            pipe.close()
        async with asyncio.timeout(DEADLINE_S):
            await talk.over.wait()
    except TimeoutError:
        raise CommandError(f"no answer in {DEADLINE_S:.0f} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left; or he is another user by now
            os.killpg(transport.get_pid(), signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # the kernel may keep it, a grandchild its output
            async with asyncio.timeout(LAST_WORDS_S):
                await talk.exited.wait()
                await talk.complete.wait()
        transport.close()
    if len(talk.octets) > MAX_OCTETS:
        raise CommandError(f"more than {MAX_OCTETS} octets of output")
    if code := transport.get_returncode():
        raise CommandError(f"exit status {code}")
    return talk.octets
