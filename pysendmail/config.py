"""Config: everything that pysendmail.toml can say, as frozen values (the reference is pysendmail.toml(5)).

Names are those of the file. Durations are seconds, sizes are octets. Nothing here holds a secret: the file
names where one is, `secrets` reads it.

A `Kind` beside a type says how the file writes such a value and between which bounds; `config_file` has one
reader for each kind, and the manual is held to them by a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

TlsLevel = Literal["none", "may", "encrypt", "verify", "fingerprint"]
FromRewrite = Literal["keep", "qualify", "force"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

# Nobody means more; a typing error does.
MAX_DURATION = 3650 * DAY
MAX_SIZE = 1 << 40

# Where root@DOMAIN is somebody else: nobody has these domains for his machines. The well-known ones are enough: it is
# a net for a mistake that is often made, not a rule about domains.
PUBLIC_MAIL_DOMAINS = frozenset(
    {
        *("gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "yahoo.com"),
        *("aol.com", "icloud.com", "me.com", "proton.me", "protonmail.com", "gmx.de", "gmx.net", "gmx.at"),
        *("web.de", "t-online.de", "freenet.de", "mail.ru", "yandex.ru", "qq.com", "163.com", "orange.fr"),
        *("free.fr", "wanadoo.fr", "libero.it", "zoho.com", "fastmail.com", "posteo.de", "mailbox.org"),
    }
)


def is_public(domain: str) -> bool:
    """Whether it is a well-known mail provider's domain, where anybody can have a name."""
    return domain.lower() in PUBLIC_MAIL_DOMAINS


@dataclass(frozen=True, slots=True)
class Kind:
    """How the file writes a value: the word that the manual uses for it, and the least and greatest value."""

    name: str
    low: float = 0
    high: float = 0


Duration = Annotated[float, Kind("duration", 0.001, MAX_DURATION)]
DurationOrZero = Annotated[float, Kind("duration", 0, MAX_DURATION)]
Size = Annotated[int, Kind("size", 0, MAX_SIZE)]
Count = Annotated[int, Kind("number", 1, 1_000_000)]
Port = Annotated[int, Kind("number", 1, 65535)]
Hostname = Annotated[str, Kind("host name")]
Domain = Annotated[str, Kind("domain")]
Host = Annotated[str, Kind("host")]
HostList = Annotated[tuple[str, ...], Kind("list of domains")]
FileName = Annotated[str, Kind("file")]  # absolute, or "" for none
Mailbox = Annotated[str, Kind("address")]  # with a domain, or "" for none
LocalOrMailbox = Annotated[str, Kind("address or local name")]
Pattern = Annotated[str, Kind("pattern")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    directory: Annotated[Path, Kind("directory")]  # queue.db, queue.lock and the ballast live here; 0700
    lifetime: Duration = 5 * DAY
    warn_after: DurationOrZero = 4 * HOUR  # 0: no delay notices
    max_message_size: Annotated[int, Kind("size", KIB, MAX_SIZE)] = 50 * MIB
    max_recipients: Count = 1000
    keep_history: DurationOrZero = 30 * DAY
    keep_failed: DurationOrZero = 5 * DAY
    reserve: Size = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    socket: Annotated[Path, Kind("socket")]  # takes submissions; "control" lies beside it
    listen: Annotated[tuple[str, ...], Kind("list of loopback addresses")] = ()

    @property
    def control(self) -> Path:
        return self.socket.with_name("control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    sender_policy: Literal["off", "warn", "enforce"] = "off"
    authorized_submitters: Annotated[tuple[str, ...], Kind("list of user names")] = ("*",)
    messages: Count = 1000
    bytes: Annotated[int, Kind("size", 1, MAX_SIZE)] = GIB
    connections: Count = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    first: Duration = 30.0
    factor: Annotated[float, Kind("factor", 1, 100)] = 2.0
    maximum: Duration = HOUR
    jitter: Annotated[float, Kind("factor", 0, 0.9)] = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Smarthost:
    name: Annotated[str, Kind("name")]
    host: Host
    port: Port = 587
    tls: TlsLevel = "may"  # the loader makes it "verify" where there are credentials
    tls_implicit: bool = False  # the loader makes it true on port 465
    tls_fallback: bool = True
    tls_memory: DurationOrZero = DAY  # 0: none
    tls_ca_file: FileName = ""
    tls_fingerprints: Annotated[
        tuple[str, ...], Kind("list of fingerprints")
    ] = ()  # SHA-256 of the certificate: 64 lower-case hex digits
    tls_client_certificate: FileName = ""
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    username: Annotated[str, Kind("text")] = ""
    password_file: FileName = ""
    password_command: Annotated[tuple[str, ...], Kind("command")] = ()
    auth: Annotated[
        tuple[str, ...], Kind("list of mechanisms")
    ] = ()  # upper case: PLAIN, LOGIN, CRAM-MD5, XOAUTH2, OAUTHBEARER; empty: the best offered
    auth_in_clear: bool = False
    connections: Count = 20
    messages_per_connection: Count = 100
    rate: Annotated[tuple[int, float] | None, Kind("rate")] = None  # (messages, in so many seconds)
    from_: FromRewrite | None = None  # overrides [rewrite]; `from` in the file
    force_from: Mailbox = ""

    @property
    def has_credentials(self) -> bool:
        return bool(self.username)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """Seconds for each step of a session (RFC 5321 §4.5.3.2)."""

    connect: Duration = 30.0
    greeting: Duration = 300.0
    tls: Duration = 30.0
    command: Duration = 300.0
    data: Duration = 120.0
    data_block: Duration = 180.0
    data_done: Duration = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Shell-style patterns over whole addresses, case ignored; both must match."""

    smarthost: Annotated[tuple[str, ...], Kind("list of smarthosts")]
    sender: Pattern = "*"
    recipient: Pattern = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasesSection:
    file: FileName = "/etc/aliases"
    catch_all: LocalOrMailbox = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    from_: FromRewrite = "keep"
    force_from: Mailbox = ""
    masquerade: HostList = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    received: Literal["full", "minimal", "none"] = "full"
    origin: bool = False  # whether a full one names the process, and what it claims to be


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceSection:
    postmaster: LocalOrMailbox = "root"
    sender: Mailbox = ""
    max_return: Size = MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """When to tell that mail does not leave, and how."""

    command: Annotated[tuple[str, ...], Kind("command")] = ()
    file: FileName = ""  # the notice; under systemd there is one without this
    after: DurationOrZero = 2 * MINUTE  # how long a smarthost is in trouble
    oldest: DurationOrZero = 4 * HOUR  # how long the oldest message waits; 0: as long as it likes
    interval: DurationOrZero = HOUR  # between two tellings of a condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """For Prometheus."""

    file: FileName = ""  # for node_exporter's textfile collector
    listen: Annotated[tuple[str, ...], Kind("list of loopback addresses")] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One instance's configuration. `file` is where it was read from (or would have been), for messages."""

    file: Path
    hostname: Hostname
    domain: Domain
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
    alarm: Alarm = field(default_factory=Alarm)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def public_domain(self) -> bool:
        """Whether a name at `domain` may be a stranger's."""
        return is_public(self.domain)

    @property
    def sender_domain(self) -> str:
        """What a local name gets as a sender. `hostname` where `domain` is public: that is local, so bounces arrive."""
        return self.hostname if self.public_domain else self.domain
