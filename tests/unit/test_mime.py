"""mime: what is decoded stays the same, what goes out fits, and what needs nothing is not touched.

The judge is the stdlib's email package, which pysendmail itself never uses for this.
"""

from __future__ import annotations

import email
import email.message
import itertools
import quopri
import random
import re
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysendmail.mime import MAX_DEPTH, MAX_PARTS, Plan, Survey, reencode
from pysendmail.transfer import MAX_LINE, longest_line

LONG = b"0123456789" * 120
UMLAUTS = "Grüße aus Köln. ".encode() * 3


def run(header: bytes, body: bytes, *, seven_bit: bool = True, piece: int = 0) -> tuple[bytes, bytes]:
    """Re-encode in pieces of `piece` octets (0: whole); check what holds for every result; return it."""

    def pieces() -> Iterator[bytes]:
        step = piece or max(len(body), 1)
        return (body[at : at + step] for at in range(0, len(body), step))

    result = reencode(header, pieces, seven_bit=seven_bit)
    out = b"".join(result.body)
    assert longest_line(out) <= MAX_LINE
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", out)
    if seven_bit:
        assert out.isascii()
    if not result.changed:
        assert (result.header, out) == (header, body)
    again = reencode(result.header, lambda: [out], seven_bit=seven_bit)
    assert not again.changed
    return result.header, out


def leaves(header: bytes, body: bytes) -> list[tuple[str, bytes]]:
    """Type and decoded content of each leaf, as the stdlib sees them."""
    found = []
    for part in email.message_from_bytes(header + b"\r\n" + body).walk():
        if not part.is_multipart():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            found.append((part.get_content_type(), content))
    return found


def same(header: bytes, body: bytes, *, seven_bit: bool = True, piece: int = 0) -> tuple[bytes, bytes]:
    new_header, new_body = run(header, body, seven_bit=seven_bit, piece=piece)
    assert leaves(new_header, new_body) == leaves(header, body)
    return new_header, new_body


def multipart(boundary: bytes, *parts: bytes, kind: bytes = b"mixed", end: bool = True) -> tuple[bytes, bytes]:
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    header = b'MIME-Version: 1.0\r\nContent-Type: multipart/%b; boundary="%b"\r\n' % (kind, boundary)
    return header, body + (b"--" + boundary + b"--\r\n" if end else b"")


# --- examples ---------------------------------------------------------------------------------------------------


def test_plain_8_bit_text_becomes_quoted_printable() -> None:
    """A message without a MIME header gets one, with a charset that claims nothing."""
    header, body = same(b"Subject: x\r\n", UMLAUTS + b"\r\n")
    assert header == (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
        b"Content-Type: text/plain; charset=unknown-8bit\r\n"
    )
    assert body.startswith(b"Gr=C3=BC=C3=9Fe aus K=C3=B6ln. ")


def test_8_bit_text_stays_where_the_server_takes_it() -> None:
    """Without seven_bit only long lines are a reason."""
    assert run(b"A: b\r\n", UMLAUTS + b"\r\n", seven_bit=False) == (b"A: b\r\n", UMLAUTS + b"\r\n")


def test_long_lines_become_quoted_printable_without_a_claim_on_the_charset() -> None:
    """ASCII text needs no Content-Type."""
    header, body = same(b"Subject: x\r\n", LONG + b"\r\nshort\r\n", seven_bit=False)
    assert header == b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    assert longest_line(body) <= 76


def test_a_given_type_is_kept_and_the_old_encoding_replaced() -> None:
    """Content-Type stays as it came, folded or not; each Content-Transfer-Encoding goes."""
    given_header = (
        b"Content-transfer-encoding:\r\n 8bit\r\nContent-Type: text/plain;\r\n\tcharset=utf-8\r\nMIME-Version: 1.0\r\n"
    )
    header, _ = same(given_header, UMLAUTS + b"\r\n")
    assert header == (
        b"Content-Type: text/plain;\r\n\tcharset=utf-8\r\nMIME-Version: 1.0\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n"
    )


def test_only_the_part_that_needs_it_is_changed() -> None:
    """The other parts, preamble, epilogue and delimiters come out as they were; 8bit of the whole becomes 7bit."""
    clean = b"Content-Type: text/html\r\n\r\n<p>-- \r\n\r\n"
    header, body = multipart(
        b"b1", clean, b"Content-Type: text/plain\r\n\r\n" + UMLAUTS, b"Content-Type: image/png\r\n\r\n\x89PNG\r\n\x1a"
    )
    header += b"Content-Transfer-Encoding: 8bit\r\n"
    new_header, new_body = same(header, b"preamble\r\n" + body + b"epilogue\r\n")
    assert new_header.endswith(b"Content-Transfer-Encoding: 7bit\r\n")
    assert new_body.startswith(b"preamble\r\n--b1\r\n" + clean + b"\r\n--b1\r\n")
    assert b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGg==\r\n--b1--" in new_body
    assert new_body.endswith(b"--b1--\r\nepilogue\r\n")


