"""AUTH: which mechanism, once, over what, and that the secret shows nowhere."""

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from pysendmail.outcome import Outcome, Scope
from pysendmail.session import SessionError
from rig.ca import Authority
from rig.client import HASTY, PATIENT, open_session, outgoing, smarthost
from rig.peer import Client, Ordinary, Peer

PASSWORD = "op\u00e9n ses\u00e4me"
PLAIN = b64encode(f"\0box\0{PASSWORD}".encode()).decode()
WORD = b64encode(PASSWORD.encode()).decode()
TOKEN = b64encode(f"user=box\x01auth=Bearer {PASSWORD}\x01\x01".encode()).decode()


@pytest.fixture
def account(tmp_path: Path) -> dict[str, Any]:
    """Settings with credentials that may go in clear, so that most tests need no TLS."""
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    path.chmod(0o600)
    return {"username": "box", "password_file": str(path), "auth_in_clear": True}


@pytest.mark.parametrize(
    ("offered", "configured", "exchange"),
    [
        ("PLAIN LOGIN", (), f"PLAIN {PLAIN}"),
        ("LOGIN", (), f"LOGIN {b64encode(b'box').decode()} {WORD}"),
        ("XOAUTH2", ("XOAUTH2",), f"XOAUTH2 {TOKEN}"),
    ],
)
async def test_mechanisms(
    offered: str, configured: tuple[str, ...], exchange: str, account: dict[str, Any], authority: Authority
) -> None:
    """Each mechanism says what its RFC wants, in clear and under TLS alike."""
    for tls in ("none", "encrypt"):
        async with Peer(Ordinary(tls=authority.server(), auth=offered)) as peer:
            session = await open_session(smarthost(peer, **account | {"tls": tls, "auth": configured}))
            assert [result.outcome for result in await session.send(outgoing())] == [Outcome.SENT]
            await session.close()
        assert [exchange] == peer.exchanges
        assert (exchange.encode() in peer.clear) is (tls == "none" and "LOGIN" not in exchange)


async def test_cram_md5(account: dict[str, Any]) -> None:
    """In clear CRAM-MD5 is preferred, and neither password nor its base64 goes over the wire."""
    async with Peer(Ordinary(auth="PLAIN LOGIN CRAM-MD5")) as peer:
        session = await open_session(smarthost(peer, **account))
        await session.close()
    assert peer.exchanges[0].startswith("CRAM-MD5 ")
    user, digest = b64decode(peer.exchanges[0].split()[1]).decode().split()
    assert (user, len(digest)) == ("box", 32)
    assert WORD.encode() not in peer.clear


async def test_oauthbearer(account: dict[str, Any]) -> None:
    """The token with host and port (RFC 7628)."""
    async with Peer(Ordinary(auth="OAUTHBEARER")) as peer:
        session = await open_session(smarthost(peer, **account, auth=("OAUTHBEARER",)))
        await session.close()
    text = b64decode(peer.exchanges[0].split()[1]).decode()
    assert text == f"n,a=box,\x01host=localhost\x01port={peer.port}\x01auth=Bearer {PASSWORD}\x01\x01"


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
async def test_a_refused_token(mechanism: str, account: dict[str, Any]) -> None:
    """A token's refusal comes as a challenge, which is answered so that the 535 can follow."""

    async def refuses(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", f"250 AUTH {mechanism}")
        await client.hear(f"AUTH {mechanism}")
        await client.say("334 eyJzdGF0dXMiOiI0MDEifQ==")
        await client.hear("")
        await client.say("535 5.7.8 expired")
        await client.stall()

    async with Peer(refuses) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account, auth=(mechanism,)))
    assert raised.value.trouble.code == 535


@pytest.mark.parametrize(
    ("offered", "reply", "scope"),
    [
        ("PLAIN LOGIN CRAM-MD5", "535 5.7.8 wrong", Scope.SMARTHOST),
        ("PLAIN LOGIN", "534 5.7.9 too weak", Scope.SMARTHOST),
        ("PLAIN", "454 4.7.0 later", Scope.SMARTHOST),
        ("PLAIN", "421 4.3.2 bye", Scope.SESSION),
        ("PLAIN", "250 fine", Scope.SMARTHOST),
        ("LOGIN", "334 what?", Scope.SMARTHOST),
    ],
)
async def test_refused(offered: str, reply: str, scope: Scope, account: dict[str, Any]) -> None:
    """A refusal is the smarthost's trouble; no second mechanism is tried, and no mail is sent without AUTH."""

    async def refuses(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", f"250 AUTH {offered}")
        if (await client.hear("AUTH")).split()[1] != "PLAIN":
            await client.say("334 PDFAcGVlcj4=")
            await client.hear("")
        await client.say(reply)
        await client.stall()

    async with Peer(refuses) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account))
    trouble = raised.value.trouble
    assert ("auth", scope, Outcome.DEFERRED) == (trouble.stage, trouble.verdict.scope, trouble.verdict.outcome)
    assert trouble.reason == reply
    assert sum(command.startswith("AUTH") for command in peer.commands) == 1


