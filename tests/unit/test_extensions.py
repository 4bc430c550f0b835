"""What an EHLO reply offers, and how AUTH chooses from it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.smtp import sasl
from pysendmail.smtp.extensions import Extensions


def test_everything_offered() -> None:
    """Keywords in any case, parameters, unknown ones beside them."""
    lines = (
        b"peer.example hello\nsize 1000\n8BITMIME\nSmtpUtf8\nPIPELINING\nDSN\nSTARTTLS\nAUTH plain LOGIN\nX-UNKNOWN 1 2"
    )
    found = Extensions.parse(lines.split(b"\n"))
    assert found == Extensions(
        size=1000,
        declares_size=True,
        eight_bit=True,
        smtputf8=True,
        pipelining=True,
        dsn=True,
        starttls=True,
        auth=("PLAIN", "LOGIN"),
        keywords=tuple(lines.split(b"\n")[1:]),
    )


def test_nothing_offered() -> None:
    """The first line is the server's name, whatever it looks like."""
    assert Extensions.parse([b"PIPELINING"]) == Extensions()


@pytest.mark.parametrize(
    "size", [b"SIZE", b"SIZE 0", b"SIZE x", b"SIZE -1", b"SIZE 1.5", b"SIZE " + b"9" * 30, "SIZE \u0662".encode()]
)
def test_odd_sizes_are_no_limit(size: bytes) -> None:
    """SIZE without a number we understand is SIZE without a limit (RFC 1870 §4)."""
    found = Extensions.parse([b"x", size])
    assert (found.declares_size, found.size) == (True, 0)


def test_old_auth_spelling() -> None:
    """AUTH=LOGIN from before RFC 2554 counts, once."""
    assert Extensions.parse([b"x", b"AUTH=LOGIN PLAIN", b"AUTH LOGIN CRAM-MD5"]).auth == ("LOGIN", "PLAIN", "CRAM-MD5")


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_lines(lines: list[bytes]) -> None:
    """No lines raise."""
    Extensions.parse(lines)


@pytest.mark.parametrize(
    ("offered", "configured", "encrypted", "chosen"),
    [
        ("CRAM-MD5 LOGIN PLAIN", "", True, "PLAIN"),
        ("CRAM-MD5 LOGIN", "", True, "LOGIN"),
        ("CRAM-MD5", "", True, "CRAM-MD5"),
        ("CRAM-MD5 LOGIN PLAIN", "", False, "CRAM-MD5"),
        ("PLAIN LOGIN", "", False, "PLAIN"),
        ("XOAUTH2 OAUTHBEARER", "", True, None),
        ("PLAIN XOAUTH2", "XOAUTH2", True, "XOAUTH2"),
        ("PLAIN LOGIN", "LOGIN PLAIN", True, "LOGIN"),
        ("PLAIN", "LOGIN", True, None),
        ("", "", True, None),
        ("SCRAM-SHA-256", "", True, None),
        ("SCRAM-SHA-256", "SCRAM-SHA-256", True, None),
    ],
)
def test_choice_of_mechanism(offered: str, configured: str, encrypted: bool, chosen: str | None) -> None:
    """One mechanism: the administrator's first that is offered, else ours; tokens only if they are named."""
    assert chosen == sasl.choose(offered.split(), configured.split(), encrypted=encrypted)


def test_oauthbearer() -> None:
    """RFC 7628 §3.1, with the name escaped as RFC 5801 wants it."""
    text = base64.b64decode(sasl.oauthbearer("a=b,c@d.e", b"token", "mail.example", 587))
    assert text == b"n,a=a=3Db=2Cc@d.e,\x01host=mail.example\x01port=587\x01auth=Bearer token\x01\x01"
