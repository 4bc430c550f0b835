"""A guest with pysendmail's Debian package, ordinary users, and a smarthost of the test's on its loopback network.

    with Packaged(base, directory) as guest:
        guest.install()                                # apt-get install ./pysendmail_..._all.deb
        with guest.smarthost(Ordinary(...)) as peer:
            guest.configure(SMARTHOST)
            guest.submit("bob@example.org", user="alice")
            guest.wait_for("EVENT=outcome", "RECIPIENT=bob@example.org")

Nothing here sleeps blindly: `wait_for` asks the journal until it has the entry. alice (1000), bob (1001) and carol
(1002) are ordinary users.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rig.guest import PACKAGES as SYSTEMD
from rig.guest import Guest
from rig.patience import until
from rig.peer import Behaviour, PeerThread
from rig.root import PATIENCE_S, Root, debian
from rig.tty import Tty

PACKAGES = (*SYSTEMD, "cron", "mutt", "bsd-mailx", "python3-dnspython", "python3-venv")
USERS = {"alice": 1000, "bob": 1001, "carol": 1002}
UNITS = ("pysendmail.service", "pysendmail.socket", "pysendmail-control.socket")
CONFIGURATION = "/etc/pysendmail/pysendmail.toml"
PORT = 2525
SMARTHOST = f"""
[[smarthost]]
name = "main"
host = "localhost"
port = {PORT}
tls = "none"
"""
TEXT = b"Subject: test\n\nhello\n"

_DIST = Path(__file__).parents[2] / "dist"
_DROP_IN = "/etc/systemd/system/pysendmail.service.d/test.conf"
_QUEUE = "/var/lib/pysendmail"
_PACKAGE = "/var/tmp/pysendmail.deb"

# What no program should do.
_HOLD = f"""
import sqlite3, sys
sqlite3.connect("{_QUEUE}/queue.db", isolation_level=None).execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""

Entry = dict[str, str]


def package(name: str = "pysendmail") -> Path:
    """What `make deb` has built. pysendmail-client is there if there was a C compiler."""
    try:
        (one,) = _DIST.glob(f"{name}_*.deb")
    except ValueError:
        pytest.skip(f"there is no package {name} in {_DIST}: `make deb` makes it, where there is dpkg-deb")
    return one


