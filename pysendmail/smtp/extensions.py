"""Extensions: what a server said that it can do, in its answer to EHLO (RFC 5321 §4.1.1.1).

Only what we act on has a field; `keywords` keeps every line for `pysendmail probe`. A line that makes no sense is
no extension: an odd SIZE is a SIZE without a limit. After STARTTLS a new value replaces this one whole (RFC 3207
§4.2), so nothing learnt in clear can outlive the handshake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A SIZE beyond this is a typing error or an attack on the integer of somebody else: no limit then.
MAX_SIZE_DIGITS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """The empty value is that of a server which only knows HELO."""

    size: int = 0  # octets; 0: no limit declared
    declares_size: bool = False  # SIZE is offered: MAIL may carry SIZE=
    eight_bit: bool = False
    smtputf8: bool = False
    pipelining: bool = False
    dsn: bool = False
    starttls: bool = False
    auth: tuple[str, ...] = ()  # mechanisms in upper case, in the server's order
    keywords: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, lines: Sequence[bytes]) -> Extensions:
        """From the lines of a 250 to EHLO, of which the first is the server's name."""
        found: dict[str, list[str]] = {}
        for line in lines[1:]:
            # Servers from before RFC 2554 write AUTH=LOGIN; some still do so beside the right form.
            words = line.decode("ascii", "replace").replace("AUTH=", "AUTH ", 1).split()
            if words:
                found.setdefault(words[0].upper(), []).extend(words[1:])
        size = found.get("SIZE", [])
        limit = size[0] if size and size[0].isdecimal() and len(size[0]) <= MAX_SIZE_DIGITS else "0"
        return cls(
            size=int(limit),
            declares_size="SIZE" in found,
            eight_bit="8BITMIME" in found,
            smtputf8="SMTPUTF8" in found,
            pipelining="PIPELINING" in found,
            dsn="DSN" in found,
            starttls="STARTTLS" in found,
            auth=tuple(dict.fromkeys(word.upper() for word in found.get("AUTH", []))),
            keywords=tuple(lines[1:]),
        )
