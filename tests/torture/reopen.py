"""Reopen: what pysendmail makes of the files that a power cut left, and whether that is what it had told.

    bench = Bench(directory, calls, configuration)
    found = bench.examine(image)                # by pysendmail's own start: lock, open, recover, reroute, ballast
    wrong = judge(found, told, copies)

The messages are read as `history`, `mailq` and a delivery read them. Unlike the checker this knows the inside of
pysendmail, for some hundred images a second; of a sample the checker judges a daemon that goes on with them.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pysendmail import config_file, listing, route, schedule
from pysendmail.aliases import Aliases
from pysendmail.config_file import ConfigError, Instance
from pysendmail.postmaster import Postmaster
from pysendmail.queue import Queue
from pysendmail.records import LaneState
from pysendmail.schema import SchemaError
from pysendmail.settling import Settling
from pysendmail.spool import QueueError, QueueLock, Reserve, directory_owner
from torture.checker import CLOSED, not_whole
from torture.disk import Image
from torture.evidence import Call, Violation, token_in
from torture.told import FINAL, Told

LATER_S = 10 * 86400.0  # by then everything is due


@dataclass(frozen=True, slots=True)
class Recipient:
    address: str
    state: str | None  # a final outcome, or None: it waits
    attempts: int
    uncertain: int


@dataclass(frozen=True, slots=True)
class Mail:
    queue_id: str
    token: str  # "" for a report
    sender: str
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What one image holds. `wrong` is what is wrong with it whatever was told: (invariant, text)."""

    wrong: tuple[tuple[str, str], ...] = ()
    mails: tuple[Mail, ...] = ()


class Bench:
    """A directory in which images are opened, one at a time. `calls`: the submissions, by token."""

    def __init__(self, directory: Path, calls: Mapping[str, Call], configuration: str) -> None:
        self._directory = directory
        self._calls = calls
        self._text = configuration
        self._instance = Instance(path=directory / "pysendmail.toml", explicit=True)
        self._config = config_file.parse(configuration, self._instance)
        self._sound: set[bytes] = set()  # saved configurations that were found good
        self._whole: dict[str, bytes] = {}  # token -> header and body that were found good
        aliases = Aliases.load("")
        self._postmaster = Postmaster(self._config, lambda: aliases)

    def examine(self, image: Image) -> Found:
        above = self._directory / "image"
        lay(image, above)
        directory = above / "queue"
        try:
            return self._examine(directory)
        except (sqlite3.Error, QueueError, SchemaError, ConfigError, OSError, ValueError, KeyError, TypeError) as error:
            return Found(wrong=(("opens", f"{type(error).__name__}: {error}"),))

    def _examine(self, directory: Path) -> Found:
        now = time.time()
        directory_owner(directory)
        lock = QueueLock(directory)
        lock.acquire(0.0)
        with contextlib.ExitStack() as stack:
            stack.callback(lock.release)
            self._check_last_good(directory)
            queue = Queue.open(directory)
            stack.callback(queue.close)
            config_file.save_last_good(self._text, directory)
            Reserve(directory, self._config.queue.reserve).fill()
            wrong = [
                ("integrity", str(tuple(row)))
                for pragma in ("integrity_check", "foreign_key_check")
                for row in queue.connection.execute(f"PRAGMA {pragma}")
                if row[0] != "ok"
            ]
            with queue.transaction():
                Settling(queue, self._postmaster, now).recover(schedule.longest_interval(self._config.retry))
                after: int | None = 0
                while after is not None:
                    after = queue.reroute(lambda sender, recipient: route.route(sender, recipient, self._config), after)
            mails, problems = self._read(queue, now + LATER_S)
            return Found(wrong=(*wrong, *problems), mails=mails)

    def _check_last_good(self, directory: Path) -> None:
        """The saved configuration is whole, or not there."""
        with contextlib.suppress(FileNotFoundError):
            text = (directory / config_file.LAST_GOOD).read_bytes()
            if text not in self._sound:
                config_file.load_last_good(directory, self._instance)
                self._sound.add(text)

    def _read(self, queue: Queue, later: float) -> tuple[tuple[Mail, ...], list[tuple[str, str]]]:
        past = listing.Past(uid=None)
        looked_at = listing.PAGE_LOOKED_AT
        rows = queue.rows("history_page", after=0, limit=listing.PAGE, looked_at=looked_at, **past.names)
        entries, _ = listing.history_page(queue, after=0, past=past)
        waiting, _ = listing.waiting_page(queue, after=0, uid=None, obstacle=lambda route: None)
        bounces, _ = listing.bounces_page(queue, after=0, past=listing.Past(uid=None), about=None)
        bodies = dict(self._claimed(queue, later))
        wrong: list[tuple[str, str]] = []
        mails = []
        for row, entry in zip(rows, entries, strict=True):
            mail = _mail(entry)
            mails.append(mail)
            wrong += [("whole", f"{mail.queue_id}: {text}") for text in self._not_whole(queue, row, mail, bodies)]
        open_ids = {mail.queue_id for mail in mails if any(one.state is None for one in mail.recipients)}
        if (listed := {entry["queue_id"] for entry in waiting}) != open_ids:
            wrong.append(("listed", f"mailq has {sorted(listed)}, and {sorted(open_ids)} wait"))
        reports = {mail.queue_id for mail in mails if not mail.token}
        wrong += [("bounce", text) for text in _misreported(mails, reports, bounces)]
        return tuple(mails), wrong

    def _claimed(self, queue: Queue, later: float) -> Iterator[tuple[str, bytes]]:
        """Header and body of all that waits, as delivery gets them."""
        for lane in queue.lanes():
            while (claim := queue.claim(LaneState(**{**_fields(lane), "due_at": later}), "main", later)) is not None:
                body = b"".join([claim.first_part, *queue.parts(claim.message, 1, -1)])
                yield claim.queue_id, claim.header + b"\r\n" + body

    def _not_whole(self, queue: Queue, row: sqlite3.Row, mail: Mail, claimed: Mapping[str, bytes]) -> Iterator[str]:
        content = claimed.get(mail.queue_id)
        waits = any(one.state is None for one in mail.recipients)
        if waits and content is None:
            yield "it waits and cannot be claimed"
        if waits == (row["state"] == "done"):
            yield f"it is {row['state']}, with {mail.recipients}"
        if content is None and (kept := queue.parts(row["id"], 0, -1)):
            content = queue.one("message_state", message=row["id"])["header"] + b"\r\n" + b"".join(kept)
        if content is not None and len(content) != row["size"]:
            yield f"it has {len(content)} octets, not {row['size']}"
        if not mail.token:
            if row["kind"] == "mail":
                yield "nobody submitted it"
            elif content is not None and not CLOSED.search(content):
                yield "the report is cut off"
            return
        call = self._calls.get(mail.token)
        if call is None:
            yield f"{mail.token} was never submitted"
            return
        addresses = sorted(one.address for one in mail.recipients)
        if addresses != sorted(call.recipients) or mail.sender != call.sender:
            yield f"from {mail.sender} to {addresses}, not from {call.sender} to {sorted(call.recipients)}"
        if content is not None and self._whole.get(mail.token) != content:
            if problem := not_whole(call, content):
                yield problem
            else:
                self._whole[mail.token] = content


