"""The checker itself: each fault in a real daemon is caught, a whole daemon passes, what is forgiven has a reason."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rig.instance import Event, parse_event
from torture.checker import INVARIANTS, READINGS, check
from torture.evidence import (
    Asked,
    Attempt,
    Call,
    Chunk,
    Command,
    Connection,
    Dot,
    Evidence,
    Excuse,
    Rest,
    Sample,
    Settings,
    Stop,
)
from torture.faults import FAULTS
from torture.sabotage import MAILS, Mail, Trial

TOKEN = "tkabcdefn1"
SENDER = f"{TOKEN}@example.com"
ID = f"<{TOKEN}@torture.example>"
TEXT = f"Message-ID: {ID}\n\nthe text of the message\n".encode()
SENT = b"Received: by box (pysendmail, from uid 1000) id Q;\r\n today\r\n" + TEXT.replace(b"\n", b"\r\n")
WHOM = "ok.1@example.org"
KILLED = Stop(at=12.5, how="SIGKILL", pid=1)


def test_every_invariant_has_a_fault_and_a_sentence() -> None:
    """I1 to I16, none without its control, none without its words."""
    names = [f"I{number}" for number in range(1, 17)]
    assert list(INVARIANTS) == list(FAULTS) == list(MAILS) == names
    assert all(invariant.__doc__ for invariant in INVARIANTS.values())


@pytest.mark.parametrize("invariant", FAULTS)
def test_fault_in_a_real_daemon_is_caught(tmp_path: Path, invariant: str) -> None:
    """The checker names the invariant that the fault breaks, and none that it leaves whole."""
    mail = MAILS[invariant]
    with Trial(tmp_path, mail, fault=invariant) as trial:
        violations = trial.verdict(invariant)
    named = {one.invariant for one in violations}
    assert invariant in named, f"{FAULTS[invariant].__name__} was not seen"
    assert named <= {invariant} | mail.also, violations


def by_server() -> dict[str, list[Mail]]:
    groups: dict[str, list[Mail]] = {}
    for mail in MAILS.values():
        groups.setdefault(f"{mail.tls}, {mail.server}", []).append(mail)
    return groups


@pytest.mark.parametrize("server", by_server())
def test_daemon_without_a_fault_passes(tmp_path: Path, server: str) -> None:
    """The same mail through a daemon as it is: no violation of anything."""
    mails = by_server()[server]

    def send(trial: Trial) -> None:
        for mail in mails:
            mail.send(trial)

    with Trial(tmp_path, replace(mails[0], send=send, settings=Settings(secrets=mails[0].settings.secrets))) as trial:
        if server == "encrypt, clear":
            trial.subject.wait_for("trouble")  # it stays in the queue, and that is right
        else:
            assert trial.subject.settle(), "mail is still waiting"
        assert trial.look() == []


# -- hand-made evidence: one message to one recipient, and what may be forgiven --


def call(*, code: int | None = 0, recipients: Sequence[str] = (WHOM,), **more: Any) -> Call:
    return Call(
        **{
            "token": TOKEN,
            "uid": 1000,
            "argv": ("-i",),
            "sender": SENDER,
            "recipients": tuple(recipients),
            "text": TEXT,
            "started": 10.0,
            "ended": 11.0,
            "code": code,
            **more,
        }
    )


def attempt(
    at: float, *, connection: int = 0, reply: bytes = b"250 ok", dot: bytes | None = b"250 ok", **more: Any
) -> Attempt:
    """One that ended with this reply to RCPT, or to the dot. `told`, `accepted`, `cut`, `to`, `content`, `sender`."""
    asked = [Asked(at=at, argument="", address=one, reply=reply) for one in more.get("to", (WHOM,))]
    data = None
    if reply.startswith(b"2"):
        told = more.get("told", dot is not None)
        accepted = more.get("accepted", dot is None or dot.startswith(b"2"))
        stream = more.get("content", SENT) + b".\r\n"
        data = Dot(at=at, stream=stream, accepted=accepted, answer=dot, answered_at=at, told=told)
    return Attempt(
        connection=connection,
        at=at,
        argument="",
        sender=more.get("sender", SENDER),
        clear=True,
        asked=asked,
        dot=data,
        cut=more.get("cut", not told if data else False),
        left=more.get("left", False),
    )


LOST: dict[str, Any] = {"dot": None, "told": False}
REPORT = (
    "Message-ID: <report@box>\r\nReferences: " + ID + "\r\nContent-Type: multipart/report\r\n\r\n"
    "Refused: 550 no such user\r\n\r\nFinal-Recipient: rfc822; "
    + WHOM
    + "\r\nAction: failed\r\n\r\nSubject: x\r\n\r\n--b--\r\n"
).encode()
REFUSED = attempt(12.0, reply=b"550 no such user")
BOUNCE = attempt(13.0, sender="", to=(SENDER,), content=REPORT)
SECOND_BOUNCE = attempt(14.0, sender="", to=(SENDER,), content=REPORT.replace(b"<report", b"<again"))
AGAIN = attempt(14.0, connection=1, reply=b"550 no such user")
UNCERTAIN = f"event=outcome message_id={ID} recipient=<{WHOM}> status=deferred uncertain=yes queue_id=Q"
RECORDED = f"event=outcome message_id={ID} recipient=<{WHOM}> status=sent queue_id=Q"


def event(line: str, pid: int = 1, at: float = 12.0) -> Event:
    parsed = parse_event(line)
    parsed.at, parsed.pid = at, pid
    return parsed


def named(
    *attempts: Attempt, calls: Sequence[Call] | None = None, log: Sequence[str | Event] = (), **more: Any
) -> set[str]:
    """The invariants that this evidence violates. Connection 0 is open from 11 on, connection 1 from 13 on."""
    connections = [Connection(id=0, opened=11.0), Connection(id=1, opened=13.0)]
    evidence = Evidence(
        **{
            "calls": [call()] if calls is None else calls,
            "attempts": attempts,
            "connections": connections,
            "log": [event(line) if isinstance(line, str) else line for line in log],
            "ended": 20.0,
            **more,
        }
    )
    return {one.invariant for one in check(evidence)}


def waiting(address: str = WHOM, sender: str = SENDER) -> list[dict[str, Any]]:
    return [{"queue_id": "Q", "sender": sender, "recipients": [{"address": address}]}]


def test_one_copy_is_all_that_is_wanted() -> None:
    """The evidence on which the following tests stand violates nothing."""
    assert named(attempt(12.0)) == set()
    assert named(mailq=waiting()) == set()
    assert named(REFUSED, BOUNCE) == set()


@pytest.mark.parametrize(
    ("copies", "log", "more", "expected"),
    [
        ([attempt(12), attempt(14)], [UNCERTAIN], {}, {"I2"}),
        ([attempt(12, **LOST), attempt(14)], [UNCERTAIN], {}, set()),
        ([attempt(12, **LOST), attempt(14)], [], {}, {"I2"}),
        ([attempt(12, **LOST), attempt(13, **LOST), attempt(14)], [UNCERTAIN], {}, {"I2"}),
        ([attempt(12, **LOST), attempt(13, **LOST), attempt(14)], [UNCERTAIN, UNCERTAIN], {}, set()),
        ([attempt(12), attempt(14, connection=1)], [UNCERTAIN], {"stops": [KILLED]}, set()),
        ([attempt(12), attempt(14, connection=1)], [UNCERTAIN, RECORDED], {"stops": [KILLED]}, {"I2"}),
        ([attempt(13.5, connection=1), attempt(14, connection=1)], [UNCERTAIN], {"stops": [KILLED]}, {"I2"}),
        ([attempt(12), attempt(40, connection=1)], [UNCERTAIN], {"stops": [replace(KILLED, at=30.0)]}, {"I2"}),
        # What the dead process had written is read only after the next one's first copy.
        ([attempt(14, connection=1), attempt(14.1)], [UNCERTAIN], {"stops": [KILLED]}, set()),
        ([attempt(12), attempt(14)], [UNCERTAIN], {"excuses": [Excuse(kind="disk full", begun=5, ended=13)]}, set()),
    ],
)  # fmt: skip
def test_a_second_copy_needs_a_reason_and_the_word(
    copies: list[Attempt], log: list[str], more: dict[str, Any], expected: set[str]
) -> None:
    """Answer not read, daemon ended before the record, or a full disk; and `uncertain` once for each extra copy."""
    assert named(*copies, log=log, **more) == expected


@pytest.mark.parametrize(
    ("attempts", "more", "expected"),
    [
        ([REFUSED, attempt(13.0, reply=b"550 no"), BOUNCE], {}, {"I6"}),
        ([replace(REFUSED, cut=True), attempt(12.5, reply=b"550 no such user"), BOUNCE], {}, set()),
        ([REFUSED, AGAIN, replace(BOUNCE, at=15.0)], {"stops": [KILLED]}, set()),
        ([REFUSED, BOUNCE, attempt(14.0, reply=b"550 no")], {}, {"I6"}),
        ([attempt(12.0), attempt(13.0, reply=b"451 later")], {}, {"I6"}),
        ([REFUSED], {}, {"I1", "I12"}),
        ([REFUSED], {"mailq": waiting(SENDER, "MAILER-DAEMON")}, set()),
        ([REFUSED, BOUNCE, SECOND_BOUNCE], {}, {"I1", "I12"}),
        ([REFUSED, attempt(13.0, sender="", to=("x@example.org",), content=REPORT)], {}, {"I3", "I12", "I13"}),
        ([REFUSED, attempt(13.0, sender="", to=(SENDER,), content=REPORT + TEXT.replace(b"\n", b"\r\n"))], {}, {"I12"}),
    ],
)  # fmt: skip
def test_what_failed_is_left_alone_and_reported_once(
    attempts: list[Attempt], more: dict[str, Any], expected: set[str]
) -> None:
    """No retry after 5xx unless it may not have been read or recorded; one bounce, to the sender, without the body."""
    assert named(*attempts, **more) == expected


def test_a_submission_is_one_message_whatever_its_message_id() -> None:
    """A text without a Message-ID that was queued twice has two of them, and is a duplicate all the same."""
    other = SENT.replace(b"Message-ID: <", b"Message-ID: <x")
    assert named(attempt(12.0), attempt(14.0, connection=1, content=other)) == {"I2", "I4"}


def test_copies_of_a_report_are_the_same() -> None:
    """A bounce that is sent again after its answer was lost says what it said."""
    uncertain = UNCERTAIN.replace(ID, "<report@box>").replace(WHOM, SENDER)
    first = attempt(13.0, sender="", to=(SENDER,), content=REPORT, accepted=True, **LOST)
    second = attempt(14.0, connection=1, sender="", to=(SENDER,), content=REPORT)
    assert named(REFUSED, first, second, log=[uncertain]) == set()
    assert second.dot is not None
    changed = replace(second, dot=replace(second.dot, stream=second.dot.stream.replace(b"Refused", b"refused")))
    assert named(REFUSED, first, changed, log=[uncertain]) == {"I4"}


def test_header_fields_of_ours_are_only_where_there_were_none() -> None:
    """A second Message-ID is none of what may be added."""
    twice = SENT.replace(b"Message-ID", b"Message-ID: <ours@box>\r\nMessage-ID", 1)
    assert named(attempt(12.0, content=twice)) == {"I4"}


def test_a_bounce_is_whole_and_says_what_was_said_of_the_text_too() -> None:
    """The answer to the final dot stands in it, and it ends where a report ends."""
    rejected = attempt(12.0, dot=b"554 not this text")
    assert named(rejected, BOUNCE) == {"I12"}
    fitting = REPORT.replace(b"550 no such user", b"554 not this text")
    assert named(rejected, attempt(13.0, sender="", to=(SENDER,), content=fitting)) == set()
    assert named(REFUSED, attempt(13.0, sender="", to=(SENDER,), content=REPORT[:-7])) == {"I12"}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [(["sent"], set()), ([], {"I1"}), (["sent", "sent"], {"I1"}), ([None], {"I1"})],
)
def test_the_history_has_one_record_of_each(outcomes: list[str | None], expected: set[str]) -> None:
    """Mail that arrived and of which nothing is kept, or twice, or no outcome, has not ended as promised."""
    records = [{"address": WHOM, "outcome": outcome, "attempts": []} for outcome in outcomes]
    history = [{"queue_id": "Q", "message_id": ID, "sender": SENDER, "recipients": records}]
    assert named(attempt(12.0), history=history) == expected


def test_the_history_does_not_call_sent_what_was_not() -> None:
    """A record that nobody would go by."""
    record = {"address": WHOM, "outcome": "sent", "attempts": []}
    history = [{"queue_id": "Q", "message_id": ID, "sender": SENDER, "recipients": [record]}]
    assert named(attempt(12.0, reply=b"451 later"), mailq=waiting(), history=history) == {"I1"}


def test_a_daemon_at_rest_is_small_and_asleep() -> None:
    """Its memory, its descriptors and its wake-ups have bounds."""
    rest = Rest(pid=1, memory=60 << 20, descriptors=14, wake_ups=2.0)
    assert named(attempt(12.0), rests=[rest]) == set()
    for change in ({"memory": 1 << 30}, {"descriptors": 400}, {"wake_ups": 50.0}):
        assert named(attempt(12.0), rests=[replace(rest, **change)]) == {"I16"}


PAIR = (WHOM, "ok.2@example.org")


@pytest.mark.parametrize(
    ("one", "attempts", "stops", "expected"),
    [
        (call(code=65), [], [], set()),
        (call(code=65), [attempt(12.0)], [], {"I3"}),
        (call(code=None), [], [], set()),
        (call(code=None), [attempt(12.0)], [], set()),
        (call(code=None, recipients=PAIR), [attempt(12.0)], [], {"I1"}),
        (call(code=None), [attempt(12.0, content=SENT[:-5])], [], {"I4", "I5"}),
        (call(code=75, stderr="it may have been queued"), [], [replace(KILLED, at=10.5)], set()),
        (call(code=75, stderr="it may have been queued"), [attempt(12.0)], [replace(KILLED, at=10.5)], set()),
        (call(code=75, stderr="it may have been queued"), [attempt(12.0)], [], {"I3"}),
        (call(code=75, stderr="nothing was queued"), [attempt(12.0)], [replace(KILLED, at=10.5)], {"I3"}),
        (call(recipients=PAIR), [attempt(12.0)], [], {"I1"}),
        (call(recipients=["x@example.org"]), [attempt(12.0)], [], {"I1", "I3"}),
    ],
)  # fmt: skip
def test_exit_codes_tell_the_truth(one: Call, attempts: list[Attempt], stops: list[Stop], expected: set[str]) -> None:
    """0 is all, refused is nothing, "may have been queued" and a killed sendmail are all or nothing."""
    assert named(*attempts, calls=[one], stops=stops) == expected


@pytest.mark.parametrize("mark", READINGS.values(), ids=READINGS)
def test_lenient_servers_see_the_same_single_message(mark: bytes) -> None:
    """A body in which another server's end of data stands is caught."""
    body = b"a" + mark + b"MAIL FROM:<x@example.org>\r\n"
    text = TEXT.replace(b"the text", b"a")
    assert "I5" in named(
        attempt(12.0, content=SENT.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body), calls=[call(text=text)]
    )