def install(root: Root, deb: Path | None = None) -> str:
    """Install or upgrade, as an administrator does it; what apt-get said. Nothing is fetched. The users are made."""
    shutil.copyfile(deb or package(), root.path(_PACKAGE))
    said = root.must("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "install", _PACKAGE)
    for user, uid in USERS.items():
        root.run("useradd", "--create-home", "--shell=/bin/bash", f"--uid={uid}", user)
    return said


class Packaged(Guest):
    """See the module."""

    def install(self, deb: Path | None = None) -> str:
        return install(self, deb)

    @contextmanager
    def smarthost(self, *behaviours: Behaviour, port: int = PORT, **options: Any) -> Iterator[PeerThread]:
        """One that listens where SMARTHOST says. `options` are PeerThread's."""
        with PeerThread(*behaviours, port=port, network=self.network, **options) as peer:
            yield peer

    # -- configuration --

    def configure(self, *tables: str, restart: bool = False) -> None:
        """Write the configuration, and have the service take it over."""
        head = 'hostname = "box.example.com"\ndomain = "example.com"\n'
        self.path(CONFIGURATION).write_text(head + "".join(tables))
        self.must("systemctl", "restart" if restart else "reload-or-restart", "pysendmail.service")

    def drop_in(self, text: str) -> None:
        """As `systemctl edit` does it, and restart the service."""
        self.path(_DROP_IN).parent.mkdir(exist_ok=True)
        self.path(_DROP_IN).write_text(text)
        self.must("systemctl", "daemon-reload")
        self.must("systemctl", "restart", "pysendmail.service")

    def as_new(self) -> None:
        """The package's own units, an empty queue, and one smarthost that is not there."""
        self.must("systemctl", "stop", UNITS[0])
        shutil.rmtree(self.path(_DROP_IN).parent, ignore_errors=True)
        self.must("find", _QUEUE, "-mindepth", "1", "-delete")
        self.must("systemctl", "daemon-reload")
        self.must("systemctl", "start", *UNITS[1:])
        self.configure(SMARTHOST)

    def until(self, true: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
        """For what no event tells."""
        until(true, seconds, lambda: f"it has not come to that:\n{self.must('journalctl', '--lines=50')}")

    # -- mail --

    def sendmail(self, *arguments: str, user: str = "alice", text: bytes = TEXT) -> subprocess.CompletedProcess[bytes]:
        return self.run("sendmail", *arguments, user=user, stdin=text)

    def submit(self, *arguments: str, user: str = "alice", text: bytes = TEXT) -> None:
        """A submission that must succeed."""
        self.must("sendmail", *arguments, user=user, stdin=text)

    @contextmanager
    def submissions(self, *users: str) -> Iterator[list[int]]:
        """While this lasts, each user submits one message after the other, each to another address. The exit codes."""
        codes: list[int] = []
        enough = threading.Event()

        def work(user: str) -> None:
            number = 0
            while not enough.is_set():
                codes.append(self.sendmail(f"{user}{number}@example.org", user=user).returncode)
                number += 1

        threads = [threading.Thread(target=work, args=(user,)) for user in users]
        for thread in threads:
            thread.start()
        try:
            yield codes
        finally:
            enough.set()
            for thread in threads:
                thread.join()

    @contextmanager
    def stuck_queue(self) -> Iterator[None]:
        """While this lasts, nothing can be written to the queue, as on a disk that hangs. Shorter than 10 s, please."""
        with subprocess.Popen(
            self.command("python3", "-c", _HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield
            process.communicate()

    def status(self, user: str = "root") -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.run("pysendmail", "status", "--json", user=user).stdout)
        return report

    def mailq(self, user: str = "root") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.must("mailq", "--json", user=user).splitlines()]

    # -- users --

    @contextmanager
    def login(self, user: str) -> Iterator[None]:
        """That user is logged in while this lasts: a session by PAM, and his own systemd with it."""
        session = ("systemd-run", "--quiet", "--pipe", "--collect", "--property=PAMName=login", f"--uid={user}")
        command = self.command(*session, "sh", "-c", "echo in && exec cat")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            yield
            self.logout(user)

    @contextmanager
    def terminal(self, user: str) -> Iterator[Tty]:
        """That user is logged in at a terminal of his own while this lasts: what others write to him is in its text."""
        session = ("--property=PAMName=login", "--property=UtmpIdentifier=test", "--property=UtmpMode=user")
        command = ("systemd-run", "--pty", "--quiet", "--collect", *session, f"--uid={user}")
        with Tty(self.command(*command, "sh", "-c", "echo logged in && exec cat")) as tty:
            tty.wait_for("logged in")
            yield tty
            self.logout(user)

    def logout(self, user: str) -> None:
        """All of his sessions have ended, and his systemd with all that it ran. For one who does not linger."""
        self.run("loginctl", "terminate-user", user)
        self.until(lambda: self.show(f"user@{USERS[user]}.service", "ActiveState") in ("inactive", "failed"))

    def own(self, user: str, *argv: str) -> str:
        """A command that has to succeed, of a user who is logged in."""
        return self.must("env", f"XDG_RUNTIME_DIR=/run/user/{USERS[user]}", *argv, user=user)

    # -- systemd --

    def show(self, unit: str, name: str, *options: str) -> str:
        """A property of a unit."""
        return self.must("systemctl", *options, "show", "--value", f"--property={name}", unit).strip()

    def state(self, unit: str) -> tuple[str, str]:
        """As systemd sees it: ActiveState and SubState."""
        return self.show(unit, "ActiveState"), self.show(unit, "SubState")

    def main_pid(self) -> int:
        return int(self.show("pysendmail.service", "MainPID"))

    def now(self) -> str:
        """This moment, for `after`. (The journal has cursors for that; with them, 252 misses the first match.)"""
        return f"@{time.time():.6f}"

    def journal(self, *matches: str, after: str = "") -> list[Entry]:
        """What `journalctl MATCH...` finds."""
        since = f"--since={after}" if after else "--boot"
        return [
            json.loads(line) for line in self.must("journalctl", "--output=json", "--all", since, *matches).splitlines()
        ]

    def wait_for(
        self,
        *matches: str,
        after: str = "",
        fits: Callable[[Entry], bool] = lambda _entry: True,
        seconds: float = PATIENCE_S,
    ) -> Entry:
        """The first entry in the journal that matches and fits, when it is there."""
        found: list[Entry] = []

        def look() -> bool:
            found.extend(filter(fits, self.journal(*matches, after=after)))
            return bool(found)

        self.until(look, seconds)
        return found[0]


def wanted() -> str:
    """The size of the run, `sample` or `nightly`; test or module are skipped where there is none."""
    if size := os.environ.get("PYSENDMAIL_TEST_SYSTEMD"):
        return size
    pytest.skip("the package is tested under systemd by `make test-systemd`", allow_module_level=True)


def newer(deb: Path, directory: Path) -> Path:
    """The same package with a higher version."""
    tree, result = directory / "tree", directory / f"newer-{deb.name}"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:"))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, result], check=True)
    shutil.rmtree(tree)
    return result


@contextmanager
def booted(suite: str) -> Iterator[Packaged]:
    """A guest with that Debian, without the package."""
    package()
    base = debian(PACKAGES, suite=suite)
    with TemporaryDirectory(prefix="pysendmail-guest-") as directory, Packaged(base, Path(directory)) as guest:
        yield guest
