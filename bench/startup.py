"""What a `sendmail` costs to start: the installed stub against the bare interpreter, and what it loads.

    python bench/startup.py [PYTHON]

Prints the medians of interleaved runs, wall clock in milliseconds, and the stub's own import times. The daemon's
end is a thread that takes a submission and answers 0, so that its work is not measured. Figures are compared
within one run on one machine only: nothing here is asserted.
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

RUNS = 30
MAIL = b"Subject: nightly\n\n" + b"x" * 76 * 25 + b"\n"


def serve(listener: socket.socket) -> None:
    while True:
        sock = listener.accept()[0]
        decoder = Decoder()
        while not decoder.finished:
            decoder.feed(sock.recv(1 << 16))
        sock.sendall(encode(EXIT, b"\0"))
        sock.close()


def timed(command: list[str], environ: dict[str, str]) -> float:
    with tempfile.TemporaryFile() as mail:
        mail.write(MAIL)
        mail.seek(0)
        start = time.perf_counter()
        subprocess.run(command, stdin=mail, env=environ, check=True)
        return (time.perf_counter() - start) * 1000


def main(python: str) -> None:
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
            "bare interpreter, -I -S -c pass": [python, "-I", "-S", "-c", "pass"],
            "stub -> socket, 2 KB": sendmail,
            "bare interpreter, -c pass": [python, "-c", "pass"],
        }
        for command in commands.values():  # caches warm, bytecode written
            timed(command, environ)
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(RUNS):
            for label, command in commands.items():
                times[label].append(timed(command, environ))
        floor = statistics.median(times["bare interpreter, -I -S -c pass"])
        print(f"{RUNS} interleaved runs of {python}, wall ms")
        for label, runs in times.items():
            median = statistics.median(runs)
            print(f"{label:34} median {median:6.1f}  min {min(runs):6.1f}  over the floor {median - floor:+5.1f}")
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
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
