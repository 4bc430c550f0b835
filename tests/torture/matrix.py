"""The smarthost matrix: whatever the smarthost does, at whatever stage, MATRIX.md says what becomes of the mail.

Each cell of that table is played with one recipient and with five (at RCPT it is the first, the third or the last of
them), in clear, under STARTTLS and with implicit TLS, with PIPELINING and without: a real queue, a real delivery, a
real server, whose first connection misbehaves once. Looked at are the outcome of each recipient, whether that was an
attempt of his, whether the smarthost rests, how often the server took the text, and over which connection the next
message goes. Each message that came to its final dot, whatever was answered and whether the answer arrived, has to be
one of ours octet for octet, and its envelope what the server had accepted of that one's. Where nothing goes wrong, two
more wait at once for one connection, so that the envelope of one may come behind the dot of the other.

Many cells are played at a time on one loop; those in which the network goes away one after the other, each row of them
in a network of its own. A sample plays each cell of the table once. `--only STAGE/WHAT` plays all of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from pysendmail.config import Smarthost, Timeout
from pysendmail.smtp import transaction, wire
from rig.ca import Authority
from rig.engine import Engine, engine
from rig.peer import Peer
from torture import faults
from torture.cells import PATIENCE_S, batches, declared, fresh, judge, send
from torture.faulty import GONE, SILENT, Faulty, loopback
from torture.report import Part, Size

TABLE = Path(__file__).parent / "MATRIX.md"
MODES = ("clear", "starttls", "implicit")
NETWORKS = 4
DEADLINE_S = 30.0  # each of the session's
SHORT_S = 2.0  # where one of them has to pass
SENDER = "alice@example.com"
TEXT = "the body of one{}\r\n.\r\n..\r\n.a dot before it\r\n\r\ngrün\r\n\r\n".format(", and of many" * 9).encode()
LONG = TEXT * ((16 << 20) // len(TEXT))  # more than the buffers of two kernels hold
RIGHT = "as it should be"
CHANGED, MISDIRECTED = "the text is another", "the envelope is another"
# What the part has to notice -> where in pysendmail it is put, how, and what is said of it.
CONTROLS: Mapping[str, tuple[object, str, Callable[[], None], str]] = {
    "an octet changed": (wire.DotStuffer, "encode", faults.octet_changed, CHANGED),
    "another's recipient": (transaction, "_rcpt", faults.recipient_swapped, MISDIRECTED),
}
CLONE_NEWNET = 0x40000000
_TIMEOUTS = ("connect", "greeting", "tls", "command", "data", "data_block", "data_done")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One conversation. `word`: what the table says of it; `at`: which RCPT it is about."""

    stage: str
    what: str
    word: str
    mode: str
    recipients: int
    pipelining: bool
    at: int = 0

    def __str__(self) -> str:
        who = f"{self.at + 1} of {self.recipients}" if self.stage == "RCPT" else f"{self.recipients}"
        pipelining = "pipelining" if self.pipelining else "one by one"
        return f"{self.stage}/{self.what}/{self.mode}/{who}/{pipelining}"

    @property
    def addresses(self) -> list[str]:
        return [f"r{number}@example.org" for number in range(self.recipients)]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The outcome that each recipient has to have."""
        word, _, end = self.word.partition(", ")
        others = "sent" if self.stage == "RCPT" and not end and word != "rests" else word
        return tuple(word if number == self.at else others for number in range(self.recipients))

    @property
    def accepted(self) -> list[str]:
        """Whom a text is for that comes to its end: all but who was refused at RCPT."""
        if self.stage != "RCPT":
            return self.addresses
        return [address for address, word in zip(self.addresses, self.wanted, strict=True) if word == "sent"]

    @property
    def smtp(self) -> dict[str, Any]:
        """For the servers of this cell, without its TLS context."""
        return {"pipelining": self.pipelining, "implicit": self.mode == "implicit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A message of ours."""

    queue_id: str
    recipients: Sequence[str]
    text: bytes = TEXT

    @property
    def header(self) -> bytes:
        """As the queue has it, with Received on top; no other message's."""
        received = f"by box.example.com (pysendmail, from uid 1000)\r\n\tid {self.queue_id};\r\n\tto-day"
        return f"Received: {received}\r\nMessage-ID: <{self.queue_id}@example.com>\r\nSubject: x\r\n".encode()

    @property
    def content(self) -> bytes:
        """As the server has to get it."""
        return self.header + b"\r\n" + self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of the mail: for each recipient, and for who comes next. In the table's words."""

    outcomes: tuple[str, ...]  # sent, deferred, bounced, uncertain; rests: no attempt of his
    rests: bool
    close: bool = False  # the next message went over another connection
    taken: int = 0  # how often the server had the text for good
    next: str = "sent"

    def wrong(self, cell: Cell) -> str:
        """How that differs from what is declared; empty: not at all."""
        word, _, end = cell.word.partition(", ")
        wanted = cell.wanted
        right = Seen(
            outcomes=wanted,
            rests=word == "rests",
            close=end == "close",
            # Whether an answer that nobody understood had taken it is the server's secret.
            taken=self.taken if word == "uncertain" else int("sent" in wanted),
        )
        return "" if self == right else f"declared is {cell.word!r}, seen was {self}"


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="matrix", seed=seed)
    random = Random(seed)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # servers go on writing to whoever has left them
    chosen = [cell for cell in cells() if not only or f"{cell}/".startswith(f"{only}/")]
    if size.name == "sample" and not only:
        groups = itertools.groupby(chosen, lambda cell: (cell.stage, cell.what))
        chosen = [random.choice(list(group)) for _, group in groups]
    authority = Authority(directory)
    gone = [cell for cell in chosen if cell.what == GONE]
    silent = [cell for cell in chosen if cell.what in SILENT]
    others = [cell for cell in chosen if cell not in gone and cell not in silent]
    for number, batch in enumerate([*batches(others), *batches(silent)]):
        judge(part, batch, asyncio.run(play(batch, fresh(directory, f"batch-{number}"), authority)))
    if os.geteuid() == 0:
        _without_a_network(part, gone, directory, authority)
    elif gone:
        part.skip(f"{GONE} ({len(gone)} cells)", "a network of one's own: needs root")
    part.note(f"{len({(cell.stage, cell.what) for cell in chosen})} of the table's cells")
    if not only:
        for control, (*_, words) in CONTROLS.items():
            said = spoilt(control, fresh(directory, control), authority)
            part.control(control, caught=words in said)
    return part


