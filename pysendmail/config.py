"""Config: everything that pysendmail.toml can say, as frozen values (the reference is pysendmail.toml(5)).

Names are those of the file. Durations are seconds, sizes are octets. Nothing here holds a secret: the file
names where one is, `secrets` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

TlsLevel = Literal["none", "may", "encrypt", "verify", "fingerprint"]
FromRewrite = Literal["keep", "qualify", "force"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    directory: Path  # queue.db, queue.lock and the ballast live here; 0700
    lifetime: float = 5 * DAY
    warn_after: float = 4 * HOUR  # 0: no delay notices
    max_message_size: int = 50 * MIB
    max_recipients: int = 1000
    keep_history: float = 30 * DAY
    keep_failed: float = 5 * DAY
    reserve: int = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    socket: Path  # takes submissions; "control" lies beside it
    listen: tuple[str, ...] = ()

    @property
    def control(self) -> Path:
        return self.socket.with_name("control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    sender_policy: Literal["off", "warn", "enforce"] = "off"
    authorized_submitters: tuple[str, ...] = ("*",)
    messages: int = 1000
    bytes: int = GIB
    connections: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    first: float = 30.0
    factor: float = 2.0
    maximum: float = HOUR
    jitter: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Smarthost:
    name: str
    host: str
    port: int = 587
    tls: TlsLevel = "may"  # the loader makes it "verify" where there are credentials
    tls_implicit: bool = False  # the loader makes it true on port 465
    tls_fallback: bool = True
    tls_memory: float = DAY  # 0: none
    tls_ca_file: str = ""
    tls_fingerprints: tuple[str, ...] = ()  # SHA-256 of the certificate: 64 lower-case hex digits
    tls_client_certificate: str = ""
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    username: str = ""
    password_file: str = ""
    password_command: tuple[str, ...] = ()
    auth: tuple[str, ...] = ()  # PLAIN, LOGIN, CRAM-MD5, XOAUTH2, OAUTHBEARER; empty: the best offered
    auth_in_clear: bool = False
    connections: int = 20
    messages_per_connection: int = 100
    rate: tuple[int, float] | None = None  # (messages, in so many seconds)
    from_: FromRewrite | None = None  # overrides [rewrite]; `from` in the file
    force_from: str = ""

    @property
    def has_credentials(self) -> bool:
        return bool(self.username)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Seconds for each step of a session (RFC 5321 §4.5.3.2)."""

    connect: float = 30.0
    greeting: float = 300.0
    tls: float = 30.0
    command: float = 300.0
    data: float = 120.0
    data_block: float = 180.0
    data_done: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Shell-style patterns over whole addresses, case ignored; both must match."""

    smarthost: tuple[str, ...]
    sender: str = "*"
    recipient: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasesSection:
    file: str = "/etc/aliases"
    catch_all: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    from_: FromRewrite = "keep"
    force_from: str = ""
    masquerade: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    received: Literal["full", "minimal", "none"] = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceSection:
    postmaster: str = "root"
    sender: str = ""
    max_return: int = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One instance's configuration. `file` is where it was read from (or would have been), for messages."""

    file: Path
    hostname: str
    domain: str
    queue: Queue
    daemon: Daemon
    access: Access = field(default_factory=Access)
    retry: Retry = field(default_factory=Retry)
    smarthost: tuple[Smarthost, ...] = ()
    timeout: Timeout = field(default_factory=Timeout)
    route: tuple[Route, ...] = ()
    aliases: AliasesSection = field(default_factory=AliasesSection)
    rewrite: Rewrite = field(default_factory=Rewrite)
    headers: Headers = field(default_factory=Headers)
    bounce: BounceSection = field(default_factory=BounceSection)
