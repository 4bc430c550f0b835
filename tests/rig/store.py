"""What tests of the queue and of delivery begin with: a configuration, messages, an open queue, a simple Policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pysendmail.aliases import AliasesUnread
from pysendmail.config import Config, Daemon, Smarthost
from pysendmail.config import Queue as QueueSection
from pysendmail.envelope import Envelope, Recipient
from pysendmail.outcome import Outcome, Result, Scope
from pysendmail.queue import Queue
from pysendmail.records import Claim, Decision, Destination, Failed, LaneState, NewMessage, Original, Settlement
from pysendmail.settling import Settling

NOW = 1_800_000_000.0
HEADER = b"Subject: test\r\n"
MAIN = ("main",)


def config(directory: Path = Path("/nowhere"), *smarthosts: Smarthost, **sections: Any) -> Config:
    """A configuration whose queue is `directory`. `queue` holds further keys of [queue]."""
    queue = QueueSection(directory=directory, **{"reserve": 65536, **sections.pop("queue", {})})
    return Config(
        file=directory / "pysendmail.toml",
        queue=queue,
        daemon=Daemon(socket=directory / "submit"),
        smarthost=smarthosts,
        **{"hostname": "box.example.com", "domain": "example.com", **sections},
    )


_serial = iter(range(10**6))


def new_message(
    *recipients: str | Recipient,
    sender: str = "alice@example.com",
    uid: int = 1000,
    body: bytes = b"hello\r\n",
    header: bytes = HEADER,
    route: tuple[str, ...] = MAIN,
    routes: dict[str, tuple[str, ...]] | None = None,
    lifetime: float = 1000.0,
    warn_after: float = 0.0,
    kind: str = "mail",
    queue_id: str = "",
    body_size: int | None = None,
    eight_bit: bool = False,
    ret: str = "",
    about: str | None = None,
) -> NewMessage:
    """A small message, by default to bob@example.org."""
    each = tuple(r if isinstance(r, Recipient) else Recipient(address=r) for r in recipients or ("bob@example.org",))
    return NewMessage(
        queue_id=queue_id or f"Q{next(_serial):011}",
        kind=kind,
        uid=uid,
        envelope=Envelope(sender=sender, recipients=each, ret=ret),
        destinations=tuple(
            Destination(recipient=r, original=r.address, route=(routes or {}).get(r.address, route)) for r in each
        ),
        header=header,
        body=body,
        body_size=len(body) if body_size is None else body_size,
        message_id="<1@example.com>",
        eight_bit=eight_bit,
        lifetime=lifetime,
        warn_after=warn_after,
        about=about,
    )


FILL_AT_ONCE = 10_000
_COPIES = {  # table -> what differs from one copy to the next
    "message": {"queue_id": "printf('%012d', :one + n)", "submission": "printf('%016d', :one + n)"},
    "body": {"message": ":one + n"},
    "recipient": {"message": ":one + n", "address": "printf('bob%d@example.org', :one + n)"},
}


def fill(directory: Path, backlog: int, *, body: bytes = b"hello\r\n", header: bytes = HEADER) -> None:
    """A queue in which so many messages wait, due now: one user's, to a recipient each, copied from one another."""
    queue = Queue.open(directory)
    connection = queue.connection
    connection.execute("PRAGMA synchronous = OFF")
    new = new_message(body=body, header=header, lifetime=10**6, warn_after=10**5)
    for begin in range(0, backlog, FILL_AT_ONCE):
        with queue.transaction():
            queue.accept(replace(new, queue_id=f"{begin + 1:012}"), submission=b"%d" % begin, now=time.time())
            names = {"one": connection.execute("SELECT max(id) FROM message").fetchone()[0]}
            names["more"] = min(FILL_AT_ONCE, backlog - begin) - 1
            for table, differing in _COPIES.items():
                columns = [row["name"] for row in connection.execute(f"PRAGMA table_info({table})") if not row["pk"]]
                values = ", ".join(differing.get(column, column) for column in columns)
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(columns)}) "
                    "WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy LIMIT :more) "
                    f"SELECT {values} FROM copy, {table} WHERE {'message' if 'message' in columns else 'id'} = :one",
                    names,
                )
    queue.checkpoint()
    queue.close()


