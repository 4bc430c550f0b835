"""Postfix: a real one from Debian, as the smarthost on loopback, in a directory of its own.

    with Postfix(tmp_path, certificate=pem, users={"box": "secret"}) as smarthost:
        ...                                        # send to 127.0.0.1, smarthost.port
        smarthost.messages()                       # each accepted message, byte by byte as it was sent
        smarthost.answer("bob@example.org", "550 5.1.1 no such user")   # for that RCPT, from the next connection on

Promises: nothing of the machine's own Postfix is read or changed; nothing leaves the machine, because every accepted
message goes to Postfix's hold queue, where it stays and where `accepted` reads it, so that a 250 to the final dot is
all there is to wait for. With `users`, only a client that has authenticated, over TLS, is served (PLAIN, LOGIN and
CRAM-MD5, checked by Cyrus SASL); without, any is. Needs root, as Postfix does; the test is skipped by name otherwise.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from rig.debian import file, program

_RECEIVED = re.compile(rb"Received: .*\n(?:[ \t].*\n)*")
_START_SECONDS = 30
_STOP_SECONDS = 10

# Only what accepting mail needs; nothing here runs chrooted or delivers anything.
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup  unix n - n - 0 cleanup
qmgr     unix n - n 300 1 qmgr
tlsmgr   unix - - n 1000? 1 tlsmgr
rewrite  unix - - n - - trivial-rewrite
bounce   unix - - n - 0 bounce
defer    unix - - n - 0 bounce
trace    unix - - n - 0 bounce
error    unix - - n - - error
retry    unix - - n - - error
anvil    unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog  unix-dgram n - n - 1 postlogd
"""

_MAIN = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = data
maillog_file = /dev/stdout
myhostname = smarthost.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
alias_maps =
enable_long_queue_ids = yes

# Accept, and hold: all of it is read from the hold queue.
smtpd_relay_restrictions = {relay}
smtpd_recipient_restrictions = check_recipient_access texthash:{home}/answers
smtpd_data_restrictions = check_client_access static:HOLD
smtpd_error_sleep_time = 0
# One connection a process: each connection sees the answers as they are then.
max_use = 1

# Headers and body stay as they came; only the Received field is added.
local_header_rewrite_clients =
message_drop_headers =
disable_mime_input_processing = yes

smtpd_tls_security_level = {tls}
smtpd_tls_chain_files = {certificate}
smtpd_tls_received_header = yes
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = {sasl}
smtpd_sasl_security_options = noanonymous
cyrus_sasl_config_path = {home}/etc/sasl
"""

# The path is relative to Postfix's queue directory, where smtpd stands: a test's directory is closed to other users.
_SASL = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: sasldb2
mech_list: PLAIN LOGIN CRAM-MD5
"""
_REALM = "smarthost.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One message that Postfix has answered with 250: the envelope, its own Received field, and what was sent."""

    sender: str
    recipients: tuple[str, ...]
    envelope: str  # all of it in postcat's words: "named_attribute: sasl_username=box", dsn_orig_rcpt, notify_flags ...
    trace: bytes  # Postfix's own Received field: from whom, by which protocol and cipher
    content: bytes  # header section and body with CRLF, as the client sent them after DATA


