"""TCP owner: whose process is at the other end of a TCP connection within this machine (sock_diag(7)).

TCP carries no credentials, but the kernel knows the uid that made each socket. One question about exactly this pair of
addresses, one answer: no table is searched, so that a thousand other connections make it neither slower nor wrong.

None where that is not certain: the kernel or a sandbox does not answer (AF_NETLINK is needed), the peer is in another
network namespace, or has closed its socket already. The last matters: the kernel gives a socket that nobody holds any
more to uid 0, so only one that is established and has an inode counts. The uid is that of whoever made the socket,
which he may have handed on.
"""

from __future__ import annotations

import socket
import struct

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


def owner(connection: socket.socket) -> int | None:
    """The uid of the process that `connection`, which we accepted, leads to; None if the kernel does not say."""
    try:
        return _ask(connection)
    except (OSError, struct.error):
        return None


def _ask(connection: socket.socket) -> int | None:
    family = connection.family
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    (host, port), (our_host, our_port) = connection.getpeername()[:2], connection.getsockname()[:2]
    ports = _PORTS.pack(port, our_port)
    addresses = b"".join(socket.inet_pton(family, each).ljust(16, b"\0") for each in (host, our_host))
    wanted = ports + addresses + _COOKIE.pack(0, _ANY_COOKIE, _ANY_COOKIE)
    request = _ASK.pack(family, socket.IPPROTO_TCP, 0, _ANY_COOKIE) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as kernel:
        kernel.settimeout(_WAIT_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request)
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    state, found_ports, found_addresses, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    if (state, found_ports, found_addresses) != (_ESTABLISHED, ports, addresses) or not inode:
        return None
    return int(uid)
