"""Damaged pages: promise 15 for every page of queue.db, from outside.

A case is `KIND:PAGE`, or `KIND:PAGE:running`. One queue is made, with mail of all kinds: small, of several parts, to
several recipients, with RET=FULL to nobody, deferred, new, held, sent, failed with its body kept, and a bounce
that waits. In a copy of it the page (1, 2, ...) is overwritten with zeros, with random octets, or with what another
page has (`other`), before the daemon starts or while it runs.

Then, whatever the page had: no message leaves with other octets or to others than was submitted, and none that was
sent before leaves again. New mail is told 0, and leaves; or 75, with words on the damage. Old mail leaves, or waits
where `mailq` shows it, or somebody is told: in the log, or by `pysendmail check`. A daemon that ends does so with 75
and says why; what it could not record may leave again, as after any end of it, and is called uncertain. One that stays
takes little of the processor, and ends when it is told to.

What SQLite cannot notice is forgiven: other octets in the text of a message (pysendmail(8), BUGS) on that page. One of
another text names that one's next page, too: then it is up to the end of the part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from rig.damage import PAGE
from rig.instance import BIN
from torture.checker import TEMPFAIL, not_whole
from torture.evidence import Call, Dot, Violation, token_in
from torture.ledger import Ledger, Subject
from torture.recorder import Recorder
from torture.report import Part, Size
from torture.traffic import in_cases, somebody, stage
from torture.view import split

SAMPLE = ("zeros:1", "zeros:148", "random:148")  # the root, and a page of a text; the night has the surprises
LARGE = 530_000  # octets: three parts
SMALL = 8  # messages
PART = 256 << 10  # octets of a text in one chain of pages
UNNOTICED = {"zeros": PAGE, "random": PAGE, "other": PART}  # octets of a text
KINDS: dict[str, Callable[[Random, bytes, int], bytes]] = {
    "zeros": lambda random, file, page: bytes(PAGE),
    "random": lambda random, file, page: random.randbytes(PAGE),
    "other": lambda random, file, page: _page(file, random.choice(sorted({*range(1, _pages(file) + 1)} - {page}))),
}
RUNNING_EACH = 4  # one page of so many is overwritten under a running daemon, too
STARTS = 3  # of a daemon that ends over it
LEAVES_S = 5.0  # until all has left, at most: what lies on the page never does
QUIET_S = 2.0
IDLE_CPU_S = 1.0  # in QUIET_S
NAMED = ("malformed", "not a database", "damaged", "corrupt", "queue.db", "no such", "disk I/O error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The queue that is damaged, and what is in it."""

    file: Path
    calls: dict[str, Call]  # by token
    sent: frozenset[tuple[str, str]]  # (token, recipient) that left before
    waits: frozenset[tuple[str, str]]  # that can leave


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="pages", seed=seed)
    made = _make(directory / "made", seed)
    pages = range(1, _pages(made.file.read_bytes()) + 1)
    cases = [f"{kind}:{page}" for page in pages for kind in KINDS]
    cases += [f"{kind}:{page}:running" for page in pages[::RUNNING_EACH] for kind in KINDS]
    part.note(f"{len(pages)} pages")
    part.control("an altered text", caught=_altered(made))
    chosen = SAMPLE if size.name == "sample" else cases
    return in_cases(part, chosen, size, len(SAMPLE), only, directory, partial(_play, made))


def _pages(file: bytes) -> int:
    return len(file) // PAGE


def _page(file: bytes, number: int) -> bytes:
    return file[(number - 1) * PAGE : number * PAGE]


