"""The MTAs that are compared: how each is installed, started, fed, held back, let go, and emptied.

Each is as Debian ships it, durable as it is there, told no more than its smarthost and its name. Nobody's log is kept
(there is no syslog in the roots; ours goes to a file). `hold` keeps mail in the queue by the cheapest means that the
MTA has, so that nobody pays for deliveries that fail; `release` lets it all go.
"""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from rig.machine import LIBRARY
from rig.machine import PACKAGES as PYTHON
from rig.machine import install as install_wheel
from rig.patience import until
from sidebyside.place import SINK_PORT, USER, Place, text
from sidebyside.traffic import PATIENCE_S

SENDER = "alice@example.com"
RECIPIENT = "bob@example.org"
NAME = "box.example.com"
SMTP_PORT = 2526  # of their own SMTP servers, on loopback


class Mta(ABC):
    """One of them in its place. `who` names it in the results."""

    who: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    is_package: ClassVar[bool] = True  # of Debian; ours is the wheel
    sendmail: ClassVar[tuple[str, ...]] = ("/usr/sbin/sendmail", "-i", "-f", SENDER, RECIPIENT)
    mailq: ClassVar[tuple[str, ...]] = ("/usr/bin/mailq",)
    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # for a program with much to send: name -> see load.c
    most_queued: ClassVar[int] = 10_000  # where a larger backlog is beyond it, or beyond the patience to fill it

    WARM: ClassVar[int] = 2

    def __init__(self, place: Place) -> None:
        self.place = place

    @property
    def clients(self) -> Mapping[str, tuple[str, ...]]:
        """Whoever hands over messages -> its command line."""
        return {self.who: self.sendmail}

    def version(self) -> str:
        return self.place.must("dpkg-query", "-W", "-f", "${Version}", self.packages[0])

    @abstractmethod
    def install(self) -> None:
        """Once, in a place that is up."""

    @abstractmethod
    def start(self) -> None:
        """Its services, with delivery held back."""

    @abstractmethod
    def release(self) -> None:
        """Deliver all that is held, and from now on at once."""

    @abstractmethod
    def wipe(self) -> None:
        """Empty the queue, while nothing runs."""

    def fill(self, count: int, octets: int) -> None:
        """So many messages of USER's into the queue, in the fastest way."""
        self.place.load("run", self.place.message(octets), count, 4, *self.sendmail)

    def _fill_over_smtp(self, count: int, octets: int) -> None:
        self.place.load("smtp", self.place.message(octets), count, min(count, 4), str(SMTP_PORT))

    @contextmanager
    def running(self, *, warm: bool = True) -> Iterator[None]:
        """Started and held; gone without a trace afterwards. Warm: WARM messages wait already."""
        self.start()
        try:
            if warm:
                self.place.load("run", self.place.message(2048), self.WARM, 1, *self.sendmail)
            self.place.settle()
            yield
        finally:
            self.place.stop()
            self.wipe()

    def _clear(self, *directories: str) -> None:
        for directory in directories:
            self.place.must("find", directory, "-mindepth", "1", "!", "-type", "d", "-delete")