@pytest.mark.parametrize(
    ("times", "log", "expected"),
    [
        ([12.0, 13.0, 15.0, 19.0], [], set()),
        ([12.0, 13.0, 14.0], [], {"I11"}),
        ([12.0, 12.5], [], {"I11"}),
        ([12.0, 12.5], ["event=flush"], set()),
        ([12.0, 12.5], ["event=start"], set()),
        ([12.0, 13.0, 15.0, 18.3], [], set()),
        ([12.0, 13.0, 58.0], [], {"I11", "I16"}),
    ],
)
def test_gaps_grow(times: list[float], log: list[str], expected: set[str]) -> None:
    """First 1 s, doubling: no sooner but for jitter, a flush or a start."""
    attempts = [attempt(at, reply=b"451 later") for at in times]
    settings = Settings(first=1.0, factor=2.0, maximum=60.0, jitter=0.2)
    assert named(*attempts, log=log, settings=settings, mailq=waiting()) == expected


def test_an_envelope_left_behind_another_message_is_no_attempt() -> None:
    """Who ended the connection instead of going on had not waited for the 451: the message may be begun elsewhere."""

    def found(*left: bool) -> set[str]:
        tries = [attempt(12.0 + number / 10, reply=b"451 later", left=one) for number, one in enumerate(left)]
        settings = Settings(first=1.0, factor=2.0, maximum=60.0, jitter=0.2)
        return named(*tries, attempt(13.1), settings=settings)

    assert found(True) == found(True, False) == found(False, True) == set()
    assert found(False, True, True, True) == {"I11"}
    assert found(False, False) == {"I11"}