@pytest.mark.parametrize(
    ("offered", "configured"), [("", ()), ("GSSAPI SCRAM-SHA-256", ()), ("XOAUTH2", ()), ("PLAIN", ("LOGIN",))]
)
async def test_no_common_mechanism(offered: str, configured: tuple[str, ...], account: dict[str, Any]) -> None:
    """With credentials configured nothing goes without AUTH: the smarthost is in trouble."""
    async with Peer(Ordinary(auth=offered)) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account, auth=configured))
    assert (
        raised.value.trouble.stage,
        raised.value.trouble.verdict.scope,
        raised.value.trouble.status,
    ) == ("auth", "smarthost", "4.7.4")
    assert "AUTH" not in peer.clear.decode()


async def test_a_missing_secret_opens_nothing(account: dict[str, Any]) -> None:
    """Without the password there is no connection: the server would only count a failure."""
    async with Peer() as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account | {"password_file": "/no/such/file"}))
    assert (
        raised.value.trouble.stage,
        raised.value.trouble.verdict.scope,
        raised.value.trouble.status,
    ) == ("auth", "smarthost", "4.7.0")
    assert "smarthost main: password_file /no/such/file" in raised.value.trouble.reason
    assert not peer.clients


async def test_the_password_is_read_at_each_connection(account: dict[str, Any]) -> None:
    """A changed password needs no restart."""
    async with Peer(Ordinary(auth="PLAIN")) as peer:
        relay = smarthost(peer, **account)
        for password in ("first", "second"):
            Path(account["password_file"]).write_text(password)
            await (await open_session(relay)).close()
    assert [b64decode(text.split()[1]).split(b"\0")[2] for text in peer.exchanges] == [b"first", b"second"]


@pytest.mark.parametrize("form", [PASSWORD, WORD, PLAIN, TOKEN], ids=["itself", "base64", "PLAIN", "XOAUTH2"])
async def test_a_server_that_repeats_the_secret(form: str, account: dict[str, Any]) -> None:
    """A secret that a server writes into its replies shows in no trace, error or result."""
    lines: list[str] = []
    async with Peer(Ordinary(auth="PLAIN", users={f"PLAIN {PLAIN}": f"535 5.7.8 not {form}!"})) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account), trace=lines.append)
        assert raised.value.trouble.reason == "535 5.7.8 not ***!"
    async with Peer(Ordinary(auth="PLAIN", mail=f"550 5.7.1 {form} says no", keywords=())) as peer:
        session = await open_session(smarthost(peer, **account), trace=lines.append)
        results = await session.send(outgoing())
        assert [result.reply for result in results] == ["550 5.7.1 *** says no"]
        await session.close()
    text = "\n".join((*lines, str(raised.value), repr(raised.value), repr(raised.value.__dict__)))
    for secret in (PASSWORD, WORD, PLAIN, TOKEN):
        assert secret not in text


async def test_a_server_that_repeats_what_it_does_not_understand(account: dict[str, Any]) -> None:
    """As many do with an unknown command: the token of OAUTHBEARER, which names host and port, does not show."""

    async def repeats(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", "250 AUTH OAUTHBEARER")
        await client.say(f"500 5.5.1 unknown: {await client.hear('AUTH')}")

    lines: list[str] = []
    async with Peer(repeats) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account, auth=("OAUTHBEARER",)), trace=lines.append)
    assert raised.value.trouble.reason == "500 5.5.1 unknown: AUTH OAUTHBEARER ***"
    assert not any(len(word) > 20 for line in lines for word in line.split())


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
async def test_trace_hides_the_exchange(mechanism: str, account: dict[str, Any]) -> None:
    """The trace names the mechanism and nothing that follows it."""
    lines: list[str] = []
    async with Peer(Ordinary(auth=mechanism)) as peer:
        session = await open_session(smarthost(peer, **account, auth=(mechanism,)), trace=lines.append)
        await session.close()
    said = [line for line in lines if line.startswith("> ")]
    hidden = [f"> AUTH {mechanism}", "> ***"] if mechanism == "CRAM-MD5" else [f"> AUTH {mechanism} ***"]
    assert [line for line in said if "AUTH" in line or "***" in line][: len(hidden)] == hidden
    assert not any(len(word) > 20 for line in said for word in line.split())


async def test_silence_during_auth(account: dict[str, Any]) -> None:
    """A server that says nothing to AUTH has the time of a command."""

    async def silent(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", "250 AUTH PLAIN")
        await client.stall()

    async with Peer(silent) as peer:
        with pytest.raises(SessionError) as raised:
            await open_session(smarthost(peer, **account), timeout=HASTY)
    assert raised.value.trouble.status == "4.4.2"
    assert PATIENT.command == 300
