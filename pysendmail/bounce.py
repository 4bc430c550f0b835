"""bounce: final outcomes -> the report that tells the sender (RFC 3464 in a multipart/report, RFC 6522).

    failure_report   some recipients were refused, or their time was over
    delay_report     some recipients are late; we go on trying
    relayed_report   NOTIFY=SUCCESS was asked and the smarthost has no DSN (RFC 3461 §5.2.2)
    postmaster_note  one of our own reports could not be delivered

Pure: clock, host name, queue id and the way to write a date are arguments; the same arguments give the same
bytes.

Promises: whatever stands in a reply, an address, an ENVID or the returned header, it adds no header field, no
boundary and no line to the report; lines end in CRLF and hold at most 998 octets; without a non-ASCII
address the report is ASCII, but for a returned message (RET=FULL) that was not. Bcc is never returned. The
body's size is at most `max_return` or three times MAX_RETURNED_HEADER, and about 6 KiB for each recipient.

Nothing here decides whether a report is due: NOTIFY, the null sender and the message's own kind (a bounce
never bounces) are the queue's business. X-Pysendmail-Report is for people and filters; it stops no loop.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pysendmail.hints import hint
from pysendmail.outcome import Outcome
from pysendmail.smtp.reply import printable
from pysendmail.transfer import MAX_LINE, longest_line, quoted_printable

# A header section may have 1 MiB at submission. Nobody reads that in a bounce: it is cut between two fields.
MAX_RETURNED_HEADER = 64 * 1024
# Of our own lines: below 78 (RFC 5322 §2.1.1), and so that quoted-printable has none to break (RFC 2045 §6.7).
WIDTH = 75
# An address has at most 256 octets, ORCPT 500 (RFC 3461 §4.2), a host name 255.
MAX_NAME = 512
# A word of a reply without a space for so many characters (of four octets at most, so that MAX_LINE holds) is
# broken; shorter ones are kept whole, for they may be links.
MAX_WORD = 240

_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
_MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{1,248}>\Z")
_HIDDEN = re.compile(rb"(?:resent-)?bcc[ \t]*:", re.IGNORECASE)
_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_BOUNDARY = re.compile(rb'\r\n boundary="([^"\r\n]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Who writes the reports. `date` writes an epoch as in a Date field (`message.rfc5322_date`)."""

    hostname: str
    domain: str
    date: Callable[[float], str]
    sender: str = ""  # [bounce] sender: reverse-path of reports, where a smarthost refuses the null one
    max_return: int = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The message that the report is about. `header` is the header section without the empty line.

    `body` may be left out wherever RET is not "full" or the message is larger than max_return.
    """

    sender: str
    queue_id: str
    accepted_at: float
    header: bytes
    body: bytes | None = None
    ret: str = ""
    envid: str = ""
    message_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One recipient and what became of it. Without a reply, `code` is None and `reply` is our own reason."""

    address: str
    outcome: Outcome
    status: str
    reply: str
    code: int | None = None
    orcpt: str = ""
    smarthost: str = ""  # its name in the configuration
    host: str = ""
    last_attempt_at: float
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A report, ready for the queue. `header` ends with its last field's CRLF and has no Received."""

    to: str
    sender: str
    subject: str
    message_id: str
    header: bytes
    body: bytes
    eight_bit: bool  # the body has 8-bit octets: BODY=8BITMIME, or re-encode
    smtputf8: bool  # `to` cannot be written without SMTPUTF8


def failure_report(
    reporter: Reporter, original: Original, failed: Sequence[Reported], *, queue_id: str, now: float
) -> Report:
    """The bounce for the recipients that failed (`bounced` or `expired`); `queue_id` is the bounce's own."""
    _expect(failed, Outcome.BOUNCED, Outcome.EXPIRED)
    returned = _returned(original, full=original.ret == "full", limit=reporter.max_return)
    words = [
        *_opening(reporter),
        _fill(
            f"Your message could not be delivered to {_these(failed)}, and it will not be tried again. Other "
            "recipients, if there are any, are not affected."
        ),
        *_failures(reporter, failed),
        *_closing(reporter, original, returned.words),
    ]
    draft = _Draft(
        to=original.sender,
        subject=_subject("Undelivered mail", failed),
        words=words,
        action="failed",
        about=failed,
        returned=returned,
    )
    return _assemble(reporter, original, draft, queue_id, now)


