"""What goes on the wire: commands that are one line, and a message with one end."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.envelope import Recipient
from pysendmail.smtp import wire
from pysendmail.smtp.wire import DotStuffer, WireError

LINE = re.compile(rb"(MAIL FROM|RCPT TO):<[^\r\n]*>( [A-Z0-9]+(=[!-~]+)?)*\r\n\Z")


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", b"<>"),
        ("a@b.c", b"<a@b.c>"),
        ("postmaster", b"<postmaster>"),
        ('"a b"@c.d', b'<"a b"@c.d>'),
        ("x@b\u00fccher.example", b"<x@xn--bcher-kva.example>"),
        ("j\u00fcrgen@b\u00fccher.example", "<j\u00fcrgen@xn--bcher-kva.example>".encode()),
        ("a@[192.0.2.1]", b"<a@[192.0.2.1]>"),
        ("a@[IPv6:::1]", b"<a@[IPv6:::1]>"),
        ("o'brien+tag=x@b.c", b"<o'brien+tag=x@b.c>"),
    ],
)
def test_path(address: str, path: bytes) -> None:
    """Addresses as the wire has them."""
    assert path == wire.path(address)


@pytest.mark.parametrize(
    "address",
    [
        "a@b.c\r\nRSET",
        "a@b.c>",
        "<a@b.c",
        "a b@c.d",
        "a@b.c SIZE=1",
        "a@b.c\0",
        '"a\r\n"@b.c',
        "a@b\u00fc cher.example",
        "@",
        "a@",
        "\udcff@b.c",
        "first,last@b.c",
        "@x:a@b.c",
    ],
)
def test_what_is_no_address(address: str) -> None:
    """What could become a second command, parameter or address is refused, as a sender and as a recipient."""
    with pytest.raises(WireError):
        wire.mail(address, smtputf8=True)
    with pytest.raises(WireError):
        wire.rcpt(Recipient(address=address), smtputf8=True)


@given(st.text(min_size=1), st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_one_command_or_none(address: str, envid: str, orcpt: str) -> None:
    """No text makes more than one line, or a parameter that was not meant."""
    for make in (
        lambda: wire.mail(address, smtputf8=True, envid=envid, ret="full"),
        lambda: wire.rcpt(
            Recipient(address=address, orcpt=orcpt, notify=frozenset({"delay"})), smtputf8=True, dsn=True
        ),
    ):
        try:
            line = make()
        except WireError:
            continue
        assert LINE.match(line)


def test_mail_parameters() -> None:
    """Each parameter where it is asked for, in one order."""
    line = wire.mail("a@b.c", size=5, eight_bit=True, smtputf8=True, ret="hdrs", envid="x+y=z \x7f")
    assert line == b"MAIL FROM:<a@b.c> SIZE=5 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x+2By+3Dz+20+7F\r\n"
    assert wire.mail("", size=0) == b"MAIL FROM:<> SIZE=0\r\n"


def test_the_last_gate_before_the_wire() -> None:
    """Whatever else overlooked it: a control character makes no command, nor do more octets than a command may have."""
    for octet in (*range(0x20), 0x7F):
        with pytest.raises(WireError, match="control"):
            wire.command(b"RCPT", b"TO:<a%c@b.c>" % octet)
    longest = b"x" * wire.MAX_COMMAND_OCTETS
    assert wire.command(longest) == longest + b"\r\n"
    with pytest.raises(WireError, match="octets"):
        wire.command(longest + b"x")


def test_parameters_of_dsn() -> None:
    """To a server without DSN none is said; RET that is no word and ORCPT without a type are refused."""
    asked = Recipient(address="a@b.c", notify=frozenset({"never"}), orcpt="rfc822;a@b.c")
    assert wire.rcpt(asked) == b"RCPT TO:<a@b.c>\r\n"
    assert wire.rcpt(asked, dsn=True) == b"RCPT TO:<a@b.c> NOTIFY=NEVER ORCPT=rfc822;a@b.c\r\n"
    for ret in ("full x", "fu11", "f\u00fcll"):
        with pytest.raises(WireError, match="keyword"):
            wire.mail("a@b.c", ret=ret)
    for orcpt in ("a@b.c", "rfc\u00fc;a@b.c"):
        with pytest.raises(WireError, match="type"):
            wire.rcpt(Recipient(address="a@b.c", orcpt=orcpt), dsn=True)


@pytest.mark.parametrize(
    ("orcpt", "written"),
    [
        ("rfc822;a+b=c@d.e", b"rfc822;a+2Bb+3Dc@d.e"),
        ("utf-8;j\u00fcrgen+x@b.c", b"utf-8;j\\x{FC}rgen\\x{2B}x@b.c"),
        ("X.400;/S=a b/", b"X.400;/S+3Da+20b/"),
    ],
)
def test_orcpt(orcpt: str, written: bytes) -> None:
    """ORCPT in xtext, with UTF-8 in the form of RFC 6533."""
    line = wire.rcpt(Recipient(address="a@b.c", orcpt=orcpt), dsn=True)
    assert line == b"RCPT TO:<a@b.c> ORCPT=" + written + b"\r\n"


def test_smtputf8_is_not_smuggled() -> None:
    """A local part that is not ASCII goes nowhere without SMTPUTF8."""
    with pytest.raises(WireError):
        wire.mail("\u00fc@b.c")
    with pytest.raises(WireError):
        wire.rcpt(Recipient(address="\u00fc@b.c"))
    assert wire.needs_smtputf8("\u00fc@b.c")
    assert not wire.needs_smtputf8("u@\u00fc.c")


def stuff(chunks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(map(stuffer.encode, chunks)) + stuffer.finish()


def unstuff(wire_text: bytes) -> bytes:
    """As a server reads it; everything must end with the only lone dot."""
    lines = []
    rest = wire_text
    while True:
        line, end, rest = rest.partition(b"\r\n")
        assert end
        if line == b".":
            assert not rest
            return b"".join(lines)
        lines.append(line.removeprefix(b".") + b"\r\n")


TEXTS = ["".join(text).encode() for length in range(7) for text in product("\r\n.x", repeat=length)]
NORMAL = sorted({re.sub(rb"\r\n|\r|\n", b"\r\n", text) for text in TEXTS})


def test_every_short_text() -> None:
    """Every text of up to six of CR, LF, dot and x, normalised, cut anywhere: a server reads what was meant, once."""
    for text in NORMAL:
        meant = text if not text or text.endswith(b"\r\n") else text + b"\r\n"
        whole = stuff([text])
        assert meant == unstuff(whole)
        for cut in range(len(text) + 1):
            assert whole == stuff([text[:cut], text[cut:]])
        assert whole == stuff([text[i : i + 1] for i in range(len(text))])


def test_what_is_not_normal_is_refused() -> None:
    """A bare CR or LF never gets on the wire, in any cut."""
    for text in set(TEXTS) - set(NORMAL):
        for chunks in ([text], [text[i : i + 1] for i in range(len(text))]):
            with pytest.raises(WireError):
                stuff(chunks)


@pytest.mark.parametrize("octet", range(256))
def test_half_a_line_end_among_lines_of_one_length(octet: int) -> None:
    """A CR or an LF is bare beside any octet but the other, also where the other lines have their ends."""
    one, lines = bytes([octet]), b"x\r\n" * 3
    for text in (lines + b"x\r" + one, lines + b"x" + one + b"\n"):
        if text == b"x\r\n" * 4:
            assert stuff([text]) == text + b".\r\n"
        else:
            with pytest.raises(WireError):
                stuff([text])


@pytest.mark.parametrize("stray", [b"\r", b"\n"])
def test_lines_of_one_length_hide_nothing(stray: bytes) -> None:
    """Nor does it among lines that are all of one length, as those of attachments are: nowhere, in no two chunks."""
    for length in range(4):
        text = (b"x" * length + b"\r\n") * 4 + b"x" * length
        assert stuff([text]) == (text if text.endswith(b"\r\n") else text + b"\r\n") + b".\r\n"
        for at in range(len(text)):
            before, after = text[:at], text[at + 1 :]
            for wrong in (before + stray + text[at:], before + stray + after, before + after):
                if re.search(rb"\r(?!\n)|(?<!\r)\n", wrong):
                    for cut in range(len(wrong)):
                        with pytest.raises(WireError):
                            stuff([wrong[:cut], wrong[cut:]])


@given(
    st.lists(st.sampled_from([b"\r\n", b".", b"x" * 50, b"..", b"\r\n.\r\n"]), max_size=30),
    st.lists(st.integers(0, 999)),
)
def test_any_cut_of_any_text(parts: list[bytes], cuts: list[int]) -> None:
    """Chunks mean nothing for longer texts either."""
    text = b"".join(parts)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    assert stuff([text]) == stuff([text[a:b] for a, b in pairwise(edges)])


@pytest.mark.parametrize("text", ["", "a b", "a=b", "a+2", "a+2b", "a+0Ab", "a+00", "a+7F", "ä", "a\0", "a+C3+A4"])
def test_xtext_that_is_none(text: str) -> None:
    """Neither broken xtext nor such as stands for a control character or for what is not ASCII gets any further."""
    with pytest.raises(WireError):
        wire.from_xtext(text)


def test_xtext_both_ways() -> None:
    """What was encoded is decoded to the same."""
    text = "".join(map(chr, range(0x20, 0x7F)))
    assert wire.from_xtext(wire.xtext(text).decode()) == text
