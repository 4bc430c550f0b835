"""The rig itself: a real Postfix accepts, refuses and shows mail as the interop tests need it (client: smtplib)."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import trustme

from rig.postfix import Postfix

MESSAGE = b"Subject: exact\r\nBcc: kept@example.org\r\n\r\n.dot\r\n" + b"x" * 990 + b"\r\ntab\t \r\n\r\n"
SENDER = "alice@example.com"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def smarthost(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Postfix]:
    directory = tmp_path_factory.mktemp("smarthost")
    certificate = directory / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with Postfix(directory, certificate=certificate, users={"box": "secret"}) as started:
        yield started


Connect = Callable[[], AbstractContextManager[smtplib.SMTP]]


@pytest.fixture
def connect(smarthost: Postfix, authority: trustme.CA) -> Connect:
    """A new connection, TLS verified, EHLO said."""
    context = ssl.create_default_context()
    authority.configure_trust(context)

    @contextmanager
    def connection() -> Iterator[smtplib.SMTP]:
        with smtplib.SMTP("localhost", smarthost.port, timeout=30) as client:
            client.starttls(context=context)
            client.ehlo()
            yield client

    return connection


def test_message_is_read_back_byte_by_byte(smarthost: Postfix, connect: Connect) -> None:
    """What the client sent after DATA is what the test reads, with the envelope beside it."""
    with connect() as client:
        client.login("box", "secret")
        client.sendmail(SENDER, ["bob@example.org", "carol@example.net"], MESSAGE)
    accepted = smarthost.accepted()[-1]
    assert accepted.content == MESSAGE
    assert smarthost.messages()[-1] == MESSAGE
    assert (accepted.sender, accepted.recipients) == (SENDER, ("bob@example.org", "carol@example.net"))
    assert b"using TLSv1.3" in accepted.trace
    assert "sasl_username=box" in accepted.envelope


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_mechanism_lets_in_the_right_password_only(connect: Connect, mechanism: str) -> None:
    """Each mechanism answers 535 to a wrong password and 235 to the right one."""
    with connect() as client:
        exchange = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
        client.user, client.password = "box", "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.auth(mechanism, exchange)
        assert refused.value.smtp_code == 535
        client.password = "secret"
        assert client.auth(mechanism, exchange)[0] == 235


def test_nobody_is_served_without_a_login(connect: Connect) -> None:
    """With `users`, a client that has not authenticated gets no recipient accepted."""
    with connect() as client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail(SENDER, ["bob@example.org"], MESSAGE)


def test_recipient_gets_the_answer_that_was_asked_for(smarthost: Postfix, connect: Connect) -> None:
    """4xx and 5xx can be had for one recipient or a domain; the others are accepted, until the answer is taken back."""
    recipients = ["gone@example.org", "any@later.example", "bob@example.org"]
    smarthost.answer("gone@example.org", "550 5.1.1 no such user")
    smarthost.answer("later.example", "450 4.2.1 not now")
    with connect() as client:
        client.login("box", "secret")
        refused = client.sendmail(SENDER, recipients, MESSAGE)
    assert {address: code for address, (code, _) in refused.items()} == {
        recipients[0]: 550,
        recipients[1]: 450,
    }
    assert refused["gone@example.org"][1].startswith(b"5.1.1 ")
    assert refused["gone@example.org"][1].endswith(b"no such user")
    assert smarthost.accepted()[-1].recipients == ("bob@example.org",)

    smarthost.answer("gone@example.org", None)
    smarthost.answer("later.example", None)
    with connect() as client:
        client.login("box", "secret")
        assert client.sendmail(SENDER, recipients, MESSAGE) == {}


def test_without_users_any_client_is_served(tmp_path: Path, authority: trustme.CA) -> None:
    """No login, no TLS: a plain relay, as an old smarthost is."""
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with Postfix(tmp_path, certificate=certificate, tls="none") as relay:
        with smtplib.SMTP("localhost", relay.port, timeout=30) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            client.sendmail("", ["bob@example.org"], MESSAGE)
        assert relay.accepted()[0].sender == ""
        assert relay.messages() == [MESSAGE]
