"""Targets: whatever reads what others wrote, with one definition for every engine that makes input for it.

    target = TARGETS["address"]
    target.check(octets)        # returns, or raises what must not happen
    target.weigh(octets)        # so, too, where ten times the input is more than ten times the work, or takes memory
    target.attempt(octets)      # the first, and now and then the second, which takes long

`use` is the code of pysendmail alone: it gives what came of the input, or the error that it declares. `judge` holds
that against what is promised: a round trip, the same from any cut of the input, words that are fit to be shown, no Bcc,
no line end or second end of data that nobody meant. Any other exception is a violation.

Work is counted in lines of Python, of ours and of the libraries, never in time; so what one call of a regular
expression costs is not seen here, but an example that does not come to its end is (HANG_S, in CPU seconds).
"""

from __future__ import annotations

import re
import signal
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pysendmail import argv, config_file, frames, message
from pysendmail.address import AddressError, find_in_list, parse_list, parse_path
from pysendmail.argv import Invocation, UsageError
from pysendmail.config import Config
from pysendmail.config_file import ConfigError, queue_directory_of_broken
from pysendmail.envelope import Envelope, Recipient
from pysendmail.frames import TO_CLIENT, TO_DAEMON, Decoder, Frame, FrameError
from pysendmail.message import Intake, MessageError
from pysendmail.outcome import Fault, Outcome, Stage
from pysendmail.smtp import wire
from pysendmail.smtp.extensions import Extensions
from pysendmail.smtp.reply import MAX_LINE_OCTETS, MAX_LINES, MAX_TEXT, Reply, ReplyReader
from pysendmail.smtp.transaction import Ask, Transaction
from pysendmail.smtp.wire import WireError
from pysendmail.thin.client import socket_line
from torture import rows
from torture.framing import cuts, received, stuffed
from torture.view import normalised