def test_a_base64_part_is_left_alone_or_wrapped() -> None:
    """Base64 with proper lines is not touched; on one endless line it is wrapped, not encoded twice."""
    part = b"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    for content in (b"QUJD\r\n" * 3, b"QUJD" * 500):
        _, body = same(*multipart(b"b", part + content, UMLAUTS), seven_bit=True)
        assert b"--b\r\n" + part in body
        assert longest_line(body) <= 78


def test_quoted_printable_with_long_lines_gets_soft_breaks() -> None:
    """Escapes are not cut apart, and 8-bit octets among them are escaped."""
    header = b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    for line in (b"=C3=BC" * 300, b"x" * 2000, b"=" * 1500, b"a\xfc" * 500, b"=3D=\xff" * 20_000, b"-" * 50_000):
        new_header, _ = same(header, line + b"\r\nend=\r\nof\r\n")
        assert new_header == header


def test_a_message_within_a_message_is_looked_into() -> None:
    """message/rfc822 must not be encoded itself (RFC 2046 §5.2.1); what is in it is."""
    inner = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + UMLAUTS
    header, body = multipart(b"b", b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + inner)
    _, new_body = same(header, body)
    assert b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n" in new_body
    assert b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n" in new_body


def test_parts_of_a_digest_are_messages() -> None:
    """RFC 2046 §5.1.5: a part without a type in multipart/digest is a message/rfc822."""
    header, body = multipart(b"b", b"\r\nSubject: x\r\n\r\n" + UMLAUTS, kind=b"digest")
    _, new_body = same(header, body)
    assert b"--b\r\n\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted" in new_body


def test_a_changed_signature_is_reported() -> None:
    """Only a change within the multipart/signed counts."""
    signed_header, signed = multipart(b"s", b"\r\n" + UMLAUTS, b"\r\nsig", kind=b"signed")
    assert reencode(signed_header, lambda: [signed], seven_bit=True).signed
    header, body = multipart(b"m", signed_header + b"\r\n" + signed.replace(UMLAUTS, b"ascii"), b"\r\n" + UMLAUTS)
    result = reencode(header, lambda: [body], seven_bit=True)
    assert (result.changed, result.signed) == (True, False)


def test_part_headers_get_encoded_words() -> None:
    """8-bit file names and subjects are still what they were for a program that decodes RFC 2047."""
    part = (
        'Content-Type: application/pdf; name="Größe und Übermaß.pdf"\r\n'
        "Content-Description: \u65e5\u672c\u8a9e\r\n\r\nx"
    ).encode()
    _, body = run(*multipart(b"b", part))
    text = email.message_from_bytes(body.split(b"--b\r\n")[1])
    decoded = [
        str(email.header.make_header(email.header.decode_header(value)))
        for value in (text.get_param("name"), text["Content-Description"])
        if isinstance(value, str)
    ]
    assert decoded == ["Größe und Übermaß.pdf", "\u65e5\u672c\u8a9e"]


def test_an_endless_part_header_is_folded() -> None:
    """At its own spaces where it has some."""
    part = b"X-Long: " + b"word " * 500 + b"\r\nX-Solid: " + b"s" * 3000 + b"\r\n\r\ntext"
    _, body = run(*multipart(b"b", part))
    section = email.message_from_bytes(body.split(b"--b\r\n")[1])
    assert section["X-Long"].split() == ["word"] * 500
    assert re.sub(r"\s", "", section["X-Solid"]) == "s" * 3000


def test_a_multipart_whose_boundary_never_comes_is_not_thrown_away() -> None:
    """What would be an endless preamble is encoded as a whole instead of being turned into question marks."""
    header = b"Content-Type: multipart/mixed; boundary=nowhere\r\n"
    new_header, body = run(header, UMLAUTS + b"\r\n")
    assert new_header == header + b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    assert quopri.decodestring(body) == UMLAUTS + b"\r\n"


def test_preamble_and_epilogue_get_question_marks_and_short_lines() -> None:
    """Nobody is shown them; a broken line cannot begin with a delimiter."""
    header, body = multipart(b"b", b"\r\nx")
    _, new_body = same(header, b"pr\xe4\r\n" + b"x" * 998 + b"--b\r\n" + body + LONG + b"\r\n")
    assert new_body.startswith(b"pr?\r\n" + b"x" * 998 + b"\r\n --b\r\n--b\r\n")


