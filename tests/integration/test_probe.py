"""probe: the facts of a smarthost, with and without trouble, as JSON."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pysendmail import tlspolicy
from pysendmail.certificate import describe
from pysendmail.probe import Question, probe
from pysendmail.secrets import Secrets
from rig.ca import Authority
from rig.client import PATIENT, smarthost
from rig.peer import Behaviour, Client, Ordinary, Peer, leaves_at_mail

KEYS = {
    *("smarthost", "host", "port", "address", "ready", "trouble"),
    *("greeting", "extensions", "extensions_in_clear", "tls", "auth", "sender", "findings"),
}
MAN = Path(__file__).parents[2] / "man" / "pysendmail.8"
NOW = 1000.0


async def facts(
    *behaviours: Behaviour, question: Question | None = None, now: float = NOW, **settings: Any
) -> dict[str, Any]:
    """What probe says of a peer; no mail was sent, and the answer is JSON."""
    async with Peer(*behaviours) as peer:
        relay = smarthost(peer, **settings)
        plan = tlspolicy.plan(relay, now=now, tls_seen_at=None, failed_s=None)
        found = await probe(
            relay,
            hostname="client.example",
            timeout=PATIENT,
            plan=plan,
            now=now,
            secrets=Secrets(credentials_directory=""),
            question=question,
        )
    assert not peer.messages
    assert "DATA" not in peer.commands
    assert question or not any(command.startswith("MAIL") for command in peer.commands)
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


async def test_a_sender_that_is_taken() -> None:
    """MAIL, RCPT, and RSET instead of a message; the replies are told."""
    found = await facts(Ordinary(), question=Question(sender="root@box.example", recipient="me@example.org"))
    assert found["ready"]
    assert found["sender"] == {
        "address": "root@box.example",
        "recipient": "me@example.org",
        "mail": "250 2.1.0 ok",
        "rcpt": "250 2.1.5 ok",
        "status": "2.1.5",
        "accepted": True,
    }


async def test_a_sender_that_is_refused() -> None:
    """The account may send as itself only: mail cannot go there from him, and the finding says what to write."""
    question = Question(sender="root@box.example", recipient="me@example.org")
    found = await facts(Ordinary(only="box@example.com"), question=question)
    assert (found["ready"], found["trouble"], found["sender"]["rcpt"]) == (False, None, None)
    (finding,) = [one for one in found["findings"] if one["level"] == "error"]
    assert finding["text"].startswith("MAIL FROM:<root@box.example> is refused: 553 5.7.1 Sender address rejected")
    assert 'from = "force"' in finding["mend"]


async def test_a_recipient_that_is_refused() -> None:
    """RCPT is asked as well: some servers judge the sender only there."""
    question = Question(sender="a@example.org", recipient="b@example.org")
    found = await facts(Ordinary(rcpt={"b@example.org": "550 5.7.60 SendAsDenied"}), question=question)
    assert (found["sender"]["mail"], found["sender"]["rcpt"]) == ("250 2.1.0 ok", "550 5.7.60 SendAsDenied")
    assert found["sender"]["status"] == "5.7.60"
    assert found["findings"][0]["text"].startswith("RCPT TO:<b@example.org> is refused")


async def test_a_server_that_leaves_at_mail() -> None:
    """No reply to MAIL is told as what it is."""
    found = await facts(leaves_at_mail, question=Question(sender="a@example.org", recipient="a@example.org"))
    assert found["sender"]["mail"] == "the server closed the connection, or did not answer"
    assert not found["ready"]


async def test_days_to_expiry(authority: Authority) -> None:
    """Days that are left, rounded down; soon is a warning, and it says who has to do something."""
    server = Ordinary(tls=authority.server())
    found = await facts(server, tls="verify", tls_ca_file=authority.file)
    (leaf,) = found["tls"]["chain"]
    ends = datetime.fromisoformat(leaf["not_after"])
    assert leaf["days_left"] == (ends - datetime.fromtimestamp(NOW, UTC)).days
    near = (ends - timedelta(days=3, hours=1)).timestamp()
    found = await facts(server, tls="verify", tls_ca_file=authority.file, now=near)
    assert found["tls"]["chain"][0]["days_left"] == 3
    assert {
        "level": "warning",
        "text": "the certificate expires in 3 days",
        "mend": "its administrator has to renew it",
    } in found["findings"]


MENDS = {
    "wrong name": "the certificate is for other.example: if that is your server, write that name as host",
    "expired": "its administrator has to renew it",
    "unknown authority": "name that authority's file as tls_ca_file, or, if its administrator tells you",
}


@pytest.mark.parametrize("kind", MENDS)
async def test_a_refused_certificate_has_its_mend(kind: str, authority: Authority) -> None:
    """What to do depends on what is wrong with it."""
    found = await facts(Ordinary(tls=authority.server(kind)), tls="verify", tls_ca_file=authority.file)
    (error,) = [one for one in found["findings"] if one["level"] == "error"]
    assert MENDS[kind] in error["mend"]


async def test_the_pin_is_ready_to_paste(authority: Authority) -> None:
    """What the mend says to write is what the configuration takes, and with it mail can go there."""
    server = Ordinary(tls=authority.server("unknown authority"))
    found = await facts(server, tls="verify", tls_ca_file=authority.file)
    written = re.search(r'tls_fingerprints = (\["[0-9a-f]+"\])', found["findings"][0]["mend"])
    assert written is not None
    found = await facts(server, tls="fingerprint", tls_fingerprints=tuple(json.loads(written[1])))
    assert found["ready"]


async def test_tls_from_the_first_byte_where_it_is_not_meant(authority: Authority) -> None:
    """Both mistakes about a port are recognised: too early, and too late."""
    early = await facts(Ordinary(tls=authority.server()), tls="encrypt", tls_implicit=True)
    assert "leave tls_implicit out" in early["findings"][0]["mend"]


async def test_a_small_size_is_noted() -> None:
    """A server that takes less than we do makes bounces of large mail."""
    found = await facts(Ordinary(keywords=("SIZE 1048576", "PIPELINING")))
    assert [one["mend"] for one in found["findings"]] == [
        'write max_message_size = "1048576B" in [queue]: then such mail is refused at once'
    ]


async def test_the_manual_has_every_key(authority: Authority) -> None:
    """pysendmail(8) documents the JSON of probe: each key that there is, and no other."""
    found = await facts(
        Ordinary(tls=authority.server("expired"), keywords=()),
        tls="verify",
        tls_ca_file=authority.file,
        question=Question(sender="a@example.org", recipient="a@example.org"),
    )
    more = await facts(Ordinary(), question=Question(sender="a@example.org", recipient="a@example.org"))
    keys = {*found, *found["trouble"], *found["tls"], *found["tls"]["chain"][0], *found["auth"], *more["sender"]}
    keys |= set(found["findings"][0])
    entry = MAN.read_text().split(".It Cm probe Fl -json\n")[1].split("\n.It ")[0].split("\n.El\n")[0]
    documented = {
        word
        for line in entry.splitlines()
        if line.startswith(".Ic ")
        for word in line.removeprefix(".Ic ").split()
        if word not in (";", ".", ",")
    }
    assert keys == documented
