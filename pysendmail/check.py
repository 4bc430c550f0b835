"""check: what is wrong with an instance, or soon will be: `pysendmail check`, the doctor.

`run` looks at one instance and changes nothing; it needs no daemon and sends nothing. Each finding names file and
key, says what is the matter and what to do about it. An *error* means that mail is refused, cannot leave or can
be read by others (exit 78); a *warning* that it may be so, or that it is not what was meant; a *note* says what
could not be looked at, or what holds by default.

What runs as root judges for the queue's owner, as whom the daemon works. Only name resolution can take time, at
most MAX_RESOLVE_S for all smarthosts together.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import os
import re
import shutil
import socket
import sqlite3
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pysendmail import config_file, hostname, loopback, schema, spool
from pysendmail.aliases import AliasError, Aliases, AliasesUnread, expand_recipients
from pysendmail.config import Config, Smarthost, is_public
from pysendmail.config_file import ConfigError, Instance, Problem
from pysendmail.exits import EX_CONFIG
from pysendmail.secrets import Secrets, credential_name
from pysendmail.smtp.reply import printable
from pysendmail.watch import ENVIRONMENT

MAX_RESOLVE_S = 5.0
# Beside the reserve: with less than this no submission is accepted.
LEAST_FREE = 4 << 20

# On these, locks and shared memory are not those of a local disk, which SQLite's WAL needs.
REMOTE_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "glusterfs", "lustre", "gpfs"),
        *("orangefs", "virtiofs", "vboxsf", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
    }
)
# Gone after a restart, and the mail in the queue with them.
PASSING_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`file` may carry a line, FILE:LINE; `key` is "" where none is concerned; `mend` where the text says it all."""

    level: Level
    file: str
    key: str = ""
    text: str
    mend: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.level.value, self.file, self.key) if part)
        return printable(f"{place}: {self.text}; {self.mend}" if self.mend else f"{place}: {self.text}")


def run(instance: Instance) -> list[Finding]:
    """All findings, the errors first."""
    found: list[Finding] = []
    config: Config | None = None
    try:
        text = config_file.read(instance)
        config = config_file.parse(text, instance)
    except ConfigError as error:
        found += map(_of_problem, error.problems)
        with contextlib.suppress(ConfigError):
            config = config_file.load_or_last_good(instance).config
            mend = "until the file is mended, the daemon works with it"
            found.append(
                Finding(
                    level=Level.NOTE,
                    file=str(config.queue.directory / config_file.LAST_GOOD),
                    text="this is the last good configuration, which is looked at below",
                    mend=mend,
                )
            )
    if config is not None:
        found += _findings(config)
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))


def exit_code(findings: Iterable[Finding]) -> int:
    return EX_CONFIG if any(finding.level is Level.ERROR for finding in findings) else 0


def render(findings: Iterable[Finding]) -> str:
    """A line each, or one that says that there is nothing to say."""
    return "".join(f"{finding}\n" for finding in findings) or "nothing found\n"


def _findings(config: Config) -> Iterator[Finding]:
    owner = _owner_of(config.queue.directory)
    yield from of_config_file(config.file, owner)
    yield from of_names(config)
    yield from of_smarthosts(config)
    yield from of_routes(config)
    yield from of_listen(config)
    yield from of_queue_directory(config)
    yield from of_database(config.queue.directory)
    yield from of_secrets(config, owner)
    yield from of_resolution(config)
    yield from of_aliases(config, owner)
    yield from of_telling(config, owner)


def _of_problem(problem: Problem) -> Finding:
    file = f"{problem.file}:{problem.line}" if problem.line else str(problem.file)
    return Finding(level=Level.ERROR, file=file, key=problem.key, text=problem.text, mend=problem.mend)


# Whose files


