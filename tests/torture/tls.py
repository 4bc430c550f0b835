"""The TLS cells: whatever is wrong with a smarthost's TLS, TLS.md says whether mail goes, and whether in clear.

Each cell of its tables is one message of a real queue to a real server behind a tap, which keeps every octet that we
sent. What lies outside TLS records is searched for the password in all its spellings, for the recipients, the sender
and the text. What went wrong with the first connection is right with all others, so that mail which is still held back
was not held back by chance: whoever came in clear would have been served.

A sample is all of it. `--only MODE/FAULT/POLICY` plays one cell, `--only MODE/FAULT` a row.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pysendmail.config import Smarthost
from pysendmail.events import Value
from rig.ca import Authority
from rig.engine import Engine, engine
from rig.peer import Client, Ordinary, Peer
from rig.tap import Tap, clear_text
from torture.cells import PATIENCE_S, TEXT, batches, declared, fresh, judge, send
from torture.checker import spellings
from torture.report import Part, Size

TABLE = Path(__file__).parent / "TLS.md"
WITH_CREDENTIALS = ", AUTH"
USER, PASSWORD = "box", "open sesame"
RECIPIENT, SENDER = "bob@example.org", "alice@example.com"
MAIL = (RECIPIENT.encode(), SENDER.encode(), TEXT.rstrip())
CERTIFICATES = {
    "expired": "expired", "wrong name": "wrong name", "self-signed": "self-signed", "unknown CA": "unknown authority",
}  # fmt: skip
# What the server sends in place of its part of the handshake, once it has the client's.
INSTEAD = {
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",  # fatal, handshake_failure
    "close after ClientHello": b"",
    "garbage": b"this is not TLS at all, whatever you may think of it\r\n",
    "clear text after 220": b"250-peer.example\r\n250 AUTH PLAIN\r\n",
}
# What it sends before it: after the 220 to STARTTLS, or as soon as there is a connection.
BEFORE = {"leftover bytes after 220": b"250 AUTH PLAIN\r\n", "fragment after 220": b"250-AU"}
DIFFERING = "EHLO differing after TLS"
FAULTS = ("as it should be", *CERTIFICATES, "TLS 1.0 only", *INSTEAD, *BEFORE, DIFFERING)
_BEFORE_TLS = re.compile(rb"(EHLO [^\r\n]+\r\n)?(STARTTLS\r\n)?(QUIT\r\n)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One conversation; `word`: what the table says of it."""

    mode: str  # a heading of the page
    fault: str
    policy: str
    credentials: bool
    word: str
    careless: bool = False  # for the control: the administrator lets the credentials go in clear

    def __str__(self) -> str:
        return f"{self.mode}/{self.fault}/{self.policy}{WITH_CREDENTIALS * self.credentials}"

    @property
    def implicit(self) -> bool:
        return self.mode != "STARTTLS"


CARELESS = Cell(mode="STARTTLS", fault="alert", policy="none", credentials=True, word="rests", careless=True)
LEAKED_SECRET, LEAKED_MAIL = "a secret went in clear", "mail went in clear"


def cells() -> Iterator[Cell]:
    """All of them, in the page's order."""
    for section in TABLE.read_text().split("\n## ")[1:]:
        mode, _, table = section.partition("\n")
        for fault, column, word in declared(table):
            policy = column.removesuffix(WITH_CREDENTIALS)
            yield Cell(mode=mode, fault=fault, policy=policy, credentials=policy != column, word=word)


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="tls", seed=seed)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # servers whose handshake fails
    chosen = [cell for cell in cells() if not only or f"{cell}/".startswith(f"{only}/")]
    authority = Authority(directory)
    for number, batch in enumerate(batches(chosen)):
        judge(part, batch, asyncio.run(play(batch, fresh(directory, f"batch-{number}"), authority)))
    part.note(f"{len(chosen)} of TLS.md's cells")
    if not only:
        (said,) = asyncio.run(play([CARELESS], fresh(directory, "control"), authority))
        part.control("credentials and mail in clear", caught=all(leak in said for leak in (LEAKED_SECRET, LEAKED_MAIL)))
    return part


async def play(chosen: Sequence[Cell], directory: Path, authority: Authority) -> list[str]:
    """These cells at the same time: what was wrong with each."""
    password = directory / "password"
    password.write_text(PASSWORD + "\n")
    password.chmod(0o600)
    names = [f"s{number}" for number in range(len(chosen))]
    async with _servers(chosen, authority) as peers, contextlib.AsyncExitStack() as stack:
        taps = [await stack.enter_async_context(Tap(peer)) for peer in peers]
        relays = [_smarthost(*one, authority, password) for one in zip(chosen, names, taps, strict=True)]
        async with engine(directory, *relays) as running:
            every = zip(chosen, names, peers, taps, strict=True)
            return await asyncio.gather(*(_look(running, *one) for one in every))


