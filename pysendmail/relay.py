"""Relay: one smarthost as the daemon knows it: up or in trouble, how many connections it bears, what is claimed for it.

In trouble it rests and is probed by one connection; the moment that works, everything flows again. Only an answer
of the smarthost ends trouble, new mail never does. `clock` times are monotonic, `*_at` are wall clock.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from pysendmail import schedule
from pysendmail.config import Retry, Smarthost
from pysendmail.outcome import SETUP, Trouble
from pysendmail.records import Claim, LaneState

FIRST_CONNECTIONS = 2
# So long a machine may be without a network after its start or a flush before that lets old mail expire.
OFFLINE_S = 600.0
GOOD_ANSWERS_TO_GROW = 8  # messages answered well before one more connection is opened
BREAKS_TO_REST = 3  # messages in a row, each of which broke a new connection: one may be to blame for that by itself
_ADDRESS = re.compile(r"[^\s<>]+@[^\s<>]+")


@dataclass(slots=True)
class Relay:
    smarthost: Smarthost
    trouble: Trouble | None = None
    since: float = 0.0  # wall clock: since when it is in trouble
    failed_at: float = 0.0  # wall clock: the last failure, for mail that is past its lifetime
    offline: float | None = (
        None  # monotonic, which stands still while a laptop sleeps: since when there is no way there
    )
    failures: int = 0
    next_try: float = 0.0  # monotonic
    next_try_at: float | None = None  # the same by the wall clock, for people
    limit: int = FIRST_CONNECTIONS
    good: int = 0
    broke: set[int] = field(default_factory=set)  # messages since the last answer: each broke a new connection
    claims: deque[Claim] = field(default_factory=deque)
    asked: list[LaneState] = field(default_factory=list)  # of which a claim is being committed
    connections: int = 0  # open or being opened
    in_flight: list[Claim] = field(default_factory=list)  # those on a connection
    stuck: list[Claim] = field(default_factory=list)  # those of them that take long
    told_enough: bool = False  # it asked for fewer connections: none are opened beside the stuck ones
    one_at_a_time: bool = False  # it does not bear the next envelope behind a final dot
    tls_seen_at: float | None = None
    tls_failed: float | None = None  # monotonic: the last failed handshake at "may"
    last_sent_at: float | None = None
    certificate_until: str = ""  # when its certificate expires, RFC 3339, as seen by the last connection
    tls_held: bool = False  # the trouble is the TLS memory
    taken: deque[tuple[float, int]] = field(default_factory=deque)  # claims that count for `rate`: monotonic, message

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.smarthost.connections)

    @property
    def name(self) -> str:
        return self.smarthost.name

    @property
    def bearable(self) -> int:
        """Connections to have now. A stuck one is beside the limit, or two slow messages would hold up all others."""
        return min(self.limit + (0 if self.told_enough else len(self.stuck)), self.smarthost.connections)

    def held_up(self) -> set[int | str]:
        """No more for these, for now: with stuck mail, users have three quarters of the connections, destinations half.

        So his one slow destination does not hold up all else of a user.
        """
        if not self.stuck:
            return set()
        slow = {of for claim in self.stuck for of in _user_and_destination(claim)}
        taken = Counter(of for claim in (*self.in_flight, *self.claims) for of in _user_and_destination(claim))
        taken.update(of for lane in self.asked for of in (lane.uid, lane.destination))
        ceiling = self.smarthost.connections
        most = {int: ceiling - ceiling // 4, str: max(ceiling // 2, 1)}
        return {of for of in slow if taken[of] >= most[type(of)]}

    def room(self, clock: float) -> int:
        """How many messages may be claimed for it now."""
        outstanding = len(self.asked) + len(self.claims) + len(self.in_flight)
        if self.trouble is not None:
            return 1 if outstanding == 0 and self.connections == 0 and clock >= self.next_try else 0
        room = 2 * self.bearable - outstanding
        if self.smarthost.rate:
            messages, seconds = self.smarthost.rate
            while self.taken and self.taken[0][0] + seconds <= clock:
                self.taken.popleft()
            room = min(room, messages - len(self.taken) - len(self.asked))
        return max(room, 0)

    def wait(self, clock: float) -> float | None:
        """Seconds until it may be claimed for again, when the reason lies in time; None otherwise."""
        if self.trouble is not None and self.connections == 0:
            return max(self.next_try - clock, 0.0)
        if self.smarthost.rate and len(self.taken) >= self.smarthost.rate[0]:
            return max(self.taken[0][0] + self.smarthost.rate[1] - clock, 0.0)
        return None

    def claimed(self, claim: Claim, clock: float) -> None:
        self.claims.append(claim)
        if self.smarthost.rate:
            self.taken.append((clock, claim.message))

    def unused(self, claim: Claim) -> None:
        """Nothing of it was sent: it does not count for `rate`."""
        if (last := next((entry for entry in reversed(self.taken) if entry[1] == claim.message), None)) is not None:
            self.taken.remove(last)

    def take(self) -> Claim:
        """The next claim, now in flight."""
        claim = self.claims.popleft()
        self.in_flight.append(claim)
        return claim

    def ended(self, claim: Claim) -> None:
        """What became of it is known: the next can be claimed while that is recorded."""
        if claim in self.in_flight:
            self.in_flight.remove(claim)

    def put_back(self, claim: Claim) -> None:
        """A claim in flight that nothing was sent of: it is the next again."""
        self.in_flight.remove(claim)
        self.claims.appendleft(claim)

    def breaks(self, claim: Claim) -> bool:
        """A new connection broke at this message: whether that is the smarthost's trouble by now."""
        if len(self.broke) < BREAKS_TO_REST:
            self.broke.add(claim.message)
        return len(self.broke) >= BREAKS_TO_REST

    def answered(self) -> None:
        """A message was answered well: bear a little more, up to the ceiling."""
        self.good += 1
        if self.good >= GOOD_ANSWERS_TO_GROW and self.limit < self.smarthost.connections:
            self.good = 0
            self.limit += 1
            self.told_enough = False

    def slow_down(self) -> None:
        """The smarthost said that it is too much: half as many connections."""
        self.good = 0
        self.limit = max(1, self.limit // 2)
        self.told_enough = True

    def fail(self, trouble: Trouble, retry: Retry, *, clock: float, now: float, tls_held: bool = False) -> None:
        """It is in trouble, or still is: rest, longer each time, then one connection probes it."""
        if self.trouble is None:
            self.since = now
            self.failures = 0
        if not trouble.offline:
            self.offline = None
        elif self.offline is None:
            self.offline = clock
        if self.offline is None or clock - self.offline >= OFFLINE_S:
            self.failed_at = now
        if self.trouble is not None and clock < self.next_try:
            return  # one of many connections that failed together: one failure, not the longest rest at once
        self.trouble = _for_everybody(trouble)
        self.failures += 1
        self.tls_held = tls_held
        wait = schedule.rest(retry, self.failures)
        self.next_try = clock + wait
        self.next_try_at = now + wait

    def recover(self) -> None:
        self.trouble = None
        self.offline = None
        self.failures = 0
        self.next_try_at = None
        self.tls_held = False

    def probe_now(self, clock: float, now: float) -> None:
        """A flush: don't rest any longer."""
        self.next_try = clock
        self.offline = None
        if self.trouble is not None:
            self.next_try_at = now


def _for_everybody(trouble: Trouble) -> Trouble:
    """Every user is told why a smarthost rests, and an answer to MAIL or RCPT may say whom another one writes to."""
    if trouble.stage in SETUP:
        return trouble
    return replace(trouble, reason=_ADDRESS.sub("[address]", trouble.reason))


def _user_and_destination(claim: Claim) -> tuple[int | str, ...]:
    return claim.uid, claim.recipients[0].recipient.address.rpartition("@")[2].lower()
