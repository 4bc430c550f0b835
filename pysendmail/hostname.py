"""hostname: what this machine is called, for EHLO, Received and bare addresses.

`machine_name` never blocks for long: a laptop without a network must accept mail at once, and
socket.getfqdn() waits for DNS as long as the resolver likes. `mail_name` is the first line of /etc/mailname
(Debian). Both give a name that may stand in SMTP, or the next best one; neither raises.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

from pysendmail.address import Address, AddressError

# Longer than a resolver that works needs, short enough for a person at a prompt.
MAX_RESOLVE_S = 1.0


def is_domain(text: str) -> bool:
    """Whether it may stand as a domain in SMTP as it is: ASCII, and no address literal."""
    if not text.isascii() or not text or text.startswith("["):
        return False
    try:
        Address("postmaster", text)
    except AddressError:
        return False
    return True


def machine_name(
    *,
    gethostname: Callable[[], str] = socket.gethostname,
    hosts: Path = Path("/etc/hosts"),
    canonical_name: Callable[[str], str] | None = None,
) -> str:
    """The machine's full name: the kernel's if it has a dot, else from /etc/hosts, else from the resolver,
    else bare.
    """
    name = gethostname().rstrip(".")
    if not is_domain(name):
        return "localhost"
    if "." in name:
        return name
    full = _from_hosts(name, hosts) or (canonical_name or _canonical_name)(name)
    return full if is_domain(full) and "." in full else name


def mail_name(file: Path = Path("/etc/mailname")) -> str:
    """The first line of /etc/mailname, or "" where there is no file or no domain in it."""
    try:
        with file.open(encoding="ascii", errors="replace") as lines:
            name = lines.readline(1024).strip().rstrip(".")
    except OSError:
        return ""
    return name if is_domain(name) else ""


def _from_hosts(name: str, hosts: Path) -> str:
    try:
        text = hosts.read_text("ascii", "replace")
    except OSError:
        return ""
    for line in text.splitlines():
        names = line.partition("#")[0].split()[1:]
        if name.lower() in (known.lower() for known in names):
            for candidate in names:
                if candidate.lower().startswith(f"{name.lower()}."):
                    return candidate
    return ""


def _canonical_name(name: str) -> str:
    """What the resolver calls `name`, or "" if it has no answer in time. The thread that still waits ends
    with us.
    """
    answers: list[str] = []

    def ask() -> None:
        try:
            found = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)
        except OSError:
            return
        answers.extend(entry[3] for entry in found if entry[3])

    thread = threading.Thread(target=ask, name="canonical-name", daemon=True)
    thread.start()
    thread.join(MAX_RESOLVE_S)
    return next((answer for answer in tuple(answers) if answer.lower().startswith(f"{name.lower()}.")), "")