def delay_report(
    reporter: Reporter,
    original: Original,
    delayed: Sequence[Reported],
    *,
    queue_id: str,
    now: float,
    retry_until: float,
) -> Report:
    """The notice that mail is late. Headers only, whatever RET says (RFC 3461 §4.3)."""
    _expect(delayed, Outcome.DEFERRED, Outcome.UNCERTAIN)
    returned = _returned(original, full=False, limit=reporter.max_return)
    until = _date(reporter, retry_until)
    words = [
        *_opening(reporter),
        _fill(
            "This is only a warning: YOU NEED NOT SEND YOUR MESSAGE AGAIN. It has not been delivered yet to "
            f"{_these(delayed)}. It is tried again and again until {until}; if that fails, you will be told."
        ),
    ]
    for group in _groups(delayed):
        one = group[0]
        words += [
            *_addresses(group),
            _fill(f"The last of {_attempts(one)}, {_where_and_when(reporter, group)}, gave:", 4),
            "",
            _verbatim(one.reply),
        ]
    words += _closing(reporter, original, returned.words)
    draft = _Draft(
        to=original.sender,
        subject=_subject("Delayed mail, still being tried", delayed),
        words=words,
        action="delayed",
        about=delayed,
        returned=returned,
        retry_until=until,
    )
    return _assemble(reporter, original, draft, queue_id, now)


def relayed_report(
    reporter: Reporter, original: Original, relayed: Sequence[Reported], *, queue_id: str, now: float
) -> Report:
    """The report that a message went to a server that will not report on its delivery."""
    _expect(relayed, Outcome.SENT)
    returned = _returned(original, full=False, limit=reporter.max_return)
    words = [
        *_opening(reporter),
        _fill(
            f"You asked to be told of the delivery of your message to {_these(relayed)}. It was handed over "
            "to a mail server that does not report on delivery. Most likely you will hear no more of it; if "
            "it cannot be delivered there, that server may tell you so."
        ),
    ]
    for group in _groups(relayed):
        words += [
            *_addresses(group),
            _fill(f"Accepted, {_where_and_when(reporter, group)}, with:", 4),
            "",
            _verbatim(group[0].reply),
        ]
    words += _closing(reporter, original, returned.words)
    draft = _Draft(
        to=original.sender,
        subject=_subject("Relayed mail", relayed),
        words=words,
        action="relayed",
        about=relayed,
        returned=returned,
    )
    return _assemble(reporter, original, draft, queue_id, now)


def postmaster_note(
    reporter: Reporter,
    undelivered: Original,
    failed: Sequence[Reported],
    *,
    to: str,
    queue_id: str,
    now: float,
) -> Report:
    """The note to the postmaster that a report of ours, `undelivered`, failed for its recipient.

    The report is returned whole where it fits in max_return, else without the message that it returned
    itself: its plain words and its fields are always there. Its body has to be given.
    """
    _expect(failed, Outcome.BOUNCED, Outcome.EXPIRED)
    returned = _returned_report(undelivered, reporter.max_return)
    words = [
        *_opening(reporter),
        _fill(
            "You get this as the postmaster of this machine. Mail of a user or a program here failed, and "
            f"the report on that could not be delivered either, to {_these(failed)}. Nobody else has been "
            "told, and this is the only note. The report that failed stands at the end; it says which mail "
            "was lost."
        ),
        *_failures(reporter, failed),
        *_closing(reporter, undelivered, returned.words, what="The report"),
    ]
    draft = _Draft(
        to=to,
        subject=_subject("Undelivered report", failed),
        words=words,
        action="failed",
        about=failed,
        returned=returned,
    )
    return _assemble(reporter, undelivered, draft, queue_id, now)


# --- the plain words -----------------------------------------------------------------------------------


def _opening(reporter: Reporter) -> list[str]:
    return [_fill(f"This is the mail system of {_name(reporter.hostname)}."), ""]


