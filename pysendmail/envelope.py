"""Envelope: the reverse-path and the forward-paths of a message (RFC 5321 §2.3.1), and what was asked for (RFC 3461).

An address here has been through `address.parse_path` once: it holds no control character, no space outside
quotes, and fits RFC 5321 §4.5.3.1. Nobody checks it again; the wire encoder refuses what could not have passed.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTIFY_WORDS = frozenset({"never", "success", "failure", "delay"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One forward-path. `notify` is empty when nothing was asked (then failure and delay are reported)."""

    address: str
    notify: frozenset[str] = frozenset()
    orcpt: str = ""  # "rfc822;user@example.org", decoded from xtext; "" when not given (RFC 3461 §4.2)

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("a recipient without an address")
        if not self.notify <= NOTIFY_WORDS or ("never" in self.notify and len(self.notify) > 1):
            raise ValueError(f"NOTIFY={','.join(sorted(self.notify))} is not allowed by RFC 3461 §4.1")

    def wants(self, what: str) -> bool:
        """Whether a "success", "failure" or "delay" report is wanted for this recipient (RFC 3461 §4.1)."""
        return what in self.notify if self.notify else what in ("failure", "delay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Where a message comes from and where it goes. `sender` "" is the null reverse-path `<>`."""

    sender: str
    recipients: tuple[Recipient, ...]
    envid: str = ""  # decoded from xtext, at most 100 printable characters
    ret: str = ""  # "full", "hdrs" or "" (not asked)
    smtputf8: bool = False  # asked for with -U; what an address needs is seen from it
