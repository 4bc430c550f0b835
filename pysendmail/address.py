"""address: one mailbox, or the bare name of a local one (RFC 5321 §4.1.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LOCAL = re.compile(r"""[^\s\x00-\x20\x7f"(),:;<>@\[\]\\.-][^\s\x00-\x20\x7f"(),:;<>@\[\]\\]*\Z""")
_QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"\Z')
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?)(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?)*\Z|\[[0-9A-Za-z.:]+\]\Z"
)


class AddressError(ValueError):
    """The text is no address; the message says why."""


@dataclass(frozen=True, slots=True)
class Address:
    local: str
    domain: str  # "" for a bare local name

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


def parse_path(text: str) -> Address:
    """A mailbox `local@domain` or a bare local name; AddressError with words otherwise."""
    if not text:
        raise AddressError("an empty address")
    if text.startswith("-"):
        raise AddressError('an address that begins with "-" is refused: programs take it for an option')
    local, at, domain = text.rpartition("@") if "@" in text else (text, "", "")
    if len(local.encode("utf-8", "surrogatepass")) > 64 or len(domain) > 255:
        raise AddressError("longer than RFC 5321 §4.5.3.1 allows")
    if not (_LOCAL.match(local) or _QUOTED.match(local)) or ".." in local or local.endswith("."):
        raise AddressError("not a valid local part")
    if at and not _DOMAIN.match(domain):
        raise AddressError("not a valid domain")
    return Address(local, domain)