@dataclass(frozen=True, slots=True)
class Owner:
    """As whom the daemon works: the owner of the queue's directory, and the groups that he has."""

    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    def can_read(self, status: os.stat_result) -> bool:
        return self._has(status, stat.S_IROTH)

    def can_make_files(self, status: os.stat_result) -> bool:
        """In a directory."""
        return self._has(status, stat.S_IWOTH | stat.S_IXOTH)

    def _has(self, status: os.stat_result, rights: int) -> bool:
        """Rights as those of others are written."""
        if self.uid == 0:
            return True
        if status.st_uid == self.uid:
            mode = status.st_mode >> 6
        elif status.st_gid == self.gid or status.st_gid in self.groups:
            mode = status.st_mode >> 3
        else:
            mode = status.st_mode
        return mode & rights == rights


def _owner_of(directory: Path) -> Owner:
    """The owner of the queue's directory; where there is none yet, who it will be."""
    import pwd

    uid, gid = spool.owner_of(directory)
    groups: frozenset[int] = frozenset()
    with contextlib.suppress(KeyError):
        groups = frozenset(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    return Owner(uid, gid, groups)


def of_config_file(file: Path, owner: Owner) -> Iterator[Finding]:
    try:
        status = file.stat()
    except FileNotFoundError:
        mend = "write one; pysendmail.toml(5) says what can stand in it"
        yield Finding(level=Level.NOTE, file=str(file), text="there is no such file: all is default", mend=mend)
        return
    except OSError as error:
        text = f"it cannot be looked at: {error.strerror}"
        yield Finding(level=Level.WARNING, file=str(file), text=text, mend="run this as root or as the queue's owner")
        return
    if status.st_mode & 0o022:
        text = f"mode {stat.S_IMODE(status.st_mode):04o}: others may write it, and with that run commands and take mail"
        yield Finding(level=Level.ERROR, file=str(file), text=text, mend=f"chmod go-w {file}")
    if not owner.can_read(status):
        text = f"the daemon (uid {owner.uid}) cannot read it"
        yield Finding(level=Level.ERROR, file=str(file), text=text, mend=f"chmod a+r {file}: it holds no secret")


# The configuration by itself


def of_names(config: Config) -> Iterator[Finding]:
    def finding(level: Level, key: str, text: str, mend: str) -> Finding:
        return Finding(level=level, file=str(config.file), key=key, text=text, mend=mend)

    if "." not in config.hostname:
        mend = 'write hostname = "..." with the domain'
        yield finding(Level.WARNING, "hostname", f'"{config.hostname}" has no domain, which some servers refuse', mend)
    if "." not in config.domain:
        text = f"a bare address such as root becomes root@{config.domain}, which most servers refuse"
        yield finding(Level.WARNING, "domain", text, 'write domain = "..." or a name into /etc/mailname')
    if config.public_domain:
        yield from of_a_public_domain(config)
    if Path("/etc/mailname").exists() and not hostname.mail_name():
        text = "there is no domain in its first line, so it is not used"
        yield Finding(level=Level.WARNING, file="/etc/mailname", text=text, mend="write the mail domain there")
    if 0 < config.queue.lifetime <= config.queue.warn_after:
        text = "mail expires before a delay notice would be sent"
        yield finding(Level.WARNING, "queue.warn_after", text, 'make it less than lifetime, or "0"')


def of_a_public_domain(config: Config) -> Iterator[Finding]:
    """`domain` belongs to a mail provider: no local name is made an address there, so each needs another one."""

    def finding(level: Level, key: str, text: str, mend: str) -> Finding:
        return Finding(level=level, file=str(config.file), key=key, text=text, mend=mend)

    mend = "set catch_all in [aliases] to an address of yours, or domain to one of your own"
    try:
        expand_recipients(["root"], Aliases.load(config.aliases.file), config)
    except AliasError as error:
        yield finding(Level.ERROR, "domain", f"mail for root is refused: {error}", mend)
    except AliasesUnread:
        pass  # told with the aliases
    else:
        if not config.aliases.catch_all:
            text = f"a stranger may have any name at {config.domain}: local names without alias are refused"
            yield finding(Level.WARNING, "domain", text, mend)
    if config.rewrite.masquerade:
        text = f"every name in these domains becomes one at {config.domain}, which may be a stranger's"
        yield finding(Level.WARNING, "rewrite.masquerade", text, 'write from = "force" and your address as force_from')


def of_smarthosts(config: Config) -> Iterator[Finding]:
    if not config.smarthost:
        yield Finding(
            level=Level.ERROR,
            file=str(config.file),
            key="smarthost",
            text="there is none: mail is queued, but cannot leave",
            mend='run pysendmail setup, or add [[smarthost]] with host = "..."',
        )
    for smarthost in config.smarthost:
        for level, key, text, mend in _of_smarthost(smarthost, config):
            yield Finding(
                level=level, file=str(config.file), key=f"smarthost {smarthost.name}: {key}", text=text, mend=mend
            )


def _of_smarthost(smarthost: Smarthost, config: Config) -> Iterator[tuple[Level, str, str, str]]:
    here = _is_loopback(smarthost.host)
    credentials = smarthost.has_credentials
    if credentials and smarthost.tls == "none" and not smarthost.auth_in_clear:
        yield (
            Level.ERROR,
            "tls",
            '"none" with credentials: they are not used in clear, and without them nothing is sent',
            ("use TLS, or set auth_in_clear = true if the smarthost is on this very machine"),
        )
    elif credentials and smarthost.auth_in_clear and not here:
        yield (
            Level.WARNING,
            "auth_in_clear",
            "the password may cross the network for everybody to read",
            ("use TLS; this is for a smarthost on this very machine"),
        )
    elif credentials and smarthost.tls in ("may", "encrypt"):
        yield (
            Level.WARNING,
            "tls",
            f'at "{smarthost.tls}" whoever sits in between can take the password',
            ('write tls = "verify", or "fingerprint" for a certificate that no authority has signed'),
        )
    elif smarthost.tls == "none" and not here:
        yield (
            Level.WARNING,
            "tls",
            '"none": everybody on the way can read the mail',
            'write at least tls = "may"',
        )
    if smarthost.tls_implicit and smarthost.port in (25, 587):
        yield (
            Level.WARNING,
            "tls_implicit",
            f"port {smarthost.port} begins in clear nearly everywhere",
            ("leave tls_implicit out (STARTTLS is used), or take port 465"),
        )
    rewrite = smarthost.from_ or config.rewrite.from_
    if smarthost.force_from and rewrite != "force":
        yield Level.WARNING, "force_from", f'it means nothing at from = "{rewrite}"', 'write from = "force"'
    if credentials and rewrite != "force" and is_public(smarthost.host.partition(".")[2]):
        text = "such a provider takes mail from its account's own address only, or puts that in place of the sender's"
        yield Level.NOTE, "from", text, 'write from = "force" and the address as force_from'
    if smarthost.tls_client_certificate and smarthost.tls == "none":
        yield Level.WARNING, "tls_client_certificate", 'it is never shown at tls = "none"', "use TLS"
    if credentials and not (smarthost.password_file or smarthost.password_command):
        yield (
            Level.NOTE,
            "username",
            f"the password must be systemd's credential {credential_name(smarthost)}",
            ("or set password_file or password_command"),
        )


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def of_listen(config: Config) -> Iterator[Finding]:
    """Whether somebody listens where [daemon] listen says, and whether that is our daemon as far as can be told."""
    daemon = spool.answers(config.daemon.socket)
    for address in config.daemon.listen:
        try:
            loopback.bind(address).close()
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES) and daemon:
                continue  # by us or for us, or else `status` says so
            text, mend = f"{address} cannot be bound: {error.strerror}", "take another port, or end what holds this one"
            if error.errno == errno.EACCES:
                mend = "take a port from 1024 up, or have systemd open it"
        else:
            if not daemon:
                continue
            text, mend = f"a daemon runs, and nothing listens on {address}", "reload the daemon"
        yield Finding(level=Level.WARNING, file=str(config.file), key="daemon.listen", text=text, mend=mend)