class Postfix:
    """The smarthost; `port` and `log` are there between __enter__ and __exit__."""

    def __init__(
        self,
        directory: Path,
        *,
        certificate: Path,
        users: Mapping[str, str] | None = None,
        tls: str = "may",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`certificate`: a PEM file with key and chain; `tls`: none, may or encrypt; `settings`: for main.cf, last."""
        self.port = 0
        self.log: list[str] = []
        self._home = directory / "postfix"
        self._etc = self._home / "etc"
        self._certificate = certificate
        self._users = dict(users or {})
        self._tls = tls
        self._settings = dict(settings or {})
        self._answers: dict[str, str] = {}
        self._up = threading.Event()
        self._master: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("Postfix can only be run by root")
        self._postfix = program("postfix", "postfix")
        if self._users:
            program("saslpasswd2", "sasl2-bin")
            file("/usr/lib/*/sasl2/libplain.so", "libsasl2-modules")
        self._configure()
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._master is not None
        assert self._reader is not None
        pid_file = self._home / "queue" / "pid" / "master.pid"
        try:
            if self._master.poll() is None and pid_file.exists():
                os.kill(int(pid_file.read_text()), signal.SIGTERM)  # it ends its children, and the script
            self._master.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(int(pid_file.read_text()), signal.SIGKILL)
        self._reader.join(_STOP_SECONDS)
        print("\n".join(self.log))  # pytest shows it where a test has failed

    def answer(self, recipient: str, reply: str | None) -> None:
        """RCPT for `recipient` (address or domain) gets `reply`, such as "450 4.2.1 later"; None: accepted again."""
        if reply is None:
            self._answers.pop(recipient, None)
        else:
            self._answers[recipient] = reply
        lines = "".join(f"{address} {words}\n" for address, words in self._answers.items())
        fresh = self._home / "answers.new"
        _write(fresh, lines)
        fresh.replace(self._home / "answers")

    def messages(self) -> list[bytes]:
        """The content of each accepted message, in the order of their arrival."""
        return [message.content for message in self.accepted()]

    def accepted(self) -> list[Accepted]:
        """Each accepted message, in the order of their arrival."""
        held = sorted((self._home / "queue" / "hold").iterdir())  # a long queue id begins with the time
        whole = [path for path in held if path.stat().st_mode & stat.S_IXUSR]  # Postfix's mark of a complete message
        return [_read(self._postcat("-e", path), self._postcat("-bh", path)) for path in whole]

    def _configure(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("etc/sasl", "queue/data"):
            (self._home / name).mkdir(parents=True)
        owner = pwd.getpwnam("postfix")
        os.chown(self._home / "queue" / "data", owner.pw_uid, owner.pw_gid)
        _write(self._home / "answers", "")
        _write(self._etc / "sasl" / "smtpd.conf", _SASL)
        _write(self._etc / "master.cf", _MASTER.format(port=self.port))
        main = _MAIN.format(
            home=self._home,
            certificate=self._certificate,
            tls=self._tls,
            sasl="yes" if self._users else "no",
            relay="permit_sasl_authenticated, reject" if self._users else "permit_mynetworks, reject",
        )
        main += "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        _write(self._etc / "main.cf", main)
        self._write_users(owner.pw_gid)

    def _write_users(self, group: int) -> None:
        database = self._home / "queue" / "sasldb2"
        for user, password in self._users.items():
            command = ["saslpasswd2", "-p", "-c", "-f", str(database), "-u", _REALM, user]
            subprocess.run(command, input=password, text=True, check=True, capture_output=True)
        if self._users:
            os.chown(database, 0, group)
            database.chmod(0o640)

    def _start(self) -> None:
        self._master = subprocess.Popen(
            [self._postfix, "-c", str(self._etc), "start-fg"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._follow, args=(self._master,), daemon=True)
        self._reader.start()
        if not self._up.wait(_START_SECONDS) or self._master.poll() is not None:
            self.__exit__()
            raise AssertionError("Postfix did not start:\n" + "\n".join(self.log[-20:]))

    def _follow(self, master: subprocess.Popen[str]) -> None:
        """Postfix's log, line by line; it listens before it says that it has started."""
        assert master.stdout is not None
        with master.stdout:
            for line in master.stdout:
                self.log.append(line.rstrip("\n"))
                if "daemon started" in line:
                    self._up.set()
        self._up.set()  # it ended: nobody need wait any longer

    def _postcat(self, what: str, path: Path) -> bytes:
        command = ["postcat", "-c", str(self._etc), what, str(path)]
        return subprocess.run(command, capture_output=True, check=True).stdout


def _write(path: Path, text: str) -> None:
    """Written as of a minute ago: Postfix waits for two seconds beside a file that may still be changing."""
    path.write_text(text)
    then = path.stat().st_mtime - 60
    os.utime(path, (then, then))


def _read(envelope: bytes, message: bytes) -> Accepted:
    lines = envelope.decode("utf-8", "replace").splitlines()
    records = [line.partition(": ")[::2] for line in lines]
    trace = _RECEIVED.match(message)
    assert trace, message[:200]
    return Accepted(
        sender=next(text for name, text in records if name == "sender"),
        recipients=tuple(text for name, text in records if name == "recipient"),
        envelope="\n".join(lines),
        trace=trace[0],
        content=message[trace.end() :].replace(b"\n", b"\r\n"),
    )
