"""Sockets that outlive daemons: whoever starts the daemon holds them, and hands them to one after the other."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rig.activation import Activation
from rig.hostile import answer, submission
from rig.instance import BIN, Instance, smarthost
from rig.peer import PeerThread


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Instance]:
    """An instance whose sockets are held by us; no daemon runs yet."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        instance.activation = Activation(instance.socket)
        try:
            yield instance
        finally:
            instance.__exit__()
            instance.activation.close()


def test_submissions_wait_for_the_next_daemon(held: Instance) -> None:
    """Before the first daemon, after a SIGTERM and after a kill -9: the call waits, and the next daemon takes it."""
    places = [held.socket.stat().st_ino, held.socket.with_name("control").stat().st_ino]
    with ThreadPoolExecutor(1) as pool:
        for number, end in enumerate((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), 1):
            with socket.socket(socket.AF_UNIX) as early:  # a conversation that comes before the daemon, as all can
                early.connect(str(held.socket))
                waiting = pool.submit(held.sendmail, f"r{number}@example.org")
                held.start()
                assert waiting.result().returncode == 0
            held.wait_for("outcome", count=number, status="sent")
            assert held.pysendmail("status", "--json", code=None)
            held.signal(end)
    assert held.matching("socket") == []
    assert places == [held.socket.stat().st_ino, held.socket.with_name("control").stat().st_ino]


def test_the_next_daemon_may_start_before_the_last_has_ended(held: Instance) -> None:
    """Its socket answers all the time: the new one waits for the queue, instead of taking that for another daemon."""
    held.start()
    first = held.process
    assert first is not None
    seen = len(held.events)
    held.launch()
    first.terminate()
    assert first.wait(30) == 0
    held.wait_for("start", after=seen)
    held.submit("bob@example.org")
    held.wait_for("outcome", status="sent")


def test_a_socket_where_nobody_looks_is_named(held: Instance) -> None:
    """[daemon] socket was changed, the units were not: it is answered where it can be, and the log says both places."""
    where, elsewhere = held.socket, held.directory / "elsewhere" / "submit"
    held.configure(daemon={"socket": str(elsewhere)})
    held.start()
    said = [held.wait_for("socket", count=number)["error"] for number in (1, 2)]
    assert f"submit: was handed over at {where}, but commands look for it at {elsewhere} ([daemon] socket)" in said[0]
    assert said[1].startswith("control: ")
    assert answer(str(where), submission(b"bob@example.org"))[0] == 0


def test_a_socket_that_cannot_be_used_is_named(held: Instance) -> None:
    """One line and exit code 78; what was handed over stays as it was."""
    assert held.activation is not None
    held.socket.with_name("control").chmod(0o666)
    done = subprocess.run(
        [*held.activation.wrapper, str(BIN / "pysendmail"), "-C", str(held.config), "daemon"],
        pass_fds=held.activation.descriptors,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.decode().splitlines() == [
        "pysendmail: control: the descriptor 4 that was handed over is open to others "
        f"({held.socket.with_name('control')}, mode 0666): SocketMode=0600 in its .socket unit"
    ]
