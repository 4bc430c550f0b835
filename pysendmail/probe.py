"""Probe: what a smarthost says and can do, and whether mail could go there under its policy; sends no mail.

One connection does what delivery would do, up to the point where MAIL would follow. If the certificate is refused, a
second one without that check, and without credentials, finds out what certificate it is. The answer is a dict for
JSON: every key is always there, None where there is nothing.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from pysendmail.certificate import describe
from pysendmail.config import Smarthost, Timeout
from pysendmail.connection import Connection, Opener, SessionError, leave
from pysendmail.gate import Trace
from pysendmail.outcome import Stage, Trouble
from pysendmail.secrets import Secrets
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import printable
from pysendmail.tlspolicy import Check, TlsPlan

MAX_CHAIN = 10  # certificates shown


async def probe(
    smarthost: Smarthost,
    *,
    hostname: str,
    timeout: Timeout,  # noqa: ASYNC109 - the seconds of each step
    plan: TlsPlan,
    secrets: Secrets | None = None,
    trace: Trace | None = None,
) -> dict[str, Any]:
    """The facts. Whatever goes wrong is one of them."""
    chain: list[bytes] = []
    opener = Opener(smarthost, hostname=hostname, timeout=timeout, plan=plan, secrets=secrets, trace=trace)
    opener.on_tls = lambda tls: chain.extend(_chain(tls))
    trouble: Trouble | None = None
    address = ""
    try:
        connection: Connection | None = await opener.open()
        assert connection is not None
        address = connection.address
        await leave(connection)
    except SessionError as error:
        trouble, address, connection = error.trouble, error.address, opener.connection
    if trouble is not None and trouble.stage is Stage.TLS and not chain:
        await _look_again(smarthost, hostname, timeout, plan, chain)
    return {
        "smarthost": smarthost.name,
        "host": smarthost.host,
        "port": smarthost.port,
        "address": address or None,
        "ready": trouble is None,
        "trouble": _trouble(trouble),
        "greeting": (connection.greeting or None) if connection else None,
        "extensions": _keywords(connection.extensions if connection else None),
        "extensions_in_clear": _keywords(connection.extensions_in_clear if connection else None),
        "tls": _tls(smarthost, plan, connection, trouble, chain),
        "auth": _auth(smarthost, connection, trouble),
    }


async def _look_again(
    smarthost: Smarthost,
    hostname: str,
    timeout: Timeout,  # noqa: ASYNC109
    plan: TlsPlan,
    chain: list[bytes],
) -> None:
    """The chain of a server whose certificate was refused, over a connection that nothing else goes over."""
    unchecked = replace(plan, check=Check.NOTHING, clear_if_failed=False, clear_if_unavailable=False)
    nobody = replace(smarthost, username="")
    opener = Opener(nobody, hostname=hostname, timeout=timeout, plan=unchecked)
    opener.on_tls = lambda tls: chain.extend(_chain(tls))
    with suppress(SessionError):
        await leave(await opener.open())


def _chain(tls: ssl.SSLObject) -> list[bytes]:
    """The certificates as the server sent them, its own first, in DER."""
    own = tls.getpeercert(binary_form=True) or b""
    public = getattr(tls, "get_unverified_chain", None)  # Python 3.13
    inner = getattr(getattr(tls, "_sslobj", None), "get_unverified_chain", None)
    if public is not None:
        found: list[bytes] = list(public())
    elif inner is not None:  # until then the same, without a public name
        found = [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner() or ()]
    else:
        found = []
    return (found or [own])[:MAX_CHAIN]


def _trouble(trouble: Trouble | None) -> dict[str, Any] | None:
    if trouble is None:
        return None
    return {
        "stage": str(trouble.stage),
        "status": trouble.status,
        "code": trouble.code,
        "reason": trouble.reason,
    }


def _keywords(extensions: Extensions | None) -> list[str] | None:
    return None if extensions is None else [printable(keyword, 200) for keyword in extensions.keywords]


def _certificate(der: bytes) -> dict[str, Any]:
    found = describe(der)
    return asdict(found) | {"names": list(found.names)}


def _tls(
    smarthost: Smarthost,
    plan: TlsPlan,
    connection: Connection | None,
    trouble: Trouble | None,
    chain: list[bytes],
) -> dict[str, Any]:
    up = connection is not None and connection.tls != "none"
    result = "used" if up else "not used"
    if connection is not None and connection.fallback:
        result = f"in clear: {connection.fallback}"
    if trouble is not None and trouble.stage in (Stage.STARTTLS, Stage.TLS):
        result = trouble.reason
    return {
        "level": smarthost.tls,
        "implicit": smarthost.tls_implicit,
        "check": str(plan.check),
        "result": result,
        "version": connection.tls if connection is not None and up else None,
        "cipher": connection.cipher if connection is not None and up else None,
        "chain": [_certificate(der) for der in chain],
    }


def _auth(smarthost: Smarthost, connection: Connection | None, trouble: Trouble | None) -> dict[str, Any]:
    mechanism = connection.mechanism if connection else ""
    if mechanism:
        result = "accepted"
    elif trouble is not None and trouble.stage is Stage.AUTH:
        result = trouble.reason
    else:
        result = "not tried" if smarthost.has_credentials else "not configured"
    return {
        "username": smarthost.username or None,
        "offered": list(connection.extensions.auth) if connection else None,
        "mechanism": mechanism or None,
        "result": result,
    }
