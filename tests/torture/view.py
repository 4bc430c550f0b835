"""View: the evidence put in order, so that each invariant is a few lines. It adds no knowledge of its own.

A key is (token, recipient) for what was submitted, (Message-ID, recipient) for a report. Attempts are in the order in
which the daemon made them: by the process that made them, then by time. Time alone would put what a dead process left
in the socket's buffer behind the first words of the next.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torture.evidence import Asked, Attempt, Call, Connection, Evidence, Stop, token_in

Key = tuple[str, str]

SLACK_S = 2.0  # how much later than it happened the recorder, or the waiter for a process, may note a thing
_FIELD = re.compile(rb"(?:[^\r\n]+\r?\n(?:[ \t][^\r\n]*\r?\n)*)")
_FAILED = re.compile(
    rb"^Final-Recipient: *(?:rfc822|utf-8); *(?P<address>[^\r\n]*)\r\n(?:[^\r\n]+\r\n)*?Action: failed\r$", re.MULTILINE
)
_ID = re.compile(rb"^Message-ID: *(<[^>\r\n]*>)", re.MULTILINE | re.IGNORECASE)
_REFERENCES = re.compile(rb"^References: *(<[^>\r\n]*>)", re.MULTILINE | re.IGNORECASE)
FINAL = ("sent", "bounced", "expired", "discarded", "removed")


def split(text: bytes) -> tuple[list[bytes], bytes]:
    """Header fields, folded as they are and with CRLF, and the body of a message with CRLF."""
    header, empty, body = text.partition(b"\r\n\r\n")
    if not empty:
        header = header.removesuffix(b"\r\n")
    return _FIELD.findall(header + b"\r\n"), body


def name_of(header_field: bytes) -> str:
    return header_field.partition(b":")[0].strip().lower().decode("ascii", "replace")


def normalised(text: bytes) -> bytes:
    """As it has to arrive: every line ends in CRLF, the last too."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", text)
    return lines if lines.endswith(b"\r\n") or not lines else lines + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A bounce or another report, as it came to its final dot. `token` is that of the mail it is about."""

    attempt: Attempt
    message_id: str
    to: str
    token: str
    failed: tuple[str, ...]  # recipients with "Action: failed"
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One RCPT for a key, with the attempt and the connection it was part of."""

    asked: Asked
    attempt: Attempt
    connection: Connection

    @property
    def heard(self) -> bool:
        """Whether the daemon must have read what was answered: the connection did not end right after it."""
        return not (self.attempt.cut or self.attempt.left)

    @property
    def copy(self) -> bool:
        """The recorder has it for good."""
        return self.asked.code // 100 == 2 and self.attempt.dot is not None and self.attempt.dot.accepted

    @property
    def reply(self) -> bytes:
        """The one that decides: RCPT's, where that was positive the data's or the dot's; b"" is none."""
        if self.asked.code // 100 != 2:
            return self.asked.reply
        if (dot := self.attempt.dot) is not None:
            return dot.answer or b"" if dot.told else b""
        return self.attempt.data_reply if self.attempt.data_reply[:1] in (b"4", b"5") else b""

    @property
    def code(self) -> int:
        return int(self.reply[:3] or 0)


