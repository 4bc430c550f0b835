"""bounce: what a report says, in golden files, and what nobody can make it say, as properties.

The golden files hold LF for reading; the reports hold CRLF. Regenerate them with PYSENDMAIL_GOLDEN=write and read
the difference: they are what people and programs get.
"""

from __future__ import annotations

import email
import email.policy
import os
import re
import time
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.bounce import (
    MAX_RETURNED_HEADER,
    Original,
    Report,
    Reported,
    Reporter,
    delay_report,
    failure_report,
    postmaster_note,
    relayed_report,
)
from pysendmail.outcome import Outcome

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_795_309_323.0


def utc(epoch: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(epoch))


REPORTER = Reporter(hostname="box.example.com", domain="example.com", date=utc)
HEADER = (
    b"Received: by box.example.com (pysendmail, from uid 1000) id 4QwErTy12345;\r\n"
    b" Sun, 22 Nov 2026 01:00:00 +0000\r\n"
    b"From: Ann <ann@example.com>\r\n"
    b"To: bob@example.org, carol@example.org\r\n"
    b"Subject: The figures\r\n"
    b"Message-ID: <figures@example.com>\r\n"
)


def original(**changes: object) -> Original:
    values: dict[str, object] = {
        "sender": "ann@example.com",
        "queue_id": "4QwErTy12345",
        "accepted_at": NOW - 120,
        "header": HEADER,
        "message_id": "<figures@example.com>",
    }
    return Original(**(values | changes))  # type: ignore[arg-type]


def about(**changes: object) -> Reported:
    values: dict[str, object] = {
        "address": "bob@example.org",
        "outcome": Outcome.BOUNCED,
        "status": "5.1.1",
        "reply": "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown in virtual table",
        "code": 550,
        "smarthost": "main",
        "host": "smtp.example.com",
        "last_attempt_at": NOW - 5,
    }
    return Reported(**(values | changes))  # type: ignore[arg-type]


EXPIRED = about(
    address="carol@example.org",
    orcpt="rfc822;carol+list@example.org",
    outcome=Outcome.EXPIRED,
    status="4.4.2",
    code=None,
    reply="no answer within 300 s",
    attempts=131,
)


def golden(name: str, report: Report) -> None:
    text = (report.header + b"\r\n" + report.body).replace(b"\r\n", b"\n")
    path = GOLDEN / name
    if os.environ.get("PYSENDMAIL_GOLDEN") == "write":
        path.write_bytes(text)
    assert path.read_bytes().decode() == text.decode()