@pytest.mark.parametrize("prefix", [b"", b"\0judge\0", b"ab"])
def test_secrets_are_found_in_base64_at_every_alignment(prefix: bytes) -> None:
    """In clear octets, in /proc, in the log; under auth_in_clear the wire alone is exempt."""
    octets = b"AUTH PLAIN " + base64.b64encode(prefix + b"open sesame") + b"\r\n"
    line = Connection(id=0, opened=11.0, chunks=[Chunk(at=11.0, sent=False, octets=octets, clear=True)])
    insecure = Settings(secrets=("open sesame",), auth_in_clear=True)
    assert named(attempt(12.0), connections=[line], settings=replace(insecure, auth_in_clear=False)) == {"I8"}
    assert named(attempt(12.0), connections=[line], settings=insecure) == set()
    assert named(attempt(12.0), samples=[Sample(what="environ", octets=octets)], settings=insecure) == {"I8"}
    assert named(attempt(12.0), text_log=octets.decode(), settings=insecure) == {"I8"}


def line(number: int, *commands: str, **more: Any) -> Connection:
    """A connection with these commands; those after "TLS" are encrypted."""
    clear = commands.index("TLS") if "TLS" in commands else len(commands)
    said = [
        Command(at=11.0 + 10 * number, line=words, clear=place < clear)
        for place, words in enumerate(commands)
        if words != "TLS"
    ]
    return Connection(id=number, opened=11.0 + 10 * number, commands=said, **more)


