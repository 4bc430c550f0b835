"""Records: the values that pass between the queue and the rest: what is accepted, claimed, settled and reported.

Times are epoch seconds in UTC, sizes are octets. Header and body have CRLF line ends everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where one recipient goes: the address after aliases, the one submitted, and the smarthosts in order."""

    recipient: Recipient
    original: str
    route: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message that is to be ours. `header` has Received on top and no blank line; `body` is CRLF."""

    queue_id: str
    kind: str  # mail | bounce | delay | relayed | postmaster
    uid: int
    envelope: Envelope
    destinations: tuple[Destination, ...]
    header: bytes
    body: bytes  # what is not yet in parts: all of it, for a small message
    body_size: int  # of all the body
    message_id: str
    eight_bit: bool
    lifetime: float
    warn_after: float  # 0: no delay notice
    about: str | None = None
    pid: int | None = None  # of who submitted it; see `origin` for these three
    command: str | None = None
    unit: str | None = None
    wait: float = 0.0  # seconds until it is due for the first time


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What C1 made: `again` when the submission id was already known and nothing new was written."""

    queue_id: str
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRecipient:
    id: int
    recipient: Recipient
    attempts: int  # before this one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Claim:
    """One message and those of its recipients that are tried together now."""

    message: int
    queue_id: str
    kind: str
    uid: int
    message_id: str
    envelope: Envelope
    header: bytes
    size: int
    eight_bit: bool
    accepted_at: float
    recipients: tuple[ClaimedRecipient, ...]
    first_part: bytes  # the body, or its first PART_OCTETS
    lane: int
    route: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one attempt gave, for C2."""

    claim: Claim
    results: tuple[Result, ...]  # one for each of the claim's recipients
    smarthost: str
    address: str | None  # the smarthost's IP address, where a connection was made
    tls: str | None
    started_at: float
    exhausted: bool = False  # every smarthost of the route failed freshly, which counts as a failed attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One recipient's outcome as it was recorded, for the log."""

    queue_id: str
    message_id: str
    sender: str
    uid: int
    recipient: str
    outcome: str  # in the log's words: sent, deferred, bounced, expired, discarded, removed
    status: str
    reply: str
    code: int | None
    attempts: int
    delay_s: float
    next_attempt_s: float | None = None  # from now
    uncertain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A recipient that a report is about."""

    address: str
    original: str
    orcpt: str
    notify: frozenset[str]
    outcome: str
    status: str
    reply: str
    code: int | None
    attempts: int
    smarthost: str
    last_attempt_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """The message that a report is about."""

    queue_id: str
    kind: str
    uid: int
    sender: str
    message_id: str
    envid: str
    ret: str
    smtputf8: bool
    eight_bit: bool
    size: int
    accepted_at: float
    expires_at: float
    header: bytes
    about: str | None
    body: Callable[[], bytes | None]  # reads it, where it is to be returned; None: it cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """For these recipients either a report to queue, or why there is none: the record is kept in both cases."""

    failed: tuple[Failed, ...]
    kind: str
    message: NewMessage | None = None
    reported_to: str | None = None
    silence: str | None = None


class Policy(Protocol):
    """What the queue asks its owner while it settles; pure, so that C2 depends on nothing but its input."""

    def next_attempt_at(self, now: float, attempts: int, queue_id: str) -> float: ...
    def report(
        self, kind: str, original: Original, failed: Sequence[Failed], new_id: Callable[[], str], now: float
    ) -> Sequence[Decision]: ...
    def kept_until(self, now: float) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """One lane and when its next recipient is due; None: it is empty."""

    id: int
    route: tuple[str, ...]
    uid: int
    destination: str
    due_at: float | None
