"""A server that somebody else wrote: aiosmtpd, in clear, with STARTTLS and AUTH, on both event loops."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiosmtpd.smtp import SMTP, AuthResult

from pysendmail.config import Smarthost
from pysendmail.outcome import Outcome
from pysendmail.session import SessionError
from rig.ca import Authority
from rig.client import BODY, HEADER, open_session, outgoing


class Mailbox:
    """aiosmtpd's handler: keeps what arrives, knows nobody called nobody."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, list[str], bytes]] = []

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.arrived.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 kept"


def authenticator(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=data.password == b"secret", handled=False)


async def deliver(mailbox: Mailbox, context: ssl.SSLContext | None, **settings: Any) -> list[Outcome]:
    """Two messages over one session with aiosmtpd."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(
            mailbox,
            tls_context=context,
            authenticator=authenticator,
            auth_require_tls=True,
            enable_SMTPUTF8=True,
        ),
        "127.0.0.1",
        0,
    )
    try:
        relay = Smarthost(name="main", host="localhost", port=server.sockets[0].getsockname()[1], **settings)
        session = await open_session(relay)
        outcomes = []
        for _ in range(2):
            results = await session.send(outgoing("a@example.org", "nobody@example.org", "b@example.org"))
            outcomes += [result.outcome for result in results]
        await session.close()
        return outcomes
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", ["none", "may", "encrypt", "verify"])
@pytest.mark.filterwarnings("ignore:Session.login_data:DeprecationWarning")
def test_delivery(tls: str, runner: Any, authority: Authority, tmp_path: Path) -> None:
    """Octets arrive as they were meant, the unknown recipient bounces, over every kind of connection."""
    settings: dict[str, Any] = {"tls": tls, "tls_ca_file": authority.file}
    if tls == "verify":
        password = tmp_path / "password"
        password.write_text("secret")
        password.chmod(0o600)
        settings |= {"username": "box", "password_file": str(password)}
    mailbox = Mailbox()
    outcomes = runner(deliver(mailbox, authority.server(), **settings))
    assert outcomes == ["sent", "bounced", "sent"] * 2
    content = HEADER + b"\r\n" + BODY
    assert [("s@example.org", ["a@example.org", "b@example.org"], content)] * 2 == mailbox.arrived


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["wrong name", "unknown authority"])
def test_wrong_certificate(kind: str, runner: Any, authority: Authority) -> None:
    """On either loop a wrong certificate is the smarthost's trouble."""
    mailbox = Mailbox()
    with pytest.raises(SessionError, match="certificate verification failed"):
        runner(deliver(mailbox, authority.server(kind), tls="verify", tls_ca_file=authority.file))
    assert not mailbox.arrived