class Postfix(Mta):
    who = "postfix"
    packages = ("postfix",)
    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "SMTP": ("smtp", str(SMTP_PORT)),
        "-bs": ("pipe", "/usr/sbin/sendmail", "-bs"),
    }
    most_queued = 100_000

    _SMTPD = f"127.0.0.1:{SMTP_PORT}/inet=127.0.0.1:{SMTP_PORT} inet n - y - - smtpd"
    _QMGR = "qmgr/unix=qmgr unix n - n 300 1 qmgr"
    _CONFIG = (
        f"myhostname={NAME}",
        f"relayhost=[127.0.0.1]:{SINK_PORT}",
        "inet_interfaces=loopback-only",
        "in_flow_delay=0",  # it waits for the queue manager else, which is held back
        "alias_maps=",  # no aliases are made in minbase; ours has none either
    )

    def install(self) -> None:
        self.place.must("postconf", *self._CONFIG)
        self.place.must("postconf", "-MX", "smtp/inet")
        self.place.must("postconf", "-M", self._SMTPD)

    def start(self) -> None:
        # Without its queue manager everything is taken, and nothing delivered.
        self.place.must("postconf", "-MX", "qmgr/unix")
        self.place.start("postfix", "start").wait()

    def release(self) -> None:
        self.place.must("postconf", "-M", self._QMGR)
        self.place.must("postfix", "reload")

    def wipe(self) -> None:
        spool = "/var/spool/postfix"
        queues = ("maildrop", "incoming", "active", "deferred", "defer", "bounce")
        self._clear(*(f"{spool}/{queue}" for queue in queues))
        self.place.must("rm", "-f", f"{spool}/pid/master.pid", "/var/lib/postfix/master.lock")

    def fill(self, count: int, octets: int) -> None:
        self._fill_over_smtp(count, octets)


class Nullmailer(Mta):
    who = "nullmailer"
    packages = ("nullmailer",)
    most_queued = 100_000

    _SPOOL = "/var/spool/nullmailer"

    def install(self) -> None:
        etc = self.place.path("/etc/nullmailer")
        (etc / "remotes").write_text(f"127.0.0.1 smtp --port={SINK_PORT}\n")
        # What the package has made elsewhere, at the daemon's first start: without it the daemon ends.
        self.place.must("mkfifo", "-m", "622", f"{self._SPOOL}/trigger")
        self.place.must("chown", "mail", f"{self._SPOOL}/trigger")

    def start(self) -> None:
        """Its one daemon only delivers: nothing runs until `release`."""

    def release(self) -> None:
        self.place.start("nullmailer-send", user="mail")

    def wipe(self) -> None:
        self._clear(f"{self._SPOOL}/queue", f"{self._SPOOL}/tmp", f"{self._SPOOL}/failed")

    def fill(self, count: int, octets: int) -> None:
        """As nullmailer-queue leaves it, without its fsyncs."""
        queue = self.place.path(f"{self._SPOOL}/queue")
        owner = queue.stat()
        content = f"{SENDER}\n{RECIPIENT}\n\n{text(octets)}"
        for number in range(count):
            file = queue / f"1700000000.{number}"
            file.write_text(content)
            file.chmod(0o600)
            os.chown(file, owner.st_uid, owner.st_gid)


class Dma(Mta):
    who = "dma"
    packages = ("dma",)

    def install(self) -> None:
        self._configure(held=True)

    def start(self) -> None:
        """It has no daemon. DEFER leaves mail to the next `dma -q`, as cron calls it every five minutes."""
        self._configure(held=True)

    def release(self) -> None:
        self._configure(held=False)
        self.place.start("/usr/sbin/dma", "-q").wait()

    def wipe(self) -> None:
        self._clear("/var/spool/dma")

    def _configure(self, *, held: bool) -> None:
        config = f"SMARTHOST 127.0.0.1\nPORT {SINK_PORT}\nMAILNAME {NAME}\n"
        self.place.path("/etc/dma/dma.conf").write_text(config + ("DEFER\n" if held else ""))


class OpenSmtpd(Mta):
    who = "opensmtpd"
    mailq = ("/usr/sbin/smtpctl", "show", "queue")
    packages = ("opensmtpd", "ca-certificates")  # it does not start without
    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {"SMTP": ("smtp", str(SMTP_PORT))}

    _CONFIG = f"""\
listen on localhost port {SMTP_PORT}
action "relay" relay host smtp://127.0.0.1:{SINK_PORT}
match from local for any action "relay"
"""

    def install(self) -> None:
        self.place.path("/etc/smtpd.conf").write_text(self._CONFIG)

    def start(self) -> None:
        self.place.start("/usr/sbin/smtpd").wait()
        until(self._answers, PATIENCE_S, lambda: f"{self.who} does not answer")
        self.place.must("smtpctl", "pause", "mta")

    def _answers(self) -> bool:
        return self.place.run("smtpctl", "show", "status").returncode == 0

    def release(self) -> None:
        self.place.must("smtpctl", "resume", "mta")

    def wipe(self) -> None:
        self.place.must("sh", "-c", "rm -rf /var/spool/smtpd/*/*")

    def fill(self, count: int, octets: int) -> None:
        self._fill_over_smtp(count, octets)