def parse(report: Report) -> EmailMessage:
    """The report as the stdlib reads it, without a defect anywhere, as the multipart/report that RFC 6522 wants."""
    message = email.message_from_bytes(report.header + b"\r\n" + report.body, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    parts = list(message.walk())
    assert [defect for part in parts[:2] for defect in part.defects] == []
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert len(message.get_payload()) == 3
    return message


def returned(report: Report) -> EmailMessage:
    part = parse(report).get_payload(2)
    assert isinstance(part, EmailMessage)
    return part


# --- what people and programs get ----------------------------------------------------------------------------


def test_a_failure_names_each_recipient_the_reply_and_what_to_do() -> None:
    """One bounce names all that failed, refused and expired, each with its reply and a hint."""
    report = failure_report(REPORTER, original(envid="job-17"), [about(), EXPIRED], queue_id="4Bounce00001", now=NOW)
    golden("failure.eml", report)
    status = parse(report).get_payload(1)
    assert [block["Action"] for block in status.get_payload()[1:]] == ["failed", "failed"]
    assert status.get_payload()[2]["Original-Recipient"] == "rfc822;carol+list@example.org"


def test_a_delay_says_that_nothing_needs_to_be_done_and_until_when() -> None:
    """The delay notice says that it is only a warning and carries Will-Retry-Until."""
    late = about(
        outcome=Outcome.DEFERRED,
        status="4.7.1",
        code=451,
        reply="451 4.7.1 Greylisted, try later",
        attempts=9,
    )
    report = delay_report(REPORTER, original(), [late], queue_id="4Delay000001", now=NOW, retry_until=NOW + 432_000)
    golden("delay.eml", report)
    assert utc(NOW + 432_000) == parse(report).get_payload(1).get_payload()[1]["Will-Retry-Until"]


def test_relayed_says_that_the_trail_ends() -> None:
    """NOTIFY=SUCCESS through a server without DSN gives Action: relayed, never delivered."""
    sent = about(outcome=Outcome.SENT, status="2.0.0", code=250, reply="250 2.0.0 Ok: queued as 7F3A1")
    report = relayed_report(REPORTER, original(), [sent], queue_id="4Relay000001", now=NOW)
    golden("relayed.eml", report)
    assert parse(report).get_payload(1).get_payload()[1]["Action"] == "relayed"


def test_the_postmaster_gets_the_report_that_failed() -> None:
    """A note holds the failed report, so that somebody learns which mail was lost."""
    failed = failure_report(REPORTER, original(), [about()], queue_id="4Bounce00001", now=NOW - 60)
    bounce = original(sender="", queue_id="4Bounce00001", header=failed.header, body=failed.body, message_id="")
    report = postmaster_note(
        REPORTER,
        bounce,
        [about(address="ann@example.com")],
        to="root@example.com",
        queue_id="4Note0000001",
        now=NOW,
    )
    golden("postmaster.eml", report)
    inner = returned(report).get_payload(0)
    assert (report.to, inner.get_content_type()) == ("root@example.com", "multipart/report")


def test_addresses_outside_ascii_take_the_global_types() -> None:
    """RFC 6533: message/global-delivery-status with utf-8 addresses, and message/global-headers."""
    header = "From: ann@example.com\r\nSubject: Grüße\r\n".encode()
    failed = about(
        address="jürgen@example.org",
        orcpt="utf-8;jürgen@example.org",
        reply="550 5.1.1 Empfänger unbekannt",
    )
    report = failure_report(REPORTER, original(header=header), [failed], queue_id="4Global00001", now=NOW)
    golden("global.eml", report)
    types = [part.get_content_type() for part in parse(report).get_payload()]
    assert types == ["text/plain", "message/global-delivery-status", "message/global-headers"]
    assert (report.eight_bit, report.smtputf8) == (True, False)


# --- to whom, from whom ---------------------------------------------------------------------------------------


def test_a_report_comes_from_the_null_sender_and_is_marked() -> None:
    """Null reverse-path, Auto-Submitted, our mark, a thread with the original."""
    report = failure_report(REPORTER, original(), [about()], queue_id="4Bounce00001", now=NOW)
    message = parse(report)
    assert (report.to, report.sender) == ("ann@example.com", "")
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["X-Pysendmail-Report"] == "4QwErTy12345"
    assert message["References"] == "<figures@example.com>"
    assert report.message_id == message["Message-ID"] == "<4Bounce00001@box.example.com>"


def test_bounce_sender_of_the_configuration_is_used_in_envelope_and_from() -> None:
    """A smarthost that refuses <> refuses a foreign From as well."""
    reporter = Reporter(hostname="box.example.com", domain="example.com", date=utc, sender="box@example.com")
    report = failure_report(reporter, original(), [about()], queue_id="4Bounce00001", now=NOW)
    assert report.sender == "box@example.com"
    assert "box@example.com" in parse(report)["From"]


def test_the_null_sender_gets_no_report() -> None:
    """A report to <> is a bug of the caller, not a message."""
    with pytest.raises(ValueError, match="null sender"):
        failure_report(REPORTER, original(sender=""), [about()], queue_id="4Bounce00001", now=NOW)


@pytest.mark.parametrize("outcome", [Outcome.SENT, Outcome.DEFERRED, Outcome.UNCERTAIN])
def test_no_bounce_for_what_has_not_failed(outcome: Outcome) -> None:
    """Only bounced and expired recipients stand in a bounce."""
    with pytest.raises(ValueError, match="bounced or expired"):
        failure_report(REPORTER, original(), [about(), about(outcome=outcome)], queue_id="4B", now=NOW)


def test_a_sender_outside_ascii_needs_smtputf8() -> None:
    """The report's own recipient decides whether it needs SMTPUTF8; a domain can be written in ASCII."""
    for sender, needed in (("jürgen@example.com", True), ("ann@bücher.example", False)):
        report = failure_report(REPORTER, original(sender=sender), [about()], queue_id="4B", now=NOW)
        assert needed == report.smtputf8


# --- what is returned -----------------------------------------------------------------------------------------


def test_promise_7_bcc_is_never_returned() -> None:
    """Bcc and Resent-Bcc, folded and in the obsolete spelling, stay out of a bounce."""
    header = HEADER + b"bCC : dave@example.org,\r\n\teve@example.org\r\nResent-Bcc: fred@example.org\r\nX-Last: 1\r\n"
    for ret in ("full", "hdrs"):
        report = failure_report(REPORTER, original(header=header, body=b"", ret=ret), [about()], queue_id="4B", now=NOW)
        assert not re.search(rb"(?i)bcc|dave|eve@|fred", report.body)
        assert b"X-Last: 1" in report.body


def test_ret_full_returns_the_message_within_max_return() -> None:
    """RET=FULL returns the whole message, unless it is larger than max_return."""
    small = failure_report(REPORTER, original(body=b"Hello\r\n", ret="full"), [about()], queue_id="4B", now=NOW)
    assert returned(small).get_content_type() == "message/rfc822"
    assert b"\r\n\r\n" + HEADER + b"\r\nHello\r\n" in small.body
    body = b"x" * 70 + b"\r\n"
    large = failure_report(REPORTER, original(body=body * 20_000, ret="full"), [about()], queue_id="4B", now=NOW)
    assert returned(large).get_content_type() == "text/rfc822-headers"
    assert len(large.body) < 10_000


@pytest.mark.parametrize("ret", ["", "hdrs"])
def test_without_ret_full_only_headers_are_returned(ret: str) -> None:
    """The default is the header, even where the body is at hand."""
    report = failure_report(REPORTER, original(body=b"secret\r\n", ret=ret), [about()], queue_id="4B", now=NOW)
    assert returned(report).get_content_type() == "text/rfc822-headers"
    assert b"secret" not in report.body


def test_a_returned_8_bit_message_is_declared_at_each_level() -> None:
    """8bit stands at the report, the part and (as it came) the message; the session is told."""
    report = failure_report(
        REPORTER, original(body="Grüße\r\n".encode(), ret="full"), [about()], queue_id="4B", now=NOW
    )
    message = parse(report)
    assert report.eight_bit
    assert [p["Content-Transfer-Encoding"] for p in (message, message.get_payload(2))] == ["8bit", "8bit"]
    assert "Grüße".encode() in report.body


@pytest.mark.parametrize("body", [b"x" * 999 + b"\r\n", b"a\rb\r\n", b"a\nb\r\n", b"\0\r\n"])
def test_what_a_returned_message_may_not_hold_is_not_returned(body: bytes) -> None:
    """A message/rfc822 cannot be encoded, so a body that would need it is left out."""
    report = failure_report(REPORTER, original(body=body, ret="full"), [about()], queue_id="4B", now=NOW)
    assert returned(report).get_content_type() == "text/rfc822-headers"


def test_returned_8_bit_headers_are_encoded() -> None:
    """A raw 8-bit or overlong header comes back as quoted-printable, and the report stays ASCII."""
    header = b"Subject: Gr\xfc\xdfe\r\nX-Long: " + b"y" * 1500 + b"\r\n"
    report = failure_report(REPORTER, original(header=header), [about()], queue_id="4B", now=NOW)
    assert header == returned(report).get_payload(decode=True)
    assert report.body.isascii() and not report.eight_bit


def test_an_endless_header_is_cut_between_fields() -> None:
    """A returned header has a bound, and ends with a whole field."""
    header = b"".join(b"X-%d: %s\r\n a\r\n" % (n, b"y" * 500) for n in range(500))
    report = failure_report(REPORTER, original(header=header), [about()], queue_id="4B", now=NOW)
    kept = returned(report).get_payload(decode=True)
    assert isinstance(kept, bytes)
    assert MAX_RETURNED_HEADER - 600 < len(kept) <= MAX_RETURNED_HEADER
    assert header.startswith(kept) and kept.endswith(b"\r\n a\r\n")


def test_a_note_leaves_out_what_the_failed_report_returned_when_it_is_too_large() -> None:
    """The note keeps the words and the status of a large report, as a whole multipart/report of two parts."""
    body = b"--=_x\r\nmine\r\n" + (b"z" * 70 + b"\r\n") * 20
    reporter = Reporter(hostname="box.example.com", domain="example.com", date=utc, max_return=2000)
    failed = failure_report(reporter, original(body=body, ret="full"), [about()], queue_id="4B", now=NOW)
    bounce = original(sender="", queue_id="4B", header=failed.header, body=failed.body)
    note = postmaster_note(reporter, bounce, [about()], to="root@example.com", queue_id="4N", now=NOW)
    assert len(parse(failed).get_payload()) == 3 and b"zzz" in failed.body
    inner = returned(note).get_payload(0)
    assert [p.get_content_type() for p in inner.get_payload()] == ["text/plain", "message/delivery-status"]
    assert b"zzz" not in note.body


# --- what nobody can make it say ------------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="a \t\r\n\0\x0b\x0c\x1c\x85\u2028:-=_;<>@é\U0001f4a9\ud800", min_size=1, max_size=1200),
    st.sampled_from(
        [
            "x\r\nBcc: eve@example.org",
            "\r\n\r\n--=_0\r\nContent-Type: text/html\r\n\r\n<b>",
            "\n.\nQUIT\n",
            "é" * 700,
            "\U0001f4a9" * 300,
            " " * 1500 + "x",
            "a" * 3000,
            "550-" * 400,
        ]
    ),
)
NONEMPTY = HOSTILE.filter(bool)
RAW = st.one_of(
    st.binary(max_size=400),
    st.lists(
        st.sampled_from(
            [
                b"X: ",
                b"a" * 500,
                b"\r\n",
                b"\n",
                b"\r",
                b"\0",
                b"\xff",
                b" ",
                b"--=_",
                b"Bcc: eve",
                b"--\r\n",
                b"\r\n\r\n",
            ]
        ),
        max_size=30,
    ).map(b"".join),
)
OUR_FIELDS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "X-Pysendmail-Report",
    "MIME-Version",
    "Content-Type",
]
RECIPIENT_FIELDS = {
    "Original-Recipient",
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
}
MESSAGE_FIELDS = {"Reporting-MTA", "Original-Envelope-Id", "Arrival-Date", "X-Pysendmail-Queue-ID"}


