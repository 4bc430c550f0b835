"""A tap on the wire: it stands between a client and a server, and keeps every octet that the client sent.

    async with Peer() as peer, Tap(peer) as tap:
        ... connect to tap.host, tap.port ...
    [clear_text(wire) for wire in tap.wires]        # of each connection, what went outside TLS

It knows nothing of what the server makes of it, and so sees also what a server with TLS does not understand.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from rig.peer import Peer

_RECORDS = range(20, 24)  # the first octet of a TLS record, which no text has
_VERSION = 3  # the second
_HEADER = 5
_CHUNK = 65536


def clear_text(wire: bytes) -> bytes:
    """What lies outside TLS records."""
    clear, at = bytearray(), 0
    while at < len(wire):
        if wire[at] in _RECORDS and wire[at + 1 : at + 2] in (b"", bytes([_VERSION])):
            at += _HEADER + int.from_bytes(wire[at + 3 : at + _HEADER], "big")
        else:
            clear.append(wire[at])
            at += 1
    return bytes(clear)


class Tap:
    """See the module. Up between __aenter__ and __aexit__, in front of a peer that is."""

    host = "127.0.0.1"

    def __init__(self, peer: Peer) -> None:
        self.port = 0
        self.wires: list[bytearray] = []  # what clients sent, by connection
        self._peer = peer
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = bytearray()
        self.wires.append(wire)
        task = asyncio.get_running_loop().create_task(self._between(reader, writer, wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: bytearray) -> None:
        server_reader, server_writer = await asyncio.open_connection(self._peer.host, self._peer.port)
        try:
            await asyncio.gather(_pass_on(reader, server_writer, wire), _pass_on(server_reader, writer, bytearray()))
        finally:
            for one in (writer, server_writer):
                one.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with contextlib.suppress(ConnectionError):  # whoever has gone is told nothing more
        while octets := await reader.read(_CHUNK):
            kept += octets
            writer.write(octets)
            await writer.drain()
        writer.write_eof()