def of_routes(config: Config) -> Iterator[Finding]:
    for number, route in enumerate(config.route, 1):
        if (route.sender, route.recipient) == ("*", "*"):
            if number < len(config.route):
                yield Finding(
                    level=Level.WARNING,
                    file=str(config.file),
                    key="route",
                    text=f"the {len(config.route) - number} after number {number} are never used: it takes all mail",
                    mend="put it last, or give it a pattern",
                )
            break
    if config.rewrite.force_from and "force" not in (config.rewrite.from_, *(s.from_ for s in config.smarthost)):
        yield Finding(
            level=Level.WARNING,
            file=str(config.file),
            key="rewrite.force_from",
            text=f'it means nothing at from = "{config.rewrite.from_}"',
            mend='write from = "force"',
        )


# The queue

_DAMAGED = "stop the daemon, move the directory aside, and see pysendmail(8), RECOVERY"


def of_queue_directory(config: Config) -> Iterator[Finding]:
    directory = config.queue.directory

    def finding(level: Level, text: str, mend: str = "", file: Path = directory) -> Finding:
        return Finding(level=level, file=str(file), key="queue.directory", text=text, mend=mend)

    try:
        status = directory.stat()
    except FileNotFoundError:
        yield finding(Level.NOTE, "there is no such directory yet", "the daemon makes it when it first starts")
        return
    except OSError as error:
        yield finding(Level.WARNING, f"it cannot be looked at: {error.strerror}", "run this as root")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield finding(Level.ERROR, "it is not a directory", "move it away")
        return
    if status.st_mode & 0o077:
        text = f"mode {stat.S_IMODE(status.st_mode):04o}: others than its owner can look into the queue"
        yield finding(Level.ERROR, text, f"chmod 0700 {directory}")
    elif status.st_mode & 0o700 != 0o700:
        text = f"mode {stat.S_IMODE(status.st_mode):04o}: its owner, who writes the queue, cannot"
        yield finding(Level.ERROR, text, f"chmod 0700 {directory}")
    kind = file_system_of(directory, _mount_info())
    if kind in REMOTE_FILE_SYSTEMS:
        yield finding(Level.WARNING, f"it is on {kind}: a database there can be damaged", "use a local disk")
    elif kind in PASSING_FILE_SYSTEMS:
        yield finding(Level.WARNING, f"it is on {kind}: a restart of the machine loses the queue", "use a disk")
    try:
        entries = list(os.scandir(directory))
        space = os.statvfs(directory)
    except OSError as error:
        yield finding(Level.NOTE, f"its files cannot be looked at: {error.strerror}", "run this as root")
        return
    for entry in entries:
        with contextlib.suppress(OSError):  # gone in between
            inner = entry.stat(follow_symlinks=False)
            file = Path(entry.path)
            if inner.st_uid != status.st_uid:
                text = f"it belongs to uid {inner.st_uid}, the queue to uid {status.st_uid}: the daemon may fail on it"
                yield finding(Level.ERROR, text, f"chown {status.st_uid}:{status.st_gid} {file}", file)
            elif stat.S_ISREG(inner.st_mode) and inner.st_mode & 0o077:
                text = f"mode {stat.S_IMODE(inner.st_mode):04o}: only its owner should have any right to it"
                yield finding(Level.ERROR, text, f"chmod 0600 {file}", file)
            elif stat.S_ISREG(inner.st_mode) and inner.st_mode & 0o600 != 0o600:
                text = f"mode {stat.S_IMODE(inner.st_mode):04o}: its owner, who writes the queue, cannot"
                yield finding(Level.ERROR, text, f"chmod 0600 {file}", file)
    free = space.f_bavail * space.f_frsize
    if free < LEAST_FREE + config.queue.reserve:
        text = f"only {free >> 20} MiB are free on its disk: mail is refused, or soon will be"
        yield finding(Level.WARNING, text, "make room")
    elif space.f_files and space.f_favail < 16:
        yield finding(Level.WARNING, "its disk has no inodes left", "make room")