def _make(directory: Path, seed: int) -> Made:
    kept = directory.with_suffix(".db")
    with stage(directory, seed, BIN / "sendmail", retry={"first": "1h"}) as (subject, ledger, recorder):
        with subject:
            gone = [ledger.submit(f"ok.{number}@example.org") for number in range(SMALL)]
            gone.append(ledger.submit("ok.a@example.org", "busy.b@example.org"))
            ledger.submit(
                "no.kept@example.org", sender=f"busy.{(token := ledger.next_token())}@example.com", token=token
            )
            ledger.submit("no.null@example.org", sender="", size=2000)
            held = ledger.submit("busy.held@example.org")
            good = [ledger.submit(f"later1.w{number}@example.org", size=number * 700) for number in range(SMALL)]
            good.append(ledger.submit("later1.large@example.org", size=LARGE))
            good.append(ledger.submit(*(f"later1.m{number}@d{number}.example.org" for number in range(4))))
            for recipient in (one for call in (*gone, held, *good) for one in call.recipients):
                subject.wait_for("outcome", recipient=f"<{recipient}>")
            subject.wait_for("outcome", recipient=f"<busy.{token}@example.com>", status="deferred")
            [queue_id] = {
                event["queue_id"] for event in subject.matching("outcome", 0, {"recipient": "<busy.held@example.org>"})
            }
            subject.pysendmail("queue", "hold", queue_id)
            subject.stop()
            subject.socket.unlink()  # else a sendmail would wait for who may come back
        sent = frozenset((one.token, recipient) for one in recorder.accepted() for recipient in one.recipients)
        good.append(ledger.submit("ok.fresh@example.org"))
        ledger.submit("no.full@example.org", size=LARGE // 2, options=("-R", "full"))
        shutil.copy(subject.queue_directory / "queue.db", kept)
        assert all(call.accepted for call in ledger.calls), ledger.calls
        return Made(
            file=kept,
            calls={call.token: call for call in ledger.calls},
            sent=sent,
            waits=frozenset((call.token, one) for call in good for one in call.recipients),
        )


def _altered(made: Made) -> bool:
    """Whether it is noticed that a message lost an octet, and that one differs in two places far from each other."""
    call = max(made.calls.values(), key=lambda one: len(one.text))
    whole = call.text.replace(b"\n", b"\r\n")
    far = bytearray(whole)
    far[whole.index(b"body of")] ^= 1
    far[-9] ^= 1
    altered = (whole[:-9] + whole[-8:], bytes(far))
    return all(_unlike(call, text, PART) for text in altered) and not _unlike(call, whole, PART)


def _play(made: Made, case: str, directory: Path, program: Path, name: int) -> Iterator[Violation]:
    kind, number, *running = case.split(":")
    with stage(directory, name, program) as (subject, ledger, recorder):
        subject.queue_directory.mkdir(mode=0o700)
        file = subject.queue_directory / "queue.db"
        octets = made.file.read_bytes()
        file.touch(0o600)
        file.write_bytes(octets)
        if running:
            subject.come_back()
        with file.open("r+b") as stream:
            stream.seek((int(number) - 1) * PAGE)
            stream.write(KINDS[kind](Random(case), octets, int(number)))
        yield from _served(made, subject, ledger)
        yield from _sent_rightly(made, ledger, recorder, UNNOTICED[kind])
        yield from _accounted(made, subject, ledger, recorder)
        yield from _ended(subject)


def _served(made: Made, subject: Subject, ledger: Ledger) -> Iterator[Violation]:
    """It is started as a service manager would, and given new mail."""
    for _ in range(STARTS):
        if subject.come_back():
            call = ledger.submit("ok.new@example.org", uid=somebody())
            if call.code not in (0, TEMPFAIL) or (call.code == TEMPFAIL and not call.stderr.strip()):
                yield _wrong(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
            due = made.waits | {(call.token, one) for one in call.recipients}
            subject.happens(partial(_all_left, subject, due), LEAVES_S)
    if _lives(subject):
        assert subject.process is not None
        before = _cpu_s(subject.process.pid)
        subject.happens(lambda: not _lives(subject), QUIET_S)
        if (took := _cpu_s(subject.process.pid) - before) > IDLE_CPU_S:
            yield _wrong(f"it spins: {took:.1f} s of the processor in {QUIET_S} s")


def _sent_rightly(made: Made, ledger: Ledger, recorder: Recorder, unnoticed: int) -> Iterator[Violation]:
    calls = {**made.calls, **{call.token: call for call in ledger.calls}}
    for attempt in recorder.accepted():
        if attempt.is_report:
            continue
        call = calls.get(attempt.token)
        if call is None:
            yield _wrong(f"a message left that nobody submitted, to {attempt.recipients}")
            continue
        dot = attempt.dot
        assert isinstance(dot, Dot)
        if wrong := _unlike(call, dot.content, unnoticed):
            yield _wrong(f"{call.token}: {wrong}")
        for recipient in attempt.recipients:
            if recipient not in call.recipients:
                yield _wrong(f"{call.token}: left to {recipient}")
            if (call.token, recipient) in made.sent:
                yield _wrong(f"{call.token}: left again to {recipient}")


def _unlike(call: Call, content: bytes, unnoticed: int) -> str:
    """What is wrong with this copy, other than so many octets, one after the other, of its text."""
    wrong = not_whole(call, content)
    body, ours = split(content)[1], split(call.text.replace(b"\n", b"\r\n"))[1]
    if not wrong or len(body) != len(ours):
        return wrong
    other = [at for at, pair in enumerate(zip(body, ours, strict=True)) if pair[0] != pair[1]]
    if not other or other[-1] - other[0] >= unnoticed:
        return wrong
    return not_whole(replace(call, text=_with(call, body)), content)


def _with(call: Call, body: bytes) -> bytes:
    return call.text.replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + body


def _accounted(made: Made, subject: Subject, ledger: Ledger, recorder: Recorder) -> Iterator[Violation]:
    """What has not left is listed, or somebody is told of damage."""
    copies = [(one.token, recipient) for one in recorder.accepted() for recipient in one.recipients]
    ours = {(call.token, one) for call in ledger.calls if call.accepted for one in call.recipients}
    unsure = _outcomes(subject, "deferred", uncertain="yes")
    for (token, to), count in Counter(copies).items():
        if count > 1 + unsure[token, to]:
            yield _wrong(f"{token}: {count} copies to {to}, {unsure[token, to]} times uncertain")
    if (missing := (ours | made.waits) - {*copies}) and not _told(subject):
        listed = {one["address"] for entry in subject.listed() or () for one in entry["recipients"]}
        yield from (
            _wrong(f"{token}: {to} is neither sent nor listed, and nobody was told")
            for token, to in missing
            if to not in listed
        )


def _all_left(subject: Subject, due: frozenset[tuple[str, str]]) -> bool:
    """Or nothing more does: the daemon has ended."""
    return not _lives(subject) or due <= _outcomes(subject, "sent").keys()


def _outcomes(subject: Subject, status: str, **fields: str) -> Counter[tuple[str, str]]:
    """How often the log has this of whom: (token, recipient)."""
    return Counter(
        (token_in(event["message_id"]), event["recipient"].strip("<>"))
        for event in subject.matching("outcome", 0, {"status": status, **fields})
    )


def _told(subject: Subject) -> bool:
    if any(event["event"] in ("damaged", "broken") for event in subject.events) or not _lives(subject):
        return True
    done = subject.run("pysendmail", "check")
    return done.returncode != 0 and any(word in (done.stdout + done.stderr).decode() for word in NAMED)


def _ended(subject: Subject) -> Iterator[Violation]:
    if _lives(subject):
        try:
            code = subject.stop()
        except subprocess.TimeoutExpired:
            yield _wrong("SIGTERM does not end it")
            return
        if code not in (0, TEMPFAIL):
            yield _wrong(f"told to end, it ended with {code}: {subject.log[-500:]}")
    codes = {stop.how for stop in subject.stops} - {"0", str(TEMPFAIL)}
    if codes or (len(subject.stops) > 1 and not any(word in subject.log for word in NAMED)):
        yield _wrong(f"it ended with {[stop.how for stop in subject.stops]}: {subject.log[-500:]}")
    if "event=bug" in subject.log or "Traceback" in subject.log:
        at = max(subject.log.find("event=bug"), subject.log.find("Traceback"))
        yield _wrong(f"an error of ours: {subject.log[at : at + 1500]}")


def _lives(subject: Subject) -> bool:
    return subject.process is not None and subject.process.poll() is None


def _cpu_s(pid: int) -> float:
    """Of the processor, so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wrong(text: str) -> Violation:
    return Violation(invariant="P15", text=text)
