"""probe: the facts of a smarthost, with and without trouble, as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

from pysendmail import tlspolicy
from pysendmail.certificate import describe
from pysendmail.probe import probe
from pysendmail.secrets import Secrets
from rig.ca import Authority
from rig.client import PATIENT, smarthost
from rig.peer import Behaviour, Client, Ordinary, Peer

KEYS = {
    *("smarthost", "host", "port", "address", "ready", "trouble"),
    *("greeting", "extensions", "extensions_in_clear", "tls", "auth"),
}


async def facts(*behaviours: Behaviour, **settings: Any) -> dict[str, Any]:
    """What probe says of a peer; no mail was sent, and the answer is JSON."""
    async with Peer(*behaviours) as peer:
        relay = smarthost(peer, **settings)
        plan = tlspolicy.plan(relay, now=1000.0, tls_seen_at=None, failed_s=None)
        found = await probe(
            relay,
            hostname="client.example",
            timeout=PATIENT,
            plan=plan,
            secrets=Secrets(credentials_directory=""),
        )
    assert not any(command.startswith("MAIL") for command in peer.commands)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == KEYS
    return found


async def test_a_smarthost_in_order(authority: Authority, tmp_path: Path) -> None:
    """Greeting, extensions before and under TLS, version, chain, AUTH."""
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    found = await facts(
        Ordinary(tls=authority.server(), auth="PLAIN LOGIN", keywords=("PIPELINING",)),
        tls="verify",
        tls_ca_file=authority.file,
        username="box",
        password_file=str(password),
    )
    assert found["ready"]
    assert found["trouble"] is None
    assert found["greeting"] == "220 peer.example ESMTP"
    assert found["extensions"] == ["PIPELINING", "AUTH PLAIN LOGIN"]
    assert found["extensions_in_clear"] == ["PIPELINING", "STARTTLS", "AUTH PLAIN LOGIN"]
    assert (found["tls"]["version"], found["tls"]["result"]) == ("TLSv1.3", "used")
    (leaf,) = found["tls"]["chain"]
    assert leaf["sha256"] == authority.fingerprint()
    assert leaf["names"] == ["localhost", "127.0.0.1"]
    assert leaf["issuer"].startswith("O=trustme")
    assert found["auth"] == {
        "username": "box",
        "offered": ["PLAIN", "LOGIN"],
        "mechanism": "PLAIN",
        "result": "accepted",
    }


@pytest.mark.parametrize("kind", ["wrong name", "expired", "unknown authority"])
async def test_a_refused_certificate_is_shown(kind: str, authority: Authority) -> None:
    """The certificate that verification refused is the one that a person wants to see."""
    found = await facts(Ordinary(tls=authority.server(kind)), tls="verify", tls_ca_file=authority.file)
    assert not found["ready"]
    assert found["trouble"]["status"] == "4.7.5"
    assert found["tls"]["result"].startswith("certificate verification failed: ")
    assert [authority.fingerprint(kind)] == [one["sha256"] for one in found["tls"]["chain"]]


async def test_a_refused_pin_is_shown(authority: Authority) -> None:
    """The fingerprint to write into the configuration is in the answer."""
    found = await facts(Ordinary(tls=authority.server()), tls="fingerprint", tls_fingerprints=("00" * 32,))
    assert not found["ready"]
    assert authority.fingerprint() in found["tls"]["result"]
    assert [authority.fingerprint()] == [one["sha256"] for one in found["tls"]["chain"]]


async def test_no_tls_offered() -> None:
    """A policy that is not met is the answer, with what the server does offer."""
    found = await facts(Ordinary(keywords=("SIZE 5",)), tls="encrypt")
    assert found["trouble"] == {
        "stage": "starttls",
        "status": "4.7.4",
        "code": None,
        "reason": 'the server does not offer STARTTLS (tls = "encrypt" demands TLS)',
    }
    assert found["extensions"] == ["SIZE 5"]
    assert found["tls"]["chain"] == []


async def test_refused_auth(authority: Authority, tmp_path: Path) -> None:
    """A wrong password is the AUTH result."""
    password = tmp_path / "password"
    password.write_text("wrong")
    password.chmod(0o600)
    refusal = {"PLAIN AGJveAB3cm9uZw==": "535 5.7.8 wrong password"}
    found = await facts(
        Ordinary(tls=authority.server(), auth="PLAIN", users=refusal),
        tls="encrypt",
        username="box",
        password_file=str(password),
    )
    assert (found["auth"]["result"], found["auth"]["mechanism"]) == ("535 5.7.8 *** password", None)
    assert found["tls"]["result"] == "used"


async def test_a_fallback_is_told() -> None:
    """At "may" a failed handshake is a fact, though mail would go."""

    async def closes(client: Client) -> None:
        await client.say("220 peer")
        await client.hear("EHLO")
        await client.say("250-peer", "250 STARTTLS")
        await client.hear("STARTTLS")
        client.close()

    found = await facts(closes, Ordinary(), tls="may")
    assert found["ready"]
    assert found["tls"]["result"].startswith("in clear: TLS handshake failed")


async def test_nobody_there() -> None:
    """A smarthost that cannot be reached has facts too."""
    found = await facts(tls="may", host="no-such-host.invalid")
    assert (found["ready"], found["address"], found["greeting"]) == (False, None, None)
    assert found["trouble"]["stage"] == "connect"


@pytest.mark.parametrize(
    "der", [b"", b"\x30", b"\x30\x80", b"\x30\x03\x30\x01\x02", b"\x30\x82\xff\xff\x00", b"x" * 100]
)
def test_what_is_no_certificate(der: bytes) -> None:
    """Octets that are no certificate have a fingerprint and nothing else, and raise nothing."""
    found = describe(der)
    assert len(found.sha256) == 64
    assert found.subject == found.issuer == found.not_after == ""