def _failures(reporter: Reporter, failed: Sequence[Reported]) -> list[str]:
    words: list[str] = []
    for group in _groups(failed):
        one = group[0]
        words += _addresses(group)
        where = _where_and_when(reporter, group)
        if one.outcome is Outcome.EXPIRED:
            words.append(_fill(f"The time for delivery is over. The last of {_attempts(one)}, {where}, gave:", 4))
        elif one.code is not None:
            words.append(_fill(f"Refused, {where}, with the words:", 4))
        else:
            words.append(_fill(f"Given up, {where}, because:", 4))
        words += ["", _verbatim(one.reply), "", _fill(hint(one.status, one.reply), 4)]
    return words


def _groups(about: Sequence[Reported]) -> Iterable[list[Reported]]:
    """Recipients of whom the same is to be said, in the order given."""
    groups: dict[tuple[object, ...], list[Reported]] = {}
    for one in about:
        key = (one.outcome, one.status, one.reply, one.code, one.smarthost, one.host, one.attempts)
        groups.setdefault(key, []).append(one)
    return groups.values()


def _addresses(group: Sequence[Reported]) -> list[str]:
    return ["", *(f"  {_name(one.address)}" for one in group), ""]


def _where_and_when(reporter: Reporter, group: Sequence[Reported]) -> str:
    one = group[0]
    where = "on this machine"
    if one.host:
        where = f"at {_name(one.host)}"
        if one.smarthost and one.smarthost != one.host:
            where += f' (smarthost "{_name(one.smarthost)}")'
    return f"{where} on {_date(reporter, max(one.last_attempt_at for one in group))}"


def _closing(reporter: Reporter, original: Original, returned: str, what: str = "Your message") -> list[str]:
    accepted = f"{what} was accepted on {_date(reporter, original.accepted_at)} with the queue id"
    envid = f" Its envelope id is {_name(original.envid)}." if original.envid else ""
    return [
        "",
        _fill(f"{accepted} {_name(original.queue_id)}.{envid}"),
        "",
        _fill(f"What follows is the same for programs, and then {returned}."),
    ]


def _these(about: Sequence[Reported]) -> str:
    return "this recipient" if len(about) == 1 else f"these {len(about)} recipients"


def _attempts(one: Reported) -> str:
    return "1 attempt" if one.attempts == 1 else f"{one.attempts} attempts"


def _fill(text: str, indent: int = 0) -> str:
    margin = " " * indent
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verbatim(reply: str) -> str:
    """The server's own words; a link among them is not broken, a word without end is."""
    words = re.sub(rf"\S{{{MAX_WORD}}}", r"\g<0> ", printable(reply).strip())
    return _fill(words or "(nothing)", 8)


def _subject(what: str, about: Sequence[Reported]) -> str:
    subject = f"{what}: {_name(about[0].address)}"
    if len(about) > 1 or len(subject) > WIDTH - len("Subject: ") or not subject.isascii():
        subject = f"{what}: {len(about)} recipient{'s' if len(about) > 1 else ''}"
    return subject


# --- the returned message ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Returned:
    header: bytes
    body: bytes | None  # None: the header alone is returned
    words: str


def _returned(original: Original, *, full: bool, limit: int) -> _Returned:
    header = _without_bcc(original.header)
    if full and original.body is not None:
        message = header + b"\r\n" + original.body
        # A message/rfc822 must not be encoded (RFC 2046 §5.2.1), so what needs that cannot be returned whole.
        if len(message) <= limit and not _STRAY.search(message) and longest_line(message) <= MAX_LINE:
            return _Returned(header=header, body=original.body, words="your message as it was sent")
    words = "the header of your message"
    if full:
        words += " (the whole is too large, or not fit, to be returned)"
    cut = _cut_between_fields(header, min(limit, MAX_RETURNED_HEADER))
    if len(cut) < len(header):
        words += ", shortened"
    return _Returned(header=_STRAY.sub(b" ", cut), body=None, words=words)


