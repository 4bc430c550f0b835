"""The daemon's end of the submission socket, scripted by a test: real sockets, one conversation at a time."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pysendmail import frames
from pysendmail.frames import Decoder, Frame

# No test waits so long unless it fails.
PATIENCE_S = 20.0


@dataclass
class Conversation:
    """One accepted connection: what the client has said so far."""

    sock: socket.socket
    decoder: Decoder = field(default_factory=Decoder)
    heard: list[Frame] = field(default_factory=list)

    def read(self) -> bool:
        """What there is next; False when the client has closed the connection."""
        data = self.sock.recv(1 << 20)
        self.heard += self.decoder.feed(data)
        return bool(data)

    def read_until(self, kind: bytes) -> Conversation:
        while not any(frame.kind == kind for frame in self.heard):
            assert self.read(), f"closed before {kind!r}: {self.heard}"
        return self

    def read_data(self, expected: bytes) -> Conversation:
        while len(self.data) < len(expected):
            assert self.read(), f"closed after {len(self.data)} octets"
        assert self.data == expected
        return self

    def read_all(self) -> Conversation:
        """Up to the end of the input, or the question."""
        while not self.decoder.finished:
            assert self.read(), f"closed early: {self.heard}"
        return self

    def read_to_close(self) -> Conversation:
        while self.read():
            pass
        return self

    def say(self, kind: bytes, payload: bytes = b"") -> Conversation:
        self.sock.sendall(frames.encode(kind, payload))
        return self

    def exit(self, code: int) -> None:
        self.say(frames.EXIT, bytes((code,))).close()

    def close(self) -> None:
        self.sock.close()

    def payload(self, kind: bytes) -> bytes | None:
        return next((frame.payload for frame in self.heard if frame.kind == kind), None)

    @property
    def submission_id(self) -> bytes:
        hello = self.payload(frames.HELLO)
        assert hello is not None
        return frames.parse_hello(hello)[1]

    @property
    def argv(self) -> tuple[bytes, ...]:
        return frames.parse_argv(self.payload(frames.ARGV) or b"")

    @property
    def name(self) -> bytes:
        """By which the client was called."""
        return self.argv[0].rpartition(b"/")[2]

    @property
    def environment(self) -> dict[bytes, bytes]:
        return frames.parse_environment(self.payload(frames.ENVIRONMENT) or b"")

    @property
    def data(self) -> bytes:
        return b"".join(frame.payload for frame in self.heard if frame.kind == frames.DATA)

    @property
    def kinds(self) -> str:
        return b"".join(frame.kind for frame in self.heard).decode()


class DaemonEnd:
    """A listening socket, and the configuration file that names it."""

    def __init__(self, directory: Path, *, listening: bool = True, backlog: int = 16) -> None:
        self.path = directory / "submit"
        self.config = directory / "client.toml"
        self.config.write_text(f'# a comment\n[daemon]\nsocket = "{self.path}"\n')
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE_S)
        self.listener.bind(os.fspath(self.path))
        self._open: list[socket.socket] = []
        if listening:
            self.listener.listen(backlog)

    def accept(self) -> Conversation:
        sock = self.listener.accept()[0]
        sock.settimeout(PATIENCE_S)
        self._open.append(sock)
        return Conversation(sock)

    def nobody_waits(self) -> bool:
        """No client is connected, or about to be accepted."""
        return not select.select([self.listener], [], [], 0)[0]

    def close(self) -> None:
        for sock in (self.listener, *self._open):
            sock.close()


@contextmanager
def running(
    command: Sequence[str | bytes | Path],
    *,
    stdin: int | None = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    close_fds: bool = True,
) -> Iterator[subprocess.Popen[bytes]]:
    """A client as a real process, with exactly that environment; it is gone in the end."""
    process = subprocess.Popen(
        [os.fsencode(word) for word in command],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=dict(env or {}),
        cwd=cwd,
        close_fds=close_fds,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):  # a client that left something unread
                    stream.close()


def end(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Close its input, wait for it: exit code, output, errors."""
    out, err = process.communicate(stdin, timeout=PATIENCE_S)
    return process.returncode, out or b"", err or b""
