"""Service: the server's side of SMTP, without I/O: octets in, steps out (RFC 5321 §4.1, §4.3).

    service.feed(octets)
    while (step := service.next()) is not None: ...

A Step says what the driver is to do. Begin, Add and Finish are questions: `accept` or `refuse` answers them before
`next` is called again. Take may be refused as well; the rest of that message is then read and dropped, and the refusal
is the reply to its end. After Leave nothing more is read.

Promises: any segmentation of the same octets gives the same steps. Memory is bounded by one feed and MAX_LINE_OCTETS.
Finish comes only after CRLF "." CRLF, exactly these five octets: no bare CR or LF ends a message. In commands they, a
NUL or another control character end the connection (521), so that nobody's message is ever read as commands by way of
a line end that only we see. Inside a message a bare LF is a line end of the text, as on the command's standard input,
and a dot that was doubled after it is taken back (Python's smtplib sends bytes so); what follows it is never the end.

Extensions: SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), PIPELINING (RFC 2920), ENHANCEDSTATUSCODES
(RFC 2034), DSN (RFC 3461). Not here: AUTH and STARTTLS, since the peer is a process of this machine that the kernel
names; what a sender or a recipient may be, which is the driver's.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pysendmail.address import AddressError, parse_path
from pysendmail.envelope import NOTIFY_WORDS, Recipient
from pysendmail.smtp.reply import printable
from pysendmail.smtp.wire import WireError, from_xtext

MAX_LINE_OCTETS = 2048  # with CRLF; RFC 5321 §4.5.3.1.4 and the extensions' additions fit well within
MAX_ERRORS = 20  # commands that are none, since the last message
MAX_REPLY_TEXT = 480  # RFC 5321 §4.5.3.1.5: 512 octets a line
MAX_HELLO_OCTETS = 255
MAX_ENVID = 100  # RFC 3461 §4.4
MAX_ORCPT = 500  # RFC 3461 §4.2

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_VERB = re.compile(r"([A-Za-z]+)(?:[ \t]+(.*))?\Z", re.DOTALL)
_PATH = re.compile(r'[ \t]*<((?:"(?:[^"\\]|\\.)*"|[^"<>])*)>(?:[ \t]+(.*))?\Z')
_ROUTE = re.compile(r"@[^:\"]*:")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^= \t]+))?\Z")
_END = b"\r\n.\r\n"
_UNDECIDED = re.compile(rb"(?:\r?\n\.?\r?|\r)\Z")  # may become the end, or a dot to take away
_STUFFED_AFTER_LF = re.compile(rb"(?<!\r)\n\.\.")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # RFC 6533 §3

# A browser, or a page in one, that was sent to our port: its body could hold commands.
_HTTP = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "CONNECT", "OPTIONS", "PATCH", "TRACE", "PRI"})
_NOT_OFFERED = frozenset({"AUTH", "STARTTLS", "EXPN", "BDAT", "BURL", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the greeting says, and the bounds that are the administrator's."""

    hostname: str
    message_octets: int
    recipients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the client calls itself, a claim; `extended`: with EHLO."""

    name: str
    extended: bool


@dataclass(frozen=True, slots=True)
class Say:
    """Write these octets: whole replies."""

    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """MAIL: may a message with this sender begin? "" is the null reverse-path."""

    hello: Hello
    sender: str
    ret: str
    envid: str
    smtputf8: bool


@dataclass(frozen=True, slots=True)
class Add:
    """RCPT: may it go to this recipient, too?"""

    recipient: Recipient


@dataclass(frozen=True, slots=True)
class Take:
    """A piece of the message, with the dots that were added for the transport taken away."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """The message is complete: make it yours. Its `accept` is the promise that it will not be lost."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget what was begun: there will be no message."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Close the connection. `reason` is "" when the client asked for that."""

    reason: str


Step = Say | Begin | Add | Take | Finish | Drop | Leave


class Refusal(Exception):
    """A command, or a message, that is not taken: what the client is told."""

    def __init__(self, code: int, status: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


def _wrong(code: int, text: str, status: str = "5.5.4") -> Refusal:
    return Refusal(code, status, text)


def say(code: int, status: str, *lines: str) -> Say:
    """A reply: each line fit to be shown, ASCII, and within its bound. The greeting has no `status` (RFC 2034 §4)."""
    texts = [printable(line, MAX_REPLY_TEXT).encode("ascii", "backslashreplace")[:MAX_REPLY_TEXT] for line in lines]
    head = f"{status} ".encode() if status else b""
    *before, last = texts
    return Say(b"".join(b"%d-%b%b\r\n" % (code, head, text) for text in before) + b"%d %b%b\r\n" % (code, head, last))


class Service:
    """One connection. It begins with the greeting."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps: deque[Step] = deque([say(220, "", f"{limits.hostname} ESMTP pysendmail")])
        self._buffer = bytearray()
        self._searched = 0  # no end of a command before here
        self._overlong = False  # the command that is being read is, and what came of it is gone
        self._errors = 0
        self._hello: Hello | None = None
        self._asked: Begin | Add | Finish | None = None  # what the driver has yet to answer
        self._reading = False  # a message
        self._first = False  # the first piece of it has two octets of ours before it
        self._ended = False  # all of it was handed on
        self._refusal: Refusal | None = None  # of the message that is being read
        self._smtputf8 = False
        self._recipients = 0
        self.begun = False  # the driver holds something of a message
        self.closed = False

    # -- the driver --

    def feed(self, octets: bytes) -> None:
        if not self.closed:
            self._buffer += octets

    def next(self) -> Step | None:
        """What to do now. None: more octets are needed, or `closed`."""
        assert self._asked is None, "a question has no answer yet"
        while not self._steps and not self.closed:
            if not (self._read_message() if self._reading else self._read_command()):
                return None
        if not self._steps:
            return None
        step = self._steps.popleft()
        match step:
            case Begin() | Add() | Finish():
                self._asked = step
        return step

    def accept(self, text: str) -> None:
        """Yes to the last question. To Finish: the message is safe now, and `text` says under which name."""
        asked, self._asked = self._asked, None
        match asked:
            case Begin(smtputf8=smtputf8):
                self.begun, self._smtputf8 = True, smtputf8
                self._say(250, "2.1.0", text)
            case Add():
                self._recipients += 1
                self._say(250, "2.1.5", text)
            case Finish():
                self._reset()
                self._errors = 0
                self._say(250, "2.0.0", text)

    def refuse(self, refusal: Refusal) -> None:
        """No to the last question, or to a piece of the message."""
        asked, self._asked = self._asked, None
        if asked is None and self._reading:
            self._refusal = self._refusal or refusal
            return
        if isinstance(asked, Finish):
            self._abort()
        self._say(refusal.code, refusal.status, str(refusal))

    def abandon(self, status: str, text: str) -> None:
        """421: the connection ends for a reason of ours (RFC 5321 §3.8)."""
        self._close(421, status, text, text)

    # -- replies --

    def _say(self, code: int, status: str, *lines: str) -> None:
        self._steps.append(say(code, status, *lines))

    def _close(self, code: int, status: str, text: str, reason: str) -> None:
        if self.closed:
            return
        self._abort()
        name = self._limits.hostname
        self._say(code, status, f"{name} {text}" if code in (221, 421) else text)
        self._steps.append(Leave(reason))
        self.closed = True
        self._reading = self._ended = False
        self._buffer.clear()

    def _abort(self) -> None:
        """No message comes of what was begun."""
        if self.begun:
            self._steps.append(Drop())
        self._reset()

    def _reset(self) -> None:
        self.begun = self._smtputf8 = False
        self._recipients = 0
        self._refusal = None

    # -- commands --

    def _read_command(self) -> bool:
        """Do the next command, if it is there."""
        found = _CONTROL.search(self._buffer, self._searched)
        end = found.start() if found else len(self._buffer)
        more = bytes(self._buffer[end : end + 2])
        if more in (b"", b"\r"):  # its end is yet to come
            self._overlong = self._overlong or end > MAX_LINE_OCTETS - 2
            if self._overlong:
                del self._buffer[:end]
                end = 0
            self._searched = end
            return False
        if more != b"\r\n":
            what = "a line end that is not CRLF" if more[0] in b"\r\n" else "a control character"
            self._close(521, "5.5.2", f"{what} in a command", f"{what} in a command")
            return True
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        overlong, self._overlong, self._searched = self._overlong or end > MAX_LINE_OCTETS - 2, False, 0
        try:
            if overlong:
                raise _wrong(500, f"a command of more than {MAX_LINE_OCTETS} octets", "5.5.2")
            self._command(line)
        except Refusal as refusal:
            self._say(refusal.code, refusal.status, str(refusal))
            # What a client gets wrong about a mailbox is no sign that it speaks something else than SMTP.
            self._errors += refusal.code in (500, 501, 502, 503, 504, 555)
            if self._errors >= MAX_ERRORS:
                self.abandon("4.7.0", "too many errors")
        return True

    def _command(self, line: bytes) -> None:
        try:
            text = line.decode("utf-8").rstrip(" \t")
        except UnicodeDecodeError:
            raise _wrong(500, "neither ASCII nor UTF-8", "5.5.2") from None
        match = _VERB.match(text)
        verb = match[1].upper() if match else ""
        if verb in _HTTP:
            self._close(421, "4.7.0", "this is SMTP, not HTTP", f"{verb} is HTTP, not SMTP")
            return
        if verb in _NOT_OFFERED:
            raise _wrong(502, f"{verb} is not offered here", "5.5.1")
        command = _COMMANDS.get(verb)
        if match is None or command is None:
            raise _wrong(500, f"no such command: {printable(text, 40)}; HELP lists them", "5.5.2")
        command(self, match[2] or "")

    def _helo(self, name: str) -> None:
        self._greet(name, extended=False)

    def _ehlo(self, name: str) -> None:
        self._greet(name, extended=True)

    def _greet(self, name: str, *, extended: bool) -> None:
        if not name or len(name) > MAX_HELLO_OCTETS or not name.isascii() or " " in name or "\t" in name:
            raise _wrong(501, f"write {'EHLO' if extended else 'HELO'} and the name of the client")
        self._abort()  # RFC 5321 §4.1.4: as if RSET had been sent
        self._hello = Hello(name=name, extended=extended)
        limits = self._limits
        extensions = ("PIPELINING", f"SIZE {limits.message_octets}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
        self._say(250, "", limits.hostname, *((*extensions, "DSN") if extended else ()))

    def _mail(self, text: str) -> None:
        if self._hello is None:
            raise _wrong(503, "say EHLO or HELO first", "5.5.1")
        if self.begun:
            raise _wrong(503, "MAIL was given already; RSET begins anew", "5.5.1")
        sender, parameters = _read_path("MAIL FROM", text, _MAIL_PARAMETERS)
        smtputf8 = "SMTPUTF8" in parameters
        envid = parameters.get("ENVID", "")
        if int(parameters.get("SIZE", "0")) > self._limits.message_octets:
            raise Refusal(552, "5.3.4", f"a message may have {self._limits.message_octets} octets")
        self._steps.append(
            Begin(
                hello=self._hello,
                sender=_mailbox(sender, smtputf8) if sender else "",
                ret=parameters.get("RET", "").lower(),
                envid=_decoded("ENVID", envid) if envid else "",
                smtputf8=smtputf8,
            )
        )

    def _rcpt(self, text: str) -> None:
        if not self.begun:
            raise _wrong(503, "MAIL comes first", "5.5.1")
        recipient, parameters = _read_path("RCPT TO", text, _RCPT_PARAMETERS)
        if self._recipients >= self._limits.recipients:
            # RFC 5321 §4.5.3.1.10: the client sends the message again to the rest.
            raise Refusal(452, "4.5.3", f"a message may have {self._limits.recipients} recipients: send it in parts")
        notify = parameters.get("NOTIFY", "")
        address = _mailbox(recipient, self._smtputf8)
        orcpt = _orcpt(parameters.get("ORCPT", ""), smtputf8=self._smtputf8)
        words = frozenset(notify.lower().split(",")) if notify else frozenset()
        self._steps.append(Add(Recipient(address=address, notify=words, orcpt=orcpt)))

    def _data(self, text: str) -> None:
        _no_argument("DATA", text)
        if not self.begun:
            raise _wrong(503, "MAIL comes first", "5.5.1")
        if not self._recipients:
            raise Refusal(554, "5.5.1", "no valid recipients")
        self._reading = self._first = True
        # The CRLF of DATA's own line: the end of an empty message is a dot right after it (RFC 5321 §4.1.1.4).
        self._buffer[:0] = b"\r\n"
        self._say(354, "", "end the message with a dot on a line of its own")

    def _rset(self, text: str) -> None:
        _no_argument("RSET", text)
        self._abort()
        self._say(250, "2.0.0", "ok")

    def _noop(self, text: str) -> None:
        self._say(250, "2.0.0", "ok")

    def _vrfy(self, text: str) -> None:
        if not text:
            raise _wrong(501, "write VRFY and an address")
        self._say(252, "2.5.2", "no address is verified here; send the message, and a bounce tells")

    def _help(self, text: str) -> None:
        self._say(214, "2.0.0", f"commands: {' '.join(_COMMANDS)}", "this queue takes mail from this machine only")

    def _quit(self, text: str) -> None:
        _no_argument("QUIT", text)
        self._close(221, "2.0.0", "goodbye", "")

    # -- the message --

    def _read_message(self) -> bool:
        """Hand on what is there of the message; False when nothing can be said before more has come."""
        if self._ended:  # a turn of its own, since the last piece may have been refused
            self._reading = self._ended = False
            self._steps.append(Finish() if self._refusal is None else self._refused())
            return True
        end = self._buffer.find(_END)
        if end >= 0:
            stop, drop = end + 2, end + len(_END)
        else:
            undecided = _UNDECIDED.search(self._buffer, max(0, len(self._buffer) - len(_END) + 1))
            stop = drop = undecided.start() if undecided else len(self._buffer)
        text = bytes(self._buffer[:stop])
        del self._buffer[:drop]
        if text and self._refusal is None:
            text = _STUFFED_AFTER_LF.sub(b"\n.", text.replace(b"\r\n.", b"\r\n")) if b"\n." in text else text
            text, self._first = text[2:] if self._first else text, False
            if text:
                self._steps.append(Take(text))
        self._ended = end >= 0
        return self._ended or bool(self._steps)

    def _refused(self) -> Say:
        """The end of a message that was refused on its way."""
        refusal = self._refusal
        assert refusal is not None
        self._abort()
        return say(refusal.code, refusal.status, str(refusal))


_COMMANDS: Mapping[str, Callable[[Service, str], None]] = {
    "EHLO": Service._ehlo,
    "HELO": Service._helo,
    "MAIL": Service._mail,
    "RCPT": Service._rcpt,
    "DATA": Service._data,
    "RSET": Service._rset,
    "NOOP": Service._noop,
    "VRFY": Service._vrfy,
    "HELP": Service._help,
    "QUIT": Service._quit,
}


# -- arguments -------------------------------------------------------------------------------------------------


def _no_argument(verb: str, text: str) -> None:
    if text:
        raise _wrong(501, f"{verb} takes no argument")


def _notify(value: str) -> bool:
    words = value.lower().split(",")
    return NOTIFY_WORDS.issuperset(words) and (len(words) == 1 or "never" not in words)


# Each parameter's value; None: it has none.
_MAIL_PARAMETERS: dict[str, Callable[[str], object] | None] = {
    "SIZE": re.compile(r"[0-9]{1,20}").fullmatch,
    "BODY": re.compile(r"7BIT|8BITMIME", re.IGNORECASE).fullmatch,
    "SMTPUTF8": None,
    "RET": re.compile(r"FULL|HDRS", re.IGNORECASE).fullmatch,
    "ENVID": lambda value: len(value) <= MAX_ENVID,
}
_RCPT_PARAMETERS: dict[str, Callable[[str], object] | None] = {
    "NOTIFY": _notify,
    "ORCPT": lambda value: len(value) <= MAX_ORCPT,
}


def _read_path(verb: str, text: str, known: Mapping[str, Callable[[str], object] | None]) -> tuple[str, dict[str, str]]:
    """What stands in the angle brackets, and the parameters after it, names in upper case."""
    word = verb.partition(" ")[2] + ":"
    match = _PATH.match(text[len(word) :]) if text[: len(word)].upper() == word else None
    if match is None:
        raise _wrong(501, f"write {verb}:<address>")
    parameters: dict[str, str] = {}
    for each in (match[2] or "").split():
        parts = _PARAMETER.match(each)
        name = parts[1].upper() if parts else ""
        if parts is None or name not in known:
            raise _wrong(555, f"{printable(each, 40)}: no such parameter of {verb.partition(' ')[0]}")
        check, value = known[name], parts[2] or ""
        if name in parameters or bool(value) != (check is not None) or (check is not None and not check(value)):
            raise _wrong(501, f"{printable(each, 40)}: it makes no sense so, or is given twice")
        parameters[name] = value
    # A route before the address is read and dropped (RFC 5321 §4.1.1.3, appendix C).
    return _ROUTE.sub("", match[1], count=1) if match[1].startswith("@") else match[1], parameters


def _mailbox(text: str, smtputf8: bool) -> str:
    if not text.isascii() and not smtputf8:
        raise Refusal(553, "5.6.7", "an address that is not ASCII needs SMTPUTF8 after MAIL (RFC 6531)")
    try:
        return str(parse_path(text))
    except AddressError as error:
        raise Refusal(553, "5.1.3", str(error)) from None


def _decoded(name: str, value: str) -> str:
    try:
        return from_xtext(value)
    except WireError as error:
        raise _wrong(501, f"{name}: {error}") from None


def _orcpt(value: str, *, smtputf8: bool) -> str:
    """ORCPT as `envelope.Recipient` has it, type and address decoded; "" for none."""
    if not value:
        return ""
    kind, semicolon, address = value.partition(";")
    if not (kind and semicolon and address):
        raise _wrong(501, "ORCPT: write a type, a semicolon and an address")
    if kind.lower() != "utf-8":
        return f"{_decoded('ORCPT', kind)};{_decoded('ORCPT', address)}"
    text = _EMBEDDED.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), address)
    if printable(text, len(text)) != text or not (smtputf8 or address.isascii()):
        raise _wrong(501, "ORCPT: not an address (RFC 6533)")
    return f"utf-8;{text}"
