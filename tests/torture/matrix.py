"""The smarthost matrix: whatever the smarthost does, at whatever stage, MATRIX.md says what becomes of the mail.

Each cell of that table is played with one recipient and with five (at RCPT it is the first, the third or the last of
them), in clear, under STARTTLS and with implicit TLS, with PIPELINING and without: a real queue, a real delivery, a
real server, whose first connection misbehaves once. Looked at are the outcome of each recipient, whether that was an
attempt of his, whether the smarthost rests, how often the server took the text, and over which connection the next
message goes.

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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pysendmail.config import Smarthost, Timeout
from rig.ca import Authority
from rig.engine import Engine, engine
from rig.peer import Peer
from torture.cells import PATIENCE_S, TEXT, batches, declared, fresh, judge, send
from torture.faulty import GONE, SILENT, Faulty, loopback
from torture.report import Part, Size

TABLE = Path(__file__).parent / "MATRIX.md"
MODES = ("clear", "starttls", "implicit")
NETWORKS = 4
DEADLINE_S = 30.0  # each of the session's
SHORT_S = 2.0  # where one of them has to pass
LONG = TEXT * ((16 << 20) // len(TEXT))  # more than the buffers of two kernels hold
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
    def smtp(self) -> dict[str, Any]:
        """For the servers of this cell, without its TLS context."""
        return {"pipelining": self.pipelining, "implicit": self.mode == "implicit"}


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
        others = "sent" if cell.stage == "RCPT" and not end and word != "rests" else word
        wanted = tuple(word if number == cell.at else others for number in range(cell.recipients))
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
    tls: dict[str, Any] = {"tls": "none", "auth_in_clear": True}
    if cell.mode != "clear":
        tls = {"tls": "verify", "tls_ca_file": authority.file, "tls_implicit": cell.mode == "implicit"}
    return Smarthost(
        name=name,
        host="localhost",
        port=peer.port,
        username="user",
        password_command=("echo", "open sesame"),
        messages_per_connection=1 if cell.stage == "QUIT" else 100,
        **tls,
    )


async def _look(running: Engine, cell: Cell, name: str, peer: Peer) -> str:
    try:
        return (await _observe(running, cell, name, peer)).wrong(cell)
    except TimeoutError:
        return f"no outcome in {PATIENCE_S:.0f} s"


async def _observe(running: Engine, cell: Cell, name: str, peer: Peer) -> Seen:
    outcomes = await send(running, name, f"{name}-first", cell.addresses, LONG if cell.stage == "body" else TEXT)
    told = tuple(outcomes[address] for address in cell.addresses)
    if cell.what == GONE:
        loopback(up=True)
    if running.events.named("trouble", smarthost=name):
        return Seen(outcomes=told, rests=True, taken=len(peer.messages))
    taken = len(peer.messages)
    (then,) = (await send(running, name, f"{name}-next", ["next@example.org"], TEXT)).values()
    return Seen(outcomes=told, rests=False, close=len(peer.clients) > 1, taken=taken, next=then)


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