@given(
    sender=NONEMPTY,
    header=RAW,
    body=st.none() | RAW,
    envid=HOSTILE,
    message_id=HOSTILE,
    queue_id=NONEMPTY,
    failed=st.lists(
        st.builds(
            about,
            address=NONEMPTY,
            reply=HOSTILE,
            orcpt=HOSTILE,
            status=HOSTILE,
            smarthost=HOSTILE,
            host=HOSTILE,
            code=st.sampled_from([None, 550]),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_no_text_however_hostile_adds_a_header_a_boundary_or_a_line(
    sender: str,
    header: bytes,
    body: bytes | None,
    envid: str,
    message_id: str,
    queue_id: str,
    failed: list[Reported],
) -> None:
    """Whatever a server, a user or a message puts in, the report keeps its fields, its three parts and its lines."""
    message = original(
        sender=sender,
        header=header,
        body=body,
        ret="full",
        envid=envid,
        message_id=message_id,
        queue_id=queue_id,
    )
    report = failure_report(REPORTER, message, failed, queue_id=queue_id, now=NOW)
    whole = report.header + b"\r\n" + report.body

    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", whole)
    assert all(len(line) <= 998 for line in whole.split(b"\r\n"))
    assert report.body.isascii() or report.eight_bit
    if all(text.isascii() for one in failed for text in (one.address, one.orcpt, sender)):
        assert report.header.isascii()
        assert report.body.isascii() or body is not None

    parsed = email.message_from_bytes(whole)  # compat32: for it only the structure counts
    names = [name for name in parsed if name not in ("References", "Content-Transfer-Encoding")]
    assert names == OUR_FIELDS
    boundary = parsed.get_boundary()
    assert boundary is not None
    lines = report.body.split(b"\r\n")
    assert lines.count(b"--" + boundary.encode()) == 3 and lines.count(b"--" + boundary.encode() + b"--") == 1
    assert whole.count(b"--" + boundary.encode()) == 4

    status = report.body.split(b"--" + boundary.encode())[2].partition(b"\r\n\r\n")[2]
    blocks = status.removesuffix(b"\r\n").removesuffix(b"\r\n").split(b"\r\n\r\n")
    assert 1 + len(failed) == len(blocks)
    for number, block in enumerate(blocks):
        fields = [line.partition(b":")[0].decode() for line in block.split(b"\r\n") if not line.startswith(b" ")]
        assert len(set(fields)) == len(fields)
        assert set(fields) <= (RECIPIENT_FIELDS if number else MESSAGE_FIELDS)
        assert all(line.strip() for line in block.split(b"\r\n"))


@given(reply=HOSTILE, address=NONEMPTY)
def test_the_plain_words_stay_within_the_width(reply: str, address: str) -> None:
    """Only a word that cannot be broken goes beyond 78 columns, and no control reaches the reader's terminal."""
    report = failure_report(REPORTER, original(), [about(reply=reply, address=address)], queue_id="4B", now=NOW)
    boundary = report.header.split(b'boundary="')[1].split(b'"')[0]
    part = email.message_from_bytes(report.body.split(b"--" + boundary)[1].lstrip(b"\r\n"))
    words = part.get_payload(decode=True)
    assert isinstance(words, bytes)
    for line in words.decode().split("\r\n"):
        assert line.isprintable() or not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
        assert len(line) <= 78 or len(line.split()) <= 1 or line.startswith("  ") or "recipient" in line


def test_the_same_words_for_many_recipients_are_said_once() -> None:
    """A refused message with many recipients gives one paragraph in the plain part, and a block for each below."""
    failed = [about(address=f"user{n}@example.org", status="5.7.1", reply="554 5.7.1 Spam") for n in range(1000)]
    report = failure_report(REPORTER, original(), failed, queue_id="4B", now=NOW)
    words, status, _ = parse(report).get_payload()
    assert words.get_content().count("554 5.7.1 Spam") == 1
    assert len(status.get_payload()) == 1001
