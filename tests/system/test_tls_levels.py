"""TLS end to end: every level against every kind of smarthost, with and without credentials, through the daemon.

One message with one recipient for each cell of the table in tlspolicy.py; each cell has its own smarthost and route.
What the peers saw says which mail left and whether in clear; the log and `history` have to say the same (promises 8
and 9).
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rig.ca import Authority
from rig.instance import Instance, smarthost
from rig.peer import Client, Message, Ordinary, PeerThread

LEVELS = ("none", "may", "encrypt", "verify", "fingerprint")
FAULTS = ("good", "garbage", "stall", "wrong certificate", "refused", "not offered", "octets before the handshake")
SECRET = "correct-horse-battery"
CLEAR, TLS, FALLBACK, DEFERRED = "in clear", "over TLS", "in clear on a new connection", "deferred"


def expected(level: str, fault: str, credentials: bool) -> str:
    """The table of tlspolicy.py."""
    handshake = fault in ("good", "wrong certificate")
    match level:
        case "none":
            return DEFERRED if credentials else CLEAR
        case "may" if handshake:
            return TLS
        case "may" if credentials or fault == "octets before the handshake":
            return DEFERRED  # the latter: somebody is between us and the smarthost
        case "may":
            return FALLBACK if fault in ("garbage", "stall") else CLEAR
        case "encrypt":
            return TLS if handshake else DEFERRED
        case _:
            return TLS if fault == "good" else DEFERRED


@dataclass
class Seen:
    """What became of one cell."""

    attempt: dict[str, Any]  # of the history
    outcome: str | None
    message: Message | None  # as it arrived
    fallbacks: int  # events


Cell = tuple[str, str, bool]
CELLS: list[Cell] = list(itertools.product(LEVELS, FAULTS, (False, True)))


def address(cell: Cell) -> str:
    return f"bob@c{CELLS.index(cell)}.example"


class Fickle:
    """STARTTLS fails on connections that ask for it; those that go on in clear are served."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    async def __call__(self, client: Client) -> None:
        await client.say("220 peer.example ESMTP")
        await client.hear("EHLO")
        await client.say("250-peer.example", "250-AUTH PLAIN", "250 STARTTLS")
        line = await client.hear()
        if line == "STARTTLS":
            await client.say(
                "220 go ahead", *(["250 injected"] if self._fault == "octets before the handshake" else [])
            )
            if self._fault == "garbage":
                await client.reader.read(1)
                await client.say("this is not TLS at all")
            await client.stall()
            return
        sender = line.partition(":")[2]
        await client.say("250 ok")
        recipient = await client.hear("RCPT TO:")
        await client.say("250 ok")
        await client.hear("DATA")
        await client.say("354 go ahead")
        content = await client.hear_message()
        client.peer.messages.append(Message(sender, [recipient.partition(":")[2]], content, False))
        await client.say("250 ok")
        await client.stall()


@dataclass
class World:
    seen: dict[Cell, Seen]
    peers: dict[str, PeerThread]
    log: str
    instance: Instance


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All cells at once: one message, one daemon."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    good = authority.server()
    behaviours: dict[str, Any] = {
        "good": Ordinary(tls=good, auth="PLAIN"),
        "garbage": Fickle("garbage"),
        "stall": Fickle("stall"),
        "octets before the handshake": Fickle("octets before the handshake"),
        "wrong certificate": Ordinary(tls=authority.server("wrong name"), auth="PLAIN"),
        "refused": Ordinary(tls=good, auth="PLAIN", starttls="454 4.7.0 TLS not available"),
        "not offered": Ordinary(auth="PLAIN"),
    }
    (directory / "password").write_text(SECRET + "\n")
    (directory / "password").chmod(0o600)
    peers = {fault: PeerThread(behaviour) for fault, behaviour in behaviours.items()}
    for peer in peers.values():
        peer.__enter__()
    try:
        tables, routes = [], []
        for number, (level, fault, credentials) in enumerate(CELLS):
            table = smarthost(peers[fault], f"c{number}", tls=level) | {
                "host": "localhost",
                "tls_ca_file": authority.file,
            }
            if level == "fingerprint":
                table["tls_fingerprints"] = [authority.fingerprint()]
            if credentials:
                table |= {"username": "box", "password_file": str(directory / "password")}
            tables.append(table)
            routes.append({"recipient": f"*@c{number}.example", "smarthost": [f"c{number}"]})
        with Instance(directory, smarthosts=tables, route=routes, timeout={"tls": "1s"}) as instance:
            instance.submit("-f", "alice@example.com", *map(address, CELLS))
            for cell in CELLS:
                instance.wait_for("outcome", recipient=f"<{address(cell)}>")
            [entry] = instance.history()
            found = {recipient["address"]: recipient for recipient in entry["recipients"]}
            arrived = {m.recipients[0].partition(">")[0][1:]: m for peer in peers.values() for m in peer.messages}
            seen = {
                cell: Seen(
                    attempt=found[address(cell)]["attempts"][0],
                    outcome=found[address(cell)]["outcome"],
                    message=arrived.get(address(cell)),
                    fallbacks=len(instance.matching("fallback", fields={"smarthost": f"c{CELLS.index(cell)}"})),
                )
                for cell in CELLS
            }
            yield World(seen, peers, instance.log, instance)
    finally:
        for peer in peers.values():
            peer.__exit__()