class PlainPolicy:
    """Due again 100 s after each attempt; all reports are mailed to the sender; failed bodies are kept 500 s."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.told: list[Failed] = []
        self.originals: list[Original] = []
        self.broken = False  # the report cannot be made
        self.unread = ""  # why nobody knows whom it goes to

    def next_attempt_at(self, now: float, attempts: int, queue_id: str) -> float:
        return now + 100.0 * attempts

    def kept_until(self, now: float) -> float:
        return now + 500.0

    def report(
        self, kind: str, original: Original, failed: Sequence[Failed], new_id: Callable[[], str], now: float
    ) -> Sequence[Decision]:
        self.asked.append((kind, [one.address for one in failed]))
        self.told += failed
        self.originals.append(original)
        if self.unread:
            raise AliasesUnread(self.unread)
        if original.kind != "mail" or not original.sender:
            return [Decision(failed=tuple(failed), kind=kind, silence="nobody to tell")]
        message = new_message(original.sender, sender="", kind=kind, queue_id=new_id(), about=original.queue_id)
        if self.broken:
            # As a disk, a constraint or a bug may have it: half the report is there already.
            message = new_message(original.sender, sender="", kind=kind, queue_id=original.queue_id)
        return [Decision(failed=tuple(failed), kind=kind, message=message, reported_to=original.sender)]


class Store:
    """An open queue, each call a transaction of its own, at a time that the test sets."""

    _fresh: ClassVar[bytes] = b""  # an empty queue.db: making one takes a tenth of a second

    def __init__(self, directory: Path) -> None:
        file = directory / "queue.db"
        if not Store._fresh and not file.exists():
            Queue.open(directory).close()
            Store._fresh = file.read_bytes()
        elif not file.exists():
            file.touch(0o600)
            file.write_bytes(Store._fresh)
        self.directory = directory
        self.policy = PlainPolicy()
        self.now = NOW
        self.queue = Queue.open(directory)

    @property
    def settling(self) -> Settling:
        """A step of settling, now."""
        return Settling(self.queue, self.policy, self.now)

    def reopen(self) -> None:
        """As after a crash: nothing in memory survives."""
        self.queue.close()
        self.queue = Queue.open(self.directory)

    def do(self, step: Callable[..., Any], *arguments: Any, **names: Any) -> Any:
        with self.queue.transaction():
            return step(*arguments, **names)

    def accept(self, *recipients: str | Recipient, submission: bytes | None = None, **options: Any) -> str:
        new = new_message(*recipients, **options)
        accepted = self.do(self.queue.accept, new, submission=submission, now=self.now)
        return str(accepted.queue_id)

    def lane(self, route: tuple[str, ...] = MAIN) -> LaneState:
        """The lane of the route that is due first."""
        lanes = [lane for lane in self.queue.lanes() if lane.route == route]
        return min(lanes, key=lambda lane: (lane.due_at, lane.id))

    def claim(self, route: tuple[str, ...] = MAIN, smarthost: str = "main") -> Claim:
        claim = self.do(self.queue.claim, self.lane(route), smarthost, self.now)
        assert claim is not None
        return claim

    def settle(self, claim: Claim, *outcomes: Outcome | Result, **options: Any) -> list[Any]:
        """C2 with these outcomes, one a recipient; one for all if there is only one."""
        given = settlement(claim, *outcomes, started_at=self.now - 1, **options)
        ended: list[Any] = self.do(self.settling.settle, given)
        return ended

    def states(self, queue_id: str) -> dict[str, str]:
        """address -> state"""
        rows = self.sql(
            "SELECT r.address, r.state FROM recipient r JOIN message m ON m.id = r.message WHERE queue_id = ?", queue_id
        )
        return {row[0]: row[1] for row in rows}

    def row(self, queue_id: str) -> Any:
        """The message's row id."""
        return self.one("SELECT id FROM message WHERE queue_id = ?", queue_id)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        return self.queue.connection.execute(statement, values).fetchall()

    def one(self, statement: str, *values: Any) -> Any:
        """The first value of the first row."""
        rows = self.sql(statement, *values)
        return rows[0][0] if rows else None


def settlement(claim: Claim, *outcomes: Outcome | Result, started_at: float = NOW, **options: Any) -> Settlement:
    """These outcomes, one a recipient; one for all if there is only one."""
    given = outcomes * len(claim.recipients) if len(outcomes) == 1 else outcomes
    return Settlement(
        claim=claim,
        results=tuple(
            one if isinstance(one, Result) else result(claimed.recipient.address, one)
            for claimed, one in zip(claim.recipients, given, strict=True)
        ),
        smarthost="main",
        address="192.0.2.1",
        tls="none",
        started_at=started_at,
        **options,
    )


_WORDS = {
    Outcome.SENT: ("250 2.0.0 ok", "2.0.0", 250),
    Outcome.DEFERRED: ("451 4.3.0 later", "4.3.0", 451),
    Outcome.BOUNCED: ("550 5.1.1 unknown", "5.1.1", 550),
    Outcome.UNCERTAIN: ("no answer to the final dot", "4.4.2", None),
}


def result(address: str, outcome: Outcome, scope: Scope = Scope.RECIPIENT, **options: Any) -> Result:
    reply, status, code = _WORDS[outcome]
    values = {"reply": reply, "status": status, "code": code, **options}
    return Result(address=address, outcome=outcome, scope=scope, **values)
