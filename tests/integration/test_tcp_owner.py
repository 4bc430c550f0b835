"""Whose process is at the other end of a loopback connection: the kernel's word, or none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pysendmail import tcp_owner
from pysendmail.tcp_owner import owner

KERNELS = socket.AF_NETLINK

ENDS = {
    "IPv4": (socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1"),
    "IPv6": (socket.AF_INET6, "::1", socket.AF_INET6, "::1"),
    "IPv4, made with an IPv6 socket as Java does it": (
        socket.AF_INET,
        "127.0.0.1",
        socket.AF_INET6,
        "::ffff:127.0.0.1",
    ),
}


@pytest.fixture(params=[False, True], ids=["sock_diag", "without AF_NETLINK"], autouse=True)
def sandboxed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As RestrictAddressFamilies= has it: the socket cannot be made."""
    if request.param:
        monkeypatch.setattr(socket, "AF_NETLINK", 45)  # AF_MAX or above: EAFNOSUPPORT, as in a sandbox


@pytest.fixture(params=ENDS.values(), ids=ENDS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected client and what the server accepted."""
    family, host, of_client, target = request.param
    try:
        listener = socket.create_server((host, 0), family=family)
        client = socket.socket(of_client)
        client.connect((target, listener.getsockname()[1]))
    except OSError as error:
        pytest.skip(f"no {host} from {target} here: {error}")
    with listener, client:
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted


def test_own_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    """A process of ours is ours."""
    _, accepted = pair
    assert owner(accepted) == os.geteuid()


def test_a_table_that_is_too_long_is_not_searched_to_its_end(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens a great many connections makes others nobody at worst; sock_diag has no such bound."""
    _, accepted = pair
    monkeypatch.setattr(tcp_owner, "MAX_CONNECTIONS", 0)
    assert owner(accepted) == (os.geteuid() if socket.AF_NETLINK == KERNELS else None)


def test_a_client_that_has_gone_is_nobody(pair: tuple[socket.socket, socket.socket]) -> None:
    """The kernel gives a socket that was closed to uid 0: whoever sends and leaves must not become root by that."""
    client, accepted = pair
    client.sendall(b"EHLO x\r\n")
    client.close()
    assert accepted.recv(100) == b"EHLO x\r\n"
    assert owner(accepted) is None


def test_what_is_no_tcp_connection() -> None:
    """Anything else has no owner, and is no error."""
    one, other = socket.socketpair()
    with one, other:
        assert owner(one) is None
    with socket.socket() as unconnected:
        assert owner(unconnected) is None