def cells() -> Iterator[Cell]:
    """All of them, in the table's order."""
    for what, stage, word in declared(TABLE.read_text()):
        if word != "-":
            yield from _cells(stage, what, word)


def _cells(stage: str, what: str, word: str) -> Iterator[Cell]:
    modes = {"STARTTLS": MODES[1:2], "EHLO again": MODES[1:2], "handshake": MODES[1:]}.get(stage, MODES)
    for mode, recipients, pipelining in itertools.product(modes, (1, 5), (True, False)):
        if stage == "handshake" and mode == "implicit" and what == "one more before it":
            continue  # before it there is nothing
        for at in (0, 2, 4) if stage == "RCPT" and recipients == 5 else (0,):
            yield Cell(
                stage=stage, what=what, word=word, mode=mode, recipients=recipients, pipelining=pipelining, at=at
            )


def spoilt(control: str, directory: Path, authority: Authority) -> str:
    """What is said of a cell in which nothing goes wrong, but for this fault of pysendmail's own."""
    owner, name, put, _ = CONTROLS[control]
    with mock.patch.object(owner, name, getattr(owner, name)):  # so that it is as before when this ends
        put()
        return asyncio.run(play([next(cells())], directory, authority))[0]


async def play(chosen: Sequence[Cell], directory: Path, authority: Authority) -> list[str]:
    """These cells at the same time: what was wrong with each."""
    async with _servers(chosen, authority) as peers:
        names = [f"s{number}" for number in range(len(chosen))]
        smarthosts = [_smarthost(*one, authority) for one in zip(chosen, names, peers, strict=True)]
        seconds = SHORT_S if any(cell.what in (*SILENT, GONE) for cell in chosen) else DEADLINE_S
        timeout = Timeout(**dict.fromkeys(_TIMEOUTS, seconds))
        async with engine(directory, *smarthosts, timeout=timeout) as running:
            return await asyncio.gather(*(_look(running, *one) for one in zip(chosen, names, peers, strict=True)))


@contextlib.asynccontextmanager
async def _servers(chosen: Sequence[Cell], authority: Authority) -> AsyncIterator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        peers = []
        for cell in chosen:
            tls = authority.server() if cell.mode != "clear" else None
            faulty = Faulty(cell.stage, cell.what, at=cell.at, tls=tls, **cell.smtp)
            peers.append(await stack.enter_async_context(Peer(faulty, Faulty("", "", tls=tls, **cell.smtp))))
        yield peers


