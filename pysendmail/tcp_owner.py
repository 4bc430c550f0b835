"""TCP owner: whose process is at the other end of a TCP connection within this machine (sock_diag(7), proc(5)).

TCP carries no credentials, but the kernel knows the uid that made each socket. One question about exactly this pair of
addresses, one answer: no table is searched, so that a thousand other connections make it neither slower nor wrong.
Where a sandbox keeps AF_NETLINK from us, the table of /proc/self/net is searched instead, MAX_CONNECTIONS of it; since
that takes its time, `owner` is for a thread of its own.

None where that is not certain: neither can be read, the table is too long, the peer is in another network namespace, or
has closed its socket already. The last matters: the kernel gives a socket that nobody holds any more to uid 0, so only
one that is established and has an inode counts. The uid is that of whoever made the socket, which he may have handed
on. An IPv4 connection may be made with an IPv6 socket, as Java does it; the kernel then knows it by mapped addresses.
"""

from __future__ import annotations

import socket
import struct
from itertools import islice

MAX_CONNECTIONS = 10_000  # of the table; looking through so many costs a tenth of a second (measured)

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG, and below SOCK_DIAG_BY_FAMILY (linux/sock_diag.h)
_BY_FAMILY = 20
_REQUEST = 1  # NLM_F_REQUEST
_ANY_COOKIE = 0xFFFFFFFF
_ESTABLISHED = 1
_WAIT_S = 1.0  # the kernel answers at once
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ASK = struct.Struct("=BBBxI")  # inet_diag_req_v2 up to its id
_PORTS = struct.Struct("!HH")  # inet_diag_sockid: ports and addresses in network order, then interface and cookie
_COOKIE = struct.Struct("=III")
_ANSWER = struct.Struct("=xB2x4s32s24xII")  # inet_diag_msg: state, ports, addresses, uid, inode; the rest is skipped
_MAPPED = bytes(10) + b"\xff\xff"  # before an IPv4 address (RFC 4291 §2.5.5.2)

_End = tuple[bytes, int]  # packed address, port


def owner(connection: socket.socket) -> int | None:
    """The uid of the process that `connection`, which we accepted, leads to; None if the kernel does not say."""
    family = connection.family
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        peer, ours = (
            (socket.inet_pton(family, host), port)
            for host, port in (connection.getpeername()[:2], connection.getsockname()[:2])
        )
        try:
            kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        except OSError:
            return _look_up(peer, ours)
        with kernel:
            return _ask(kernel, family, peer, ours)
    except (OSError, struct.error, ValueError, IndexError):
        return None


def _ask(kernel: socket.socket, family: int, peer: _End, ours: _End) -> int | None:
    ports = _PORTS.pack(peer[1], ours[1])
    wanted = ports + _padded(peer, ours) + _COOKIE.pack(0, _ANY_COOKIE, _ANY_COOKIE)
    request = _ASK.pack(family, socket.IPPROTO_TCP, 0, _ANY_COOKIE) + wanted
    kernel.settimeout(_WAIT_S)
    kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
    answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    state, found_ports, addresses, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    known_by = [_padded(peer, ours, prefix=prefix) for _, prefix in _tables(peer)]
    if (state, found_ports) != (_ESTABLISHED, ports) or addresses not in known_by or not inode:
        return None
    return int(uid)


def _padded(*ends: _End, prefix: bytes = b"") -> bytes:
    return b"".join((prefix + address).ljust(16, b"\0") for address, _ in ends)


def _tables(peer: _End) -> tuple[tuple[str, bytes], ...]:
    """Where the peer's socket may be listed, and what goes before its addresses there."""
    return (("tcp", b""), ("tcp6", _MAPPED)) if len(peer[0]) == 4 else (("tcp6", b""),)


def _look_up(peer: _End, ours: _End) -> int | None:
    for table, prefix in _tables(peer):
        theirs, at_ours = (_listed(prefix + address, port) for address, port in (peer, ours))
        wanted = b" %b %b %02X " % (theirs, at_ours, _ESTABLISHED)
        with open(f"/proc/self/net/{table}", "rb") as lines:
            for line in islice(lines, MAX_CONNECTIONS):
                if wanted in line:
                    fields = line.split()
                    return int(fields[7]) if int(fields[9]) else None
    return None


def _listed(address: bytes, port: int) -> bytes:
    """An end as the table has it: the address in words of this machine."""
    words = b"".join(b"%08X" % word for (word,) in struct.iter_unpack("=I", address))
    return b"%b:%04X" % (words, port)
