"""pysendmail, whole and installed, against a real Postfix as its smarthost: STARTTLS, AUTH, and its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from rig.instance import Instance
from rig.instance import smarthost as table
from rig.postfix import Postfix

TEXT = (
    b"To: bob@example.org\nBcc: secret@example.org\nSubject: interop\n\n"
    b".a line that begins with a dot\n\xc3\xa9 and eight bits\n" + b"x" * 900 + b"\n.\nthe end without a newline"
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Postfix]:
    directory = tmp_path_factory.mktemp("postfix")
    certificate = directory / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with Postfix(directory, certificate=certificate, users={"box": "secret"}) as started:
        yield started


def instance_for(directory: Path, postfix: Postfix, authority: trustme.CA, password: str = "secret") -> Instance:
    (directory / "password").write_text(f"{password}\n")
    (directory / "password").chmod(0o600)
    ca = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    settings = {
        "host": "localhost",
        "tls_ca_file": str(ca),
        "username": "box",
        "password_file": str(directory / "password"),
    }
    return Instance(directory, smarthosts=[table(postfix, **settings)], retry={"first": "1s"})


def test_message_arrives_byte_by_byte(tmp_path: Path, postfix: Postfix, authority: trustme.CA) -> None:
    """A message with every edge leaves over verified TLS after AUTH, and is what was typed, with our fields on top."""
    with instance_for(tmp_path, postfix, authority) as instance:
        instance.submit("-t", "-i", text=TEXT)
        sent = instance.wait_for("outcome")
    assert (sent["status"], sent["tls"]) == ("sent", "TLSv1.3")
    accepted = postfix.accepted()[-1]
    assert accepted.recipients == ("bob@example.org", "secret@example.org")
    assert "sasl_username=box" in accepted.envelope
    header, _, body = accepted.content.partition(b"\r\n\r\n")
    assert header.startswith(b"Received: by box.example.com (pysendmail, from uid ")
    assert b"secret@example.org" not in header
    assert header.endswith(b"To: bob@example.org\r\nSubject: interop")
    assert body == TEXT.partition(b"\n\n")[2].replace(b"\n", b"\r\n") + b"\r\n"


def test_one_recipient_of_three_is_refused(tmp_path: Path, postfix: Postfix, authority: trustme.CA) -> None:
    """A 550 to one RCPT bounces it, a 450 defers another, the third gets the mail; pipelining keeps them apart."""
    postfix.answer("gone@example.org", "550 5.1.1 no such user")
    postfix.answer("later@example.org", "450 4.2.1 not now")
    with instance_for(tmp_path, postfix, authority) as instance:
        instance.submit("-f", "alice@example.com", "gone@example.org", "bob@example.org", "later@example.org")
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
        outcomes = {one["recipient"]: one["status"] for one in instance.matching("outcome")}
        assert outcomes["<gone@example.org>"] == "bounced"
        assert outcomes["<bob@example.org>"] == "sent"
        assert outcomes["<later@example.org>"] == "deferred"
        bounce = postfix.messages()[-1]
        assert b"no such user" in bounce
        assert b"Final-Recipient: rfc822; gone@example.org" in bounce
        postfix.answer("later@example.org", None)
        postfix.answer("gone@example.org", None)
        instance.pysendmail("flush")
        instance.wait_for("outcome", recipient="<later@example.org>", status="sent")


def test_wrong_password_rests_the_smarthost(tmp_path: Path, postfix: Postfix, authority: trustme.CA) -> None:
    """535 bounces nothing: the smarthost is in trouble and says why; the right password lets the mail go."""
    with instance_for(tmp_path, postfix, authority, password="wrong") as instance:
        instance.submit("bob@example.org")
        trouble = instance.wait_for("trouble")
        assert trouble["reason"].startswith("535 5.7.8")
        report = instance.status()
        assert (report["health"], report["queued"], report["smarthosts"][0]["state"]) == ("critical", 1, "trouble")
        (tmp_path / "password").write_text("secret\n")
        instance.pysendmail("flush")
        instance.wait_for("outcome", status="sent")
        assert instance.status()["smarthosts"][0]["state"] == "up"


def test_probe_shows_what_postfix_offers(tmp_path: Path, postfix: Postfix, authority: trustme.CA) -> None:
    """probe logs in, names the TLS version and the certificate, and sends nothing."""
    before = len(postfix.accepted())
    with instance_for(tmp_path, postfix, authority) as instance:
        facts = json.loads(instance.pysendmail("probe", "--json"))
    assert facts["ready"] is True
    assert facts["tls"]["version"] == "TLSv1.3"
    assert facts["auth"]["result"] == "accepted"
    assert len(facts["tls"]["chain"][0]["sha256"]) == 64
    assert len(postfix.accepted()) == before
