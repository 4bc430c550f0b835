"""Sheet: one file of another program while it is read: where its lines are, and what is said of them in the draft.

Also the forms that these files share: host and port, and maps of one line for each key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pysendmail.draft import Draft, Fate, Remark

# What port a service's name is; the few that stand in such files (IANA's registry of service names).
SERVICES = {"smtp": 25, "submission": 587, "smtps": 465, "submissions": 465, "ssmtp": 465}
# The system's own trust store, which is the default here.
SYSTEM_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs", "/etc/pki/tls/certs/ca-bundle.crt")
BEYOND_PORT = 65536
_NUMBER = re.compile(r"[0-9]{1,15}\Z")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,50}\Z")


@dataclass(frozen=True, slots=True)
class Entry:
    """A setting: its first line, its name, its value with all that follows on the next lines."""

    line: int
    key: str
    value: str

    @property
    def what(self) -> str:
        """Its name, for people. A line that is written wrong may have a password where the name should be."""
        return self.key if _IDENTIFIER.match(self.key) else "a line"


class Sheet:
    """`look` gives the text of a file that this one names, or raises OSError. `draft` is what comes of it."""

    def __init__(self, file: Path, look: Callable[[Path], str]) -> None:
        self.file = file
        self.draft = Draft()
        self._look = look

    def remark(self, fate: Fate, line: int, what: str, text: str, file: Path | None = None) -> None:
        self.draft.remarks.append(Remark(file=file or self.file, line=line, what=what, fate=fate, text=text))

    def lost(self, entry: Entry, text: str) -> None:
        self.remark(Fate.LOST, entry.line, entry.what, text)

    def changed(self, entry: Entry, text: str) -> None:
        self.remark(Fate.CHANGED, entry.line, entry.what, text)

    def needless(self, entry: Entry, text: str = "") -> None:
        self.remark(Fate.NEEDLESS, entry.line, entry.what, text)

    def leave_out(
        self, entries: Mapping[str, Entry], carried: set[str], needless: Mapping[str, str], lost: Mapping[str, str]
    ) -> None:
        """Remarks on all entries but those that are carried over."""
        for key, entry in entries.items():
            if key in needless:
                self.needless(entry, needless[key])
            elif key not in carried:
                self.lost(entry, lost.get(key, "this is no setting that is known here"))

    def look(self, path: str, entry: Entry) -> str:
        """The text of a file that an entry names; "" with a remark if it cannot be read."""
        try:
            return self._look(Path(path))
        except OSError as error:
            self.lost(entry, f"{path}: {error.strerror or 'it cannot be read'}")
        return ""

    def glance(self, path: Path) -> str:
        """The text of a file that need not be there."""
        try:
            return self._look(path)
        except OSError:
            return ""

    def authorities(self, smarthost: dict[str, object], entry: Entry) -> None:
        """A file of certificates to trust."""
        if entry.value not in SYSTEM_AUTHORITIES:
            smarthost["tls_ca_file"] = entry.value

    def client_certificate(self, smarthost: dict[str, object], certificate: Entry, key: str) -> None:
        """A certificate to show, and the file with its key: here they are one."""
        smarthost["tls_client_certificate"] = certificate.value
        if key and key != certificate.value:
            text = f"certificate and key are one file here: add what is in {key} to it, or to a copy of it"
            self.changed(certificate, text)

    def unprotected(self, smarthost: dict[str, object], entry: Entry) -> None:
        """A password without TLS: allowed on this machine only; elsewhere TLS is demanded, and that said."""
        if is_here(str(smarthost["host"])):
            smarthost["tls"] = "none"
            smarthost["auth_in_clear"] = True
            return
        self.changed(entry, 'the password could go out in clear; here it cannot: tls = "verify" is demanded')

    def unverified(self, smarthost: dict[str, object], entry: Entry) -> None:
        """TLS whose certificate the other program never looked at."""
        if "username" not in smarthost:
            smarthost.setdefault("tls", "encrypt")
            return
        self.changed(entry, 'no certificate was checked; with a password it is here (tls = "verify")')

    def force(self, address: str) -> None:
        """All mail leaves under one address."""
        self.draft.set("rewrite", "from", "force")
        self.draft.set("rewrite", "force_from", address)


def lines(text: str, comment: str = "#") -> Iterator[tuple[int, str]]:
    """The lines with something on them that are no comments, stripped, each with its number."""
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(comment):
            yield number, stripped


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """`host`, `[host]`, `host:port`, `[host]:port`, `[address]:service`; a port that is none is BEYOND_PORT."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    host = host.removeprefix("ipv6:").removeprefix("IPv6:")
    if not port:
        return host, default
    return host, numeral(port) or SERVICES.get(port, BEYOND_PORT)


def numeral(text: str) -> int:
    """The number that the text is; 0 where it is none, or one that nobody means."""
    return int(text) if _NUMBER.match(text) else 0


def is_here(host: str) -> bool:
    """Whether the host is this very machine, to which a password may go in clear."""
    return host in ("localhost", "::1") or host.startswith("127.")


def one_target(entries: list[Entry]) -> str:
    """The address that all of these map to; "" if there are several, or none."""
    targets = {entry.value for entry in entries}
    return targets.pop() if len(targets) == 1 else ""