def _returned_report(report: Original, limit: int) -> _Returned:
    body = report.body or b""
    if len(report.header) + len(body) > limit and (match := _BOUNDARY.search(report.header)):
        # Ours, so its parts are words, status and returned message; the third is optional (RFC 6522 §3).
        delimiter = b"--" + match[1]
        parts = body.split(delimiter, 3)
        if len(parts) == 4:
            body = delimiter.join(parts[:3]) + delimiter + b"--\r\n"
    # What is left is what we wrote ourselves: the limit on returned mail was kept when we did.
    whole = Original(
        sender="",
        queue_id=report.queue_id,
        accepted_at=report.accepted_at,
        header=report.header,
        body=body,
    )
    returned = _returned(whole, full=True, limit=len(report.header) + len(body) + 2)
    return _Returned(header=returned.header, body=returned.body, words="the report that failed")


def _without_bcc(header: bytes) -> bytes:
    """All but Bcc and Resent-Bcc. Submission has dropped them; a bounce is no place to rely on that."""
    kept: list[bytes] = []
    hidden = False
    for line in header.splitlines(keepends=True):
        if not line.startswith((b" ", b"\t")):
            hidden = _HIDDEN.match(line) is not None
        if not hidden:
            kept.append(line)
    return b"".join(kept)


def _cut_between_fields(header: bytes, limit: int) -> bytes:
    if len(header) <= limit:
        return header
    end = limit
    while (end := header.rfind(b"\r\n", 0, end)) >= 0:
        if header[end + 2 : end + 3] not in (b" ", b"\t"):
            return header[: end + 2]
    return b""


# --- the bytes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    to: str
    subject: str
    words: list[str]
    action: str
    about: Sequence[Reported]
    returned: _Returned
    retry_until: str = ""


def _assemble(reporter: Reporter, original: Original, draft: _Draft, queue_id: str, now: float) -> Report:
    to = draft.to
    if not to:
        raise ValueError("a report needs somebody to go to: the null sender gets none")
    is_global = not (to.isascii() and all(one.address.isascii() and one.orcpt.isascii() for one in draft.about))
    parts = [
        _text_part("\n".join([*draft.words, ""])),
        _status_part(reporter, original, draft, is_global=is_global),
        _returned_part(draft.returned, is_global=is_global),
    ]
    # Made from the content itself, which therefore cannot hold it, whoever wrote the content.
    digest = hashlib.blake2b(b"".join([queue_id.encode("utf-8", "replace"), *parts]), digest_size=12).hexdigest()
    delimiter = b"--=_" + digest.encode()
    body = b"".join(b"%b\r\n%b\r\n" % (delimiter, part) for part in parts) + delimiter + b"--\r\n"
    eight_bit = _EIGHT_BIT.search(body) is not None
    message_id = f"<{_ascii(queue_id)}@{_ascii(reporter.hostname)}>"
    fields = [
        _field("From", f'"Mail Delivery System" <{reporter.sender or f"MAILER-DAEMON@{reporter.domain}"}>'),
        _field("To", _name(to)),
        _field("Subject", draft.subject),
        _field("Date", _date(reporter, now)),
        _field("Message-ID", message_id),
    ]
    if _MESSAGE_ID.match(original.message_id):
        fields.append(_field("References", original.message_id))
    fields += [
        _field("Auto-Submitted", "auto-replied"),
        _field("X-Pysendmail-Report", _ascii(original.queue_id)),
        b"MIME-Version: 1.0\r\n",
        b'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="=_%b"\r\n' % digest.encode(),
    ]
    if eight_bit:
        fields.append(b"Content-Transfer-Encoding: 8bit\r\n")
    return Report(
        to=to,
        sender=reporter.sender,
        subject=draft.subject,
        message_id=message_id,
        header=b"".join(fields),
        body=body,
        eight_bit=eight_bit,
        smtputf8=not to.rpartition("@")[0].isascii() if "@" in to else not to.isascii(),
    )


def _text_part(text: str) -> bytes:
    charset = b"us-ascii" if text.isascii() else b"utf-8"
    content = text.encode().replace(b"\n", b"\r\n")
    return _part(b"text/plain; charset=%b" % charset, content, encode=not text.isascii())