def _mount_info() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""


def file_system_of(path: Path, mount_info: str) -> str:
    """The type of the file system that holds `path`, by /proc/self/mountinfo (proc(5)); "" if it does not say."""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mount_info.splitlines():
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 6:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        # Of two mounts at one place the later hides the earlier.
        if len(point) >= len(best) and (real == point or real.startswith(f"{point.rstrip('/')}/")):
            best, kind = point, types[0]
    return kind


def of_database(directory: Path) -> Iterator[Finding]:
    """Whether queue.db is one that this version can use. Creates no file, whoever asks and whoever writes it."""
    file = directory / "queue.db"

    def finding(level: Level, text: str, mend: str = "") -> Finding:
        return Finding(level=level, file=str(file), text=text, mend=mend)

    try:
        kind = file.stat().st_mode
    except FileNotFoundError:
        return  # nothing was ever queued
    except OSError as error:
        yield finding(Level.NOTE, f"it cannot be looked at: {error.strerror}", "run this as root")
        return
    if not stat.S_ISREG(kind):
        yield finding(Level.ERROR, "it is not a file", "move it away")
        return
    # Without -wal nobody has it open, and SQLite would make one that belongs to root: then it is read as it is.
    immutable = "" if (directory / "queue.db-wal").exists() else "&immutable=1"
    quoted = str(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quoted}?mode=ro{immutable}", uri=True, timeout=5)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        yield finding(Level.WARNING, f"it cannot be read: {error}", "run this as root or as the queue's owner")
        return
    except sqlite3.DatabaseError as error:
        yield finding(Level.ERROR, f"it is damaged: {error}", _DAMAGED)
        return
    if version > schema.VERSION:
        text = f"a newer pysendmail wrote it (schema {version}, this one knows {schema.VERSION})"
        yield finding(Level.ERROR, text, "install that version again")
    if verdict != "ok":
        text = f"it is damaged: {verdict}"
        yield finding(Level.ERROR, text, _DAMAGED)


