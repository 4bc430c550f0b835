"""The client's side in tests of sessions: settings, a message, and a session on a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from pysendmail import tlspolicy
from pysendmail.config import Smarthost, Timeout
from pysendmail.envelope import Envelope, Recipient
from pysendmail.secrets import Secrets
from pysendmail.session import Outgoing, Session
from rig.peer import Peer, PeerThread

PATIENT = Timeout()
HASTY = Timeout(connect=5, greeting=0.2, tls=0.2, command=0.2, data=0.2, data_block=0.2, data_done=0.2)
HEADER = b"From: <s@example.org>\r\nSubject: the header of the message\r\n"
BODY = b"the body of the message\r\n.a dot\r\n\r\n.\r\nthe end\r\n"


def smarthost(peer: Peer | PeerThread, **settings: Any) -> Smarthost:
    """The peer as a smarthost: in clear unless `settings` say otherwise."""
    return Smarthost(**{"name": "main", "host": "localhost", "port": peer.port, "tls": "none"} | settings)


def outgoing(*recipients: str, body: bytes = BODY, chunk: int = 7, **more: Any) -> Outgoing:
    """A message whose body comes in small chunks."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    envelope = Envelope(
        sender="s@example.org",
        recipients=tuple(Recipient(address=address) for address in recipients or ("a@example.org",)),
    )
    message = Outgoing(envelope=envelope, header=HEADER, body=chunks, size=len(HEADER) + 2 + len(body))
    return replace(message, **more)


async def open_session(
    relay: Smarthost,
    *,
    timeout: Timeout = PATIENT,
    tls_seen_at: float | None = None,
    failed_s: float | None = None,
    **more: Any,
) -> Session:
    """A session with `relay`, at time 1000."""
    plan = tlspolicy.plan(relay, now=1000.0, tls_seen_at=tls_seen_at, failed_s=failed_s)
    more.setdefault("secrets", Secrets(credentials_directory=""))
    return await Session.open(relay, hostname="client.example", timeout=timeout, plan=plan, **more)
