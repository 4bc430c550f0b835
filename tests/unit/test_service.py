"""The engine behind -bs and [daemon] listen: octets in, replies and messages out, whatever they are and however cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.envelope import Recipient
from pysendmail.smtp.service import (
    MAX_ERRORS,
    MAX_LINE_OCTETS,
    Add,
    Begin,
    Drop,
    Finish,
    Leave,
    Limits,
    Refusal,
    Say,
    Service,
    Take,
    say,
)

LIMITS = Limits(hostname="box.example.com", message_octets=100_000, recipients=3)
GREETING = b"220 box.example.com ESMTP pysendmail\r\n"
HELLO = b"EHLO client.example\r\n"
EHLO_REPLY = (
    b"250-box.example.com\r\n250-PIPELINING\r\n250-SIZE 100000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250 DSN\r\n"
)
BEGIN = HELLO + b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
BEGUN = EHLO_REPLY + b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 end the message with a dot on a line of its own\r\n"
QUEUED = b"250 2.0.0 queued\r\n"
BYE = b"221 2.0.0 box.example.com goodbye\r\n"


@dataclass
class Driver:
    """Says yes to everything but what it is told to refuse, and keeps what a queue would."""

    refusing: Sequence[type | bytes] = ()
    said: bytes = b""
    messages: list[tuple[Begin, tuple[Recipient, ...], bytes]] = field(default_factory=list)
    dropped: int = 0
    reason: str | None = None  # of Leave

    def __post_init__(self) -> None:
        self.service = Service(LIMITS)
        self._begin: Begin | None = None
        self._recipients: list[Recipient] = []
        self._text = b""
        self.run(b"")
        assert self.said == GREETING
        self.said = b""

    def run(self, *pieces: bytes) -> Driver:
        for piece in pieces:
            self.service.feed(piece)
            while (step := self.service.next()) is not None:
                self._do(step)
        return self

    def _do(self, step: object) -> None:
        assert self.reason is None, "a step after Leave"
        match step:
            case Say(octets):
                self.said += octets
            case Drop():
                assert self._begin is not None
                self._begin = None
                self.dropped += 1
            case Leave(reason):
                self.reason = reason
            case Take(octets):
                assert self._begin is not None
                self._text += octets
                if any(isinstance(each, bytes) and each in octets for each in self.refusing):
                    self.service.refuse(Refusal(552, "5.3.4", "too large"))
            case Begin() | Add() | Finish() if type(step) in self.refusing:
                self.service.refuse(Refusal(451, "4.3.0", "not now"))
            case Begin():
                self._begin, self._recipients, self._text = step, [], b""
                self.service.accept("ok")
            case Add(recipient):
                self._recipients.append(recipient)
                self.service.accept("ok")
            case Finish():
                assert self._begin is not None
                self.messages.append((self._begin, tuple(self._recipients), self._text))
                self._begin = None
                self.service.accept("queued")

    @property
    def codes(self) -> list[str]:
        """Code and status of each reply."""
        lines = [line for line in self.said.decode().splitlines() if line[3] == " "]
        return [line[:9] if line[4:9].replace(".", "").isdigit() else line[:3] for line in lines]

    @property
    def texts(self) -> list[bytes]:
        return [text for _, _, text in self.messages]


TABLE = {
    # what the client says after EHLO -> code and status of the answers
    "HELO": ("HELO x", ["250"]),
    "EHLO with a literal": ("EHLO [127.0.0.1]", ["250"]),
    "EHLO without a name": ("EHLO", ["501 5.5.4"]),
    "EHLO with two": ("EHLO a b", ["501 5.5.4"]),
    "EHLO that is not ASCII": ("EHLO bücher.example", ["501 5.5.4"]),
    "any case": ("mail from:<a@example.com>\nrcpt TO:<b@example.org>", ["250 2.1.0", "250 2.1.5"]),
    "a blank before the path": ("MAIL FROM: <a@example.com>", ["250 2.1.0"]),
    "blanks at the end": ("NOOP   \nMAIL FROM:<> ", ["250 2.0.0", "250 2.1.0"]),
    "null sender": ("MAIL FROM:<>", ["250 2.1.0"]),
    "bare names": ("MAIL FROM:<root>\nRCPT TO:<postmaster>", ["250 2.1.0", "250 2.1.5"]),
    "a route is dropped": ("MAIL FROM:<@x.example,@y.example:a@example.com>", ["250 2.1.0"]),
    "quoted": ('MAIL FROM:<"a b>"@example.com>', ["250 2.1.0"]),
    "no brackets": ("MAIL FROM:a@example.com", ["501 5.5.4"]),
    "no colon": ("MAIL FROM <a@example.com>", ["501 5.5.4"]),
    "two addresses": ("MAIL FROM:<a@example.com><b@example.com>", ["501 5.5.4"]),
    "a broken address": ("MAIL FROM:<a@@example.com>", ["553 5.1.3"]),
    "an option": ("MAIL FROM:<>\nRCPT TO:<-oQ/tmp@example.org>", ["250 2.1.0", "553 5.1.3"]),
    "an empty recipient": ("MAIL FROM:<>\nRCPT TO:<>", ["250 2.1.0", "553 5.1.3"]),
    "a long local part": (f"MAIL FROM:<{'a' * 65}@example.com>", ["553 5.1.3"]),
    "not ASCII": ("MAIL FROM:<jürgen@example.com>", ["553 5.6.7"]),
    "not ASCII, announced": (
        "MAIL FROM:<jürgen@example.com> SMTPUTF8\nRCPT TO:<ä@ö.example>",
        ["250 2.1.0", "250 2.1.5"],
    ),
    "a recipient that is not ASCII": ("MAIL FROM:<>\nRCPT TO:<ä@example.org>", ["250 2.1.0", "553 5.6.7"]),
    "SIZE": ("MAIL FROM:<> SIZE=100000", ["250 2.1.0"]),
    "SIZE beyond": ("MAIL FROM:<> SIZE=100001", ["552 5.3.4"]),
    "SIZE that is none": ("MAIL FROM:<> SIZE=-1", ["501 5.5.4"]),
    "SIZE beyond any number": (f"MAIL FROM:<> SIZE={'9' * 21}", ["501 5.5.4"]),
    "BODY": ("MAIL FROM:<> BODY=8bitmime", ["250 2.1.0"]),
    "BODY that is none": ("MAIL FROM:<> BODY=BINARYMIME", ["501 5.5.4"]),
    "DSN": ("MAIL FROM:<> RET=FULL ENVID=a+2Bb", ["250 2.1.0"]),
    "RET that is none": ("MAIL FROM:<> RET=SOME", ["501 5.5.4"]),
    "ENVID with a line end in it": ("MAIL FROM:<> ENVID=a+0Ab", ["501 5.5.4"]),
    "ENVID with a NUL in it": ("MAIL FROM:<> ENVID=a+00b", ["501 5.5.4"]),
    "ENVID too long": (f"MAIL FROM:<> ENVID={'a' * 101}", ["501 5.5.4"]),
    "a parameter twice": ("MAIL FROM:<> RET=FULL RET=HDRS", ["501 5.5.4"]),
    "an unknown parameter": ("MAIL FROM:<> AUTH=<>", ["555 5.5.4"]),
    "a value where there is none": ("MAIL FROM:<> SMTPUTF8=yes", ["501 5.5.4"]),
    "no value where there is one": ("MAIL FROM:<> SIZE", ["501 5.5.4"]),
    "NOTIFY": ("MAIL FROM:<>\nRCPT TO:<b@example.org> NOTIFY=SUCCESS,delay", ["250 2.1.0", "250 2.1.5"]),
    "NOTIFY that contradicts itself": (
        "MAIL FROM:<>\nRCPT TO:<b@x.org> NOTIFY=NEVER,DELAY",
        ["250 2.1.0", "501 5.5.4"],
    ),
    "ORCPT without a type": ("MAIL FROM:<>\nRCPT TO:<b@x.org> ORCPT=b@x.org", ["250 2.1.0", "501 5.5.4"]),
    "ORCPT with a line end": ("MAIL FROM:<>\nRCPT TO:<b@x.org> ORCPT=rfc822;b+0D+0A", ["250 2.1.0", "501 5.5.4"]),
    "ORCPT with a line end in UTF-8": (
        "MAIL FROM:<>\nRCPT TO:<b@x.org> ORCPT=utf-8;b\\x{0A}",
        ["250 2.1.0", "501 5.5.4"],
    ),
    "ORCPT too long": (f"MAIL FROM:<>\nRCPT TO:<b@x.org> ORCPT=rfc822;{'b' * 500}", ["250 2.1.0", "501 5.5.4"]),
    "MAIL's parameter for RCPT": ("MAIL FROM:<>\nRCPT TO:<b@x.org> SIZE=1", ["250 2.1.0", "555 5.5.4"]),
    "too many recipients": (
        "MAIL FROM:<>" + "".join(f"\nRCPT TO:<{n}@x.org>" for n in range(4)),
        ["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.1.5", "452 4.5.3"],
    ),
    "RCPT first": ("RCPT TO:<b@example.org>", ["503 5.5.1"]),
    "DATA first": ("DATA", ["503 5.5.1"]),
    "DATA without a recipient": ("MAIL FROM:<>\nDATA", ["250 2.1.0", "554 5.5.1"]),
    "DATA with an argument": ("MAIL FROM:<>\nRCPT TO:<b@x.org>\nDATA now", ["250 2.1.0", "250 2.1.5", "501 5.5.4"]),
    "MAIL twice": ("MAIL FROM:<>\nMAIL FROM:<>", ["250 2.1.0", "503 5.5.1"]),
    "RSET": ("MAIL FROM:<>\nRSET\nRCPT TO:<b@x.org>", ["250 2.1.0", "250 2.0.0", "503 5.5.1"]),
    "EHLO begins anew": ("MAIL FROM:<>\nEHLO x\nRCPT TO:<b@x.org>", ["250 2.1.0", "250", "503 5.5.1"]),
    "NOOP": ("NOOP\nNOOP with words", ["250 2.0.0", "250 2.0.0"]),
    "VRFY": ("VRFY root\nVRFY", ["252 2.5.2", "501 5.5.4"]),
    "HELP": ("HELP\nHELP MAIL", ["214 2.0.0", "214 2.0.0"]),
    "QUIT with an argument": ("QUIT now", ["501 5.5.4"]),
    "not offered": ("AUTH PLAIN x\nSTARTTLS\nEXPN root\nBDAT 5 LAST", ["502 5.5.1"] * 4),
    "unknown": ("XYZZY\n\n 250 ok\nMAILFROM:<>", ["500 5.5.2"] * 4),
    "an octet that is no text": ("NOOP \udcff", ["500 5.5.2"]),
    "the longest line": ("NOOP " + "x" * (MAX_LINE_OCTETS - 7), ["250 2.0.0"]),
    "a line too long": ("NOOP " + "x" * (MAX_LINE_OCTETS - 6) + "\nNOOP", ["500 5.5.2", "250 2.0.0"]),
}


@pytest.mark.parametrize(("commands", "expected"), TABLE.values(), ids=TABLE.keys())
@pytest.mark.parametrize("size", [1, 100_000], ids=["octet by octet", "at once"])
def test_replies(commands: str, expected: list[str], size: int) -> None:
    """Each command gets the reply that RFC 5321 and its extensions have for it, and the connection goes on."""
    octets = commands.replace("\n", "\r\n").encode("utf-8", "surrogateescape") + b"\r\n"
    driver = Driver().run(HELLO)
    assert driver.said == EHLO_REPLY
    driver.said = b""
    driver.run(*pieces(octets, range(size, len(octets), size)))
    assert driver.codes == expected
    assert driver.reason is None


def pieces(octets: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *cuts, len(octets)]
    return [octets[start:end] for start, end in pairwise(at)]


def test_hello_comes_first() -> None:
    """Without EHLO or HELO there is no mail, but help."""
    driver = Driver().run(b"MAIL FROM:<>\r\nNOOP\r\nRSET\r\nVRFY x\r\nHELO x\r\nMAIL FROM:<>\r\n")
    assert driver.codes == ["503 5.5.1", "250 2.0.0", "250 2.0.0", "252 2.5.2", "250", "250 2.1.0"]


def test_helo_has_no_extensions() -> None:
    """HELO gets one line, EHLO every extension that is there."""
    assert Driver().run(b"HELO x\r\n").said == b"250 box.example.com\r\n"
    assert Driver().run(b"EHLO x\r\n").said == EHLO_REPLY


def test_what_dsn_asks_for_reaches_the_envelope() -> None:
    """RET, ENVID, NOTIFY and ORCPT, decoded, with the recipient that they are of."""
    driver = Driver().run(
        b"EHLO me.example\r\n",
        b"MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+2B+3D1 SMTPUTF8\r\n",
        b"RCPT TO:<b@example.org> NOTIFY=Success,FAILURE ORCPT=rfc822;Bob+2Bx@example.net\r\n",
        b"RCPT TO:<c@example.org> NOTIFY=NEVER\r\n",
        b"RCPT TO:<d@example.org> ORCPT=utf-8;j\\x{FC}rgen@example.net\r\nDATA\r\n.\r\n",
    )
    ((begin, recipients, text),) = driver.messages
    assert (begin.sender, begin.ret, begin.envid, begin.smtputf8) == ("a@example.com", "hdrs", "QQ+=1", True)
    assert (begin.hello.name, begin.hello.extended) == ("me.example", True)
    assert recipients == (
        Recipient(address="b@example.org", notify=frozenset({"success", "failure"}), orcpt="rfc822;Bob+x@example.net"),
        Recipient(address="c@example.org", notify=frozenset({"never"})),
        Recipient(address="d@example.org", orcpt="utf-8;jürgen@example.net"),
    )
    assert text == b""


SESSION = (
    BEGIN
    + b"Subject: x\r\n\r\n.\r.\n..stuffed\r\n..\r\n...\r\n\r\n.\r\n"
    + b"MAIL FROM:<>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n.\r\n"
    + b"RSET\r\nNOOP\r\nXYZZY\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<d@@>\r\nRCPT TO:<d@example.org>\r\nDATA\r\n"
    + b"..\r\nlast\r\n.\r\nQUIT\r\nNOOP\r\n"
)
TEXTS = [b"Subject: x\r\n\r\n\r.\n.stuffed\r\n.\r\n..\r\n\r\n", b"", b".\r\nlast\r\n"]


def test_pipelining_split_at_every_boundary() -> None:
    """Three messages and commands between them, in one write or cut anywhere: the same replies, the same messages."""
    whole = Driver().run(SESSION)
    assert whole.texts == TEXTS
    assert whole.said.startswith(BEGUN + QUEUED + b"250 2.1.0 ok\r\n")
    assert whole.said.endswith(QUEUED + BYE)
    assert whole.reason == ""
    for cut in range(len(SESSION)):
        parts = Driver().run(*pieces(SESSION, [cut]))
        assert (parts.said, parts.messages) == (whole.said, whole.messages), cut
    octets = Driver().run(*pieces(SESSION, range(1, len(SESSION))))
    assert (octets.said, octets.messages) == (whole.said, whole.messages)


# What a server less strict than we takes for the end of a message (CVE-2023-51764 and its kin): the dot's line as it
# is written -> what we read. None of them may end it.
SMUGGLING = {
    "LF . LF": (b"\n.\n", b"\n.\n"),
    "LF . CRLF": (b"\n.\r\n", b"\n.\r\n"),
    "CRLF . LF": (b"\r\n.\n", b"\r\n\n"),
    "CRLF . CR": (b"\r\n.\r", b"\r\n\r"),
    "CR . CR": (b"\r.\r", b"\r.\r"),
    "CR . LF": (b"\r.\n", b"\r.\n"),
    "CR . CRLF": (b"\r.\r\n", b"\r.\r\n"),
    "LF . CR": (b"\n.\r", b"\n.\r"),
    "LF CR . CRLF": (b"\n\r.\r\n", b"\n\r.\r\n"),
    "CRLF . CR CRLF": (b"\r\n.\r\r\n", b"\r\n\r\r\n"),
    "CRLF NUL . CRLF": (b"\r\n\0.\r\n", b"\r\n\0.\r\n"),
    "CRLF . NUL CRLF": (b"\r\n.\0\r\n", b"\r\n\0\r\n"),
    "CRLF blank . CRLF": (b"\r\n .\r\n", b"\r\n .\r\n"),
    "CRLF . blank CRLF": (b"\r\n. \r\n", b"\r\n \r\n"),
    "CRLF .. CRLF": (b"\r\n..\r\n", b"\r\n.\r\n"),
    "LF .. LF": (b"\n..\n", b"\n.\n"),
    "vertical tab": (b"\x0b.\x0b", b"\x0b.\x0b"),
    "form feed": (b"\r\n.\x0c\r\n", b"\r\n\x0c\r\n"),
    "NEL": (b"\xc2\x85.\xc2\x85", b"\xc2\x85.\xc2\x85"),
}


@pytest.mark.parametrize(("written", "read"), SMUGGLING.values(), ids=SMUGGLING.keys())
def test_nothing_but_crlf_dot_crlf_ends_a_message(written: bytes, read: bytes) -> None:
    """What follows is text of the same message and no command, cut in pieces or not."""
    smuggled = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: owned\r\n"
    octets = BEGIN + b"text" + written + smuggled + b".\r\nQUIT\r\n"
    for cuts in ([], range(1, len(octets))):
        driver = Driver().run(*pieces(octets, cuts))
        assert driver.texts == [b"text" + read + smuggled]
        assert driver.said == BEGUN + QUEUED + BYE


@pytest.mark.parametrize(
    "before", [b"", b"\r\n", b"\r", b"\r\n\r", b"\n\r\n", b"\r\n\n", b"x\r", b"\0", b"\r\n..", b"\r\n.\r"]
)
def test_crlf_dot_crlf_ends_a_message_whatever_is_before_it(before: bytes) -> None:
    """The five octets are the end, also where odd ones stand before them: RFC 5321 §4.1.1.4 looks no further back."""
    driver = Driver().run(BEGIN + b"x" + before + b"\r\n.\r\n" + b"QUIT\r\n")
    assert len(driver.texts) == 1
    assert driver.said == BEGUN + QUEUED + BYE


CLOSING = {
    "bare LF": (b"NOOP\nQUIT\r\n", b"521 5.5.2"),
    "bare CR": (b"NOOP\rQUIT\r\n", b"521 5.5.2"),
    "two CRs": (b"NOOP\r\r\n", b"521 5.5.2"),
    "NUL": (b"NOOP \0\r\n", b"521 5.5.2"),
    "a NUL in a path": (b"MAIL FROM:<a\0@example.com>\r\n", b"521 5.5.2"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"521 5.5.2"),
    "backspace": (b"NOOQ\x08P\r\n", b"521 5.5.2"),
    "LF after a line too long": (b"x" * 3000 + b"\n", b"521 5.5.2"),
    "GET": (b"GET / HTTP/1.1\r\nHost: localhost:2525\r\n\r\nMAIL FROM:<>\r\n", b"421 4.7.0"),
    "post": (b"post /x HTTP/1.1\r\n", b"421 4.7.0"),
    "HEAD": (b"HEAD / HTTP/1.0\r\n", b"421 4.7.0"),
    "PUT": (b"PUT /x HTTP/1.1\r\n", b"421 4.7.0"),
    "CONNECT": (b"CONNECT x:25 HTTP/1.1\r\n", b"421 4.7.0"),
    "OPTIONS": (b"OPTIONS * HTTP/1.1\r\n", b"421 4.7.0"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"421 4.7.0"),
}


@pytest.mark.parametrize(("octets", "code"), CLOSING.values(), ids=CLOSING.keys())
def test_what_is_not_smtp_ends_the_connection(octets: bytes, code: bytes) -> None:
    """One reply, the reason for the log, what was begun is dropped, and nothing after it is read."""
    for cuts in ([], range(1, len(octets))):
        driver = Driver().run(HELLO + b"MAIL FROM:<a@example.com>\r\n")
        driver.said = b""
        driver.run(*pieces(octets, cuts), b"NOOP\r\n")
        last = driver.said.splitlines()[-1]
        assert last.startswith(code)
        assert driver.said.count(b"\r\n") == (2 if octets.startswith(b"MAIL") and b"\0" not in octets else 1)
        assert driver.reason
        assert driver.dropped == 1
        assert driver.messages == []


def test_too_many_errors() -> None:
    """A client that speaks something else is told so a while, then left; a message that is taken clears the count."""
    driver = Driver().run(b"XYZZY\r\n" * (MAX_ERRORS - 1), BEGIN + b".\r\n", b"XYZZY\r\n" * (MAX_ERRORS - 1))
    assert driver.reason is None
    driver.run(b"XYZZY\r\nNOOP\r\n")
    assert driver.reason == "too many errors"
    assert driver.codes[-2:] == ["500 5.5.2", "421 4.7.0"]


def test_refused_mailboxes_are_no_errors_of_that_kind() -> None:
    """A list with many bad addresses is sent to the good ones all the same."""
    bad = b"RCPT TO:<a@@example.org>\r\n" * (MAX_ERRORS * 2)
    driver = Driver().run(HELLO, b"MAIL FROM:<>\r\n", bad, b"RCPT TO:<a@example.org>\r\nDATA\r\n.\r\n")
    assert len(driver.messages) == 1


@pytest.mark.parametrize("kind", [Begin, Add, Finish])
def test_what_the_queue_refuses(kind: type) -> None:
    """Its words are the reply, no message comes of it, and the next one may."""
    driver = Driver(refusing=[kind]).run(BEGIN)
    if kind is Finish:
        driver.run(b"x\r\n.\r\n")
    assert b"451 4.3.0 not now\r\n" in driver.said
    assert driver.messages == []
    driver.refusing = ()
    driver.run(b"RSET\r\n" + BEGIN + b"y\r\n.\r\n")
    assert driver.texts == [b"y\r\n"]


@pytest.mark.parametrize("cuts", [True, False], ids=["in pieces", "at once"])
def test_a_message_refused_on_its_way_is_read_to_its_end(cuts: bool) -> None:
    """The refusal is the reply to its end; nothing of it is a command; what is pipelined after it is done."""
    rest = b"x\r\nRCPT TO:<c@example.org>\r\n" * 10
    octets = BEGIN + b"LARGE" + rest + b"\r\n.\r\nNOOP\r\nMAIL FROM:<>\r\n"
    at = len(BEGIN) + len(b"LARGE")
    driver = Driver(refusing=[b"LARGE"]).run(*pieces(octets, [at] if cuts else []))
    assert driver.said == BEGUN + b"552 5.3.4 too large\r\n250 2.0.0 ok\r\n250 2.1.0 ok\r\n"
    assert (driver.messages, driver.dropped) == ([], 1)


def test_abandon() -> None:
    """421 with the reason, at any time; what was begun is dropped."""
    driver = Driver().run(BEGIN + b"half a mess")
    driver.service.abandon("4.4.2", "nothing came for 300 seconds")
    driver.run(b"age\r\n.\r\n")
    assert driver.said == BEGUN + b"421 4.4.2 box.example.com nothing came for 300 seconds\r\n"
    assert (driver.messages, driver.dropped, driver.service.closed) == ([], 1, True)


def test_a_reply_is_one_line_that_everybody_can_read() -> None:
    """Whatever the words, a reply is ASCII, within 512 octets, and is not two."""
    octets = say(550, "5.7.1", "ä\r\n250 ok\0" + "x" * 1000).octets
    assert octets.startswith(b"550 5.7.1 \\xe4\\x0d\\x0a250 ok\\x00xxx")
    assert (octets.count(b"\n"), octets.isascii(), len(octets) <= 512) == (1, True, True)


WORDS = st.sampled_from(
    [
        *(b"\r\n", b"\r", b"\n", b".", b"\0", b"..", b"x", b" ", b"\xff", b"\r\n.\r\n", b"\n.\n", b"\x16", b"y" * 700),
        *(b"EHLO x\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n", BEGIN, b"RSET\r\n"),
        *(b"MAIL FROM:<", b">", b"RCPT TO:", b" SIZE=", b" ENVID=+", b" ORCPT=utf-8;\\x{", b"QUIT\r\n", b"GET /\r\n"),
    ]
)
OCTETS = st.lists(WORDS | st.binary(max_size=5), max_size=40).map(b"".join)


@given(octets=OCTETS, cuts=st.lists(st.integers(0, 2000), max_size=10))
def test_any_octets(octets: bytes, cuts: list[int]) -> None:
    """Nothing crashes or hangs, pieces mean what the whole does, and there is no message without its proper end."""
    whole = Driver().run(octets)
    parts = Driver().run(*pieces(octets, sorted(cut for cut in cuts if cut < len(octets))))
    assert (whole.said, whole.messages, whole.reason) == (parts.said, parts.messages, parts.reason)
    assert len(whole.messages) <= octets.count(b"\r\n.\r\n")
    for text in whole.texts:
        assert text == b"" or text.endswith(b"\r\n")
    assert all(line[:3].isdigit() and line[3:4] in b" -" for line in whole.said.split(b"\r\n")[:-1])


@given(text=st.lists(WORDS | st.binary(max_size=5), max_size=40).map(b"".join))
def test_a_message_arrives_as_it_was_sent(text: bytes) -> None:
    """Any text with CRLF line ends, its dots doubled as a client does it, comes out as it went in."""
    lines = text.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"
    stuffed = (b"\r\n" + lines).replace(b"\r\n.", b"\r\n..")[2:]
    assert Driver().run(BEGIN + stuffed + b".\r\n").texts == [lines]
