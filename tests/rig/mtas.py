"""Real MTAs as smarthosts: each in a throwaway Debian of its own, with rules that can be changed while it runs.

    with Exim(directory, authority) as mta:            # listens on PORT of the loopback of mta.root
        mta.rule("later", "bob@example.org")           # that recipient is answered REPLIES["later"]
        mta.rule("later")                              # and now no one is

What it accepts it relays to SINK_PORT there, where somebody else keeps it. `rig.postfix` is another way to have
Postfix: without a root, and with Cyrus SASL.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from rig.ca import Authority
from rig.patience import until
from rig.root import Root, debian

PORT = 2525
SINK_PORT = 2526
NAME = "smarthost.test"
USER, PASSWORD = "box", "open sesame"
# What it says to whom a rule is about: recipients, senders at once, and senders at the final dot.
REPLIES: Mapping[str, str] = {
    "gone": "550 5.1.1 no such user",
    "later": "451 4.2.1 not now",
    "refused": "554 5.7.1 not from you",
    "spam": "554 5.6.0 not this",
    "slow": "451 4.3.0 not yet",
}
START_S = 60.0
_NOBODY = "nobody@nowhere.invalid"  # OpenSMTPD takes an empty list for one of another kind
_NET = "iproute2"  # of every root
_CERTIFICATE, _KEY = "/etc/smarthost.pem", "/etc/smarthost.key"


class Mta(ABC):
    """One of them. Skips the test, saying why, where its Debian cannot be had."""

    who: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    rules: ClassVar[str]  # where they lie in there
    owner: ClassVar[str] = "root"  # who reads the key
    logs_in: ClassVar[bool] = True  # USER may log in under TLS

    def __init__(self, directory: Path, authority: Authority) -> None:
        self._directory = directory
        self._authority = authority
        self._left = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.root = self._left.enter_context(Root(debian(self.packages, stand_in=""), self._directory))
        try:
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def version(self) -> str:
        return self.root.must("dpkg-query", "-W", "-f", "${Version}", self.packages[0])

    def rule(self, name: str, *addresses: str) -> None:
        """Who is answered so from the next connection on; nobody else is any more."""
        file = self.root.path(f"{self.rules}/{name}")
        file.write_text("".join(f"{self.line(name, address)}\n" for address in (_NOBODY, *addresses)))
        then = time.time() - 60
        os.utime(file, (then, then))  # Postfix waits for two seconds beside a file that may still be changing

    def line(self, name: str, address: str) -> str:
        return address

    @abstractmethod
    def configure(self) -> None: ...

    @abstractmethod
    def start(self) -> None:
        """In the background."""

    def _install(self) -> None:
        pem = self._authority.pem()
        for path in (_CERTIFICATE, _KEY):
            file = self.root.path(path)
            file.write_bytes(pem)
            file.chmod(0o600)
        self.root.must("chown", self.owner, _CERTIFICATE, _KEY)
        self.root.path("/etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {NAME} smarthost\n")
        self.root.path("/etc/mailname").write_text(f"{NAME}\n")
        self.root.must("mkdir", "-p", self.rules)
        for name in REPLIES:
            Mta.rule(self, name)
        self.configure()
        self.start()
        self._wait()

    def _wait(self) -> None:
        listening = f":{PORT:04X} 00000000:0000 0A"
        table = partial(self.root.must, "cat", "/proc/net/tcp")
        until(lambda: listening in table(), START_S, lambda: f"{self.who} does not listen")


class Exim(Mta):
    who = "exim"
    packages = ("exim4-daemon-light", _NET)
    rules = "/etc/exim4/rules"
    owner = "Debian-exim"

    _CONFIG = f"""\
primary_hostname = {NAME}
daemon_smtp_ports = {PORT}
local_interfaces = 127.0.0.1
host_lookup =
tls_advertise_hosts = *
tls_certificate = {_CERTIFICATE}
tls_privatekey = {_KEY}
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
acl_smtp_data = data

begin acl
mail:
  deny senders = lsearch;{rules}/refused
    message = {REPLIES["refused"]}
  accept
rcpt:
  deny recipients = lsearch;{rules}/gone
    message = {REPLIES["gone"]}
  defer recipients = lsearch;{rules}/later
    message = {REPLIES["later"]}
  accept