def _smarthost(cell: Cell, name: str, peer: Peer, authority: Authority) -> Smarthost:
    settings: dict[str, Any] = {"tls": "none", "auth_in_clear": True}
    if cell.mode != "clear":
        settings = {"tls": "verify", "tls_ca_file": authority.file, "tls_implicit": cell.mode == "implicit"}
    if cell.what == RIGHT:
        settings["connections"] = 1
    return Smarthost(
        name=name,
        host="localhost",
        port=peer.port,
        username="user",
        password_command=("echo", "open sesame"),
        messages_per_connection=1 if cell.stage == "QUIT" else 100,
        **settings,
    )


async def _look(running: Engine, cell: Cell, name: str, peer: Peer) -> str:
    first = Mail(queue_id=f"{name}-first", recipients=cell.addresses, text=LONG if cell.stage == "body" else TEXT)
    then = [
        Mail(queue_id=f"{name}-next{number}", recipients=[f"next{number}@example.org"])
        for number in range(3 if cell.what == RIGHT else 1)
    ]
    try:
        seen = await _observe(running, name, peer, first, then, gone=cell.what == GONE)
    except TimeoutError:
        return f"no outcome in {PATIENCE_S:.0f} s"
    wrong = [seen.wrong(cell), *_mistakes(cell, peer, first, [] if seen.rests else then)]
    return "; ".join(filter(None, wrong))


async def _observe(running: Engine, name: str, peer: Peer, first: Mail, then: Sequence[Mail], *, gone: bool) -> Seen:
    told = await _send(running, name, first)
    if gone:
        loopback(up=True)
    taken = len(peer.messages)
    if running.events.named("trouble", smarthost=name):
        return Seen(outcomes=told, rests=True, taken=taken)
    nexts = list(await _send(running, name, then[0]))
    close = len(peer.clients) > 1
    for outcomes in await asyncio.gather(*(_send(running, name, mail) for mail in then[1:])):
        nexts += outcomes
    return Seen(outcomes=told, rests=False, close=close, taken=taken, next=", ".join(sorted({*nexts})))


async def _send(running: Engine, name: str, mail: Mail) -> tuple[str, ...]:
    """What became of it, for each recipient in their order."""
    options: dict[str, Any] = {"sender": SENDER, "header": mail.header, "eight_bit": True}
    outcomes = await send(running, name, mail.queue_id, mail.recipients, mail.text, **options)
    return tuple(outcomes[address] for address in mail.recipients)


def _mistakes(cell: Cell, peer: Peer, first: Mail, then: Sequence[Mail]) -> Iterator[str]:
    """How what the server got differs from what we have, text by text."""
    wanted = {first.content: cell.accepted} | {mail.content: list(mail.recipients) for mail in then}
    texts = [text for server in peer.behaviours if isinstance(server, Faulty) for text in server.texts]
    for text in texts:
        if text.content not in wanted:
            at = max(_alike(text.content, content) for content in wanted)
            yield f"{CHANGED}, from octet {at} of {len(text.content)} on: {text.content[at : at + 40]!r}"
            continue
        sender, *recipients = (_address(argument) for argument in (text.sender, *text.recipients))
        if [sender, *recipients] != [SENDER, *wanted[text.content]]:
            yield f"{MISDIRECTED}: from {sender} to {recipients}, not to {wanted[text.content]}"
    taken = [message.content for message in peer.messages]
    for mail in then:
        if (times := taken.count(mail.content)) != 1:
            yield f"{mail.queue_id} was taken {times} times"


def _alike(one: bytes, other: bytes) -> int:
    """How many octets they begin with are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, its) in pairs if mine != its), min(len(one), len(other)))


def _address(argument: str) -> str:
    """Of MAIL's argument, or RCPT's: FROM:<a@b> SIZE=1"""
    return argument.partition("<")[2].partition(">")[0]


# -- without a network --


def _without_a_network(part: Part, gone: Sequence[Cell], directory: Path, authority: Authority) -> None:
    def work(number: int) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            part.skip(GONE, f"no network of one's own: {os.strerror(ctypes.get_errno())}")
            return
        for cell in gone[number::NETWORKS]:
            loopback(up=True)
            where = fresh(directory, f"gone-{gone.index(cell)}")
            judge(part, [cell], asyncio.run(play([cell], where, authority)))

    _in_threads(work, min(NETWORKS, len(gone)))


def _in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