# Secrets and certificates


def of_secrets(config: Config, owner: Owner) -> Iterator[Finding]:
    secrets = Secrets(owner=owner.uid, group=owner.gid)
    for smarthost in config.smarthost:

        def finding(key: str, text: str, mend: str, of: str = smarthost.name, level: Level = Level.ERROR) -> Finding:
            return Finding(level=level, file=str(config.file), key=f"smarthost {of}: {key}", text=text, mend=mend)

        if smarthost.password_file:
            trouble = secrets.check(smarthost) or _unreadable(smarthost.password_file, owner)
            if trouble:
                mend = f"chown {owner.uid} {smarthost.password_file}, chmod 0400 {smarthost.password_file}"
                if not os.path.lexists(smarthost.password_file):
                    mend = f"write the password into it, as its only line; then {mend}"
                text = trouble.removeprefix(f"smarthost {smarthost.name}: ").removeprefix("password_file ")
                yield finding("password_file", text, mend)
        if smarthost.password_command and shutil.which(smarthost.password_command[0]) is None:
            program = printable(smarthost.password_command[0], 80)
            yield finding("password_command", f"there is no program {program}", "write its whole path")
        if smarthost.tls_ca_file:
            trouble = _unreadable(smarthost.tls_ca_file, owner) or _no_authorities(smarthost.tls_ca_file)
            if trouble:
                yield finding("tls_ca_file", trouble, "name a file of PEM certificates that the daemon can read")
        if smarthost.tls_client_certificate:
            trouble = _unreadable(smarthost.tls_client_certificate, owner, private=True)
            trouble = trouble or _no_key(smarthost.tls_client_certificate)
            if trouble:
                mend = "name a PEM file with certificate and key, 0400, of the queue's owner"
                yield finding("tls_client_certificate", trouble, mend)


def _unreadable(file: str, owner: Owner, *, private: bool = False) -> str:
    """Why the daemon cannot or should not use the file; "" if it can."""
    try:
        status = os.stat(file)
    except OSError as error:
        return f"{file}: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{file}: it is not a file"
    mode = stat.S_IMODE(status.st_mode)
    shared = status.st_uid == 0 and status.st_gid == owner.gid and not mode & 0o037
    if private and mode & 0o077 and not shared:
        return f"{file}: mode {mode:04o}: others can read the key in it"
    return "" if owner.can_read(status) else f"{file}: the daemon (uid {owner.uid}) cannot read it"


