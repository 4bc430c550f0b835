"""What an unfriendly local user does to the `submit` socket, and what another user notices of it.

    with attack("idle", instance.socket, uid=66):         # goes on until the end of this context
        latencies = submissions(instance.socket, uid=67, seconds=5)

Each attack speaks frames by hand, as fast as it can and with as many connections as it gets; it ignores what it is
told. It is a separate process with that uid, so that the kernel tells the daemon who it is.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pysendmail import frames
from pysendmail.thin import client
from rig.instance import BIN, as_user

CONNECTIONS = 200
PATIENCE_S = 60.0
SECONDS = 600.0  # an attack ends by itself after so long
MAIL = b"Subject: nightly\n\nall is well\n"


def hello() -> bytes:
    return frames.encode(frames.HELLO, frames.pack_hello(os.urandom(frames.ID_OCTETS)))


def opening(*arguments: bytes) -> bytes:
    return hello() + frames.encode(frames.ARGV, frames.pack_strings(arguments))


def submission(*arguments: bytes, text: bytes = MAIL) -> bytes:
    pieces = (text[at : at + frames.MAX_CHUNK] for at in range(0, len(text), frames.MAX_CHUNK))
    data = b"".join(frames.encode(frames.DATA, piece) for piece in pieces)
    return opening(b"sendmail", *arguments) + data + frames.encode(frames.END)


def request(**what: object) -> bytes:
    """An administration command."""
    return opening(b"pysendmail", json.dumps(what).encode()) + frames.encode(frames.END)


def claimed(kind: bytes, size: int, payload: bytes = b"") -> bytes:
    """A frame whose length is what we say."""
    return kind + size.to_bytes(4) + payload


_ARGV = frames.encode(frames.ARGV, frames.pack_strings([b"sendmail", b"bob@example.org"]))
_TO_DAEMON = (frames.HELLO, frames.ARGV, frames.ENVIRONMENT, frames.DATA, frames.END, frames.ASK)

# One connection each. None of these is a submission, so that nothing is to be queued and nothing to be told.
MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"HELO box\r\nMAIL FROM:<a@b>\r\n",
    "zeros": bytes(1 << 16),
    "ones": b"\xff" * (1 << 16),
    "an unknown kind": hello() + frames.encode(b"?"),
    "a frame for clients": hello() + frames.encode(frames.EXIT, b"\0"),
    "a version of tomorrow": frames.encode(frames.HELLO, b"\xff" + bytes(frames.ID_OCTETS)),
    "two hellos": hello() + hello(),
    "an id too long": frames.encode(frames.HELLO, bytes(40)),
    "an id too short": frames.encode(frames.HELLO, b"\1"),
    "no hello": _ARGV + frames.encode(frames.END),
    "no argv": hello() + frames.encode(frames.DATA, MAIL) + frames.encode(frames.END),
    "two argvs": hello() + _ARGV + _ARGV,
    "argv without its NUL": hello() + frames.encode(frames.ARGV, b"sendmail"),
    "argv of nothing": hello() + frames.encode(frames.ARGV),
    "too many arguments": hello() + frames.encode(frames.ARGV, b"a\0" * (frames.MAX_ARGUMENTS + 1)),
    "ask with a payload": hello() + frames.encode(frames.ASK, b"x"),
    "ask after argv": hello() + _ARGV + frames.encode(frames.ASK),
    "ask, then a submission": hello() + frames.encode(frames.ASK) + _ARGV + frames.encode(frames.END),
    "end with a payload": hello() + _ARGV + frames.encode(frames.END, b"x"),
    "an environment without a name": hello() + _ARGV + frames.encode(frames.ENVIRONMENT, b"=x\0"),
    "an environment of too much": hello() + _ARGV + claimed(frames.ENVIRONMENT, frames.MAX_ENVIRONMENT_OCTETS + 1),
    "an environment after data": hello() + _ARGV + frames.encode(frames.DATA, MAIL) + frames.encode(frames.ENVIRONMENT),
    "too much data": hello() + _ARGV + claimed(frames.DATA, frames.MAX_CHUNK + 1),
    **{
        f"{kind!r} of {size:#x}": b"".join((*start, claimed(kind, size)))
        for kind, start in zip(_TO_DAEMON, [(), *[(hello(),)] * 5], strict=True)
        for size in (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    },
    **{
        f"{kind!r} cut": b"".join((*start, kind + b"\0"))
        for kind, start in zip(_TO_DAEMON, [(), *[(hello(),)] * 5], strict=True)
    },
}

# A submission that is whole, and then something: the message may be taken, what follows may not.
AFTER_THE_END = (
    submission(b"bob@example.org"),
    _ARGV,
    frames.encode(frames.DATA, b"x" * 1000),
    frames.encode(frames.END),
)


class Crowd:
    """Connections of one user, a number at a time, each sent its octets and then left or closed."""

    def __init__(self, path: str, ends_at: float) -> None:
        self.path = path
        self._ends_at = ends_at

    @property
    def on(self) -> bool:
        return time.monotonic() < self._ends_at

    @property
    def left_s(self) -> float:
        return max(self._ends_at - time.monotonic(), 0.0)

    def connect(self) -> socket.socket | None:
        """None: not now (nobody listens, or the backlog is full)."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            time.sleep(0.01)
            return None
        return sock

    def stay(self, octets: bytes, *, many: int = CONNECTIONS) -> None:
        """So many connections, on each of which these octets are sent, and then nothing; a closed one is replaced."""
        held: list[socket.socket] = []
        while self.on:
            while len(held) < many and self.on:
                if (sock := self.connect()) is None:
                    break
                with contextlib.suppress(OSError):
                    sock.send(octets)
                held.append(sock)
            closed, _, _ = select.select(held, [], [], 0.1)
            for sock in closed:
                sock.close()
                held.remove(sock)

    def pour(self, octets: Iterator[bytes], *, many: int = 20, read: bool = True) -> None:
        """The next octets on each of `many` connections; closed when the daemon has closed it."""
        left: dict[socket.socket, bytes] = {}
        while self.on:
            while len(left) < many and (sock := self.connect()) is not None:
                left[sock] = next(octets)
            readable, writable, _ = select.select(
                list(left) if read else (), [sock for sock, rest in left.items() if rest], [], 0.1
            )
            for sock in writable:
                try:
                    left[sock] = left[sock][sock.send(left[sock]) :]
                except OSError as error:
                    if error.errno != errno.EAGAIN:
                        left[sock] = b""
                        if not read:
                            del left[sock]
                            sock.close()
            for sock in readable:
                try:
                    answer = sock.recv(1 << 20)
                except BlockingIOError:
                    continue
                except OSError:
                    answer = b""
                if not answer and sock in left:
                    del left[sock]
                    sock.close()