data:
  deny senders = lsearch;{rules}/spam
    message = {REPLIES["spam"]}
  defer senders = lsearch;{rules}/slow
    message = {REPLIES["slow"]}
  accept

begin routers
sink:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = sink

begin transports
sink:
  driver = smtp
  port = {SINK_PORT}
  allow_localhost

begin retry
* * F,1h,1m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = ${{if def:tls_in_cipher}}
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}
"""

    def configure(self) -> None:
        self.root.path("/etc/exim4/exim4.conf").write_text(self._CONFIG)

    def start(self) -> None:
        self.root.must("exim4", "-bd", "-q1h")


class OpenSmtpd(Mta):
    who = "opensmtpd"
    packages = ("opensmtpd", "ca-certificates", _NET, "procps")  # what it does not start without; as make bench has it
    rules = "/etc/mail/rules"

    _PHASES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "gone": ("rcpt-to", "rcpt-to"),
        "later": ("rcpt-to", "rcpt-to"),
        "refused": ("mail-from", "mail-from"),
        "spam": ("commit", "mail-from"),
        "slow": ("commit", "mail-from"),
    }

    def configure(self) -> None:
        users = self.root.path(f"{self.rules}/users")
        users.write_text(f"{USER} {self.root.must('smtpctl', 'encrypt', PASSWORD).strip()}\n")
        lines = [f'pki smarthost cert "{_CERTIFICATE}"', f'pki smarthost key "{_KEY}"']
        names = ", ".join(f'"{name}"' for name in REPLIES)
        lines += [f"table {name} file:{self.rules}/{name}" for name in (*REPLIES, "users")]
        lines += [
            f'filter "{name}" phase {phase} match {what} <{name}> reject "{REPLIES[name]}"'
            for name, (phase, what) in self._PHASES.items()
        ]
        lines += [
            f'filter "rules" chain {{ {names} }}',
            f'listen on lo port {PORT} tls pki smarthost auth-optional <users> filter "rules"',
            f'action "relay" relay host smtp://127.0.0.1:{SINK_PORT}',
            'match from any for any action "relay"',
            'match auth from any for any action "relay"',
        ]
        self.root.path("/etc/smtpd.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        self.root.must("smtpd")

    def rule(self, name: str, *addresses: str) -> None:
        super().rule(name, *addresses)
        self.root.must("smtpctl", "update", "table", name)


class Postfix(Mta):
    who = "postfix"
    packages = ("postfix", _NET, "procps")  # as make bench has it
    rules = "/etc/postfix/rules"
    logs_in = False

    _SETTINGS: ClassVar[Mapping[str, str]] = {
        "myhostname": NAME,
        "mydestination": "",
        "alias_maps": "",
        "inet_interfaces": "loopback-only",
        "inet_protocols": "ipv4",
        "relayhost": f"[127.0.0.1]:{SINK_PORT}",
        "smtpd_peername_lookup": "no",
        "smtpd_delay_reject": "no",
        "smtpd_error_sleep_time": "0",
        "max_use": "1",  # one connection a process: each sees the rules as they are then
        "smtpd_sender_restrictions": f"check_sender_access texthash:{rules}/refused",
        "smtpd_recipient_restrictions": ", ".join(
            f"check_recipient_access texthash:/etc/postfix/rules/{name}" for name in ("gone", "later")
        ),
        "smtpd_end_of_data_restrictions": ", ".join(
            f"check_sender_access texthash:/etc/postfix/rules/{name}" for name in ("spam", "slow")
        ),
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": _CERTIFICATE,
    }
    _SERVICE = f"127.0.0.1:{PORT}/inet=127.0.0.1:{PORT} inet n - y - - smtpd"

    def line(self, name: str, address: str) -> str:
        return f"{address} {REPLIES[name]}"

    def configure(self) -> None:
        self.root.must("postconf", *(f"{name}={value}" for name, value in self._SETTINGS.items()))
        self.root.must("postconf", "-MX", "smtp/inet")
        self.root.must("postconf", "-M", self._SERVICE)

    def start(self) -> None:
        self.root.must("postfix", "start")


MTAS: tuple[type[Mta], ...] = (Postfix, Exim, OpenSmtpd)
