"""F2, full disks: promise 11 on small file systems that another program fills at the worst moments.

A case is `DISK:MOMENT`. DISK is a tmpfs of so many KiB, or `inodes`: an ext4 that has room, and none for a file more.
It is filled `before` the daemon starts, during `submit` (several messages at once), at `DATA` (the text is not on the
wire yet), or at the `dot`: the smarthost has the message, and its answer is about to be recorded.

While it is full, a submission is told 75, or 0 where only inodes are used up. What was on the wire is recorded before
there is room again; then the daemon is killed and starts on the full disk, and even so it is not sent again. Then
there is room: what has ended is started, as a service manager would, and mail is taken and arrives. A disk too small
for any mail has grown by then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rig.mounts import EXT4, MIB, TMPFS, CannotMount, empty, fill, fill_inodes, grow, mounted
from torture.checker import TEMPFAIL
from torture.evidence import Call, Excuse, Violation
from torture.ledger import Ledger, Subject
from torture.recorder import Recorder
from torture.report import Part, Size
from torture.traffic import ALONE, in_cases, somebody, stage, verdict

KIB = 1024
INODES = "inodes"
SIZES = (256, 512, 1024, 4096, 8192, 16384, 32768, 65536)  # KiB
MOMENTS = ("before", "submit", "DATA", "dot")
CASES = [f"{disk}:{moment}" for disk in (*map(str, SIZES), INODES) for moment in MOMENTS]
SAMPLE = 2
EXT4_OCTETS = 32 * MIB
TAKES_MAIL = 8 * MIB  # a disk of so much has room for mail, and for the ballast
GROWN = 64 * MIB
RESERVE = "256KiB"
BODIES = (0, 1_000, 100_000, 1_200_000)  # octets
FIRST_S = 5.0  # until a first message is accepted, at most


@dataclass(slots=True, kw_only=True)
class Play:
    """One case while it is played. `full` fills the disk, once."""

    subject: Subject
    ledger: Ledger
    recorder: Recorder
    disk: Path
    inodes: bool
    fillers: list[Path] = field(default_factory=list)

    def full(self) -> None:
        if not self.fillers:
            self.fillers.append(fill_inodes(self.disk) if self.inodes else fill(self.disk))

    def submit(self, size: int) -> Call:
        return self.ledger.submit(f"ok.{size}@example.org", size=size, uid=somebody())


def run(size: Size, seed: int, directory: Path, only: str = "") -> Part:
    part = Part(name="full-disks", seed=seed)
    part.skip("real quotas", "few kernels have them; in the part `limits` the daemon's writes fail with EDQUOT")
    refused = set()
    for kind in (TMPFS, EXT4):
        try:
            with mounted(kind, directory / f"trial-{kind}", EXT4_OCTETS):
                pass
        except CannotMount as why:
            refused.add(kind)
            part.skip(f"full disks on {kind}", str(why))
    cases = [case for case in CASES if _kind(case) not in refused]
    return in_cases(part, cases, size, SAMPLE, only, directory, _play)


def _kind(case: str) -> str:
    return EXT4 if case.startswith(INODES) else TMPFS


def _play(case: str, directory: Path, program: Path, name: int) -> list[Violation]:
    disk, _, moment = case.partition(":")
    octets = EXT4_OCTETS if disk == INODES else int(disk) * KIB
    place = directory.with_name(f"{directory.name}-disk")
    queue = {"directory": str(place / "queue"), "reserve": RESERVE}
    with (
        mounted(_kind(case), place, octets),
        stage(directory, name, program, queue=queue) as (subject, ledger, recorder),
    ):
        play = Play(subject=subject, ledger=ledger, recorder=recorder, disk=place, inodes=disk == INODES)
        begun = time.time()
        found = list(MEANWHILE[moment](play))
        found += _told([play.submit(size) for size in BODIES[:2]], (0, TEMPFAIL) if play.inodes else (TEMPFAIL,))
        recorded = _recorded(subject)
        if subject.process is not None and subject.process.poll() is None:
            subject.kill()
        subject.come_back()
        empty(play.fillers[0])
        if octets < TAKES_MAIL:
            grow(place, GROWN)
        excuse = Excuse(kind="disk full", begun=begun, ended=time.time())
        found += _goes_on(play)
        found += verdict(ledger, recorder, ALONE, [excuse])
        copies = Counter(attempt.token for attempt in recorder.accepted())
        found += [
            _wrong(f"{token}: {count} copies") for token, count in copies.items() if count > 1 + (token not in recorded)
        ]
    return found


def _recorded(subject: Subject) -> set[str]:
    """The messages that the log calls sent."""
    return {
        event["sender"].strip("<>").partition("@")[0] for event in subject.matching("outcome", 0, {"status": "sent"})
    }


def _told(calls: list[Call], allowed: tuple[int, ...]) -> Iterator[Violation]:
    for call in calls:
        if call.code not in allowed:
            yield _wrong(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")


def _goes_on(play: Play) -> Iterator[Violation]:
    """There is room: mail is taken, and leaves."""
    if not play.subject.come_back():
        yield _wrong(f"there is room, and the daemon ended: {play.subject.log[-500:]}")
        return
    call = play.submit(BODIES[1])
    yield from _told([call], (0,))
    if call.accepted and not play.subject.sends(call.token):
        yield _wrong(f"{call.token}: there is room, and it was not sent")


def _wrong(text: str) -> Violation:
    return Violation(invariant="F2", text=text)


# -- the moments --


def _before(play: Play) -> Iterator[Violation]:
    play.full()
    play.subject.come_back()
    yield from ()


def _submit(play: Play) -> Iterator[Violation]:
    subject = play.subject
    subject.come_back()
    with ThreadPoolExecutor(2 * len(BODIES)) as pool:
        calls = pool.map(play.submit, BODIES * 2)
        subject.happens(lambda: subject.matching("accepted") or subject.matching("refused"), FIRST_S)
        play.full()
    yield from _told(list(calls), (0, TEMPFAIL))


def _on_the_wire(play: Play, verb: str) -> Iterator[Violation]:
    play.recorder.meanwhile = lambda met: play.full() if met == verb else None
    play.subject.come_back()
    call = play.submit(BODIES[2])
    yield from _told([call], (0, TEMPFAIL))
    if call.accepted and not play.subject.sends(call.token):
        yield _wrong(f"{call.token}: its outcome was not recorded on the full disk")
    play.full()  # a disk too small for any mail is not full yet


MEANWHILE: dict[str, Callable[[Play], Iterator[Violation]]] = {
    "before": _before,
    "submit": _submit,
    "DATA": partial(_on_the_wire, verb="DATA"),
    "dot": partial(_on_the_wire, verb="dot"),
}