class Wrong(Ordinary):
    """Right, but for one thing about TLS, on this connection."""

    def __init__(self, cell: Cell, authority: Authority) -> None:
        newest = ssl.TLSVersion.TLSv1 if cell.fault == "TLS 1.0 only" else None
        context = authority.server(CERTIFICATES.get(cell.fault, "good"), newest=newest)
        super().__init__(tls=context, auth="PLAIN")
        self._context = context
        self._cell = cell

    async def __call__(self, client: Client) -> None:
        if self._cell.implicit:
            await self._handshake(client)
        await super().__call__(client)

    def offers(self, client: Client) -> list[str]:
        """Under TLS nothing is left of what was offered in clear, and the one mechanism is another."""
        if self._cell.fault == DIFFERING and client.encrypted:
            return ["STARTTLS", "AUTH LOGIN"]
        return super().offers(client)

    async def secure(self, client: Client) -> None:
        await self._handshake(client, b"220 2.0.0 go ahead\r\n")

    async def _handshake(self, client: Client, go_ahead: bytes = b"") -> None:
        if octets := go_ahead + BEFORE.get(self._cell.fault, b""):
            await client.send(octets)
        if self._cell.fault in INSTEAD:
            await client.reader.read(1)
            await client.send(INSTEAD[self._cell.fault])
            client.writer.write_eof()
            await client.stall()
        await client.start_tls(self._context)


@contextlib.asynccontextmanager
async def _servers(chosen: Sequence[Cell], authority: Authority) -> AsyncIterator[list[Peer]]:
    async with contextlib.AsyncExitStack() as stack:
        good = Ordinary(tls=authority.server(), auth="PLAIN")
        yield [await stack.enter_async_context(Peer(Wrong(cell, authority), good)) for cell in chosen]


def _smarthost(cell: Cell, name: str, tap: Tap, authority: Authority, password: Path) -> Smarthost:
    kind = CERTIFICATES.get(cell.fault, "good") if cell.policy == "its fingerprint" else "good"
    credentials: dict[str, Any] = {"username": USER, "password_file": str(password)}
    return Smarthost(
        name=name,
        host="localhost",
        port=tap.port,
        tls=cell.policy.removeprefix("its "),
        tls_implicit=cell.implicit,
        tls_ca_file=authority.file,
        tls_fingerprints=(authority.fingerprint(kind),) if "fingerprint" in cell.policy else (),
        auth_in_clear=cell.careless,
        **credentials if cell.credentials else {},
    )


async def _look(running: Engine, cell: Cell, name: str, peer: Peer, tap: Tap) -> str:
    try:
        (outcome,) = (await send(running, name, f"Q{name}", [RECIPIENT], TEXT)).values()
    except TimeoutError:
        return f"no outcome in {PATIENCE_S:.0f} s"
    wrong = [] if (seen := _word(outcome, peer)) == cell.word else [f"declared is {cell.word!r}, seen was {seen!r}"]
    said = [fields for _, fields in running.events.all if fields.get("smarthost") == name]
    return "; ".join([*wrong, *_leaks(cell, tap, said), *_mistakes(cell, peer)])


def _word(outcome: str, peer: Peer) -> str:
    """What became of the mail, in the table's words."""
    match outcome, len(peer.clients):
        case "sent", 1 if peer.messages[0].tls:
            return "TLS"
        case "sent", 1:
            return "clear"
        case "sent", 2 if not peer.messages[0].tls:
            return "clear, new"
        case "rests", 0:
            return "not opened"
        case "rests", 1:
            return "rests"
        case _:
            return f"{outcome} after {len(peer.clients)} connections"


def _leaks(cell: Cell, tap: Tap, said: Sequence[dict[str, Value]]) -> Iterator[str]:
    """What went in clear and must not."""
    clears = [clear_text(bytes(wire)) for wire in tap.wires]
    secrets = (*spellings(PASSWORD.encode()), *spellings(base64.b64encode(PASSWORD.encode())), b"AUTH")
    if any(secret in clear for secret in secrets for clear in clears):
        yield LEAKED_SECRET
    if any(secret.decode() in repr(said) for secret in secrets[:-1]):
        yield "a secret is in the log"
    allowed = {"clear": clears[:1], "clear, new": clears[1:]}.get(cell.word, [])
    for clear in clears:
        if any(clear is one for one in allowed):
            continue
        if any(octets in clear for octets in MAIL):
            yield LEAKED_MAIL
        if cell.implicit and clear:
            yield f"something went in clear: {clear!r}"
        if not _BEFORE_TLS.fullmatch(clear):
            yield f"in clear went more than TLS needs: {clear!r}"


def _mistakes(cell: Cell, peer: Peer) -> Iterator[str]:
    """How what the server got differs from what it had to get."""
    sent = cell.word == "TLS" or cell.word.startswith("clear")
    if [message.content.endswith(b"\r\n\r\n" + TEXT) for message in peer.messages] != [True] * sent:
        yield f"the server has {peer.messages}"
    if len(peer.exchanges) != (sent and cell.credentials):
        yield f"the server heard AUTH {len(peer.exchanges)} times"
    if cell.fault == DIFFERING and cell.word == "TLS":
        mechanisms = {exchange.partition(" ")[0] for exchange in peer.exchanges}
        if mechanisms > {"LOGIN"} or peer.messages[0].sender != f"<{SENDER}>":
            yield f"what was offered in clear is remembered: {mechanisms}, MAIL FROM:{peer.messages[0].sender}"
