"""What a submission costs the daemon: over the Unix socket, and by SMTP on a loopback address.

    PYTHONPATH=tests python bench/submission.py [--messages N] [--in-flight N]... [--rounds N] [WAY...]

`socket` is a connection for each message, as sendmail makes it; `smtp` one session for each of those in flight, which
waits for every reply, `pipelined` one that sends MAIL, RCPT and DATA together. N processes at a time send a message of
2 KB each until so many are accepted; no smarthost is there, so that nothing leaves meanwhile. A line for each: messages
a second; processor microseconds a message of the event loop's thread, and of the whole daemon. All of them the median
of the rounds, since what else runs here disturbs. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

from pysendmail import frames
from rig.hostile import submission
from rig.instance import Instance

TEXT = (
    b"From: Joe <joe@example.com>\nTo: bob@example.org\nSubject: nightly report\nMIME-Version: 1.0\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0000\nMessage-ID: <1@example.com>\nContent-Type: text/plain\n\n"
) + b"The quick brown fox jumps over the lazy dog, once and once more.\n" * 29
OPENING = (b"MAIL FROM:<joe@example.com>\r\n", b"RCPT TO:<bob@example.org>\r\n", b"DATA\r\n")


def by_socket(path: str, messages: int) -> None:
    for _ in repeat(None, messages):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(submission(b"-i", b"bob@example.org", text=TEXT))
            answer = sock.recv(4096)
        assert answer == frames.encode(frames.EXIT, b"\0"), answer


def by_smtp(port: str, messages: int, *, pipelined: bool = False) -> None:
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies = sock.makefile("rb")

        def say(octets: bytes, *codes: bytes) -> None:
            sock.sendall(octets)
            for code in codes:
                while (line := replies.readline())[3:4] == b"-":
                    pass
                assert line.startswith(code), line

        say(b"", b"220")
        say(b"EHLO bench\r\n", b"250")
        text = TEXT.replace(b"\n", b"\r\n") + b".\r\n"
        for _ in repeat(None, messages):
            if pipelined:
                say(b"".join(OPENING), b"250", b"250", b"354")
            else:
                for command, code in zip(OPENING, (b"250", b"250", b"354"), strict=True):
                    say(command, code)
            say(text, b"250")
        say(b"QUIT\r\n", b"221")


def pipelined(port: str, messages: int) -> None:
    by_smtp(port, messages, pipelined=True)


WAYS: dict[str, Callable[[str, int], None]] = {"socket": by_socket, "smtp": by_smtp, "pipelined": pipelined}


def processor_us(pid: int) -> dict[str, float]:
    """Of each thread so far."""
    tasks = Path(f"/proc/{pid}/task")
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1000 for task in tasks.iterdir()}


def measure(way: str, where: str, pid: int, in_flight: int, messages: int) -> tuple[float, float, float]:
    each = max(messages // in_flight, 1)
    clients = [multiprocessing.Process(target=WAYS[way], args=(where, each)) for _ in range(in_flight)]
    before, begun = processor_us(pid), time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took_s, after = time.monotonic() - begun, processor_us(pid)
    assert not any(client.exitcode for client in clients)
    used = {task: us - before.get(task, 0.0) for task, us in after.items()}
    count = each * in_flight
    return count / took_s, used[str(pid)] / count, sum(used.values()) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("ways", nargs="*", choices=[[], *WAYS], metavar="WAY")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free, tempfile.TemporaryDirectory(prefix="pysendmail-bench-") as at:
        port = free.getsockname()[1]
        free.close()
        listen = {"listen": [f"127.0.0.1:{port}"]}
        with Instance(Path(at), smarthosts=[], daemon=listen, access={"messages": 1_000_000}) as instance:
            assert instance.process is not None
            pid = instance.process.pid
            print("way        in flight   msg/s   loop us    all us")
            for way in arguments.ways or WAYS:
                where = str(instance.socket) if way == "socket" else str(port)
                for in_flight in arguments.in_flight or [1, 4, 16]:
                    rounds = range(arguments.rounds)
                    found = [measure(way, where, pid, in_flight, arguments.messages) for _ in rounds]
                    rate, loop, everything = (statistics.median(column) for column in zip(*found, strict=True))
                    print(f"{way:10} {in_flight:9} {rate:7.0f} {loop:9.0f} {everything:9.0f}", flush=True)


if __name__ == "__main__":
    main()