def lay(image: Image, directory: Path) -> None:
    """Write the image's files below a directory, which has nothing else then."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for path, octets in image.items():
        if octets is None:
            (directory / path).mkdir(mode=0o700)
        else:
            (directory / path).write_bytes(octets)


def _fields(lane: LaneState) -> dict[str, object]:
    return {name: getattr(lane, name) for name in ("id", "route", "uid", "destination")}


def _mail(entry: listing.Entry) -> Mail:
    return Mail(
        queue_id=entry["queue_id"],
        token=token_in(entry["message_id"]),
        sender=entry["sender"],
        recipients=tuple(
            Recipient(
                address=one["address"],
                state=one["outcome"],
                attempts=len(one["attempts"]),
                uncertain=sum(attempt["outcome"] == "uncertain" for attempt in one["attempts"]),
            )
            for one in entry["recipients"]
        ),
    )


def _misreported(mails: Sequence[Mail], reports: set[str], bounces: Sequence[listing.Entry]) -> Iterator[str]:
    """Each failed recipient has one record, and the report that the record names is there; nothing else has one."""
    records = Counter((entry["queue_id"], entry["recipient"]) for entry in bounces)
    for entry in bounces:
        if entry["report_queue_id"] is not None and entry["report_queue_id"] not in reports:
            yield f"{entry['queue_id']}: its report {entry['report_queue_id']} is not there"
        elif entry["report_queue_id"] is None and not entry["silence"]:
            yield f"{entry['queue_id']}: silence without a reason"
    for mail in mails:
        for one in mail.recipients:
            failed = one.state in ("bounced", "expired", "discarded")
            if records.pop((mail.queue_id, one.address), 0) != failed:
                yield f"{mail.queue_id}: {one.address} is {one.state or 'waiting'}: {failed:d} record of it expected"
    for queue_id, address in records:
        yield f"{queue_id}: a record about {address}, and no such recipient"
    for missing in reports - {entry["report_queue_id"] for entry in bounces}:
        yield f"{missing}: a report about nothing"


def judge(found: Found, told: Told, copies: Mapping[tuple[str, str], int]) -> list[Violation]:
    """`copies`: (sender, recipient) -> how many of them the smarthost had for good when the power went."""
    wrong = [*found.wrong]
    if wrong and wrong[0][0] == "opens":
        return [Violation(invariant=invariant, text=text) for invariant, text in wrong]
    tokens = Counter(mail.token for mail in found.mails if mail.token)
    for token in told.accepted - set(tokens):
        wrong.append(("lost", f"{token}: its submitter was told 0"))
    for token in set(tokens) - told.begun:
        wrong.append(("invented", f"{token}: nobody had handed it over"))
    for token in told.refused & set(tokens):
        wrong.append(("invented", f"{token}: its submitter was told that nothing is queued"))
    wrong += [("invented", f"{token}: {count} times") for token, count in tokens.items() if count > 1]
    for queue_id in told.queued - {mail.queue_id for mail in found.mails}:
        wrong.append(("lost", f"{queue_id}: the log had told of it"))
    for mail in found.mails:
        for one in mail.recipients:
            recorded = told.recorded.get((mail.queue_id, one.address))
            if recorded is not None and one.state != recorded:
                wrong.append(("forgotten", f"{mail.queue_id}: {one.address} is {one.state}, logged as {recorded}"))
            key = mail.sender, one.address
            if one.attempts < told.tries[key]:
                wrong.append(("forgotten", f"{key}: {told.tries[key]} times on the wire, {one.attempts} attempts"))
            if copies.get(key, 0) - (one.state == "sent") > one.uncertain:
                wrong.append(
                    ("duplicate", f"{key}: {copies[key]} copies, {one.uncertain} `uncertain`, now {one.state}")
                )
            assert one.state is None or one.state in FINAL, one
    return [Violation(invariant=invariant, text=text) for invariant, text in wrong]
