"""Whose process is at the other end of a loopback connection: the kernel's word, or none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pysendmail.tcp_owner import owner


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected client and what the server accepted."""
    family, host = request.param
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with listener, socket.socket(family) as client:
        client.connect(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted


def test_own_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    """A process of ours is ours, asked from either end."""
    client, accepted = pair
    assert owner(accepted) == owner(client) == os.geteuid()


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
