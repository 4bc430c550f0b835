"""The checker: I1-I16, each a function of the evidence that yields its violations. `check` runs them all.

An invariant knows exit codes, the wire, the log and what `mailq` and `history` print; it has no access to the
queue. What is forgiven is forgiven because the evidence holds the reason (a reset before the answer, the end of
the daemon that held the connection, a disk that was full), never because of a rate.
"""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from torture.evidence import Call, Connection, Evidence, Violation, token_in
from torture.view import SLACK_S, Try, View, failed_in, message_id_of, name_of, normalised, split

MAYBE = "may have been queued"
TEMPFAIL = 75
TRUSTED_SHARE = 0.8  # of an interval: gaps may be shorter by 20 %, or by the configured jitter
SHORT_GAPS = 3  # in a row after attempts without an answer: a connection found dead in idleness is no attempt
STARVING = 10  # times quiet_s, for the first attempt: so long other mail may have its turn
FAILURE_MEMORY_S = 600.0  # a failed handshake lets the next connections go on in clear for so long
MADE_DUE = ("start", "flush", "released", "clock")  # events after which mail is tried at once; a clock set forward
# Header fields that we may add.
ADDED = {"received", "date", "message-id", "from", "to", "sender", "x-authentication-warning", "mime-version"}
ONCE = {"date", "message-id", "from", "to", "mime-version"}  # of these, what the submitter did not write
HIDDEN = ("bcc", "resent-bcc")
DROPPED = (*HIDDEN, "return-path", "content-length")  # what a submitter's header may lose
VERBS = {"EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "STARTTLS", "AUTH"}
CLEAR_VERBS = {"EHLO", "HELO", "STARTTLS", "QUIT"}  # what may be said in clear where TLS is demanded
READINGS = {  # what other servers may take for the end of data
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
}
END = b"\r\n.\r\n"
CLOSED = re.compile(rb"\r\n--[^\r\n]+--\r\n\Z")  # the end of a report
_ADDRESS = re.compile(rb"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+")
_UID = re.compile(rb"^Received:[^\r\n]*?\(pysendmail, from uid (\d+)\)", re.IGNORECASE)

Finding = Iterator[str]


def no_loss(view: View) -> Finding:
    """Exit 0: every recipient has an accepted copy, or is named in exactly one bounce, or is in mailq at the end.

    A null sender or NOTIFY=NEVER has a recorded outcome instead of the bounce. A call that we killed, or that says
    "may have been queued", is held to the same once there is any sign of its message: all or nothing. Where the history
    was asked for, it has one record of the recipient, which is true.
    """
    for call in view.evidence.calls:
        if not call.accepted and not (_open_ended(call) and call.token in view.tokens_seen):
            continue
        for recipient in dict.fromkeys(call.recipients):
            if fate := _lost(view, call, recipient) or _misrecorded(view, call, recipient):
                yield f"{call.token}: exit {call.code}, {recipient} {fate}"


def _lost(view: View, call: Call, recipient: str) -> str:
    key = (call.token, recipient)
    if any(one.copy for one in view.tries.get(key, [])) or key in view.waiting:
        return ""
    if _silent(call):
        ended = view.outcomes.get(key, set())
        return "" if ended & {"discarded", "bounced", "expired"} else "has no outcome, and no bounce was due"
    bounces = view.bounces.get(key, [])
    if len(bounces) == 1 or (not bounces and _bounce_is_on_its_way(view, call)):
        return ""
    return f"has no copy, {len(bounces)} bounces, and is not in the queue"


def _misrecorded(view: View, call: Call, recipient: str) -> str:
    """What is wrong with its record in the history; "" when nothing is, or nobody asked."""
    if not view.evidence.history:
        return ""
    key = (call.token, recipient)
    records = view.records[key]
    if len(records) != 1:
        return f"has {len(records)} records in the history"
    [outcome] = records
    if not outcome:
        return "" if key in view.waiting else "has no outcome in the history, and does not wait"
    copies = any(one.copy for one in view.tries.get(key, []))
    return f"is {outcome} in the history, and it has no copy" if outcome == "sent" and not copies else ""


def no_duplicate(view: View) -> Finding:
    """At most one accepted copy per (token, recipient), reports included.

    One more for each copy whose answer was not read, or came so shortly before the daemon's end or a full disk that
    it may not have been recorded; then the log or the history says `uncertain` as often.
    """
    for name, recipient, copies in _copies(view):
        for one in copies[:-1]:
            if not view.unrecorded(one, message_id_of(one.attempt)):
                yield f"{name}: another copy to {recipient} after one that was taken and told, without a reason"
        extra = len(copies) - 1
        said = sum(
            view.uncertain[message_id, recipient] for message_id in {message_id_of(one.attempt) for one in copies}
        )
        if said < extra:
            yield f"{name}: {extra} extra copies to {recipient}, `uncertain` {said} times"


def _copies(view: View) -> Iterator[tuple[str, str, list[Try]]]:
    """What has more than one copy: token or, of a report, Message-ID; recipient; copies.

    A submission is one message, whatever Message-IDs it came to. One that was fed back is another submission.
    """
    found: dict[tuple[str, str], list[Try]] = {}
    for attempt in view.messages:
        name = view.token(attempt) or message_id_of(attempt)
        connection = view.connections[attempt.connection]
        for asked in {one.address: one for one in attempt.asked}.values():
            one = Try(asked=asked, attempt=attempt, connection=connection)
            if one.copy:
                found.setdefault((name, asked.address), []).append(one)
    for (name, recipient), copies in found.items():
        if len(copies) > 1:
            yield name, recipient, copies


def no_invention(view: View) -> Finding:
    """Nothing at the recorder that nobody submitted, to nobody who was not named; exit != 0: nothing at all.

    75 "may have been queued" and a call that we killed: all or nothing; and that 75 only where a daemon ended during
    the call, something was broken, or the client's patience was over.
    """
    senders = {call.sender for call in view.evidence.calls} | {view.settings.postmaster}
    for attempt in view.attempts:
        asked = {one.address for one in attempt.asked}
        token = view.token(attempt)
        if call := view.calls.get(token):
            if strangers := asked - set(call.recipients):
                yield f"{token}: sent to {sorted(strangers)}, whom nobody named"
        elif token:
            yield f"{token}: nobody submitted it"
        elif attempt.sender or (attempt.dot is not None and not attempt.is_report):
            yield f"a message from <{attempt.sender}> to {sorted(asked)} that nobody submitted"
        elif strangers := asked - senders - {one for call in view.null_calls for one in call.recipients}:
            yield f"a report to {sorted(strangers)}, who sent nothing"
    for call in view.evidence.calls:
        if call.code and not _open_ended(call) and call.token in view.tokens_seen:
            yield f"{call.token}: exit {call.code} ({call.stderr.strip()}), and yet it was queued or sent"
        if call.code == TEMPFAIL and MAYBE in call.stderr and not _had_reason(view, call):
            yield f"{call.token}: `{MAYBE}`, and nothing had happened"


def wholeness(view: View) -> Finding:
    """Each copy is our added header fields and the normalised original; all copies, also of a report, are the same."""
    first: dict[str, bytes] = {}
    for attempt in view.messages:
        assert attempt.dot is not None
        content = attempt.dot.content
        name = view.token(attempt) or message_id_of(attempt)
        call = view.calls.get(name)
        if first.setdefault(name, content) != content:
            yield f"{name}: two copies that differ"
        elif call is not None and first[name] is content and (wrong := not_whole(call, content)):
            yield f"{name}: {wrong}"


def not_whole(call: Call, content: bytes) -> str:
    """What is wrong with this copy; "" when nothing is."""
    fields, body = split(content)
    ours, our_body = split(normalised(call.text))
    if body != our_body:
        return f"the body is not the one submitted ({len(body)} octets, not {len(our_body)})"
    left = iter(fields)
    extra = []
    for wanted in (field for field in ours if name_of(field) not in DROPPED):
        for field in left:
            if field == wanted:
                break
            extra.append(name_of(field))
        else:
            return f"the header lacks {wanted!r}"
    extra += [name_of(field) for field in left]
    if invented := set(extra) - ADDED - set(HIDDEN):  # of those, I7 speaks
        return f"the header has {sorted(invented)} of nobody's"
    doubled = set(extra) & ONCE & {name_of(field) for field in ours}
    return f"the header has {sorted(doubled)} twice" if doubled else ""


def framing(view: View) -> Finding:
    """Only CRLF, exactly one end of data in the strict and in five lenient readings, no unstuffed dot.

    And after the end of data come commands, not the rest of a message.
    """
    for attempt in view.messages:
        assert attempt.dot is not None
        for wrong in _misframed(attempt.dot.stream):
            yield f"{view.token(attempt) or message_id_of(attempt)}: {wrong}"
    for connection in view.evidence.connections:
        odd = [one.line for one in connection.commands if one.verb.strip() not in VERBS or set(one.line) & set("\r\n")]
        if odd:  # an answer to a prompt of AUTH is no command, and the recorder keeps none as one
            yield f"connection {connection.id}: {odd[0][:60]!r} where a command was due"


def _misframed(stream: bytes) -> Iterator[str]:
    whole = b"\r\n" + stream
    if not whole.endswith(END) or whole.count(END) != 1:
        yield f"{whole.count(END)} ends of data"
    if re.search(rb"\r(?!\n)|(?<!\r)\n", stream):
        yield "a bare CR or LF on the wire"
    for name, mark in READINGS.items():
        at = whole.find(mark)
        if at >= 0 and at + len(mark) != len(whole):
            yield f"a server that takes {name} for the end of data sees one at octet {at} of {len(whole)}"
    if re.search(rb"(?:\A|\n)\.(?!\.)", stream.removesuffix(b".\r\n")):
        yield "a line begins with an unstuffed dot"


def order(view: View) -> Finding:
    """Never a send after a bounce or a success for that recipient; no retry after 5xx; I2's window excepted."""
    bounced_at = {key: min(report.attempt.at for report in reports) for key, reports in view.bounces.items() if reports}
    for key, tries in view.tries.items():
        token, recipient = key
        for earlier, later in pairwise(tries):
            if later.attempt is earlier.attempt:
                yield f"{token}: {recipient} twice in one transaction"
            elif earlier.code // 100 == 5 and not view.unrecorded(earlier, view.message_ids.get(token, "")):
                yield f"{token}: {recipient} tried again after {earlier.code}"
            elif earlier.copy and not later.copy and not view.unrecorded(earlier, view.message_ids.get(token, "")):
                yield f"{token}: {recipient} tried again after it was taken"
        bounced = bounced_at.get(key)
        if bounced is not None and tries[-1].asked.at > bounced:
            yield f"{token}: {recipient} tried again after its bounce had arrived"


def blind_copies(view: View) -> Finding:
    """No Bcc or Resent-Bcc at the recorder, in any form or report, and no Bcc address in what is sent."""
    for attempt in view.messages:
        assert attempt.dot is not None
        content = attempt.dot.content
        token = view.token(attempt) or token_in(content)
        header = content if attempt.is_report else content.partition(b"\r\n\r\n")[0]
        if re.search(rb"^(?:resent-)?bcc[ \t]*:", header, re.IGNORECASE | re.MULTILINE):
            yield f"{token}: a Bcc field was sent"
        call = view.calls.get(token)
        hidden = _hidden(call) if call is not None else set()
        if hidden and attempt.is_report:  # it has to name those whom it is about
            hidden -= {address.encode() for address in failed_in(content)}
        for address in sorted(hidden):
            if address in content:
                yield f"{token}: {address.decode()} stood in Bcc, and in what was sent"


def _hidden(call: Call) -> set[bytes]:
    """Addresses that the message names in Bcc and nowhere else."""
    fields, body = split(normalised(call.text))
    hidden = {address for field in fields if name_of(field) in HIDDEN for address in _ADDRESS.findall(field)}
    shown = b"".join(field for field in fields if name_of(field) not in HIDDEN) + body
    return {address for address in hidden if address not in shown}


def credentials(view: View) -> Finding:
    """No secret, plain or encoded, in clear octets, the log, a message, standard error, /proc or a core file."""
    needles = {needle: secret for secret in view.settings.secrets for needle in spellings(secret.encode())}
    if not needles:
        return
    places = [("the log", view.evidence.text_log.encode())]
    places += [(f"standard error of {call.token}", call.stderr.encode()) for call in view.evidence.calls]
    places += [(sample.what, sample.octets) for sample in view.evidence.samples]
    places += [
        ("a message", attempt.dot.content)
        for attempt in view.messages
        if attempt.dot is not None and not view.token(attempt)
    ]
    if not view.settings.auth_in_clear:
        places += [
            (f"clear octets of connection {connection.id}", connection.clear_octets())
            for connection in view.evidence.connections
        ]
    for where, octets in places:
        if any(needle in octets for needle in needles):
            yield f"a secret in {where}"


def spellings(secret: bytes) -> Iterator[bytes]:
    """As it is, in hex, and within base64 at each of the three alignments."""
    yield secret
    yield secret.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        cut = encoded[(shift * 8 + 5) // 6 : len(encoded) - 4 if (shift + len(secret)) % 3 else None]
        if len(cut) >= 6:
            yield cut


def clear_text(view: View) -> Finding:
    """Under encrypt or stronger nothing but EHLO, STARTTLS and QUIT in clear, only QUIT once TLS cannot be had.

    Under verify and fingerprint nothing at all to a certificate that is not good.
    """
    if view.settings.tls not in ("encrypt", "verify", "fingerprint"):
        return
    for connection in view.evidence.connections:
        clear = [command.verb.strip() for command in connection.commands if command.clear]
        if said := [verb for verb in clear if verb not in CLEAR_VERBS]:
            yield f"connection {connection.id}: {said} in clear under {view.settings.tls}"
        refused = connection.starttls_reply[:1] in (b"4", b"5")
        after = clear[clear.index("STARTTLS") + 1 :] if refused else clear[1:] if _without_tls(connection) else []
        if said := [verb for verb in after if verb != "QUIT"]:
            yield f"connection {connection.id}: {said} after TLS could not be had"
        if view.settings.tls != "encrypt" and connection.certificate != "good":
            secret = [command.verb.strip() for command in connection.commands if not command.clear]
            if said := [verb for verb in secret if verb != "QUIT"]:
                yield f"connection {connection.id}: {said} to a certificate that is {connection.certificate}"


def _without_tls(connection: Connection) -> bool:
    return not connection.offered_starttls and connection.handshake is None


def fallback(view: View) -> Finding:
    """Mail in clear under may: no STARTTLS offered or refused there, or a new connection after a failed handshake.

    In either case without AUTH, without a dot on the connection that failed, and never once TLS has worked there.
    """
    if view.settings.tls != "may":
        return
    failed: list[float] = []
    worked: list[float] = []
    for connection in view.evidence.connections:
        if connection.handshake_at is not None:
            (worked if connection.handshake else failed).append(connection.handshake_at)
    for connection in view.evidence.connections:
        clear = [command for command in connection.commands if command.clear]
        mail = next((command for command in clear if command.verb == "MAIL"), None)
        if any(command.verb == "AUTH" for command in clear) and not view.settings.auth_in_clear:
            yield f"connection {connection.id}: credentials in clear"
        if mail is None:
            continue
        if connection.handshake is not None:
            yield f"connection {connection.id}: mail in clear where a handshake was tried"
        offered = connection.offered_starttls and connection.starttls_reply[:1] not in (b"4", b"5")
        recent = any(-SLACK_S <= connection.opened - at <= FAILURE_MEMORY_S + SLACK_S for at in failed)
        if offered and not recent:
            yield f"connection {connection.id}: mail in clear, and STARTTLS was there for it"
        if any(at + SLACK_S < mail.at <= at + view.settings.tls_memory for at in worked):
            yield f"connection {connection.id}: mail in clear after TLS had worked there"


def back_off(view: View) -> Finding:
    """After 4xx the next attempt comes no sooner than the schedule says, and not long after it; gaps never shrink.

    Jitter (20 %, or what is configured), a flush and the first attempt after a start excepted.
    """
    free = [event.at for event in view.evidence.log if event["event"] in MADE_DUE]
    for (token, recipient), tries in view.tries.items():
        for text in _gaps(view, tries, free):
            yield f"{token}: {recipient} {text}"


def _gaps(view: View, tries: Sequence[Try], free: Sequence[float]) -> Finding:
    """What is wrong between the tries for one recipient. One that was left is none; but not again and again.

    `free`: when anything might be tried at once.
    """
    settings = view.settings
    share = min(TRUSTED_SHARE, 1 - settings.jitter)
    due = settings.first
    short = 0
    earlier: Try | None = None
    generation = 0
    for later in tries:
        if generation != (generation := view.generation(later.connection.opened)):
            short = 0
        if later.attempt.left:
            short += 1
            if short == SHORT_GAPS:
                yield f"begun and left {short} times"
            continue
        if earlier is not None:
            begun, gap = earlier.asked.at, later.asked.at - earlier.asked.at
            counted = earlier.heard and earlier.code // 100 == 4 and earlier.code != 421
            another = view.generation(earlier.connection.opened) != generation
            if another or any(begun <= at <= later.asked.at + SLACK_S for at in free):
                pass
            elif (
                counted
                and gap > due * (1 + settings.jitter) + settings.quiet_s
                and not view.excused(begun, begun + gap)
            ):
                yield f"tried again only after {gap:.1f} s, not {due:.1f} s"
            elif gap >= share * due:
                short = 0
            elif counted:
                yield f"tried again after {gap:.3f} s, not {due:.3f} s"
            else:
                short += 1
                if short == SHORT_GAPS:
                    yield f"tried {short + 1} times without a pause"
            if counted:
                due = min(due * settings.factor, settings.maximum)
        earlier = later


def bounces(view: View) -> Finding:
    """Exactly one bounce for a failed recipient, to the sender, from <>, in time, with the header only."""
    for (token, recipient), reports in view.bounces.items():
        call = view.calls.get(token)
        if call is None:
            yield f"{token}: a bounce about mail that nobody submitted"
            continue
        if call.sender == "":
            continue  # I13 speaks of it
        if len(reports) > 1:
            yield f"{token}: {len(reports)} bounces name {recipient}"
        if any(
            one.copy and not view.unrecorded(one, view.message_ids.get(token, ""))
            for one in view.tries.get((token, recipient), ())
        ):
            yield f"{token}: {recipient} has it, and a bounce says otherwise"
        for report in reports:
            if wrong := _wrong_bounce(view, call, recipient, report.to, report.content, report.attempt.at):
                yield f"{token}: the bounce for {recipient} {wrong}"
    for (token, recipient), tries in view.tries.items():
        call = view.calls.get(token)
        if call is None or _silent(call) or (token, recipient) in view.bounces or (token, recipient) in view.waiting:
            continue
        failed = tries[-1].code // 100 == 5 or "expired" in view.outcomes.get((token, recipient), ())
        if failed and not _bounce_is_on_its_way(view, call):
            yield f"{token}: {recipient} failed, and there is no bounce"


def _wrong_bounce(view: View, call: Call, recipient: str, to: str, content: bytes, at: float) -> str:
    settings = view.settings
    if recipient not in call.recipients:
        return "names somebody who was no recipient"
    if to != call.sender:
        return f"went to {to}"
    latest = call.ended + settings.lifetime + settings.maximum * (1 + settings.jitter) + settings.quiet_s
    if at > latest:
        return f"came {at - latest:.0f} s late"
    body = split(normalised(call.text))[1].strip()
    returned = content.rpartition(b"Content-Type: ")[2]
    if "full" not in " ".join(call.argv).lower() and len(body) > 20 and body in returned:
        return "returns the body"
    if not CLOSED.search(content):
        return "is cut off"
    replies = {one.reply for one in view.tries.get((call.token, recipient), []) if one.code // 100 == 5}
    folded = b" ".join(content.split())
    if replies and not any(b" ".join(reply.split()) in folded for reply in replies):
        return "does not say what the server said"
    return ""


def null_sender(view: View) -> Finding:
    """A message from <> never causes a message; never more than a submission itself and a report on each recipient."""
    senders = {call.sender for call in view.evidence.calls if call.sender}
    for report in view.reports:
        call = view.calls.get(report.token)
        if call is not None and call.sender == "":
            yield f"{report.token}: its sender is <>, and {report.to} got a report on it"
        elif report.to not in senders and report.to != view.settings.postmaster:
            yield f"a report to {report.to or '<>'}, who sent nothing"
    messages = {message_id_of(attempt) for attempt in view.messages}
    most = sum(1 + len(set(call.recipients)) for call in view.evidence.calls)
    if len(messages) > most:
        yield f"{len(messages)} messages from {len(view.evidence.calls)} submissions"


def loops(view: View) -> Finding:
    """What has gone round (more Received fields than the limit) is refused, and is not sent on."""
    for call in view.evidence.calls:
        count = _received(normalised(call.text))
        if call.accepted and count > view.settings.max_received:
            yield f"{call.token}: accepted with {count} Received fields"
    for attempt in view.messages:
        assert attempt.dot is not None
        if (count := _received(attempt.dot.content)) > view.settings.max_received + 1:
            yield f"{view.token(attempt)}: sent with {count} Received fields"


def _received(text: bytes) -> int:
    return sum(name_of(field) == "received" for field in split(text)[0])


def identity(view: View) -> Finding:
    """The uid in Received and in the log is the submitting process's, whatever its argv and environment say."""
    for attempt in view.messages:
        call = view.calls.get(view.token(attempt))
        if call is None or attempt.dot is None:
            continue
        match = _UID.match(attempt.dot.content)
        if match is None or int(match[1]) != call.uid:
            said = attempt.dot.content.partition(b"\r\n")[0].decode("utf-8", "replace")
            yield f"{call.token}: submitted by uid {call.uid}, and the message begins {said!r}"
    for event in view.evidence.log:
        call = view.calls.get(token_in(event["sender"]) or token_in(event["message_id"]))
        if event["event"] == "accepted" and call is not None and event["uid"] != str(call.uid):
            yield f"{call.token}: submitted by uid {call.uid}, logged as {event['uid']}"


def liveness(view: View) -> Finding:
    """While something is due and the smarthost answers, something moves; a submission is answered in time.

    While no daemon runs, or something is broken on purpose, nothing is asked of it. And a daemon that has nothing to do
    has few files open, sleeps, and did not grow without bounds before.
    """
    settings = view.settings
    for call in view.evidence.calls:
        took = call.ended - call.started
        disturbed = call.killed or view.stopped(call.started - SLACK_S, call.ended + SLACK_S)
        if took > settings.answer_s and not disturbed and not view.excused(call.started, call.ended):
            yield f"{call.token}: sendmail had no answer for {took:.1f} s"
    for one in view.evidence.rests:
        for what, most in (
            ("memory", settings.memory),
            ("descriptors", settings.descriptors),
            ("wake_ups", settings.wake_ups),
        ):
            if (taken := getattr(one, what)) > most:
                yield f"daemon {one.pid}, at rest: {what.replace('_', '-')} {taken:.0f}, and the bound is {most:.0f}"
    quiet = _quiet_times(view)
    for call in view.evidence.calls:
        if not call.accepted:
            continue
        for recipient in dict.fromkeys(call.recipients):
            for begun, ended, first in _due(view, call, recipient):
                waited = ended - begun
                if waited <= settings.quiet_s or view.excused(begun, ended):
                    continue
                stalled = max((min(ended, end) - max(begun, start) for start, end in quiet), default=0.0)
                if stalled > settings.quiet_s:
                    yield f"{call.token}: {recipient} was due, and for {stalled:.1f} s nothing moved at all"
                elif first and waited > STARVING * settings.quiet_s and not view.stopped(begun, ended):
                    yield f"{call.token}: {recipient} waited {waited:.1f} s for a first attempt while other mail moved"


def _quiet_times(view: View) -> list[tuple[float, float]]:
    """Times longer than quiet_s in which a daemon ran and nobody was sent to."""
    moves = sorted(
        [attempt.at for attempt in view.attempts]
        + [one.at for attempt in view.attempts for one in attempt.asked]
        + [event.at for event in view.evidence.log if event["event"] == "start"]
        + view.stop_times
    )
    times = pairwise([-math.inf, *moves, math.inf])
    return [
        (start, end) for start, end in times if end - start > view.settings.quiet_s and start not in view.stop_times
    ]


def _due(view: View, call: Call, recipient: str) -> Iterator[tuple[float, float, bool]]:
    """When this recipient waited for an attempt that could have been made, and whether for its first."""
    settings = view.settings
    key = (call.token, recipient)
    begun, first = call.ended, True
    for deferred, one in enumerate(view.tries.get(key, [])):
        yield begun, one.asked.at, first
        wait = settings.first * settings.factor ** min(deferred, 60)
        begun, first = one.asked.at + min(wait, settings.maximum) * (1 + settings.jitter), False
    if key in view.waiting:
        yield begun, view.evidence.ended, first


# -- shared by several --


def _open_ended(call: Call) -> bool:
    """Its exit code leaves open whether the message was queued."""
    return call.killed or (call.code == TEMPFAIL and MAYBE in call.stderr)


def _had_reason(view: View, call: Call) -> bool:
    """For `may have been queued`."""
    return (
        view.stopped(call.started - SLACK_S, call.ended + SLACK_S)
        or view.excused(call.started, call.ended)
        or call.ended - call.started > view.settings.answer_s
    )


def _silent(call: Call) -> bool:
    """Nobody is told when it fails."""
    return call.sender == "" or "never" in (word.lower() for word in call.argv)


def _bounce_is_on_its_way(view: View, call: Call) -> bool:
    return view.reports_waiting[call.sender] > 0 or call.sender in view.reports_refused


INVARIANTS: dict[str, Callable[[View], Finding]] = {
    "I1": no_loss,
    "I2": no_duplicate,
    "I3": no_invention,
    "I4": wholeness,
    "I5": framing,
    "I6": order,
    "I7": blind_copies,
    "I8": credentials,
    "I9": clear_text,
    "I10": fallback,
    "I11": back_off,
    "I12": bounces,
    "I13": null_sender,
    "I14": loops,
    "I15": identity,
    "I16": liveness,
}
MOST_TOLD = 20  # violations of one invariant: more say nothing new


def check(evidence: Evidence) -> list[Violation]:
    """Every violation of every invariant, in the invariants' order."""
    view = View(evidence)
    found: list[Violation] = []
    for name, invariant in INVARIANTS.items():
        texts = Counter(invariant(view))
        found += [Violation(invariant=name, text=text) for text in list(texts)[:MOST_TOLD]]
        if len(texts) > MOST_TOLD:
            found.append(Violation(invariant=name, text=f"and {len(texts) - MOST_TOLD} more"))
    return found