EHLO, MAIL = "EHLO box", "MAIL FROM:<>"
FAILED: dict[str, Any] = {"offered_starttls": True, "starttls_reply": b"220", "handshake": False, "handshake_at": 11.0}
WORKED = FAILED | {"handshake": True}
EXPIRED = WORKED | {"certificate": "expired"}
REFUSED_TLS = {"offered_starttls": True, "starttls_reply": b"454 no"}


@pytest.mark.parametrize(
    ("tls", "lines", "expected"),
    [
        ("encrypt", [line(0, EHLO, "QUIT")], set()),
        ("encrypt", [line(0, EHLO, MAIL)], {"I9"}),
        ("encrypt", [line(0, EHLO, "STARTTLS", MAIL, **REFUSED_TLS)], {"I9"}),
        ("encrypt", [line(0, EHLO, "STARTTLS", **FAILED), line(1, EHLO, MAIL)], {"I9"}),
        ("encrypt", [line(0, EHLO, "STARTTLS", "TLS", EHLO, MAIL, **EXPIRED)], set()),
        ("verify", [line(0, EHLO, "STARTTLS", "TLS", EHLO, **EXPIRED)], {"I9"}),
        ("verify", [line(0, EHLO, "STARTTLS", "TLS", EHLO, MAIL, **WORKED)], set()),
        ("may", [line(0, EHLO, MAIL)], set()),
        ("may", [line(0, EHLO, "STARTTLS", MAIL, **REFUSED_TLS)], set()),
        ("may", [line(0, EHLO, "STARTTLS", **FAILED), line(1, EHLO, MAIL, offered_starttls=True)], set()),
        ("may", [line(0, EHLO, "STARTTLS", MAIL, **FAILED)], {"I10"}),
        ("may", [line(0, EHLO, MAIL, offered_starttls=True)], {"I10"}),
        ("may", [line(0, EHLO, "AUTH PLAIN x", MAIL)], {"I10"}),
        ("may", [line(0, EHLO, "STARTTLS", "TLS", MAIL, **WORKED), line(1, EHLO, MAIL)], {"I10"}),
    ],
)  # fmt: skip
def test_tls_levels_on_the_wire(tls: str, lines: list[Connection], expected: set[str]) -> None:
    """What may be said in clear: nothing of a mail under encrypt; at may only where TLS was not to be had."""
    assert named(calls=[], connections=lines, settings=Settings(tls=tls)) == expected


def test_a_quiet_time_is_one_only_while_a_daemon_runs() -> None:
    """Mail that waits for long is a stall; not while the daemon was dead or something was broken on purpose."""
    log = [event("event=start", at=50.0)]
    deferred = attempt(12.0, reply=b"451 later")
    assert named(deferred, mailq=waiting(), ended=90.0) == {"I16"}
    assert named(deferred, mailq=waiting(), ended=75.0, stops=[replace(KILLED, at=20.0)]) == set()
    assert named(deferred, mailq=waiting(), ended=90.0, stops=[replace(KILLED, at=20.0)], log=log) == {"I16"}
    broken = [Excuse(kind="disk full", begun=15.0, ended=80.0)]
    assert named(deferred, mailq=waiting(), ended=90.0, excuses=broken) == set()