def _status_part(reporter: Reporter, original: Original, draft: _Draft, *, is_global: bool) -> bytes:
    """RFC 3464 §2: one block for the message, one for each recipient. A blank line stands between them."""
    text = _name if is_global else _ascii
    lines = [_field("Reporting-MTA", f"dns; {_ascii(reporter.hostname)}")]
    if original.envid:
        lines.append(_field("Original-Envelope-Id", text(original.envid)))
    lines.append(_field("Arrival-Date", _date(reporter, original.accepted_at)))
    lines.append(_field("X-Pysendmail-Queue-ID", _ascii(original.queue_id)))
    for one in draft.about:
        lines.append(b"\r\n")
        if one.orcpt:
            kind, _, address = one.orcpt.partition(";")
            lines.append(_field("Original-Recipient", f"{text(kind)};{text(address)}"))
        # RFC 6533 §3: "utf-8" names an address that is none in the sense of RFC 822.
        kind = "rfc822" if one.address.isascii() else "utf-8"
        lines.append(_field("Final-Recipient", f"{kind}; {text(one.address)}"))
        lines.append(_field("Action", draft.action))
        lines.append(_field("Status", one.status if _STATUS.match(one.status) else "5.0.0"))
        if one.host and one.code is not None:
            lines.append(_field("Remote-MTA", f"dns; {_ascii(one.host)}"))
        if one.reply:
            source = "smtp" if one.code is not None else "X-Pysendmail"
            lines.append(_field("Diagnostic-Code", f"{source}; {_ascii(one.reply, limit=None)}"))
        lines.append(_field("Last-Attempt-Date", _date(reporter, one.last_attempt_at)))
        if draft.retry_until:
            lines.append(_field("Will-Retry-Until", draft.retry_until))
    kind_of_part = b"message/global-delivery-status" if is_global else b"message/delivery-status"
    return _part(kind_of_part, b"".join(lines))


def _returned_part(returned: _Returned, *, is_global: bool) -> bytes:
    utf8 = is_global and _EIGHT_BIT.search(returned.header) is not None and _is_utf8(returned.header)
    if returned.body is not None:
        kind = b"message/global" if utf8 else b"message/rfc822"
        return _part(kind, returned.header + b"\r\n" + returned.body)
    overlong = longest_line(returned.header) > MAX_LINE
    if utf8:
        return _part(b"message/global-headers", returned.header, encode=overlong)
    # RFC 6522 §4: header fields that are not proper 7-bit text may be encoded here.
    encode = overlong or _EIGHT_BIT.search(returned.header) is not None
    return _part(b"text/rfc822-headers", returned.header, encode=encode)


def _part(kind: bytes, content: bytes, *, encode: bool = False) -> bytes:
    encoding = b""
    if encode:
        content = quoted_printable(content)
        encoding = b"Content-Transfer-Encoding: quoted-printable\r\n"
    elif _EIGHT_BIT.search(content):
        encoding = b"Content-Transfer-Encoding: 8bit\r\n"
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return b"Content-Type: %b\r\n%b\r\n%b" % (kind, encoding, content)


def _field(name: str, value: str) -> bytes:
    """The one door into a header: no control character passes; long values are folded at their own spaces."""
    shown = re.sub(" {9,}", " ", printable(value, 6 * len(value) + 1).strip())
    line, lines = f"{name}:", []
    for word in re.findall(rf" *[^ ]{{1,{MAX_WORD}}}", " " + shown):
        if len(line) + len(word) > WIDTH and line != f"{name}:":
            lines.append(line)
            line = ""
        line += word if word.startswith(" ") or line else " " + word
    lines.append(line)
    return "\r\n".join(lines).encode() + b"\r\n"


def _name(text: str) -> str:
    """An address, a host or an id as it is shown: one line, at most MAX_NAME octets."""
    shown = printable(text, MAX_NAME)
    return shown.encode()[:MAX_NAME].decode("utf-8", "ignore")


def _ascii(text: str, limit: int | None = MAX_NAME) -> str:
    shown = printable(text) if limit is None else printable(text, limit)
    return shown.replace("…", "...").encode("ascii", "backslashreplace").decode()


def _date(reporter: Reporter, epoch: float) -> str:
    return _ascii(reporter.date(epoch))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _expect(about: Sequence[Reported], *outcomes: Outcome) -> None:
    if not about or any(one.outcome not in outcomes for one in about):
        raise ValueError(f"this report is for recipients with the outcome {' or '.join(outcomes)}")
