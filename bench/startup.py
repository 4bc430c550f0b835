"""What a `sendmail` costs its caller: the installed stub and the client in C against the bare interpreter.

    python bench/startup.py [PYTHON [CLIENT]]

CLIENT is the one in C (`make client`: build/sendmail). Prints the medians of interleaved runs, wall clock and CPU in
milliseconds, with their ratio to a bare interpreter's start, and the stub's own import times. The daemon's end is a
thread that takes a submission and answers 0, so that its work is not measured. Figures are compared within one run
on one machine only: nothing here is asserted.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pysendmail.frames import EXIT, Decoder, encode
from pysendmail.install import install_client

RUNS = 60
FLOOR = "bare interpreter, -I -S -c pass"
MAIL = b"Subject: nightly\n\n" + b"x" * 76 * 25 + b"\n"


def serve(listener: socket.socket) -> None:
    while True:
        sock = listener.accept()[0]
        decoder = Decoder()
        while not decoder.finished:
            decoder.feed(sock.recv(1 << 16))
        sock.sendall(encode(EXIT, b"\0"))
        sock.close()


def timed(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Wall clock and CPU, ms."""
    with tempfile.TemporaryFile() as mail:
        mail.write(MAIL)
        mail.seek(0)
        start = time.perf_counter()
        pid = os.posix_spawn(command[0], command, environ, file_actions=[(os.POSIX_SPAWN_DUP2, mail.fileno(), 0)])
        _, status, usage = os.wait4(pid, 0)
        took = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command} failed")
    return took * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def main(python: str, client: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{directory}/submit")
        listener.listen(16)
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        (directory / "c.toml").write_text(f'socket = "{directory}/submit"\n')
        for warning in install_client(directory, python=python).warnings:
            print(warning, file=sys.stderr)
        sendmail = [f"{directory}/sendmail", "-i", "root"]
        environ = {"PYSENDMAIL_CONFIG": f"{directory}/c.toml", "PATH": os.defpath}
        commands = {
            FLOOR: [python, "-I", "-S", "-c", "pass"],
            "stub -> socket, 2 KB": sendmail,
            **({"client in C -> socket, 2 KB": [client, "-i", "root"]} if client else {}),
            "bare interpreter, -c pass": [python, "-c", "pass"],
        }
        for command in commands.values():  # caches warm, bytecode written
            timed(command, environ)
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
        for _ in range(RUNS):
            for label, command in commands.items():
                times[label].append(timed(command, environ))
        print(f"{RUNS} interleaved runs of {python}: medians, ms, and in units of the first")
        medians = {label: tuple(map(statistics.median, zip(*runs, strict=True))) for label, runs in times.items()}
        for label, (wall, cpu) in medians.items():
            floor = medians[FLOOR]
            print(f"{label:34} wall {wall:6.2f} {wall / floor[0]:5.2f}  CPU {cpu:6.2f} {cpu / floor[1]:5.2f}")
        print("\nwhat the stub loads (-X importtime, microseconds: self, cumulative)")
        traced = subprocess.run(
            [python, "-IS", "-X", "importtime", *sendmail],
            stdin=subprocess.DEVNULL,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = traced.stderr.splitlines()
        after = max(at for at, line in enumerate(lines) if line.endswith("| io"))  # the interpreter's own last one
        print("\n".join(line for line in lines[after + 1 :] if line.startswith("import time:")))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable, sys.argv[2] if len(sys.argv) > 2 else None)
