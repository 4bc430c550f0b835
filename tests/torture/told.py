"""Told: what had been said to whom up to a point of an I/O log, and may not be untrue after a power cut.

    told = Told()
    for operation in operations:
        told.hear(operation)
    told.accepted               # tokens whose submitter has his exit code 0

A conversation on the submission socket is read as frames (type, length, payload), one with the smarthost as lines,
and standard error as the log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rig.instance import parse_event
from torture.evidence import Attempt, Call, token_in
from torture.io_log import Exited, Heard, Logged, Opened, Operation, Said

FINAL = frozenset({"sent", "bounced", "expired", "discarded", "removed"})
MAYBE = b"may have been queued"
_PATH = re.compile(rb"(MAIL FROM|RCPT TO):<(.*?)>")
_END = b"\r\n.\r\n"
_LONGEST_MARK = 1 << 16  # the token stands in the first octets of a message


@dataclass(slots=True)
class _Client:
    """A conversation with a sendmail."""

    heard: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    id: bytes = b""
    text: bytes = b""
    words: bytes = b""


@dataclass(slots=True)
class _Smarthost:
    said: bytearray = field(default_factory=bytearray)
    data: bool = False
    sender: str = ""


class Told:
    """`token`: of the sendmail that is not the daemon's, where there is one at a time and it opens the queue itself."""

    def __init__(self) -> None:
        self.token = ""
        self.begun: set[str] = set()  # wholly handed over: may be there
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.queued: set[str] = set()  # queue ids that the log told of
        self.recorded: dict[tuple[str, str], str] = {}  # (queue id, recipient) -> final outcome that the log told of
        self.tries: Counter[tuple[str, str]] = Counter()  # (sender, recipient) -> RCPTs that left
        self.events = 0  # lines of the log
        self.version = 0  # another one whenever something new was told
        self._submissions: dict[bytes, str] = {}  # id -> token
        self._clients: dict[int, _Client] = {}
        self._smarthosts: dict[int, _Smarthost] = {}
        self._log = b""

    def know(self, calls: Sequence[Call], attempts: Sequence[Attempt], log: str) -> None:
        """What had been told before the log of operations begins."""
        self.accepted |= {call.token for call in calls if call.accepted}
        self.begun |= self.accepted
        self.tries.update((attempt.sender, asked.address) for attempt in attempts for asked in attempt.asked)
        self._tell_log(log.encode())

    def runs(self, token: str) -> None:
        """The log goes on with another program: the sendmail of this token, or the daemon ("")."""
        self.token = token
        self._clients.clear()
        self._smarthosts.clear()
        if token:
            self.begun.add(token)

    def hear(self, operation: Operation) -> None:
        match operation:
            case Opened(channel=channel):
                self._clients[channel] = _Client()
            case Heard(channel=channel, octets=octets) if channel in self._clients:
                self._hear_client(self._clients[channel], octets)
            case Said(channel=channel, octets=octets) if channel in self._clients:
                self._tell_client(self._clients[channel], octets)
            case Heard(channel=channel, octets=octets):
                if re.search(rb"(?m)^354", octets):
                    self._smarthosts.setdefault(channel, _Smarthost()).data = True
            case Said(channel=channel, octets=octets):
                self._tell_smarthost(self._smarthosts.setdefault(channel, _Smarthost()), octets)
            case Logged(octets=octets):
                self._tell_log(octets)
            case Exited(code=0) if self.token:
                self.accepted.add(self.token)
                self.version += 1

    def _hear_client(self, client: _Client, octets: bytes) -> None:
        client.heard += octets
        for kind, payload in _frames(client.heard):
            match kind:
                case b"V":
                    client.id = payload[1:17]
                case b"D" if len(client.text) < _LONGEST_MARK:
                    client.text += payload
                case b"Z" if token := token_in(client.text):
                    self._submissions[client.id] = token
                    self.begun.add(token)

    def _tell_client(self, client: _Client, octets: bytes) -> None:
        client.said += octets
        for kind, payload in _frames(client.said):
            if kind == b"2":
                client.words += payload
            if kind == b"X" and (token := self._submissions.get(client.id)):
                self.version += 1
                if payload == b"\0":
                    self.accepted.add(token)
                elif MAYBE not in client.words:
                    self.refused.add(token)

    def _tell_smarthost(self, smarthost: _Smarthost, octets: bytes) -> None:
        smarthost.said += octets
        if smarthost.data:
            end = smarthost.said.find(_END)
            del smarthost.said[: -len(_END) if end < 0 else end + len(_END)]
            smarthost.data = end < 0
        if smarthost.data:
            return
        while (end := smarthost.said.find(b"\r\n")) >= 0:
            if match := _PATH.match(smarthost.said):
                path = match[2].decode("utf-8", "replace")
                if match[1] == b"MAIL FROM":
                    smarthost.sender = path
                else:
                    self.tries[smarthost.sender, path] += 1
                    self.version += 1
            del smarthost.said[: end + 2]

    def _tell_log(self, octets: bytes) -> None:
        *lines, self._log = (self._log + octets).split(b"\n")
        for line in lines:
            event = parse_event(line.decode("utf-8", "replace"))
            self.events += line.startswith(b"event=")
            if event["event"] in ("accepted", "bounce"):
                self.queued.add(event["queue_id"])
            elif event["event"] == "outcome" and event["status"] in FINAL:
                self.recorded[event["queue_id"], event["recipient"].strip("<>")] = event["status"]
        self.version += 1


def _frames(octets: bytearray) -> list[tuple[bytes, bytes]]:
    """The whole frames, which are taken away."""
    found = []
    while len(octets) >= 5 and len(octets) >= (end := 5 + int.from_bytes(octets[1:5], "big")):
        found.append((bytes(octets[:1]), bytes(octets[5:end])))
        del octets[:end]
    return found
