"""A Debian machine whose /usr/sbin/sendmail is pysendmail, with a smarthost that keeps what arrives.

    with Machine(debian([*PACKAGES, "mutt"]), directory) as machine:
        machine.must("mutt", "-s", "hello", "bob@example.org", user="alice", stdin=b"text\\n")
        arrived = machine.arrived()                   # the message, as the smarthost has it
        machine.calls()                               # how sendmail was called: argv, uid, ...

Installed as `make install` does it: the wheel of dist/ for the machine's own Python, the stubs by install-client. The
daemon runs as the user pysendmail. alice (1000), bob (1001) and carol (1002) are ordinary users, carol may not send;
root is an alias of admin@example.org. /usr/sbin/sendmail itself only notes how it was called, and becomes the stub.
"""

from __future__ import annotations

import ast
import email
import email.policy
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Self, cast

import pytest

from rig.instance import Daemon
from rig.peer import Message, PeerThread
from rig.root import Root, stop

PACKAGES = ("python3", "python3-venv", "iproute2", "procps")
UIDS = {"root": 0, "alice": 1000, "bob": 1001, "carol": 1002}
ALICE = "Alice Ä"  # in passwd
MAX_MESSAGE = 1 << 20
LISTENER_PORT = 2526
LIBRARY = "/usr/lib/pysendmail"
DIST = Path(__file__).parents[2] / "dist"
WHEELS = "/var/tmp/wheels"

_SMARTHOST_PORT = 2525
_STUBS = f"{LIBRARY}/stubs"  # /usr/sbin has the note-taker in front of them
_CALLS = "/var/tmp/calls"
_CONFIG = f"""\
hostname = "box.example.com"
domain = "example.com"
[queue]
max_message_size = "{MAX_MESSAGE}B"
[daemon]
listen = ["127.0.0.1:{LISTENER_PORT}"]
[access]
authorized_submitters = ["root", "alice", "bob"]
[[smarthost]]
name = "main"
host = "127.0.0.1"
port = {_SMARTHOST_PORT}
tls = "none"
"""

# Bare, so that what it becomes has the environment, the descriptors and the directory that the caller gave.
_NOTE_TAKER = f"""\
#!{LIBRARY}/bin/python -IS
import os, sys
try:
    note = repr(dict(argv=sys.argv, uid=os.getuid(), directory=os.getcwd(), environment=sorted(os.environ)))
    fd = os.open({_CALLS!r}, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(fd, note.encode() + b"\\n")
finally:
    os.execv("{_STUBS}/" + os.path.basename(sys.argv[0]), sys.argv)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of sendmail, as its process saw it."""

    argv: list[str]
    uid: int
    directory: str
    environment: list[str]  # the names


class Arrived:
    """A message as the smarthost accepted it."""

    def __init__(self, message: Message) -> None:
        self.sender, _, parameters = message.sender.removeprefix("<").partition(">")
        self.parameters = parameters.split()
        self.recipients = [one.removeprefix("<").partition(">")[0] for one in message.recipients]
        self.content = message.content
        self.header, _, self.body = message.content.partition(b"\r\n\r\n")
        self.mime = cast(EmailMessage, email.message_from_bytes(message.content, policy=email.policy.SMTP))

    def field(self, name: str) -> str:
        """The decoded value of a field that is there exactly once."""
        values = self.mime.get_all(name, [])
        assert len(values) == 1, f"{name}: {values} in\n{self.header.decode('utf-8', 'replace')}"
        return str(values[0])


class Machine(Root):
    """See the module. `smarthost` is a PeerThread; `daemon` runs, with its log."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._install()
            self.smarthost = PeerThread(port=_SMARTHOST_PORT, network=self.network)
            self.smarthost.__enter__()
            self.daemon = Daemon(self.command(f"{LIBRARY}/bin/pysendmail", "daemon", user="pysendmail"))
            self.daemon.start()
        except BaseException:
            super().__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_daemon()
        self.smarthost.__exit__()
        super().__exit__()

    def stop_daemon(self) -> None:
        """SIGTERM, and wait for its end; `daemon.start()` starts it again."""
        assert self.daemon.process is not None
        stop(self.daemon.process)

    def forget(self) -> None:
        """Calls and messages are counted from here on."""
        self.smarthost.messages.clear()
        self.path(_CALLS).write_bytes(b"")

    def arrived(self, count: int = 1) -> Arrived:
        """The `count`-th message since `forget`; waits for it."""
        self.smarthost.wait_until(lambda: len(self.smarthost.messages) >= count)
        return Arrived(self.smarthost.messages[count - 1])

    def calls(self) -> list[Call]:
        """The calls of sendmail since `forget`."""
        return [Call(**ast.literal_eval(line)) for line in self.path(_CALLS).read_text().splitlines()]

    def _install(self) -> None:
        install(self)
        self.must("install", "-d", _STUBS)
        self.must(f"{LIBRARY}/bin/pysendmail", "install-client", _STUBS)
        stub = self.path("/usr/sbin/sendmail")
        stub.write_text(_NOTE_TAKER)
        self.path("/etc/pysendmail/pysendmail.toml").write_text(_CONFIG)
        self.path("/etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 box.example.com box\n")
        self.path("/etc/mailname").write_text("example.com\n")
        self.path("/etc/aliases").write_text("root: admin@example.org\n")
        self.path(_CALLS).touch()
        self.path(_CALLS).chmod(0o666)
        for user, uid in UIDS.items():
            if uid:
                comment = ALICE if user == "alice" else user.title()
                self.must("useradd", "--create-home", f"--uid={uid}", f"--comment={comment}", user)


def install(root: Root) -> None:
    """As `make install` does it: the wheel of dist/ in LIBRARY, stubs in /usr/sbin; and the user and directories."""
    put_wheels(root)
    root.must("python3", "-m", "venv", LIBRARY)
    root.must(f"{LIBRARY}/bin/pip", "install", "-q", "--no-index", f"--find-links={WHEELS}", "pysendmail-mta")
    root.must("install", "-d", "/usr/sbin")
    root.must(f"{LIBRARY}/bin/pysendmail", "install-client", "/usr/sbin")
    root.must("useradd", "--system", "--no-create-home", "pysendmail")
    root.must("install", "-d", "-o", "pysendmail", "-m", "700", "/var/lib/pysendmail")
    root.must("install", "-d", "-o", "pysendmail", "/run/pysendmail", "/etc/pysendmail")


def put_wheels(root: Root) -> None:
    """The wheel under test and, from where pip takes them, those that it needs, into its WHEELS."""
    try:
        (wheel,) = DIST.glob("*.whl")
    except ValueError:
        pytest.skip(f"there is no wheel in {DIST}: run `make wheel`")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q"]
    with tempfile.TemporaryDirectory() as wheels:
        done = subprocess.run(
            [*command, "--only-binary=:all:", "-d", wheels, str(wheel)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"pip could not download what pysendmail needs: {done.stderr.strip()[-500:]}")
        shutil.copytree(wheels, root.path(WHEELS))