def _malformed(crowd: Crowd) -> None:
    for octets in itertools.cycle(MALFORMED.values()):
        if not crowd.on:
            return
        if (sock := crowd.connect()) is not None:
            with sock, contextlib.suppress(OSError):
                sock.send(octets)


def _loop(crowd: Crowd) -> None:
    while crowd.on:
        if (sock := crowd.connect()) is not None:
            sock.close()


def _burst(crowd: Crowd) -> None:
    """A thousand at once, again and again."""
    while crowd.on:
        held = [sock for _ in range(1000) if crowd.on and (sock := crowd.connect()) is not None]
        for sock in held:
            sock.close()


def _trickle(crowd: Crowd) -> None:
    """A byte a second."""
    octets = opening(b"sendmail", b"bob@example.org") + frames.encode(frames.DATA, MAIL * 1000)
    held: list[socket.socket] = []
    for at in itertools.count():
        while len(held) < CONNECTIONS and (sock := crowd.connect()) is not None:
            held.append(sock)
        for sock in held:
            with contextlib.suppress(OSError):
                sock.send(octets[at : at + 1])
        if not crowd.on:
            return
        time.sleep(1)


def _endless(crowd: Crowd) -> None:
    """Standard input without an end."""
    chunk = frames.encode(frames.DATA, (b"x" * 76 + b"\n") * 3000)
    start = opening(b"sendmail", b"bob@example.org") + frames.encode(frames.DATA, b"Subject: x\n\n")
    crowd.pour(itertools.repeat(start + chunk * 400))


ADDRESSES = b",".join(b"%x@a" % number for number in range(15_000))  # one argument: the kernel takes 128 KiB


def _pour(octets: bytes, **how: bool) -> Callable[[Crowd], None]:
    return lambda crowd: crowd.pour(itertools.repeat(octets), **how)


def _pour_new(make: Callable[[], bytes], **how: bool) -> Callable[[Crowd], None]:
    """Each with an id of its own."""
    return lambda crowd: crowd.pour((make() for _ in itertools.count()), **how)


