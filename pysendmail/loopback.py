"""Loopback: SMTP on loopback addresses, for programs on this machine that know no sendmail ([daemon] listen).

Each connection is a Reception, as `sendmail -bs` is. It belongs to the uid that the kernel names (`tcp_owner`), else to
NOBODY, who has no right but to send under his own name where [access] says anything. Refused before the greeting, with
421: a connection more than [access] connections allows this uid. Closed with 521: a client that speaks before it is
greeted, which no SMTP client does, but what was sent to a wrong port does.

An address that cannot be bound is an event and a line in `problems`, and keeps nothing from starting; a reload tries
it again, and takes addresses away. Ports below 1024 are sockets that the daemon was started with (`take`). Nothing but
loopback is ever bound or taken: `config_values` and `sockets` refuse it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from pysendmail import tcp_owner
from pysendmail.argv import Invocation, Mode
from pysendmail.channel import Channel
from pysendmail.control import NOBODY
from pysendmail.exits import EX_USAGE
from pysendmail.reception import IDLE_S
from pysendmail.server import Door, Server
from pysendmail.smtp.service import say
from pysendmail.sockets import BACKLOG, SMTP, Listener

LINGER_S = 1.0  # for a client to read our last reply, which a reset would take from it
_DIALOGUE = Invocation(mode=Mode.SMTP)


class Loopback:
    """The sockets of `[daemon] listen`, as it stands now."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bound: dict[str, Listener] = {}
        self._door = Door(meet=self._converse, most=server.most)
        self._given: set[str] = set()
        self._asking = asyncio.Lock()
        self.problems: dict[str, str] = {}  # address -> why nothing listens there

    def take(self, listener: Listener) -> None:
        """Answer on a socket that the daemon was started with, whatever the configuration says."""
        host, port = listener.sock.getsockname()[:2]
        address = f"[{host}]:{port}" if listener.sock.family == socket.AF_INET6 else f"{host}:{port}"
        self._given.add(address)
        self._attend(listener, address)

    def configure(self, addresses: tuple[str, ...]) -> None:
        """Listen on these, and on no others. Connections under way go on."""
        for address in [bound for bound in self._bound if bound not in addresses]:
            listener = self._bound.pop(address)
            self._server.leave(listener)
            listener.sock.close()
            self._server.desk.events.emit("listen", address=address, state="closed")
        self.problems.clear()
        for address in addresses:
            if address not in self._bound and address not in self._given:
                self._listen(address)

    def close(self) -> None:
        self.configure(())

    def _listen(self, address: str) -> None:
        try:
            sock = bind(address)
        except OSError as error:
            reason = error.strerror or str(error)
            self.problems[address] = reason
            self._server.desk.events.emit("listen", address=address, state="failed", error=reason)
            return
        self._bound[address] = Listener(name=SMTP, sock=sock, held=False)
        self._attend(self._bound[address], address)

    def _attend(self, listener: Listener, address: str) -> None:
        # For each connection that is accepted here. Else the second of two replies waits for the client to acknowledge
        # the first, which he puts off by 40 ms: a message that comes pipelined would take so long, whatever we do.
        listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.attend(listener, self._door)
        self._server.desk.events.emit("listen", address=address, state="open")

    async def _converse(self, peer: socket.socket) -> None:
        early = _early_word(peer)
        if early == b"":
            peer.close()  # somebody who only looked whether we are here
            return
        async with self._asking:  # one thread at most, whoever opens however many connections
            uid = await asyncio.to_thread(tcp_owner.owner, peer)
        who = NOBODY if uid is None else uid
        desk = self._server.desk
        hostname = desk.config.hostname
        channel = Channel(peer)
        try:
            with self._server.place(who) as user:
                if isinstance(user, str):
                    await channel.write(say(421, "", f"{hostname} {user}, try again later").octets)
                elif early:
                    desk.events.refused(uid=who, code=EX_USAGE, reason="SMTP: the client spoke before the greeting")
                    await channel.write(say(521, "", f"{hostname} you spoke before the greeting").octets)
                else:
                    reception = desk.reception(_DIALOGUE, user)
                    with self._server.under_way(reception, channel):
                        await reception.run(lambda: channel.read(IDLE_S), lambda octets: channel.write(octets, IDLE_S))
            await _take_leave(channel)
        except (OSError, TimeoutError):
            pass  # the client is gone: what it was told is what holds
        finally:
            channel.close()


def bind(address: str) -> socket.socket:
    """A socket that listens on "127.0.0.1:2525" or "[::1]:2525". Raises OSError."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # those who have left may still be in TIME_WAIT
        sock.bind((host.strip("[]"), int(port)))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _early_word(peer: socket.socket) -> bytes | None:
    """What the client sent before the greeting; b"" if it has gone instead; None: it waits, as it should."""
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


async def _take_leave(channel: Channel) -> None:
    """Say that there is no more to come, and read what still does: closing on unread octets resets the connection."""
    channel.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while await channel.read(LINGER_S):
                pass
