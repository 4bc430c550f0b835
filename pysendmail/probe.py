"""Probe: what a smarthost says and can do, and whether mail could go there under its policy; sends no mail.

One connection does what delivery would do, up to the point where MAIL would follow. When a sender is asked about, MAIL
and RCPT follow, and RSET instead of a message. If the certificate is refused, a
second one without that check, and without credentials, finds out what certificate it is. The answer is a dict for
JSON: every key is always there, None where there is nothing.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from math import floor
from typing import Any

from aiosmtplib import SMTPException

from pysendmail import advice
from pysendmail.certificate import describe
from pysendmail.config import MAX_SIZE, Smarthost, Timeout
from pysendmail.connection import Connection, Opener, SessionError, leave, redact
from pysendmail.envelope import Recipient
from pysendmail.gate import Trace
from pysendmail.outcome import Stage, Trouble
from pysendmail.secrets import Secrets
from pysendmail.smtp import wire
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import Reply, printable
from pysendmail.tlspolicy import Check, TlsPlan

MAX_CHAIN = 10  # certificates shown
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether the smarthost would take mail from `sender` to `recipient`."""

    sender: str
    recipient: str


async def probe(
    smarthost: Smarthost,
    *,
    hostname: str,
    timeout: Timeout,  # noqa: ASYNC109 - the seconds of each step
    plan: TlsPlan,
    now: float,
    secrets: Secrets | None = None,
    trace: Trace | None = None,
    question: Question | None = None,
    max_message_size: int = MAX_SIZE,
) -> dict[str, Any]:
    """The facts, and what they mean (`advice`). Whatever goes wrong is one of them. `now` is wall clock."""
    chain: list[bytes] = []
    opener = Opener(smarthost, hostname=hostname, timeout=timeout, plan=plan, secrets=secrets, trace=trace)
    opener.on_tls = lambda tls: chain.extend(_chain(tls))
    trouble: Trouble | None = None
    address = ""
    sender: dict[str, Any] | None = None
    try:
        connection: Connection | None = await opener.open()
        assert connection is not None
        address = connection.address
        try:
            sender = await _ask(connection, question, timeout.command) if question else None
        finally:
            await leave(connection)
    except SessionError as error:
        trouble, address, connection = error.trouble, error.address, opener.connection
    if trouble is not None and trouble.stage is Stage.TLS and not chain:
        await _look_again(smarthost, hostname, timeout, plan, chain)
    facts = {
        "smarthost": smarthost.name,
        "host": smarthost.host,
        "port": smarthost.port,
        "address": address or None,
        "ready": trouble is None and (sender is None or sender["accepted"]),
        "trouble": _trouble(trouble),
        "greeting": (connection.greeting or None) if connection else None,
        "extensions": _keywords(connection.extensions if connection else None),
        "extensions_in_clear": _keywords(connection.extensions_in_clear if connection else None),
        "tls": _tls(smarthost, plan, connection, trouble, chain, now),
        "auth": _auth(smarthost, connection, trouble),
        "sender": sender,
    }
    return facts | {"findings": advice.findings(facts, smarthost, max_message_size)}


async def _ask(connection: Connection, question: Question, timeout_s: float) -> dict[str, Any]:
    """MAIL, RCPT and RSET, without a message; the replies, or what came instead of one."""
    replies: list[Reply] = []
    trouble = ""
    smtputf8 = any(map(wire.needs_smtputf8, (question.sender, question.recipient)))
    try:
        mail = wire.mail(question.sender, smtputf8=smtputf8 and connection.extensions.smtputf8)
        rcpt = wire.rcpt(Recipient(address=question.recipient), smtputf8=smtputf8 and connection.extensions.smtputf8)
        for command in (mail, rcpt, wire.command(b"RSET")):
            await connection.smtp.execute_command(command.removesuffix(b"\r\n"), timeout=timeout_s)
            assert connection.gate.last is not None
            replies.append(connection.gate.last)
            if not connection.gate.last.positive and command is mail:
                break
    except wire.WireError as error:
        trouble = printable(str(error))
    except (SMTPException, OSError):
        trouble = "the server closed the connection, or did not answer"
    texts = [redact(reply.text, connection.secrets) for reply in replies[:2]]
    texts += [trouble] * (not replies or (trouble != "" and len(replies) < 2))
    refused = next((reply for reply in replies[:2] if not reply.positive), None)
    return {
        "address": question.sender,
        "recipient": question.recipient,
        "mail": texts[0],
        "rcpt": texts[1] if len(texts) > 1 else None,
        "status": refused.status if refused else "4.4.2" if len(replies) < 2 else replies[1].status,
        "accepted": refused is None and len(replies) >= 2,
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


def _certificate(der: bytes, now: float) -> dict[str, Any]:
    found = describe(der)
    days = None
    if found.not_after:
        days = floor((datetime.fromisoformat(found.not_after).timestamp() - now) / DAY_S)
    return asdict(found) | {"names": list(found.names), "days_left": days}


def _tls(
    smarthost: Smarthost,
    plan: TlsPlan,
    connection: Connection | None,
    trouble: Trouble | None,
    chain: list[bytes],
    now: float,
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
        "remembered": plan.remembered,
        "chain": [_certificate(der, now) for der in chain],
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