ATTACKS: dict[str, Callable[[Crowd], None]] = {
    "none": lambda crowd: time.sleep(crowd.left_s),
    "malformed frames": _malformed,
    "idle connections": lambda crowd: crowd.stay(b""),
    "half frames": lambda crowd: crowd.stay(
        opening(b"sendmail", b"bob@example.org") + claimed(frames.DATA, 200_000, b"x")
    ),
    "a byte a second": _trickle,
    "open and close": _loop,
    "a thousand at once": _burst,
    "messages": _pour_new(lambda: submission(b"bob@example.org")),
    "frames after the end": _pour_new(lambda: submission(b"bob@example.org") + b"".join(AFTER_THE_END[1:])),
    "ask": _pour_new(lambda: hello() + frames.encode(frames.ASK)),
    "endless input": _endless,
    "empty frames": _pour_new(lambda: opening(b"sendmail", b"b@a") + frames.encode(frames.DATA) * 1_000_000),
    "one octet a frame": _pour_new(lambda: opening(b"sendmail", b"b@a") + frames.encode(frames.DATA, b"x") * 1_000_000),
    "arguments": _pour_new(
        lambda: opening(b"sendmail", *(b"%x@a" % n for n in range(9_900))) + frames.encode(frames.END)
    ),
    "lists of addresses": _pour_new(lambda: opening(b"sendmail", *[ADDRESSES] * 8) + frames.encode(frames.END)),
    "recipients in the header": _pour_new(
        lambda: submission(b"-t", text=b"To: " + b",\n ".join([b"%x@a" % n for n in range(100_000)]) + b"\n\n")
    ),
    "fields": _pour_new(lambda: submission(b"b@a", text=b"X: y\n" * 19_000 + b"\n")),
    "long lines": _pour_new(lambda: submission(b"b@a", text=b"\n" + b"\xfcx" * 400_000)),
    "large messages of long lines": _pour_new(lambda: submission(b"b@a", text=b"\n" + b"\xfcx" * (2 << 20))),
    "verify": _pour_new(
        lambda: opening(b"sendmail", b"-bv", *(b"%x@a" % n for n in range(9_000))) + frames.encode(frames.END)
    ),
    "nested requests": _pour(opening(b"pysendmail", b"[" * 500_000)),
    "filters": _pour_new(
        lambda: request(verb="list", filters=[{"what": "sender", "text": "a", "negated": True}] * 15_000)
    ),
    "ids": _pour_new(lambda: request(verb="history", ids=[f"x{n}" for n in range(9_000)])),
    "listings that nobody reads": _pour_new(lambda: request(verb="history"), read=False),
    "a flush that nobody reads": _pour_new(
        lambda: opening(b"sendmail", b"-v", b"-q") + frames.encode(frames.END), read=False
    ),
    "SMTP": _pour_new(
        lambda: (
            opening(b"sendmail", b"-bs")
            + frames.encode(frames.DATA, b"EHLO x\r\n" + b"MAIL FROM:<a@b>\r\nRSET\r\n" * 8000) * 10
        )
    ),
    "SMTP that nobody reads": _pour_new(
        lambda: opening(b"sendmail", b"-bs") + frames.encode(frames.DATA, b"NOOP\r\n" * 40_000) * 10, read=False
    ),
}


def _program(*arguments: str, uid: int) -> subprocess.Popen[bytes]:
    """This module as a program of that user; what it prints is JSON."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [*as_user(uid), str(BIN / "python"), "-m", "rig.hostile", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)


@contextlib.contextmanager
def attack(name: str, path: Path, *, uid: int) -> Iterator[None]:
    """The attack goes on until the end of this context."""
    with _program("attack", name, str(path), str(SECONDS), uid=uid) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield
            assert process.poll() is None, f"the attack {name!r} has ended by itself: {process.returncode}"
        finally:
            process.terminate()


def submissions(path: Path, *, uid: int, seconds: float, least: int = 1) -> list[tuple[int, float]]:
    """Exit code and duration of submissions of another user, one after the other, for so long and at least so many."""
    with _program("submit", str(path), str(seconds), str(least), uid=uid) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    return [(code, duration) for code, duration in json.loads(output)]


def answer(path: str, octets: bytes) -> tuple[int, bytes]:
    """What the daemon says to these octets: the exit code (-1: none) and its words."""
    code, words = -1, b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:  # the backlog is full
                time.sleep(client.PAUSE_S)  # as the real one does
        sock.sendall(octets)
        decoder = frames.Decoder(frames.TO_CLIENT)
        while not decoder.finished and (data := sock.recv(1 << 16)):
            for frame in decoder.feed(data):
                if frame.kind == frames.EXIT:
                    code = frame.payload[0]
                else:
                    words += frame.payload
    return code, words


def _submit(path: str, seconds: float, least: int) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at or len(found) < least:
        begun = time.monotonic()
        code = -1
        with contextlib.suppress(TimeoutError):
            code, _ = answer(path, submission(b"carol@example.org"))
        found.append((code, time.monotonic() - begun))
    return found


def main(what: str, *arguments: str) -> None:
    if what == "attack":
        name, path, seconds = arguments
        print("begun", flush=True)
        ATTACKS[name](Crowd(path, time.monotonic() + float(seconds)))
    else:
        path, seconds, least = arguments
        print(json.dumps(_submit(path, float(seconds), int(least))))


if __name__ == "__main__":
    main(*sys.argv[1:])