def test_deep_nesting_ends_in_a_leaf() -> None:
    """Beyond MAX_DEPTH nothing is walked, but the limits on lines and octets hold."""
    header, body = b"Content-Type: text/plain\r\n", UMLAUTS + b"\r\n"
    for level in range(MAX_DEPTH + 5):
        header, body = multipart(b"level%d." % level, header + b"\r\n" + body)
    run(header, body)


def test_endless_parts_end_in_a_leaf() -> None:
    """After MAX_PARTS the rest is the last part's content, whole."""
    rest = b"--b\r\n\r\nthe rest\r\n--b--\r\n"
    header, body = b"Content-Type: multipart/mixed; boundary=b\r\n", b"--b\r\n\r\nx\r\n" * (MAX_PARTS - 2)
    body += b"--b\r\n\r\n" + UMLAUTS + b"\r\n" + rest
    _, out = run(header, body)
    last = out.split(b"--b\r\n")[-1].partition(b"\r\n\r\n")[2]
    assert quopri.decodestring(last) == UMLAUTS + b"\r\n" + rest


def test_encoded_text_cannot_become_a_delimiter() -> None:
    """A soft break before "--b" would end the part."""
    for fill in range(60, 80):
        text = b"\xfc" + b"x" * fill + b"--b" + b" " * 3 + b"\r\n" + b"y" * (1000 + fill) + b"--b--\r\n"
        same(*multipart(b"b", b"Content-Type: text/plain\r\n\r\n" + text))
        qp = b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        same(*multipart(b"b", qp + b"x" * (1000 + fill) + b"--b"))


# --- generated structures ---------------------------------------------------------------------------------------

# Prefixes of one another, dashes, one that looks like another's end, one in all levels.
BOUNDARIES = [b"b", b"bb", b"b-", b"b--", b"-", b"=_x.y", b"b b", b"'()+_,-./:=?"]
CONTENTS = st.one_of(
    st.sampled_from([b"", b"\r\n", UMLAUTS, LONG, LONG + b"\r\n", b"x\r\n\r\n", b"--\r\n-- \r\n.\r\n", b"\xff" * 1200]),
    st.binary(max_size=80).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"\r\n")),
    st.sampled_from(BOUNDARIES).map(lambda b: b"--" + b + b"x\r\n--" + b[:-1] + b"\r\n x--" + b + b"\r\n" + UMLAUTS),
)


@st.composite
def entities(draw: st.DrawFn, depth: int = 0) -> bytes:
    """Header section, empty line, body without its last line end: what mail programs send, and odder things."""
    shapes = ["text", "text", "none", "binary", "base64", "qp"]
    shape = draw(st.sampled_from(shapes if depth > 3 else [*shapes, "multipart", "multipart", "multipart", "message"]))
    content = draw(CONTENTS)
    extra = draw(st.sampled_from([b"", b"", b"X-Extra: 1\r\n folded\r\n", b"content-TRANSFER-encoding: 8bit\r\n"]))
    match shape:
        case "text":
            kind = draw(st.sampled_from([b"text/plain", b"text/html; charset=utf-8", b"TEXT/Plain;\r\n charset=x"]))
            return b"Content-Type: " + kind + b"\r\n" + extra + b"\r\n" + content
        case "none":
            return extra + b"\r\n" + content
        case "binary":
            return b"Content-Type: application/octet-stream\r\n" + extra + b"\r\n" + content
        case "base64":
            text = email.base64mime.body_encode(content, maxlinelen=draw(st.sampled_from([76, 4000])), eol="\r\n")
            return b"Content-Type: image/png\r\nContent-Transfer-Encoding: BASE64\r\n\r\n" + text.encode()
        case "qp":
            text = quopri.encodestring(content).replace(b"=\n", draw(st.sampled_from([b"", b"=\n"])))
            text = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            return b"Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + text
        case "message":
            return b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n" + draw(entities(depth=depth + 1))
        case _:
            boundary = draw(st.sampled_from(BOUNDARIES))
            kind = draw(st.sampled_from([b"mixed", b"alternative", b"signed", b"related"]))
            header = b'Content-Type: multipart/%b; boundary="%b"\r\n' % (kind, boundary) + extra
            body = draw(st.sampled_from([b"", b"preamble\r\n", b"\r\n"]))
            for part in draw(st.lists(entities(depth=depth + 1), min_size=1, max_size=3)):
                padding = draw(st.sampled_from([b"", b"", b"  \t"]))
                body += b"--" + boundary + padding + b"\r\n" + part + b"\r\n"
            end = b"--" + boundary + b"--"
            return header + b"\r\n" + body + draw(st.sampled_from([end, end, end + b"\r\nepilogue", b""]))


