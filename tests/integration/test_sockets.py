"""Sockets handed over by whoever starts the daemon: what is taken, and what is refused with which words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysendmail import sockets
from pysendmail.sockets import HandOverError, handed_over
from rig.store import config

PID = 4711


class Parent:
    """Who makes sockets and hands them over, as consecutive descriptors, to this process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._monkeypatch = monkeypatch
        self._open: list[socket.socket] = []

    def listening(self, name: str, mode: int = 0o600, kind: int = socket.SOCK_STREAM) -> socket.socket:
        sock = self.keep(socket.socket(socket.AF_UNIX, kind))
        path = self.directory / name
        sock.bind(str(path))
        path.chmod(mode)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def keep(self, sock: socket.socket) -> socket.socket:
        self._open.append(sock)
        return sock

    def hand_over(self, *given: socket.socket, names: str, count: str = "", pid: int = PID) -> dict[str, str]:
        """The environment that says so."""
        first = 200  # high enough to be free, whatever the test run has open
        for number, sock in enumerate(given, first):
            os.dup2(sock.fileno(), number)
        self._monkeypatch.setattr(sockets, "FIRST_DESCRIPTOR", first)
        return {"LISTEN_PID": str(pid), "LISTEN_FDS": count or str(len(given)), "LISTEN_FDNAMES": names, "HOME": "/"}

    def gone(self, environment: dict[str, str]) -> dict[str, str]:
        """The same, after somebody has removed the path."""
        (self.directory / "control").unlink()
        return environment

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        for number in range(200, 200 + sockets.MAX_DESCRIPTORS):
            try:
                os.close(number)
            except OSError:
                continue


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    parent = Parent(tmp_path, monkeypatch)
    yield parent
    parent.close()


def test_named_sockets_are_taken_and_the_variables_go(parent: Parent) -> None:
    """Each has its name, no child of ours inherits it, and what said so is gone from the environment."""
    environment = parent.hand_over(
        parent.listening("submit", 0o666), parent.listening("control"), names="submit:control"
    )
    taken = handed_over(environment, PID)
    assert [(one.name, Path(one.sock.getsockname()).name) for one in taken] == [
        ("submit", "submit"),
        ("control", "control"),
    ]
    assert not any(one.sock.get_inheritable() for one in taken)
    assert environment == {"HOME": "/"}
    for one in taken:
        one.sock.detach()


def test_where_commands_look_is_held_against_where_sockets_are(parent: Parent, tmp_path: Path) -> None:
    """A path by another name is the same; one elsewhere, or none at all, is named."""
    (tmp_path / "run").symlink_to(tmp_path)
    abstract = parent.keep(socket.socket(socket.AF_UNIX))
    abstract.bind(f"\0pysendmail-test-{os.getpid()}")
    given = [
        sockets.Listener(name="submit", sock=parent.listening("submit"), held=True),
        sockets.Listener(name="control", sock=abstract, held=True),
    ]
    [words] = sockets.astray(given, config(tmp_path / "run"))
    assert words.startswith(f"control: was handed over at @pysendmail-test-{os.getpid()}, but commands look for it at")


def test_a_loopback_address_is_taken(parent: Parent) -> None:
    """A port that only root may bind comes so; its name is smtp."""
    sock = parent.keep(socket.create_server(("127.0.0.1", 0)))
    (taken,) = handed_over(parent.hand_over(sock, names="smtp"), PID)
    with taken.sock:
        assert (taken.name, taken.sock.getsockname()) == ("smtp", sock.getsockname())


@pytest.mark.parametrize("address", ["0.0.0.0", None], ids=["the network", "not listening"])
def test_smtp_is_for_loopback_only(parent: Parent, address: str | None) -> None:
    """An address that others can reach is refused, and says how it is written."""
    sock = parent.keep(socket.create_server((address, 0)) if address else socket.socket())
    with pytest.raises(HandOverError, match=r"loopback address: ListenStream=127\.0\.0\.1:25"):
        handed_over(parent.hand_over(sock, names="smtp"), PID)


