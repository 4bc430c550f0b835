"""What is done to a message between stdin and the smarthost, whole: every rule of sendmail(8), with installed commands.

A row is what a caller writes and what the smarthost gets. Both are written with LF; that only CRLF was on the wire is
asserted for each. Dates, queue ids and uids are DATE, ID and UID.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from rig.instance import Event, Instance, smarthost
from rig.peer import Message, Ordinary, PeerThread

DATE = rb"(Sun|Mon|Tue|Wed|Thu|Fri|Sat), \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}"
RECEIVED = b"Received: by box.example.com (pysendmail, from uid UID) id ID;\n DATE\n"
ADDED_DATE, ADDED_ID = b"Date: DATE\n", b"Message-ID: <ID@box.example.com>\n"
FROM = b"From: Me <me@example.com>\n"
ADDED = ADDED_DATE + FROM + ADDED_ID
TO = b"To: bob@example.org\n"
# Fields with which nothing is missing.
WHOLE = b"Date: yesterday\nFrom: a@x.example\nMessage-ID: <1@x.example>\n"

Setup = tuple[PeerThread, Instance]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """One daemon and one smarthost for all rows."""
    with (
        PeerThread(Ordinary()) as peer,
        Instance(tmp_path_factory.mktemp("rules"), smarthosts=[smarthost(peer)]) as instance,
    ):
        yield peer, instance


def arrived(setup: Setup, text: bytes, *arguments: str, **options: Any) -> tuple[Message, bytes, Event]:
    """What the smarthost got, its content as described above, and the event of the acceptance."""
    peer, instance = setup
    peer.messages.clear()
    seen = len(instance.events)
    instance.submit("-f", "me@example.com", *arguments, text=text, **options)
    accepted = instance.wait_for("accepted", after=seen)
    instance.wait_for("outcome", queue_id=accepted["queue_id"], status="sent")
    [message] = peer.messages
    assert re.search(rb"\r(?!\n)|(?<!\r)\n|\0", message.content) is None
    content = re.sub(DATE, b"DATE", message.content.replace(b"\r\n", b"\n"))
    content = content.replace(accepted["queue_id"].encode(), b"ID")
    return message, re.sub(rb"from uid \d+", b"from uid UID", content, count=1), accepted


# What is written after the fields that make the message whole, and what arrives there.
BODIES: dict[str, tuple[bytes, bytes]] = {
    "a line that is no field ends the header": (b"no field\nX: y\n", b"\nno field\nX: y\n"),
    "a field that is indented continues": (b"X: y\n Bcc: z\n\nb\n", b"X: y\n Bcc: z\n\nb\n"),
    "missing final newline": (b"\nhello", b"\nhello\n"),
    "missing final newline in the header": (b"X: y", b"X: y\n\n"),
    "no body": (b"", b"\n"),
    "empty lines at the end stay": (b"\n\n\nb\n\n\n", b"\n\n\nb\n\n\n"),
    "CRLF": (b"X: y\r\n\r\na\r\n\r\nb\r\n", b"X: y\n\na\n\nb\n"),
    "CRs before LF": (b"\na\r\r\nb\r\r\r\n", b"\na\nb\n"),
    "stray CR": (b"X: a\rb\n\nc\rd\n", b"X: a b\n\nc d\n"),
    "NUL": (b"X: a\0b\n\nc\0\0d\n", b"X: a b\n\nc  d\n"),
    "a lone dot ends": (b"\na\n.\nb\n", b"\na\n"),
    "a dot with CRLF ends": (b"\r\na\r\n.\r\nb\r\n", b"\na\n"),
    "dots that are not alone": (b"\n.a\n..\n. \n", b"\n.a\n..\n. \n"),
    "From in the body": (b"\nFrom here\n>From there\n", b"\nFrom here\n>From there\n"),
    "8 bits in header and body": (b"X: \xfc\xe4\n\n\xff\xfe\n", b"X: \xfc\xe4\n\n\xff\xfe\n"),
    "white space at the end of lines": (b"X: y \t\n\na \t\n", b"X: y \t\n\na \t\n"),
    "Return-Path": (b"Return-Path: <x@x.example>\nX: y\n\n", b"X: y\n\n"),
    "Return-Path, folded and spaced": (b"RETURN-path :\n <x@x.example>\nX: y\n\n", b"X: y\n\n"),
    "Content-Length": (b"Content-Length: 17\nX: y\n\n", b"X: y\n\n"),
    "Bcc without -t": (b"Bcc: a@x.example,\n b@x.example\nbCC:c@x.example\nResent-Bcc : d@x.example\n\n", b"\n"),
    "Apparently-To": (b"Apparently-To: a@x.example\n\n", b"Apparently-To: a@x.example\n\n"),
    "no To": (b"\nb\n", b"\nb\n"),
    "a line of 998": (b"\n" + b"x" * 998 + b"\n", b"\n" + b"x" * 998 + b"\n"),
    "a long field": (
        b"Subject: " + b"w" * 500 + b" " + b"v" * 600 + b"\n\n",
        b"Subject: " + b"w" * 500 + b"\n " + b"v" * 600 + b"\n\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BODIES.values(), ids=BODIES)
def test_what_arrives(setup: Setup, text: bytes, expected: bytes) -> None:
    """Each rule for header and body, to the octet; nothing else is changed."""
    assert arrived(setup, WHOLE + text, "bob@example.org")[1] == RECEIVED + WHOLE + expected


# Input, what arrives; the recipient is an argument.
ADDITIONS: dict[str, tuple[bytes, bytes]] = {
    "nothing there": (b"", ADDED + b"\n"),
    "a blank line": (b"\n", ADDED + b"\n"),
    "no header": (b"hello\nthere: x\n", ADDED + b"\nhello\nthere: x\n"),
    "no header, 8-bit": (b"\xfc\n", ADDED + b"\n\xfc\n"),
    "a header without body": (b"Subject: x\n", ADDED + b"Subject: x\n\n"),
    "Date": (b"date: d\n\n", FROM + ADDED_ID + b"date: d\n\n"),
    "From": (b"FROM : a@x.example\n\n", ADDED_DATE + ADDED_ID + b"FROM : a@x.example\n\n"),
    "Message-ID": (b"Message-Id:\n <1@x>\n\n", ADDED_DATE + FROM + b"Message-Id:\n <1@x>\n\n"),
    "empty ones": (b"From:\nDate: \nMessage-ID:\nX: y\n\n", ADDED + b"X: y\n\n"),
    "From_": (b"From me Sun Nov 22 01:02:03 2026\nX: y\n\nb\n", ADDED + b"X: y\n\nb\n"),
    "several From_, quoted": (b">From a\nFrom b\n>>From c\nX: y\n\n", ADDED + b"X: y\n\n"),
    "From_ in the middle": (b"X: y\nFrom a b\n", ADDED + b"X: y\n\nFrom a b\n"),
    "resent": (
        b"Resent-To: bob@example.org\n" + WHOLE + b"\nb\n",
        b"Resent-Date: DATE\nResent-From: Me <me@example.com>\nResent-Message-ID: <resent.ID@box.example.com>\n"
        b"Resent-To: bob@example.org\n" + WHOLE + b"\nb\n",
    ),
    "resent before": (
        b"Received: x\nResent-To: bob@example.org\n" + WHOLE + b"\n",
        b"Received: x\nResent-To: bob@example.org\n" + WHOLE + b"\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), ADDITIONS.values(), ids=ADDITIONS)
def test_what_is_added(setup: Setup, text: bytes, expected: bytes) -> None:
    """What a message lacks is put on top, below Received; what is there keeps its place and its octets."""
    assert arrived(setup, text, "-F", "Me", "bob@example.org")[1] == RECEIVED + expected


def test_nothing_is_added_for_a_gateway(setup: Setup) -> None:
    """-G: no Date, From or Message-ID; Bcc goes all the same."""
    assert arrived(setup, b"Bcc: x@x.example\nX: y\n\n", "-G", "bob@example.org")[1] == RECEIVED + b"X: y\n\n"


# Header, whom -t finds.
SOURCES: dict[str, tuple[bytes, list[str]]] = {
    "To, Cc and Bcc": (b"To: a@x.example\nCc: b@x.example\nBcc: c@x.example\n", ["a", "b", "c"]),
    "any case, spaced, folded": (b"tO : a@x.example,\n\tb@x.example\nBCC\t:c@x.example\n", ["a", "b", "c"]),
    "repeated": (b"To: a@x.example\nTo: b@x.example, a@x.example\n", ["a", "b"]),
    "names and comments": (b'To: "b, c" <a@x.example> (d@x.example), e f <g@x.example>\n', ["a", "g"]),
    "groups": (b"To: us: a@x.example, b@x.example;, c@x.example\nCc: nobody:;\n", ["a", "b", "c"]),
    "Bcc alone": (b"Bcc: a@x.example\n", ["a"]),
    "not Apparently-To": (b"Apparently-To: b@x.example\nTo: a@x.example\n", ["a"]),
    "Resent-To alone": (b"Resent-To: a@x.example\nTo: b@x.example\nBcc: c@x.example\n", ["a"]),
    "all of a Resent- block": (
        b"Resent-Cc: a@x.example\nResent-Bcc: b@x.example\nResent-To: c@x.example\nTo: d@x.example\n",
        ["a", "b", "c"],
    ),
    "the first Resent- block": (
        b"Resent-To: a@x.example\nResent-From: b@x.example\nResent-To: c@x.example\nTo: d@x.example\n",
        ["a"],
    ),
    "a Received ends the block": (b"Resent-To: a@x.example\nReceived: x\nResent-Cc: b@x.example\n", ["a"]),
}


@pytest.mark.parametrize(("header", "expected"), SOURCES.values(), ids=SOURCES)
def test_whom_t_finds(setup: Setup, header: bytes, expected: list[str]) -> None:
    """-t takes the recipients from the header, each once; no Bcc is in what arrives."""
    message, content, _ = arrived(setup, header + b"\nhello\n", "-t")
    assert sorted(address.partition("@")[0] for address in message.recipients) == [f"<{name}" for name in expected]
    assert re.search(rb"(?mi)^(resent-)?bcc", content) is None


def test_t_adds_to_the_arguments(setup: Setup) -> None:
    """As in Sendmail and Postfix, an argument is a recipient beside those of the header."""
    message, _, _ = arrived(setup, b"To: a@x.example\n\n", "-t", "b@x.example")
    assert [address.partition(">")[0] for address in message.recipients] == ["<b@x.example", "<a@x.example"]


def test_the_lone_dot_is_data_with_i(setup: Setup) -> None:
    """-i, -oi: only the end of input ends the message."""
    for option in ("-i", "-oi"):
        assert arrived(setup, WHOLE + b"\na\n.\nb\n", option, "bob@example.org")[1].endswith(b"\n\na\n.\nb\n")


def test_strays_are_counted_in_the_log(setup: Setup) -> None:
    """Who wonders about a space finds how many octets became one."""
    assert arrived(setup, b"\na\rb\0\n", "bob@example.org")[2]["stray_octets"] == "2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Me", b"From: Me <me@example.com>\n"),
        ("Me & Co. (x)", b'From: "Me & Co. (x)" <me@example.com>\n'),
        ("J\u00fcrgen", b"From: =?utf-8?b?SsO8cmdlbg==?= <me@example.com>\n"),
        ("a\nBcc: x@x.example", b'From: "a Bcc: x@x.example" <me@example.com>\n'),
    ],
)
def test_the_name_in_an_added_from(setup: Setup, name: str, expected: bytes) -> None:
    """-F goes before $NAME; it is quoted or encoded as RFC 5322 and RFC 2047 want it, and begins no field."""
    assert expected in arrived(setup, b"\n", "-F", name, "bob@example.org")[1]


def test_the_name_of_the_environment(setup: Setup) -> None:
    """$NAME is the name where -F is not given."""
    content = arrived(setup, b"", "bob@example.org", environment={"NAME": "Somebody"})[1]
    assert b"From: Somebody <me@example.com>\n" in content


def test_8_bits_are_declared(setup: Setup) -> None:
    """BODY=8BITMIME in MAIL, for a header as well as for a body."""
    for text in (b"X: \xfc\n\n", b"\n\xfc\n"):
        assert "BODY=8BITMIME" in arrived(setup, text, "bob@example.org")[0].sender.split()


def test_a_line_that_is_too_long_is_encoded(setup: Setup) -> None:
    """Never refused, never cut: quoted-printable, of which decoding gives the line again; the log says so."""
    _, content, event = arrived(setup, WHOLE + b"\n" + b"x" * 999 + b"\n", "bob@example.org")
    assert event["reencoded"] == "yes"
    header, _, body = content.partition(b"\n\n")
    assert header.endswith(b"MIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable")
    assert max(map(len, body.split(b"\n"))) <= 76
    assert body.replace(b"=\n", b"") == b"x" * 999 + b"\n"


def test_a_line_that_is_too_long_in_a_signed_part(setup: Setup) -> None:
    """It is encoded, too, since it could not be sent; the log says that the signature no longer holds."""
    text = (
        WHOLE + b'MIME-Version: 1.0\nContent-Type: multipart/signed; boundary="b"\n\n--b\nContent-Type: text/plain\n\n'
        b"%b\n--b\nContent-Type: application/pgp-signature\n\nsig\n--b--\n" % (b"x" * 1200)
    )
    _, content, event = arrived(setup, text, "bob@example.org")
    assert event["reencoded"] == "signed"
    assert content.count(b"Content-Transfer-Encoding: quoted-printable") == 1
    assert content.endswith(b"--b\nContent-Type: application/pgp-signature\n\nsig\n--b--\n")