def _no_authorities(file: str) -> str:
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        return f"{file}: there is no certificate in it ({error.reason or 'not PEM'})"
    except OSError:
        return ""  # not ours to read; the daemon can
    return ""


def _no_key(file: str) -> str:
    try:
        # A key with a passphrase would ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(file, password=lambda: "")
    except ssl.SSLError as error:
        return f"{file}: certificate and key cannot be used ({error.reason or 'not PEM, or with a passphrase'})"
    except OSError:
        return ""
    return ""


# Names


def of_resolution(
    config: Config, resolve: Callable[[str, int], str] | None = None, wait_s: float = MAX_RESOLVE_S
) -> Iterator[Finding]:
    """Whether each smarthost's name has an address. `resolve` gives "" or what is wrong."""
    answers: dict[str, str] = {}
    smarthosts = [smarthost for smarthost in config.smarthost if not _is_address(smarthost.host)]

    def ask(host: str, port: int) -> None:
        answers[host] = (resolve or _resolve)(host, port)

    threads = [
        threading.Thread(target=ask, args=(smarthost.host, smarthost.port), daemon=True) for smarthost in smarthosts
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + wait_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    for smarthost in smarthosts:
        answer = answers.get(smarthost.host, f"no answer within {wait_s:g} s")
        if answer:
            yield Finding(
                level=Level.WARNING,
                file=str(config.file),
                key=f"smarthost {smarthost.name}: host",
                text=f'"{smarthost.host}" has no address now: {answer}',
                mend="check the name, the network and /etc/resolv.conf; mail waits meanwhile",
            )


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _resolve(host: str, port: int) -> str:
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def of_aliases(config: Config, owner: Owner) -> Iterator[Finding]:
    aliases = Aliases.load(config.aliases.file)
    for problem in (*aliases.problems, *aliases.loops()):
        file = f"{problem.file}:{problem.line}" if problem.line else str(problem.file)
        mend = (
            "mend that line; newaliases then says whether all is well" if problem.line else "name a file that is there"
        )
        yield Finding(level=Level.WARNING, file=file, key=problem.name, text=problem.text, mend=mend)
    for path, mark in aliases.read_from:
        if mark and (trouble := _unreadable(str(path), owner)):
            text, mend = trouble.removeprefix(f"{path}: "), f"chmod a+r {path}, and a+x on the directories above it"
            yield Finding(level=Level.WARNING, file=str(path), text=text, mend=mend)


# What tells people and monitoring


def of_telling(config: Config, owner: Owner) -> Iterator[Finding]:
    """Whether alarm and metrics can do their work: when they are needed, nobody would hear that they cannot."""

    def finding(key: str, text: str, mend: str) -> Finding:
        return Finding(level=Level.WARNING, file=str(config.file), key=key, text=text, mend=mend)

    command, metrics = config.alarm.command, config.metrics
    if command and shutil.which(command[0], path=ENVIRONMENT["PATH"]) is None:
        yield finding("alarm.command", f"there is no program {printable(command[0], 80)}", "write its whole path")
    for key, file in (("alarm.file", config.alarm.file), ("metrics.file", metrics.file)):
        if file and (trouble := _no_place(Path(file).parent, owner)):
            yield finding(key, trouble, f"name a file in a directory that uid {owner.uid} may write")
    if (metrics.file or metrics.listen) and importlib.util.find_spec("prometheus_client") is None:
        mend = "install python3-prometheus-client, or pysendmail-mta[metrics]"
        yield finding("metrics", "prometheus-client, which writes them, is not installed", mend)


def _no_place(directory: Path, owner: Owner) -> str:
    """Why the daemon cannot make a file there; "" if it can."""
    try:
        status = directory.stat()
    except OSError as error:
        return f"{directory}: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory}: it is not a directory"
    return "" if owner.can_make_files(status) else f"{directory}: the daemon (uid {owner.uid}) cannot write there"
