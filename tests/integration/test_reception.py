"""An SMTP dialogue into a real queue, without a process or a socket: what is stored, what a refusal is told as."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from pysendmail import argv
from pysendmail.aliases import Aliases
from pysendmail.config import Access
from pysendmail.events import Events, Lines
from pysendmail.queue import COMMIT_OCTETS, Queue
from pysendmail.reception import Reception
from pysendmail.submission import Caller
from pysendmail.writer import StoreBroken, StoreFull
from rig.store import NOW, Store, config

T = TypeVar("T")
BEGIN = "EHLO me.example\nMAIL FROM:<a@example.com>\nRCPT TO:<b@example.org>\nDATA\n"


class OneQueue:
    """The queue of the test; `failing` is raised in place of the commits that it names by number."""

    def __init__(self, store: Store, failing: dict[int, Exception]) -> None:
        self._store = store
        self._failing = failing
        self._commits = 0
        self.begun = 0

    def begin(self) -> str:
        self.begun += 1
        return self._store.queue.ids.new(NOW)

    async def commit(self, step: Callable[[Queue], T], *, long: bool = False) -> T:
        self._commits += 1
        if self._commits in self._failing:
            raise self._failing[self._commits]
        result: T = self._store.do(step, self._store.queue)
        return result

    def end(self) -> None:
        self.begun -= 1


class Dialogue:
    """What was said, logged and returned by one run over the given pieces of input."""

    def __init__(
        self,
        store: Store,
        *pieces: str | bytes,
        uid: int = 1000,
        aliases: str = "",
        arguments: str = "-bs",
        failing: dict[int, Exception] | None = None,
        **sections: Any,
    ) -> None:
        file = store.directory / "aliases"
        file.write_text(aliases)
        log = io.StringIO()
        queue = OneQueue(store, failing or {})
        self.reception = Reception(
            argv.parse([b"sendmail", *arguments.encode().split()]),
            caller=Caller(uid=uid),
            config=config(store.directory, **sections),
            aliases=lambda: Aliases.load(file),
            store=queue,
            events=Events(Lines(log)),
            apart=asyncio.to_thread,
            turn=self._turn,
        )
        self.said = b""
        self.turns: list[int] = []  # how much was said before each
        self._pieces = [p.replace("\n", "\r\n").encode() if isinstance(p, str) else p for p in pieces]
        self.code = asyncio.run(self.reception.run(self._read, self._write))
        self.log = log.getvalue()
        assert queue.begun == 0, "a message that never ends"

    async def _read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def _write(self, octets: bytes) -> None:
        self.said += octets

    async def _turn(self) -> None:
        self.turns.append(len(self.said))

    @property
    def last(self) -> str:
        return self.said.decode().splitlines()[-1]


def rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in store.sql(statement)]


def stored(store: Store) -> int:
    """How many messages are ours; nothing of any other is left."""
    assert store.one("SELECT count(*) FROM message WHERE state = 'receiving'") == 0
    assert store.one("SELECT count(*) FROM body WHERE message NOT IN (SELECT id FROM message)") == 0
    return int(store.one("SELECT count(*) FROM message"))


def test_each_message_of_a_dialogue_is_queued_before_its_250(store: Store) -> None:
    """One message a transaction, its queue id in the reply and in the log, with the protocol in Received."""
    one = Dialogue(
        store, BEGIN + "Subject: x\n\none\n.\nHELO again\nMAIL FROM:<>\nRCPT TO:<root>\nDATA\n\ntwo\n.\nQUIT\n"
    )
    found = rows(store, "SELECT queue_id, sender, header FROM message ORDER BY id")
    assert [sender for _, sender, _ in found] == ["a@example.com", ""]
    for (queue_id, _, header), protocol in zip(found, (b"me.example", b"again"), strict=True):
        assert f"250 2.0.0 queued as {queue_id}\r\n".encode() in one.said
        assert f"event=accepted queue_id={queue_id} " in one.log
        words = b"Received: from %b by box.example.com (pysendmail, from uid 1000) with " % protocol
        assert header.replace(b"\r\n ", b" ").startswith(
            words + (b"ESMTP" if protocol == b"me.example" else b"SMTP") + b" id "
        )
    assert (one.code, one.last) == (0, "221 2.0.0 box.example.com goodbye")


def test_what_dsn_asks_for_is_stored_and_follows_an_alias(store: Store) -> None:
    """RET, ENVID, NOTIFY, ORCPT as with the command's -R -V -N; whom an alias stands for gets its NOTIFY and ORCPT."""
    Dialogue(
        store,
        "EHLO x\nMAIL FROM:<a@example.com> RET=HDRS ENVID=Q+2B1\n"
        "RCPT TO:<root> NOTIFY=NEVER ORCPT=rfc822;boss@x.example\n"
        "RCPT TO:<b@example.org> NOTIFY=SUCCESS\nRCPT TO:<c@example.org>\nDATA\n\n.\n",
        aliases="root: d@example.net, e@example.net\n",
    )
    assert rows(store, "SELECT ret, envid FROM message") == [("hdrs", "Q+1")]
    assert rows(store, "SELECT address, notify, orcpt FROM recipient ORDER BY id") == [
        ("d@example.net", "never", "rfc822;boss@x.example"),
        ("e@example.net", "never", "rfc822;boss@x.example"),
        ("b@example.org", "success", ""),
        ("c@example.org", "", ""),
    ]