@pytest.mark.parametrize(("level", "fault", "credentials"), CELLS)
def test_tls_table(world: World, level: str, fault: str, credentials: bool) -> None:
    """The mail leaves over TLS, in clear or not at all, as the table says; history and log say what happened."""
    seen, want = world.seen[level, fault, credentials], expected(level, fault, credentials)
    if want is DEFERRED:
        assert (seen.message, seen.outcome, seen.attempt["outcome"]) == (None, None, "deferred")
        assert seen.attempt["reply"]
    else:
        assert seen.message is not None
        assert (seen.outcome, seen.message.tls) == ("sent", want is TLS)
        assert seen.attempt["tls"].startswith("TLSv1.") if want is TLS else seen.attempt["tls"] == "none"
    assert seen.fallbacks == (want is FALLBACK)


def test_promise_8_no_credential_goes_over_a_connection_in_clear(world: World) -> None:
    """No spelling of the password left in clear, nor stands in log, history, command line or environment."""
    spellings = [SECRET.encode(), base64.b64encode(b"\0box\0" + SECRET.encode()), base64.b64encode(SECRET.encode())]
    for peer in world.peers.values():
        assert not any(spelling in peer.clear for spelling in spellings)
    over_tls = [e for peer in world.peers.values() for e in peer.exchanges]
    assert len(over_tls) == sum(expected(*cell) is TLS for cell in CELLS if cell[2])
    instance = world.instance
    said = world.log + json.dumps(instance.history()) + instance.pysendmail("queue", "explain", "--all")
    assert instance.process is not None
    process = Path(f"/proc/{instance.process.pid}")
    said += (process / "cmdline").read_bytes().decode() + (process / "environ").read_bytes().decode("utf-8", "replace")
    assert not any(spelling.decode() in said for spelling in spellings)


def test_promise_9_under_encrypt_or_stronger_no_mail_goes_in_clear(world: World) -> None:
    """Connections that said MAIL in clear did so for cells that allow it; nothing of a message elsewhere."""
    allowed = {address(cell) for cell in CELLS if expected(*cell) in (CLEAR, FALLBACK)}
    in_clear = set()
    for peer in world.peers.values():
        for client in peer.clients:
            recipients = [
                line.partition(b"<")[2].partition(b">")[0] for line in client.clear.splitlines() if b"RCPT" in line
            ]
            in_clear |= {recipient.decode() for recipient in recipients}
            assert recipients or (b"MAIL" not in client.clear and b"Subject" not in client.clear)
    assert in_clear == allowed


def test_tls_memory_holds_mail_back_until_it_is_forgotten(tmp_path: Path) -> None:
    """TLS seen at "may" stays required, over a restart too; status and explain say so; `probe --forget` frees it."""
    authority = Authority(tmp_path)
    with PeerThread(Ordinary(tls=authority.server())) as peer, Instance(tmp_path) as instance:
        instance.configure(smarthosts=[smarthost(peer, tls="may")])
        instance.reload()
        instance.submit("one@example.org")
        instance.wait_for("outcome", status="sent")
        assert peer.messages[0].tls
        assert instance.stop() == 0
        peer.become(Ordinary())  # somebody took STARTTLS away
        instance.start()
        assert instance.status()["smarthosts"][0]["tls_seen"]
        instance.submit("two@example.org")
        instance.wait_for("outcome", status="deferred")
        done = instance.run("pysendmail", "status", "--json")
        assert done.returncode == 2
        assert any("probe --forget main" in warning for warning in json.loads(done.stdout)["warnings"])
        assert "probe --forget main" in instance.pysendmail("queue", "explain", "--all")
        assert len(peer.messages) == 1 and b"MAIL" not in peer.clear
        instance.pysendmail("probe", "--forget", "main")
        instance.wait_for("outcome", count=2, status="sent")
        assert not peer.messages[1].tls
        assert instance.history("--to", "two@example.org")[0]["recipients"][0]["attempts"][-1]["tls"] == "none"