class View:
    """See the module."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.settings = evidence.settings
        self.calls: dict[str, Call] = {call.token: call for call in evidence.calls}
        self.stop_times = [stop.at for stop in evidence.stops]

    def generation(self, at: float) -> int:
        """How many daemons had ended by then."""
        return bisect_left(self.stop_times, at)

    # -- attempts --

    @cached_property
    def connections(self) -> dict[int, Connection]:
        return {connection.id: connection for connection in self.evidence.connections}

    @cached_property
    def attempts(self) -> list[Attempt]:
        """In the order in which they were made."""

        def order(attempt: Attempt) -> tuple[int, float]:
            return self.generation(self.connections[attempt.connection].opened), attempt.at

        return sorted(self.evidence.attempts, key=order)

    def token(self, attempt: Attempt) -> str:
        """Whose attempt: also of null-sender mail that broke off before its data, if the recipients tell."""
        if attempt.token or attempt.sender or attempt.dot is not None:
            return attempt.token
        asked = {one.address for one in attempt.asked}
        owners = [call.token for call in self.null_calls if asked and asked <= set(call.recipients)]
        return owners[0] if len(owners) == 1 else ""

    @cached_property
    def null_calls(self) -> list[Call]:
        return [call for call in self.evidence.calls if call.sender == ""]

    @cached_property
    def tries(self) -> dict[Key, list[Try]]:
        """Every RCPT for a submitted message, by (token, recipient)."""
        found: dict[Key, list[Try]] = defaultdict(list)
        for attempt in self.attempts:
            if token := self.token(attempt):
                for asked in attempt.asked:
                    one = Try(asked=asked, attempt=attempt, connection=self.connections[attempt.connection])
                    found[token, asked.address].append(one)
        return found

    @cached_property
    def tokens_seen(self) -> set[str]:
        """Tokens that were met at the recorder, in the log or in the queue: their messages exist."""
        return {token for token, _ in self.tries} | set(self.queue_ids) | {token for token, _ in self.waiting}

    @cached_property
    def messages(self) -> list[Attempt]:
        """Attempts whose data came to its end."""
        return [attempt for attempt in self.attempts if attempt.dot is not None]

    # -- reports --

    @cached_property
    def reports(self) -> list[Report]:
        return [self._report(attempt) for attempt in self.messages if attempt.is_report]

    def _report(self, attempt: Attempt) -> Report:
        assert attempt.dot is not None
        content = attempt.dot.content
        to = attempt.asked[0].address if attempt.asked else ""
        references = _REFERENCES.search(content)
        return Report(
            attempt=attempt,
            message_id=_id(content),
            to=to,
            token=token_in(to) or (token_in(references[1]) if references else "") or token_in(content),
            failed=failed_in(content),
            content=content,
        )

    @cached_property
    def bounces(self) -> dict[Key, list[Report]]:
        """(token, recipient) -> the accepted bounces that name it, one for each Message-ID."""
        found: dict[Key, dict[str, Report]] = defaultdict(dict)
        for report in self.reports:
            assert report.attempt.dot is not None
            if report.attempt.dot.accepted and report.to != self.settings.postmaster:
                for recipient in report.failed:
                    found[report.token, recipient].setdefault(report.message_id, report)
        return {key: list(reports.values()) for key, reports in found.items()}

    @cached_property
    def reports_refused(self) -> set[str]:
        """Whose reports the recorder would not have."""
        reports = [attempt for attempt in self.attempts if attempt.sender == "" and not self.token(attempt)]
        return {
            one.address
            for attempt in reports
            for one in attempt.asked
            if 5 in (one.code // 100, attempt.dot.code // 100 if attempt.dot is not None else 0)
        }

    # -- what pysendmail says --

    @cached_property
    def queue_ids(self) -> dict[str, set[str]]:
        """token -> queue ids, from the log and the history."""
        found: dict[str, set[str]] = defaultdict(set)
        for event in self.evidence.log:
            if event["event"] in ("accepted", "outcome") and (token := _owner(event)):
                found[token].add(event["queue_id"])
        for entry in self.evidence.history:
            if token := _owner(entry):
                found[token].add(str(entry["queue_id"]))
        return found

    @cached_property
    def message_ids(self) -> dict[str, str]:
        """token -> Message-ID, from the wire and the log."""
        found = {self.token(attempt): message_id_of(attempt) for attempt in self.messages if not attempt.is_report}
        for event in self.evidence.log:
            if event["event"] == "outcome" and (token := _owner(event)):
                found[token] = event["message_id"]
        return found

    @cached_property
    def waiting(self) -> set[Key]:
        """(token, recipient) of what `mailq` lists."""
        owner = {queue_id: token for token, ids in self.queue_ids.items() for queue_id in ids}
        found = set()
        for entry in self.evidence.mailq:
            token = token_in(str(entry["sender"])) or owner.get(str(entry["queue_id"]), "")
            found |= {(token, str(recipient["address"])) for recipient in entry["recipients"] if token}
        return found

    @cached_property
    def reports_waiting(self) -> Counter[str]:
        """Recipients of what `mailq` lists and nobody submitted."""
        return Counter(
            str(recipient["address"])
            for entry in self.evidence.mailq
            if not token_in(str(entry["sender"]))
            for recipient in entry["recipients"]
        )

    @cached_property
    def uncertain(self) -> Counter[tuple[str, str]]:
        """(Message-ID, recipient) -> how often log or history say that an attempt's end is unknown."""
        logged = Counter(
            (event["message_id"], event["recipient"].strip("<>"))
            for event in self.evidence.log
            if event["event"] == "outcome" and event["uncertain"]
        )
        kept: Counter[tuple[str, str]] = Counter()
        for message_id, address, attempts in self._history():
            kept[message_id, address] += sum(attempt["outcome"] == "uncertain" for attempt in attempts)
        return logged | kept

    def _history(self) -> Iterator[tuple[str, str, list[dict[str, object]]]]:
        for entry in self.evidence.history:
            for recipient in entry["recipients"]:
                yield str(entry["message_id"]), str(recipient["address"]), list(recipient["attempts"])

    @cached_property
    def outcomes(self) -> dict[Key, set[str]]:
        """(token, recipient) -> final outcomes that log or history give."""
        found: dict[Key, set[str]] = defaultdict(set)
        for event in self.evidence.log:
            if event["event"] == "outcome" and event["status"] in FINAL:
                found[_owner(event), event["recipient"].strip("<>")].add(event["status"])
        for key, records in self.records.items():
            found[key] |= {outcome for outcome in records if outcome}
        return found

    @cached_property
    def records(self) -> dict[Key, list[str | None]]:
        """(token, recipient) -> the outcome in each record that the history has; None: none yet."""
        found: dict[Key, list[str | None]] = defaultdict(list)
        for entry in self.evidence.history:
            for recipient in entry["recipients"]:
                found[_owner(entry), str(recipient["address"])].append(recipient["outcome"])
        return found

    @cached_property
    def recorded_sent(self) -> set[tuple[str, str, int]]:
        """(Message-ID, recipient, process): "sent" was durable before this line was written."""
        return {
            (event["message_id"], event["recipient"].strip("<>"), event.pid)
            for event in self.evidence.log
            if event["event"] == "outcome" and event["status"] == "sent"
        }

    # -- excuses --

    def excused(self, begun: float, ended: float) -> bool:
        """Whether something was broken on purpose meanwhile."""
        return any(one.begun <= ended and one.ended >= begun for one in self.evidence.excuses)

    def stopped(self, begun: float, ended: float) -> bool:
        return any(begun <= at <= ended for at in self.stop_times)

    def death_of(self, connection: Connection) -> Stop | None:
        """The end of the process that held this connection, if it came."""
        index = self.generation(connection.opened)
        return self.evidence.stops[index] if index < len(self.evidence.stops) else None

    def unrecorded(self, one: Try, message_id: str) -> bool:
        """Whether what was answered at `one` may never have been recorded: not read, or the daemon ended before."""
        dot = one.attempt.dot
        if not one.heard or (dot is not None and not dot.told):
            return True
        at = (dot.answered_at if dot is not None else None) or one.attempt.ended or one.asked.at
        if self.excused(at, at + self.settings.record_s):
            return True
        death = self.death_of(one.connection)
        if death is None or death.at > at + self.settings.record_s:
            return False
        return (message_id, one.asked.address, death.pid) not in self.recorded_sent


def _owner(said: Mapping[str, Any]) -> str:
    """The token of what a line of the log or of the history is about; "" for a report."""
    return token_in(str(said["sender"])) or token_in(str(said["message_id"]))


def _id(content: bytes) -> str:
    match = _ID.search(content)
    return match[1].decode("utf-8", "replace") if match else ""


def failed_in(report: bytes) -> tuple[str, ...]:
    """The recipients that a report calls failed."""
    return tuple(match["address"].decode().strip() for match in _FAILED.finditer(report))


def message_id_of(attempt: Attempt) -> str:
    """The Message-ID of what came to its dot, or ""."""
    return _id(attempt.dot.content) if attempt.dot is not None else ""