def test_options_of_the_command_hold(store: Store) -> None:
    """-n keeps the aliases out of it, -G adds no fields."""
    Dialogue(
        store,
        "EHLO x\nMAIL FROM:<>\nRCPT TO:<root>\nDATA\nSubject: x\n\n.\n",
        arguments="-bs -n -G",
        aliases="root: d@x.org\n",
    )
    assert rows(store, "SELECT address FROM recipient") == [("root@example.com",)]
    assert b"Date:" not in store.one("SELECT header FROM message").partition(b"Subject")[0].partition(b"\r\n ")[2]


ENDS = {
    "input ends in the text": BEGIN + "Subject: x\n\nhalf",
    "input ends after a dot": BEGIN + "Subject: x\n\nhalf\n.",
    "input ends before DATA": "EHLO x\nMAIL FROM:<>\nRCPT TO:<b@example.org>\n",
    "RSET": "EHLO x\nMAIL FROM:<>\nRCPT TO:<b@example.org>\nRSET\n",
    "QUIT": "EHLO x\nMAIL FROM:<>\nRCPT TO:<b@example.org>\nQUIT\n",
    "HTTP": "EHLO x\nMAIL FROM:<>\nRCPT TO:<b@example.org>\nGET / HTTP/1.1\n",
    "large": BEGIN + "x" * 70 + "\n" * COMMIT_OCTETS,
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_what_is_not_ended_is_not_queued(store: Store, text: str) -> None:
    """Whatever ends the dialogue before the end of the message: nothing is queued, nothing of it stays."""
    Dialogue(store, text)
    assert stored(store) == 0


def test_a_large_message_goes_to_the_disk_in_parts(store: Store) -> None:
    """Longer than what is held in memory, and dots at the edges of the pieces: it arrives as it was sent."""
    lines = b"..dotted\r\n" + b"x" * 70 + b"\r\n"
    octets = BEGIN.replace("\n", "\r\n").encode() + b"\r\n" + lines * 40_000 + b".\r\nQUIT\r\n"
    Dialogue(store, *(octets[at : at + 65_537] for at in range(0, len(octets), 65_537)))
    assert stored(store) == 1
    body = b"".join(store.queue.parts(store.one("SELECT id FROM message"), 0, -1))
    assert body == lines[1:] * 40_000


REFUSALS = {
    # the last reply, and how
    "not allowed": (
        "550 5.7.1",
        77,
        BEGIN[: BEGIN.index("RCPT")],
        {"access": Access(authorized_submitters=("someone",))},
    ),
    "another's sender": ("550 5.7.1", 77, BEGIN[: BEGIN.index("RCPT")], {"access": Access(sender_policy="enforce")}),
    "a loop of aliases": (
        "553 5.1.3",
        65,
        BEGIN[: BEGIN.index("RCPT")] + "RCPT TO:<loop>\n",
        {"aliases": "loop: pool\npool: loop\n"},
    ),
    "too large": ("552 5.3.4", 65, BEGIN + "x\n" * 1000 + ".\n", {"queue": {"max_message_size": 1024}}),
    "too large by far": ("552 5.3.4", 65, BEGIN + "x\n" * 1_000_000 + ".\n", {"queue": {"max_message_size": 1024}}),
    "too many after aliases": (
        "554 5.5.3",
        65,
        "EHLO x\nMAIL FROM:<>\nRCPT TO:<all>\nDATA\n\n.\n",
        {"queue": {"max_recipients": 1}, "aliases": "all: a@x.org, b@x.org\n"},
    ),
    "a loop of hosts": ("554 5.4.6", 65, BEGIN + "Received: x\n" * 51 + "\n.\n", {}),
    "no header at all": ("554 5.6.0", 65, BEGIN + "a:" + " x" * 600_000 + "\n.\n", {}),
    "too much of one user": ("452 4.3.1", 75, BEGIN + "\nx\n.\n", {"access": Access(bytes=1)}),
    "full disk": ("452 4.3.1", 75, BEGIN + ".\n", {"failing": {1: StoreFull("the disk is full")}}),
    "full disk in between": (
        "452 4.3.1",
        75,
        BEGIN + "x\n" * COMMIT_OCTETS + ".\n",
        {"failing": {2: StoreFull("the disk is full")}},
    ),
    "broken store": ("451 4.3.0", 75, BEGIN + ".\n", {"failing": {1: StoreBroken("disk I/O error")}}),
}


@pytest.mark.parametrize(("reply", "code", "text", "how"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(store: Store, reply: str, code: int, text: str, how: dict[str, Any]) -> None:
    """What the command refuses, SMTP does, too, with the reply that belongs to it; the log has it, the queue not."""
    one = Dialogue(store, text, **how)
    assert one.last.startswith(f"{reply} ")
    assert f"event=refused uid=1000 code={code} " in one.log
    assert stored(store) == 0
    assert one.code == 0


def test_an_error_of_ours_costs_one_message(store: Store) -> None:
    """451 and a line in the log; the next message is taken."""
    one = Dialogue(store, BEGIN + ".\n", BEGIN + ".\n", failing={1: RuntimeError("ours")})
    assert b"\r\n451 4.3.0 an error in pysendmail itself (see its log): nothing was queued, try again\r\n" in one.said
    assert "event=bug uid=1000" in one.log
    assert (one.last[:9], stored(store)) == ("250 2.0.0", 1)


def test_sender_policy_warn(store: Store) -> None:
    """The warning names the way that the message came."""
    Dialogue(store, BEGIN + "Subject: x\n\n.\n", uid=4242, access=Access(sender_policy="warn"))
    assert b"uid4242 set sender to a@example.com using SMTP\r\n" in store.one("SELECT header FROM message")


def test_others_have_their_turn_however_many_commands_come_at_once(store: Store) -> None:
    """After some ten of them, whatever they are: replies that go out before they are as many once had no end."""
    for commands in ("NOOP\n", "MAIL FROM:<a@example.com>\nRSET\n"):
        one = Dialogue(store, "EHLO x\n" + commands * 100)
        reply = len(b"250 2.0.0 ok\r\n")
        assert len(one.said) > 100 * reply
        assert all(later - before <= 20 * reply for before, later in itertools.pairwise([*one.turns, len(one.said)]))


def test_silence_ends_the_dialogue(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """421 after the time without an octet, exit code 75; what was begun is gone."""
    monkeypatch.setattr(Dialogue, "_read", _first_then_silence)
    one = Dialogue(store, BEGIN)
    assert one.last.startswith("421 4.4.2 box.example.com ")
    assert (one.code, stored(store)) == (75, 0)


async def _first_then_silence(one: Dialogue) -> bytes:
    if one._pieces:
        return one._pieces.pop(0)
    raise TimeoutError


def test_the_daemon_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is between two messages gets 421 at once; a message under way is finished first, and then no other begins."""

    async def stop_then(one: Dialogue) -> bytes:
        one.reception.stop()
        return await _first_then_silence(one)

    monkeypatch.setattr(Dialogue, "_read", stop_then)
    idle = Dialogue(store)
    assert (idle.last[:9], idle.code, "refused" in idle.log) == ("421 4.3.2", 75, False)
    busy = Dialogue(store, BEGIN, "Subject: x\n\n.\n", BEGIN)
    assert b"250 2.0.0 queued as " in busy.said
    assert (busy.last[:9], stored(store)) == ("421 4.3.2", 1)
