"""Unclean surroundings: what cron, inetd and careless programs start sendmail with, with a daemon and without."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.clients import Clients
from rig.instance import BIN, PATIENCE_S, Daemon, Instance, as_user, smarthost
from rig.peer import PeerThread

MAIL = b"Subject: x\n\nhello\n"


@pytest.fixture(scope="module", params=["with a daemon", "without a daemon", "in C, with a daemon"])
def setting(request: pytest.FixtureRequest) -> str:
    """Without a daemon, the client in C is the other one."""
    words: str = request.param
    return words


@pytest.fixture(scope="module")
def instance(setting: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with PeerThread() as peer:
        made = Instance(
            tmp_path_factory.mktemp("odd"),
            smarthosts=[smarthost(peer)],
            queue={"max_message_size": "3MiB"},
        )
        if setting == "without a daemon":
            yield made
            return
        with made:
            yield made


@pytest.fixture(scope="module")
def sendmail(setting: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fast stub of install-client, or the client in C before it."""
    clients = Clients("C" if "in C" in setting else "Python", tmp_path_factory.mktemp("bin"))
    return str(clients.install() / "sendmail")


def accepted(instance: Instance) -> int:
    return len(instance.history())


def called(instance: Instance, command: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """sendmail as somebody else would start it: nothing of our environment."""
    settings = {"env": {}, "capture_output": True, "timeout": PATIENCE_S, "check": False, **options}
    return subprocess.run([command, "-C", str(instance.config), *arguments], **settings)


CLOSED = [set(closed) for size in range(4) for closed in itertools.combinations((0, 1, 2), size)]


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_closed_descriptors(instance: Instance, sendmail: str, closed: set[int]) -> None:
    """In all eight combinations: a message is queued, a refusal has its code, and no file of ours is written into."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    before = accepted(instance)
    script = str(BIN / "sendmail")  # as pip writes it
    for command, address, code in ((sendmail, "bob@example.org", 0), (script, "a@@b", 65)):
        done = called(instance, command, address, stdin=subprocess.DEVNULL, preexec_fn=close)
        assert (done.returncode, done.stdout) == (code, b"")
        assert done.stderr.count(b"\n") == (1 if code and 2 not in closed else 0), done.stderr
    assert accepted(instance) == before + 1


def test_a_deleted_current_directory(instance: Instance, sendmail: str, tmp_path: Path) -> None:
    """Where we stand does not matter; a relative configuration there is one that cannot be read."""
    gone = tmp_path / "gone"
    gone.mkdir()

    def stand_there() -> None:
        os.chdir(gone)
        gone.rmdir()

    assert called(instance, sendmail, "bob@example.org", input=MAIL, preexec_fn=stand_there).returncode == 0
    gone.mkdir()
    done = called(instance, sendmail, "-Cx.toml", "bob@example.org", input=MAIL, preexec_fn=stand_there)
    assert (done.returncode, done.stderr.count(b"\n")) == (78, 1), done.stderr


@pytest.mark.parametrize("mask", [0, 0o777])
def test_any_umask(instance: Instance, sendmail: str, mask: int) -> None:
    """The queue's files are the owner's, and he can use them."""
    assert called(instance, sendmail, "bob@example.org", input=MAIL, umask=mask).returncode == 0
    assert {file.stat().st_mode & 0o777 for file in instance.queue_directory.glob("queue.db*")} == {0o600}


def limited(what: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(what, (value, value))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, 1 << 20),
    ],
    ids=["descriptors", "file size", "core", "stack"],
)
def test_tight_limits(instance: Instance, sendmail: str, what: int, value: int) -> None:
    """Queued, or 75 and one line: never a traceback, never a message that is half there."""
    before = accepted(instance)
    done = called(instance, sendmail, "bob@example.org", input=MAIL, preexec_fn=limited(what, value))
    assert done.returncode in (0, 75), done.stderr
    assert done.stderr.count(b"\n") == (1 if done.returncode else 0), done.stderr
    assert accepted(instance) == before + (done.returncode == 0)


@pytest.mark.parametrize("source", ["/dev/zero", "yes"])
def test_endless_input_is_65(instance: Instance, sendmail: str, source: str) -> None:
    """It is refused at the limit, with memory that has one."""
    before = accepted(instance)
    limit = limited(resource.RLIMIT_AS, 400 << 20)
    with subprocess.Popen(["cat", source] if source != "yes" else ["yes"], stdout=subprocess.PIPE) as endless:
        done = called(instance, sendmail, "-i", "bob@example.org", stdin=endless.stdout, preexec_fn=limit)
        endless.kill()
    assert (done.returncode, done.stderr.count(b"\n")) == (65, 1), done.stderr
    assert accepted(instance) == before


def test_descriptors_that_leaked_hold_nobody_up(instance: Instance, sendmail: str) -> None:
    """Whoever waits for the end of a pipe that we inherited sees it when the command is done."""
    ours, theirs = os.pipe()
    done = called(instance, sendmail, "bob@example.org", input=MAIL, pass_fds=(theirs,))
    os.close(theirs)
    assert done.returncode == 0
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_a_directory_as_input_queues_nothing(instance: Instance, sendmail: str, tmp_path: Path) -> None:
    """Python refuses to start with it, before anything of ours runs."""
    before = accepted(instance)
    directory = os.open(tmp_path, os.O_RDONLY)
    assert called(instance, sendmail, "bob@example.org", stdin=directory).returncode in (1, 74)
    os.close(directory)
    assert accepted(instance) == before


# A slow writer without a daemon


def slow(instance: Instance, *arguments: str) -> subprocess.Popen[bytes]:
    """A sendmail that has read some of a large message, and waits for more in the unnamed file's company."""
    command = [str(BIN / "sendmail"), "-C", str(instance.config), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"Subject: slow\n\n" + b"slow\n" * 400_000)
    process.stdin.flush()
    while not any(
        "(deleted)" in os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir() if fd.is_symlink()
    ):
        assert process.poll() is None
    return process


def test_a_slow_writer_holds_no_other_command_up(tmp_path: Path) -> None:
    """While one is being written, others are queued, listed and flushed."""
    instance = Instance(tmp_path)
    with slow(instance, "slow@example.org") as process:
        instance.submit("quick@example.org")
        instance.pysendmail("flush")
        assert [entry["recipients"][0]["address"] for entry in instance.mailq()] == ["quick@example.org"]
        process.communicate(b"the end\n")
    assert process.returncode == 0
    assert len(instance.mailq()) == 2
    assert [path.name for path in instance.queue_directory.iterdir() if path.name.startswith("tmp")] == []


def test_a_daemon_that_starts_meanwhile_gets_the_message(tmp_path: Path) -> None:
    """All of it, once, although it was read for the queue already."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)])
        with slow(instance, "-i", "slow@example.org") as process, instance:
            _, said = process.communicate(b".\nthe end\n")
            assert (process.returncode, said) == (0, b"")
            instance.wait_for("outcome", status="sent")
            [message] = peer.messages
            assert message.content.count(b"slow\r\n") == 400_001
            assert message.content.endswith(b"the end\r\n")
            assert len(instance.history()) == 1


def test_a_slow_writer_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """The unnamed file goes with the process."""
    instance = Instance(tmp_path)
    with slow(instance, "slow@example.org") as process:
        process.terminate()
        assert process.wait(30) == -15
    instance.submit("bob@example.org")
    assert len(instance.history()) == 1
    names = {path.name for path in instance.queue_directory.iterdir()}
    assert names <= {"queue.db", "queue.db-wal", "queue.db-shm", "queue.lock", "reserve", "ballast"}, names


# A user's own instance

_OWN_RUN = 'mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p "/run/user/$0" && chown "$0" "/run/user/$0" && exec "$@"'


def test_a_users_cron_job_finds_the_instance_of_his_shell(open_path: Path, other: int) -> None:
    """Without any XDG_* variable, and with those of a login: the same queue, also with no daemon."""
    home = open_path / "home"
    config = home / ".config" / "pysendmail" / "pysendmail.toml"
    config.parent.mkdir(parents=True)
    config.write_text('hostname = "box.example.com"\ndomain = "example.com"\n[queue]\nreserve = "64KiB"\n')
    for path in (home, *home.rglob("*")):
        os.chown(path, other, other)
    cron = {"HOME": str(home), "LOGNAME": "somebody", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    shell = {**cron, "XDG_RUNTIME_DIR": f"/run/user/{other}", "XDG_CONFIG_HOME": f"{home}/.config", "USER": "somebody"}
    daemon = Daemon([str(BIN / "pysendmail"), "daemon"])

    def done(environment: dict[str, str], name: str, *arguments: str) -> str:
        alive = daemon.process is not None and daemon.process.poll() is None
        within = ["nsenter", f"--mount=/proc/{daemon.process.pid}/ns/mnt", "--"] if alive and daemon.process else []
        command = [*within, *as_user(other), str(BIN / name), *arguments]
        run = subprocess.run(command, input=MAIL, env=environment, capture_output=True, timeout=PATIENCE_S, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout.decode()

    try:
        daemon.start(
            wrapper=["unshare", "--mount", "sh", "-c", _OWN_RUN, str(other), *as_user(other)], environment=shell
        )
        done(cron, "sendmail", "cron@example.org")
        assert daemon.wait_for("accepted")["uid"] == str(other)
        assert "cron@example.org" in done(shell, "mailq")
        assert daemon.stop() == 0
        done(cron, "sendmail", "later@example.org")
        assert "later@example.org" in done(shell, "mailq") and "cron@example.org" in done(cron, "mailq")
    finally:
        daemon.__exit__()