def split(entity: bytes) -> tuple[bytes, bytes]:
    if entity.startswith(b"\r\n"):
        return b"", entity[2:]
    header, _, body = entity.partition(b"\r\n\r\n")
    return header + b"\r\n", body


@settings(deadline=None)
@given(entity=entities(), seven_bit=st.booleans(), piece=st.sampled_from([0, 1, 7, 100]))
def test_decoding_the_result_gives_what_decoding_the_original_gives(entity: bytes, seven_bit: bool, piece: int) -> None:
    """For nested structures, with ambiguous boundaries, missing ends, and every encoding."""
    header, body = split(entity)
    same(b"Subject: x\r\n" + header, body + b"\r\n", seven_bit=seven_bit, piece=piece)


LINES = [
    b"--b",
    b"--b--",
    b"--bb",
    b"--b----",
    b"--b ",
    b"--",
    b"",
    b"",
    b"text",
    b"Content-Type: multipart/mixed; boundary=b",
    b"Content-Type: multipart/mixed; boundary=bb",
    b'Content-Type: multipart/digest; boundary="b--"',
    b"Content-Type: text/plain",
    b"Content-Type: image/png",
    b"Content-Type: message/rfc822",
    b"Content-Type: nonsense",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable",
    b"Content-Transfer-Encoding: 8bit",
    b" folded",
    b"no header",
    b"From x",
    b":",
    b"=",
    b"QUJD",
    UMLAUTS,
    b"\xfc: x",
    LONG,
    LONG * 4,
]


@settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES), max_size=30),
    top=st.sampled_from([b"", *(line + b"\r\n" for line in LINES if line.startswith(b"Content-Type"))]),
    seven_bit=st.booleans(),
)
def test_any_lines_at_all_come_out_fit_to_be_sent(lines: list[bytes], top: bytes, seven_bit: bool) -> None:
    """Headers, delimiters and text in any order: the limits hold, nothing raises, and pieces make no difference."""
    body = b"".join(line + b"\r\n" for line in lines)
    whole = run(top, body, seven_bit=seven_bit)
    assert whole == run(top, body, seven_bit=seven_bit, piece=1) == run(top, body, seven_bit=seven_bit, piece=333)


@given(body=st.binary(max_size=3000), seven_bit=st.booleans())
def test_input_that_is_no_mail_does_not_raise(body: bytes, seven_bit: bool) -> None:
    """Even without the normalisation that submission does."""
    header = b"Content-Type: multipart/mixed; boundary=b\r\n"
    b"".join(reencode(header, lambda: [body], seven_bit=seven_bit).body)


# --- size -------------------------------------------------------------------------------------------------------


def survey(header: bytes, chunks: Iterator[bytes]) -> Plan:
    found = Survey(header, seven_bit=True)
    for chunk in chunks:
        found.feed(chunk)
    return found.finish()


@pytest.mark.parametrize("shape", ["lines", "one line", "binary", "qp", "epilogue", "header"])
def test_memory_does_not_grow_with_the_message(shape: str) -> None:
    """Five times as much of anything needs no more memory: a few pieces, not the message."""
    rng = random.Random(7)
    block = {
        "lines": (UMLAUTS + b"\r\n") * 1200,
        "one line": UMLAUTS * 1200,
        "binary": rng.randbytes(60_000).replace(b"\r", b" ").replace(b"\n", b" "),
        "qp": b"=C3=BC and =\xfc== " * 4000,
        "epilogue": b"\xfc" * 60_000,
        "header": b"X-Y: " + b"\xfc" * 60_000,
    }[shape]
    header = {
        "qp": b"Content-Transfer-Encoding: quoted-printable\r\n",
        "binary": b"Content-Type: application/zip\r\n",
        "epilogue": b"Content-Type: multipart/mixed; boundary=b\r\n",
        "header": b"Content-Type: multipart/mixed; boundary=b\r\n",
    }.get(shape, b"")
    start = {"epilogue": b"--b\r\n\r\nx\r\n--b--\r\n", "header": b"--b\r\n"}.get(shape, b"")

    def peak(count: int) -> int:
        def chunks() -> Iterator[bytes]:
            return itertools.chain([start], itertools.repeat(block, count))

        tracemalloc.start()
        try:
            plan = survey(header, chunks())
            recoder = plan.recoder()
            size = sum(len(recoder.feed(data)) for data in chunks()) + len(recoder.finish())
            assert plan.changed and size > count * len(block) // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40) < 1.5 * peak(8)