_CLIENT_SOURCE = Path(__file__).parents[2] / "contrib" / "client"
_VERSIONS = """\
import platform, sqlite3, pysendmail
print(f"{pysendmail.__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
"""


class Pysendmail(Mta):
    """Ours, with its Python client."""

    who = "pysendmail"
    mailq = ("/usr/sbin/mailq",)
    packages = PYTHON
    is_package = False
    most_queued = 1_000_000

    SOCKET = "/run/pysendmail/submit"
    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "socket": ("unix", SOCKET),
        "SMTP": ("smtp", str(SMTP_PORT)),
        "-bs": ("pipe", "/usr/sbin/sendmail", "-bs"),
    }
    MOST_OF_A_USER = 1_000_000  # the configuration takes no more; root has no bound
    _C_CLIENT = "/usr/local/sbin/sendmail"
    _LOG = "/var/tmp/pysendmail.log"
    _CONFIG = f"""\
hostname = "{NAME}"
[daemon]
listen = ["127.0.0.1:{SMTP_PORT}"]
[access]
messages = {MOST_OF_A_USER}
bytes = "1TiB"
[[smarthost]]
name = "main"
host = "127.0.0.1"
port = {SINK_PORT}
"""

    def version(self) -> str:
        return self.place.must(f"{LIBRARY}/bin/python", "-c", _VERSIONS).strip()

    @property
    def clients(self) -> Mapping[str, tuple[str, ...]]:
        ours = super().clients
        if self.place.path(self._C_CLIENT).exists():
            ours = {**ours, f"{self.who}, C": (self._C_CLIENT, *self.sendmail[1:])}
        return ours

    def install(self) -> None:
        install_wheel(self.place)
        if _CLIENT_SOURCE.is_dir():
            make = ["make", "-s", "-C", str(_CLIENT_SOURCE), f"OUT={self.place.path(self._C_CLIENT)}"]
            subprocess.run([*make, "CLIENTS=/usr/sbin"], check=True)
        self.place.path("/etc/pysendmail/pysendmail.toml").write_text(self._CONFIG)
        self.place.path("/etc/aliases").touch()

    def start(self) -> None:
        """Mail waits as long as there is no smarthost: its port is closed until the measure opens it."""
        daemon = self.place.start(f"{LIBRARY}/bin/pysendmail", "daemon", user="pysendmail", log=self._LOG)
        socket = self.place.path(self.SOCKET)
        until(lambda: socket.exists() or daemon.poll() is not None, PATIENCE_S, lambda: f"there is no {socket}")
        assert daemon.poll() is None, self.place.path(self._LOG).read_text()

    def daemon_pid(self) -> int:
        """As this machine numbers it."""
        return self.place.inside()[0]

    def release(self) -> None:
        self.place.must(f"{LIBRARY}/bin/pysendmail", "flush")

    def wipe(self) -> None:
        self._clear("/var/lib/pysendmail", "/run/pysendmail")

    def fill(self, count: int, octets: int) -> None:
        user = "root" if count >= self.MOST_OF_A_USER else USER
        self.place.load("unix", self.place.message(octets), count, min(count, 16), self.SOCKET, user=user)


MTAS: Mapping[str, type[Mta]] = {kind.who: kind for kind in (Pysendmail, Postfix, Nullmailer, Dma, OpenSmtpd)}
