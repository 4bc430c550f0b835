"""SASL: which AUTH mechanism to use, and what to send for the one that aiosmtplib does not know (RFC 4954).

Exactly one mechanism is tried on a connection: three refused log-ins for one wrong password would lock accounts.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")

# CRAM-MD5 makes the server keep the password itself, and under TLS protects nothing more: last there, first in clear.
_UNDER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
_IN_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")


def choose(offered: Sequence[str], configured: Sequence[str], *, encrypted: bool) -> str | None:
    """The mechanism to use, or None. `configured` is in the administrator's order; only it can name a token's."""
    wanted = configured or (_UNDER_TLS if encrypted else _IN_CLEAR)
    return next((name for name in wanted if name in offered and name in MECHANISMS), None)


def oauthbearer(username: str, token: bytes, host: str, port: int) -> bytes:
    """The initial response of OAUTHBEARER (RFC 7628 §3.1), in base64."""
    name = username.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 §4, saslname
    text = f"n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer ".encode() + token + b"\x01\x01"
    return base64.b64encode(text)


# What the client says to a failure's challenge, so that the server can finish with its 535 (RFC 7628 §3.2.3).
OAUTHBEARER_GIVE_UP = base64.b64encode(b"\x01")
