"""route: which smarthosts a recipient's mail may take (pysendmail.toml(5), [[route]]). Pure.

The first [[route]] whose patterns match both the sender and the recipient holds; without one, every smarthost in
the order of the file. In a pattern only `*` and `?` are special; it covers the whole address, without regard to case.
The null sender is matched as `<>`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from pysendmail.config import Config


def route(sender: str, recipient: str, config: Config) -> tuple[str, ...]:
    """Names of smarthosts, in the order in which they are tried; () only where there is no smarthost at all."""
    for entry in config.route:
        if matches(entry.sender, sender or "<>") and matches(entry.recipient, recipient):
            return tuple(dict.fromkeys(entry.smarthost))
    return tuple(smarthost.name for smarthost in config.smarthost)


def matches(pattern: str, address: str) -> bool:
    return _compiled(pattern.lower()).fullmatch(address.lower()) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """No pattern makes the search go back: each piece after a `*` is taken where it first fits, once and for all.

    That loses no match, since only what the last `*` leaves must reach the end (fnmatch of Python 3.9 does so, too,
    but knows brackets, which may stand in an address literal).
    """
    first, *rest = ("".join("." if sign == "?" else re.escape(sign) for sign in piece) for piece in pattern.split("*"))
    if not rest:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece)
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)