COPIES = (4, 40)  # of an input, of which the second is ten times the first
MOST_WORK = 15  # times, for ten times the input
WORK_FLOOR = 3000  # lines that are nothing
WORK_PER_OCTET = 2  # lines, where what is longer than a line may be cannot be looked at as a whole
MEMORY_FLOOR = 1 << 19
HANG_S = 30.0
WEIGHED_ONE_IN = 20  # inputs
WEIGHED_OCTETS = 200
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_DROPPED = re.compile(rb"^(?:(?:resent-)?bcc|return-path|content-length)[ \t]*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """See the module. `words` is what input for it is made of; `memory`: octets for each octet of input, at most."""

    name: str
    use: Callable[[bytes], Any]
    judge: Callable[[bytes, Any], None]
    words: Sequence[bytes]
    memory: int = 600

    def check(self, data: bytes) -> None:
        with _hanging():
            self.judge(data, self.use(data))

    def attempt(self, data: bytes) -> None:
        """What an engine does with each input; the same input is always treated in the same way."""
        self.check(data)
        if zlib.crc32(data) % WEIGHED_ONE_IN == 0:
            self.weigh(data[:WEIGHED_OCTETS])

    def weigh(self, data: bytes) -> None:
        """Ten times the input is not much more than ten times the work, and memory is bounded by the input's size."""
        few, many = (data * copies for copies in COPIES)
        with _hanging():
            less, more = self._work(few), self._work(many)
            most = MOST_WORK * less + WORK_FLOOR + WORK_PER_OCTET * len(many)
            assert more <= most, f"{less} lines for {len(few)} octets, {more} for {len(many)}"
            tracemalloc.start()
            try:
                self.use(many)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak <= self.memory * len(many) + MEMORY_FLOOR, f"{peak} octets of memory for {len(many)} of input"

    def _work(self, data: bytes) -> int:
        lines = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal lines
            lines += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self.use(data)
        finally:
            sys.settrace(before)
        return lines


@contextmanager
def _hanging() -> Iterator[None]:
    """What takes so much of the CPU will not come to its end."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {HANG_S:.0f} s of work")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _shown(error: Exception) -> None:
    """The words of an error are for people: some, on a line each, without a control character."""
    text = str(error)
    assert text.strip(), "an error without words"
    assert not any(_CONTROL.search(line) for line in text.split("\n")), f"control characters in {text!r}"
    text.encode()  # nor an octet that is not UTF-8


# -- the command line --


def _use_argv(data: bytes) -> Invocation | UsageError:
    try:
        return argv.parse([b"sendmail", *data.split(b"\0")])
    except UsageError as error:
        return error


def _judge_argv(data: bytes, found: Invocation | UsageError) -> None:
    words = [word.decode("utf-8", "surrogateescape") for word in data.split(b"\0")]
    if isinstance(found, UsageError):
        _shown(found)
        assert "\n" not in str(found)
        return
    assert found == _use_argv(data)
    operands = found.recipients
    assert list(operands) == words[len(words) - len(operands) :], "an address that is not one of the last words"
    before = words[: len(words) - len(operands)]
    assert not operands or "--" in before or operands[0] in ("", "-") or not operands[0].startswith("-"), (
        "an option was taken for an address"
    )
    assert not any(_CONTROL.search(warning) for warning in found.warnings)


# -- the header, and who -t finds in it --


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    fields: list[message.Field]
    body: bytes
    ended: bool
    header: bytes
    recipients: list[str] | AddressError


def _read(pieces: Sequence[bytes], *, dot_ends: bool) -> _Read | MessageError:
    intake = Intake(dot_ends=dot_ends)
    body = b""
    try:
        for piece in pieces:
            intake.feed(piece)
            body += intake.take()
        intake.finish()
        body += intake.take()
        fields = intake.fields
        completed = message.complete(
            fields, sender_address="me@example.com", full_name="", date="now", message_id="<1@example.com>"
        )
    except MessageError as error:
        return error
    message.hops(fields)
    recipients: list[str] | AddressError
    try:
        recipients = message.recipients(fields)
    except AddressError as error:
        recipients = error
    return _Read(fields=fields, body=body, ended=intake.ended, header=completed.header, recipients=recipients)


def _use_header(data: bytes) -> _Read | MessageError:
    return _read([data], dot_ends=len(data) % 2 == 0)


def _judge_header(data: bytes, found: _Read | MessageError) -> None:
    if isinstance(found, MessageError):
        _shown(found)
        return
    dot_ends = len(data) % 2 == 0
    for pieces in cuts(data):
        assert found == _comparable(_read(pieces, dot_ends=dot_ends), found), f"cut as {pieces}"
    for octets in (found.header, found.body):
        assert not _BARE.search(octets), "a CR, LF or NUL alone"
        assert not octets or octets.endswith(b"\r\n")
    assert not _DROPPED.search(found.header), "a Bcc field, or its like, would be sent"
    again = _read([found.header + b"\r\n" + found.body], dot_ends=False)
    assert isinstance(again, _Read)
    assert (b"".join(field.raw for field in again.fields), again.body) == (found.header, found.body), (
        "what is sent is not read as what was meant"
    )
    assert b"".join(field.raw for field in message.split_header(found.header)) == found.header
    if isinstance(found.recipients, AddressError):
        _shown(found.recipients)
        return
    for address in found.recipients:
        _judge_one_address(address)


def _comparable(other: _Read | MessageError, found: _Read) -> _Read | MessageError:
    """Two errors of the same words are one here."""
    if (
        isinstance(other, _Read)
        and isinstance(found.recipients, AddressError)
        and (isinstance(other.recipients, AddressError) and str(other.recipients) == str(found.recipients))
    ):
        return _Read(
            fields=other.fields,
            body=other.body,
            ended=other.ended,
            header=other.header,
            recipients=found.recipients,
        )
    return other


# -- addresses --


def _use_address(data: bytes) -> list[str] | AddressError:
    try:
        return parse_list(data)
    except AddressError as error:
        return error


def _judge_address(data: bytes, found: list[str] | AddressError) -> None:
    text = data.decode("utf-8", "surrogateescape")
    if isinstance(found, AddressError):
        _shown(found)
        with suppress(AddressError):
            parse_path(text)
        return
    places = find_in_list(text)
    assert [place.address for place in places] == found
    for place in places:
        alone = text[place.start : place.end].encode("utf-8", "surrogateescape")
        assert parse_list(b"<" + alone + b">") == [place.address], f"{alone!r} is not where {place.address} stands"
    for address in found:
        _judge_one_address(address)


def _judge_one_address(text: str) -> None:
    try:
        address = parse_path(text)
    except AddressError as error:
        _shown(error)
        return
    assert parse_path(str(address)) == address, "written and read, it is another one"
    assert parse_list(str(address).encode()) == [str(address)]
    for command in _commands(str(address)):
        _judge_command(command)


# -- what goes on the wire --


def _commands(text: str) -> Iterator[bytes]:
    for write in (
        lambda: wire.mail(text, smtputf8=True, envid=text, ret="full", size=1, eight_bit=True),
        lambda: wire.mail(text),
        lambda: wire.rcpt(Recipient(address=text, notify=frozenset({"delay"}), orcpt=text), smtputf8=True, dsn=True),
        lambda: wire.rcpt(Recipient(address=text)),
    ):
        with suppress(WireError):
            yield write()


def _judge_command(line: bytes) -> None:
    pattern = (
        rb'(?:MAIL FROM|RCPT TO):<(?:"(?:[^"\\\r\n]|\\[^\r\n])*"(?:@[^\s<>]+)?|[^\s<>"]*)>(?: [A-Z0-9]+(?:=\S+)?)*\r\n'
    )
    assert re.fullmatch(pattern, line), f"not one command: {line!r}"
    assert len(line) <= wire.MAX_COMMAND_OCTETS + 2


def _use_wire(data: bytes) -> tuple[bytes | WireError, list[bytes]]:
    text = data.decode("utf-8", "surrogateescape")
    commands = list(_commands(text)) if text else []
    try:
        return stuffed([data]), commands
    except WireError as error:
        return error, commands


def _judge_wire(data: bytes, found: tuple[bytes | WireError, list[bytes]]) -> None:
    whole, commands = found
    for line in commands:
        _judge_command(line)
    if isinstance(whole, WireError):
        _shown(whole)
        assert re.search(rb"\r(?!\n)|(?<!\r)\n", data), "refused, and nothing is wrong with it"
        return
    for pieces in cuts(data):
        assert stuffed(pieces) == whole, f"cut as {pieces}"
    meant = normalised(data)
    assert received([whole]) == meant, "a server reads something else"
    assert not _BARE.search(whole.replace(b"\0", b""))


# -- what a smarthost says --

_TWO = Envelope(sender="a@example.com", recipients=(Recipient(address="b@c.example"), Recipient(address="d@e.example")))


def _use_replies(data: bytes) -> list[Reply]:
    """In pieces, as a socket gives them; none is kept but the last ones."""
    reader = ReplyReader()
    last: list[Reply] = []
    for start in range(0, len(data), 50):
        last = [*last, *reader.feed(data[start : start + 50])][-5:]
    return last


def _judge_replies(data: bytes, last: list[Reply]) -> None:
    whole = ReplyReader()
    replies = whole.feed(data)
    assert replies[-5:] == last
    for pieces in cuts(data):
        reader = ReplyReader()
        assert [reply for piece in pieces for reply in reader.feed(piece)] == replies, f"cut as {pieces}"
        assert bool(reader.broken) == bool(whole.broken)
    for reply in replies:
        assert 200 <= reply.code <= 599
        assert 1 <= len(reply.lines) <= MAX_LINES
        assert all(len(line) <= MAX_LINE_OCTETS for line in reply.lines)
        assert len(reply.text) <= MAX_TEXT and not _CONTROL.search(reply.text)
        reply.text.encode()
        assert re.fullmatch(r"[2-5]\.\d{1,3}\.\d{1,3}", reply.status)
        wire_form = [
            b"%d%b%b\r\n" % (reply.code, b" " if line is reply.lines[-1] else b"-", line) for line in reply.lines
        ]
        if len({id(line) for line in reply.lines}) == len(reply.lines):
            assert ReplyReader().feed(b"".join(wire_form)) == [reply]
    for offered in (Extensions(), Extensions(pipelining=True, dsn=True)):
        _judge_transaction(replies, offered)


def _judge_transaction(replies: Sequence[Reply], offered: Extensions) -> None:
    """Whatever is answered: one result each, and sent only who was taken, with a 2xx to the final dot."""
    transaction = Transaction(_TWO, offered, size=10, eight_bit=False)
    left = iter(replies)
    taken: list[bool] = []
    dot: Reply | None = None
    while (step := transaction.next()) is not None:
        if step is Ask.BODY:
            transaction.ending()
        while (stage := transaction.awaiting) is not None:
            reply = next(left, None)
            if reply is None:
                transaction.fail(Fault.CLOSED, "it went away")
                break
            if stage is Stage.RCPT:
                taken.append(reply.positive)
            elif stage is Stage.DOT:
                dot = reply
            transaction.receive(reply)
    results = transaction.results
    assert [result.address for result in results] == [recipient.address for recipient in _TWO.recipients]
    for number, result in enumerate(results):
        if result.outcome is Outcome.SENT:
            assert dot is not None and dot.positive, "sent without a 2xx to the final dot"
            assert taken[number], "sent to a recipient who was refused"
        assert result.status[0] == {Outcome.SENT: "2", Outcome.BOUNCED: "5"}.get(result.outcome, "4")
        assert result.reply and not _CONTROL.search(result.reply)


def _use_ehlo(data: bytes) -> Extensions:
    return Extensions.parse(data.split(b"\n"))


def _judge_ehlo(data: bytes, found: Extensions) -> None:
    lines = data.split(b"\n")
    assert found.keywords == tuple(lines[1:])
    for name in ("declares_size", "eight_bit", "smtputf8", "pipelining", "dsn", "starttls"):
        keyword = {"declares_size": b"SIZE", "eight_bit": b"8BITMIME"}.get(name, name.upper().encode())
        said = any(keyword in line.upper() for line in lines[1:])
        assert said or not getattr(found, name), f"{name} was never offered"
    assert 0 <= found.size < 10**20 and (found.declares_size or not found.size)
    assert all(word.upper() == word and not re.search(r"\s", word) for word in found.auth)
    assert len(set(found.auth)) == len(found.auth)


# -- frames --


def _decoded(grammar: frames.Grammar, pieces: Sequence[bytes]) -> tuple[list[Frame], str]:
    """Neighbouring DATA frames as one, since that depends on the cut; and the error at the end, if there is one."""
    decoder = Decoder(grammar)
    found: list[Frame] = []
    try:
        for piece in pieces:
            for frame in decoder.feed(piece):
                if frame.kind == frames.DATA and found and found[-1].kind == frames.DATA:
                    found[-1] = Frame(frames.DATA, found[-1].payload + frame.payload)
                else:
                    found.append(frame)
    except FrameError as error:
        return found, str(error)
    return found, ""


def _use_frames(data: bytes) -> list[tuple[list[Frame], str]]:
    return [_decoded(grammar, [data]) for grammar in (TO_DAEMON, TO_CLIENT)]


def _judge_frames(data: bytes, found: list[tuple[list[Frame], str]]) -> None:
    for grammar, (whole, error) in zip((TO_DAEMON, TO_CLIENT), found, strict=True):
        for pieces in cuts(data):
            others, other_error = _decoded(grammar, pieces)
            assert other_error == error, f"cut as {pieces}"
            assert error or others == whole, f"cut as {pieces}"
        if not error:
            written = b"".join(frames.encode(frame.kind, frame.payload) for frame in whole)
            large = any(len(frame.payload) > frames.MAX_CHUNK for frame in whole)
            assert large or _decoded(grammar, [written]) == (whole, ""), "written and read, it is another one"
        for frame in whole:
            with suppress(FrameError):
                if frame.kind == frames.ARGV:
                    words = frames.parse_argv(frame.payload)
                    assert frames.pack_strings(words) == frame.payload
                elif frame.kind == frames.ENVIRONMENT:
                    frames.parse_environment(frame.payload)
                elif frame.kind == frames.HELLO:
                    version, name = frames.parse_hello(frame.payload)
                    assert frames.pack_hello(name, version) == frame.payload


# -- the configuration --

_INSTANCE = config_file.Instance(path=Path("/etc/pysendmail/pysendmail.toml"))
_SECRET = "hunter2 SECRET"
_SECRET_LINE = re.compile(rf'^\s*password\s*=\s*"{_SECRET}"\s*$', re.MULTILINE)


def _use_configuration(data: bytes) -> Config | ConfigError:
    text = data.decode("utf-8", "replace")
    try:
        return config_file.parse(text, _INSTANCE, machine_name=lambda: "box.example.com", mail_name=lambda: "")
    except ConfigError as error:
        return error


def _judge_configuration(data: bytes, found: Config | ConfigError) -> None:
    text = data.decode("utf-8", "replace")
    if isinstance(found, ConfigError):
        _shown(found)
        assert 1 <= len(found.problems) <= config_file.MAX_PROBLEMS
        assert all(0 <= problem.line <= text.count("\n") + 1 for problem in found.problems)
        if len(_SECRET_LINE.findall(text)) == text.count("SECRET"):
            assert "SECRET" not in str(found), "a password stands in an error"
        directory = queue_directory_of_broken(text)
        assert directory is None or directory.is_absolute()
        return
    assert found == _use_configuration(data)
    said = socket_line(text.encode())
    assert said is None or said.decode() == str(found.daemon.socket), "the client would ask elsewhere"


# -- all of them --

_ADDRESS_WORDS = (
    *(b"a", b"b@c.example", b"@", b"<", b">", b",", b";", b":", b"(", b")", b'"', b"\\", b".", b" ", b"\t", b"\r\n "),
    *(b"[192.0.2.1]", b"[IPv6:::1]", b"[", b"]", b"-", b"<@x:a@b>", b"Joe <j@e.example>", b"group: ", b'"a b"@c.d'),
    *(
        "j\u00fc@b\u00fccher.example".encode(),
        b"\xff",
        b"\0",
        b"\x1b",
        b"x" * 60,
        b"=?utf-8?q?a?=",
        b"\n\t",
        b"%",
        b"!",
    ),
)
_OPTION_WORDS = tuple(option.name.encode() for option in argv.OPTIONS)
_REPLY_WORDS = (
    *(b"250 ok\r\n", b"250-more\r\n", b"354 go\r\n", b"451 4.3.0 later\r\n", b"550 5.1.1 no\r\n", b"421 bye\r\n"),
    *(b"250", b"2", b"-", b" ", b"\r", b"\n", b"\r\n", b"\0", b"\x1b[2J", b"\xe2\x80\xae", b"\xff", b"5.7.1", b"1"),
    *(b"452 4.5.3 too many\r\n", b"552 5.2.2 full\r\n", b"530 5.7.0 auth\r\n", b"252 x\r\n", b"x" * 1020, b"2.1.5 ok"),
)
_CONFIGURATION_WORDS = (
    *(b"[queue]\n", b"[[smarthost]]\n", b"[[route]]\n", b"[daemon]\n", b"[retry]\n", b"[rewrite]\n", b"[timeout]\n"),
    *(
        b'host = "h.example"\n',
        b'name = "a"\n',
        b"port = 465\n",
        b'tls = "none"\n',
        b"tls_implicit = true\n",
        b"=",
        b".",
    ),
    *(b'lifetime = "5d"\n', b'first = "1s"\n', b"factor = 2.0\n", b"jitter = nan\n", b"maximum = 1\n", b"port = -1\n"),
    *(
        b'socket = "/run/x"\n',
        b'directory = "/var/q"\n',
        b'smarthost = ["a"]\n',
        b'sender = "*@x"\n',
        b'rate = "30/m"\n',
    ),
    *(
        b'"',
        b"'",
        b'"""',
        b"'''",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"#",
        b"\n",
        b"\r\n",
        b"\\",
        b"\\u0000",
        b"a",
        b"1" * 30,
    ),
    *(
        b'hostname = "box"\n',
        b'domain = "\xc3\xbc.example"\n',
        b'from = "force"\n',
        b'tls_minimum = "1.2"\n',
        b"= 1e400\n",
    ),
    *(
        b'password = "hunter2 SECRET"\n',
        b'username = "u"\n',
        b'password_command = ["a"]\n',
        b"1979-05-27T07:32:00Z",
        b"\0",
    ),
    *(b'max_message_size = "50MiB"\n', b'recipient = "*"\n', b"queue.directory = 1\n", b'listen = ["127.0.0.1:25"]\n'),
)
_HEADER_WORDS = (
    *(b"To: a@b.example\n", b"Cc: ", b"Bcc: s@e.example\n", b"bcc : ", b"Resent-To: r@e.example\n", b"Resent-Bcc: x\n"),
    *(
        b"Received: x\n",
        b"From: ",
        b"From a b\n",
        b">From x\n",
        b"Date:\n",
        b"Message-ID: <1@2>\n",
        b"Return-Path: <>\n",
    ),
    *(
        b"Content-Length: 5\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\r\r\n",
        b" ",
        b"\t",
        b":",
        b".",
        b"\n.\n",
        b"\0",
        b"\xff",
        b"X-A: b",
    ),
    *(
        b"x" * 990,
        b" " * 990,
        b"Subject: " + b"w" * 1100,
        b"References: " + b"<a@b> " * 200,
        b"(",
        b'"',
        b",",
        b"To:" + b"a,",
    ),
)
_FRAME_WORDS = (
    *(frames.encode(frames.HELLO, frames.pack_hello(bytes(16))), frames.encode(frames.ARGV, b"sendmail\0-t\0")),
    *(
        frames.encode(frames.ENVIRONMENT, b"NAME=Joe\0"),
        frames.encode(frames.DATA, b"text\n"),
        frames.encode(frames.END),
    ),
    *(
        frames.encode(frames.ASK),
        frames.encode(frames.STDOUT, b"out"),
        frames.encode(frames.STDERR, b""),
        b"\0",
        b"\xff",
    ),
    *(
        frames.encode(frames.EXIT, b"\x4b"),
        frames.encode(frames.UNKNOWN),
        b"D\0\x04\0\0",
        b"D\0\x04\0\x01",
        b"V",
        b"A\0\0\0",
    ),
)
_EHLO_WORDS = (
    *(
        b"box.example\n",
        b"\n",
        b"SIZE 1000\n",
        b"SIZE",
        b" ",
        b"8BITMIME\n",
        b"AUTH PLAIN LOGIN\n",
        b"AUTH=LOGIN\n",
        b"DSN\n",
    ),
    *(
        b"STARTTLS\n",
        b"starttls\n",
        b"PIPELINING\n",
        b"SMTPUTF8\n",
        b"9" * 20,
        b"-1",
        b"\xff",
        b"\0",
        b"\t",
        b"=",
        b"\xd9\xa3",
    ),
)

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="argv",
            use=_use_argv,
            judge=_judge_argv,
            words=(
                b"\0",
                *_OPTION_WORDS,
                b"\0--\0",
                b"\0-\0",
                b"a@b",
                b"x",
                b"-",
                b"=",
                b"full",
                b"+41",
                b"\xff",
                b"\x1b",
                b"15m",
            ),
        ),
        Target(name="header", use=_use_header, judge=_judge_header, words=(*_HEADER_WORDS, *_ADDRESS_WORDS)),
        Target(name="address", use=_use_address, judge=_judge_address, words=_ADDRESS_WORDS),
        Target(
            name="wire",
            use=_use_wire,
            judge=_judge_wire,
            words=(b"\r\n", b".", b"\r", b"\n", b"x", b"..", b"\r\n.\r\n", b"\0", *_ADDRESS_WORDS),
        ),
        Target(name="replies", use=_use_replies, judge=_judge_replies, words=_REPLY_WORDS, memory=20),
        Target(name="ehlo", use=_use_ehlo, judge=_judge_ehlo, words=_EHLO_WORDS),
        Target(name="frames", use=_use_frames, judge=_judge_frames, words=_FRAME_WORDS),
        Target(
            name="configuration",
            use=_use_configuration,
            judge=_judge_configuration,
            words=_CONFIGURATION_WORDS,
            memory=3000,
        ),
        Target(name="rows", use=rows.use, judge=rows.judge, words=rows.WORDS, memory=3000),
    )
}