def test_what_is_for_another_process_is_left_alone(parent: Parent) -> None:
    """LISTEN_PID is not ours, or nothing was handed over: no sockets, and the descriptors stay open."""
    kept = parent.listening("submit")
    assert handed_over(parent.hand_over(kept, names="submit", pid=PID + 1), PID) == []
    os.fstat(200)
    assert handed_over({}, PID) == []


REFUSED: dict[str, tuple[Callable[[Parent], dict[str, str]], str]] = {
    "unknown name": (
        lambda p: p.hand_over(p.listening("submit"), names="pysendmail.socket"),
        "as 'pysendmail.socket': FileDescriptorName= in its .socket unit must be one of submit, control",
    ),
    "no names": (lambda p: p.hand_over(p.listening("submit"), names=""), "1 sockets, LISTEN_FDNAMES has 0 names"),
    "no number": (lambda p: p.hand_over(names="submit", count="many"), "LISTEN_FDS='many': is no number up to 64"),
    "too many": (lambda p: p.hand_over(names="submit", count="65"), "is no number up to 64"),
    "closed": (lambda p: p.hand_over(names="submit", count="1"), "submit: the descriptor 200 .*Bad file descriptor"),
    "datagrams": (
        lambda p: p.hand_over(p.listening("submit", kind=socket.SOCK_DGRAM), names="submit"),
        "submit: the descriptor 200 .* is no listening Unix stream socket",
    ),
    "not listening": (
        lambda p: p.hand_over(p.keep(socket.socket(socket.AF_UNIX)), names="submit"),
        "is no listening Unix stream socket",
    ),
    "TCP": (
        lambda p: p.hand_over(p.keep(socket.create_server(("127.0.0.1", 0))), names="submit"),
        "is no listening Unix stream socket",
    ),
    "control open to others": (
        lambda p: p.hand_over(p.listening("control", 0o666), names="control"),
        r"control: .* open to others \(/.*/control, mode 0666\): SocketMode=0600 in its .socket unit",
    ),
    "control gone": (lambda p: p.gone(p.hand_over(p.listening("control"), names="control")), "is not at its path /"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_on_is_refused(parent: Parent, case: str) -> None:
    """The words name the socket or the variable, and the line of the unit that mends it."""
    make, words = REFUSED[case]
    with pytest.raises(HandOverError, match=words):
        handed_over(make(parent), PID)


IN_BETWEEN = """
import os, sys
from pathlib import Path
from pysendmail import sockets
from rig.store import config

directory, victim = map(Path, sys.argv[1:])

def replace(event, arguments):
    if event == "os.chown" and Path(os.fsdecode(arguments[0])).name == ".new":
        (directory / ".new").unlink()
        (directory / ".new").symlink_to(victim)

sys.addaudithook(replace)
sockets.bind(config(directory), 66, 66)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_away_no_file_but_the_socket(tmp_path: Path) -> None:
    """A link that the directory's owner puts into the socket's place at the worst moment leads root nowhere."""
    victim = tmp_path / "shadow"
    victim.touch()
    (tmp_path / "run").mkdir()
    path = [*map(str, Path(__file__).parents[1:3]), *sys.path]
    command = [sys.executable, "-c", IN_BETWEEN, str(tmp_path / "run"), str(victim)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(path)}, check=True)
    assert victim.stat().st_uid == 0
    assert (tmp_path / "run" / "submit").is_symlink()  # it was put there


def test_only_what_was_not_handed_over_is_bound(tmp_path: Path) -> None:
    """A socket of that name is neither made nor replaced."""
    settings = config(tmp_path)
    path = settings.daemon.socket
    path.write_text("somebody's")
    [control] = sockets.bind(settings, os.getuid(), os.getgid(), but={"submit"})
    control.sock.close()
    assert (control.name, path.read_text()) == ("control", "somebody's")
