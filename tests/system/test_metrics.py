"""Metrics of a running daemon: the file that node_exporter reads, and the loopback address that Prometheus asks."""

from __future__ import annotations

import http.client
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from pysendmail.metrics import MOST
from rig.instance import BIN, Instance, smarthost
from rig.peer import PeerThread


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    command = [BIN / "python", "-c", "import prometheus_client"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the daemon's Python has no prometheus-client")


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def ask(port: int, path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/plain; version=0.0.4")
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_on_loopback(tmp_path: Path, port: int) -> None:
    """Counters and gauges of this moment; nothing of anybody's mail; whoever says something else is no trouble."""
    with (
        PeerThread() as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], metrics={"listen": [f"127.0.0.1:{port}"]}) as instance,
    ):
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        code, text = ask(port)
        assert code == 200
        assert 'pysendmail_outcomes_total{outcome="sent"} 1.0\n' in text
        assert 'pysendmail_smarthost_up{smarthost="main"} 1.0\n' in text
        assert "bob" not in text
        assert ask(port, "/")[0] == 404
        for nonsense in (b"", b"\x00" * 100, b"x" * 20_000, b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(nonsense)
        assert ask(port)[0] == 200
        assert instance.matching("bug") == instance.matching("library") == []


def test_silent_clients_keep_nobody_out(tmp_path: Path, port: int) -> None:
    """Whoever asks is answered, however many say nothing; they have their time, and the mail goes on."""
    with (
        PeerThread() as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], metrics={"listen": [f"127.0.0.1:{port}"]}) as instance,
    ):
        silent = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(MOST + 10)]
        assert ask(port)[0] == 200
        assert all(sock.recv(1) == b"" for sock in silent[:11])  # the oldest made room
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        assert silent[-1].recv(1) == b""  # its time is over
        for sock in silent:
            sock.close()


def test_in_a_file(tmp_path: Path) -> None:
    """It is whole whenever it is read, and everybody's to read; a reload takes it away or brings it."""
    file = tmp_path / "pysendmail.prom"
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.configure(smarthosts=[smarthost(peer)], metrics={"file": str(file)})
        instance.reload()
        instance.submit("bob@example.org")
        instance.wait_for("outcome", status="sent")
        instance.wait_quietly(file.exists)
        assert file.read_text().endswith("\n") and "pysendmail_health 0.0\n" in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_what_cannot_be_had_is_said(tmp_path: Path, port: int) -> None:
    """An address that is taken, a directory or a library that is not there: events, and mail that goes."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "prometheus_client.py").write_text("raise ImportError\n")
    with PeerThread() as peer, socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        settings = {"file": str(tmp_path / "no" / "file"), "listen": [f"127.0.0.1:{port}"]}
        with Instance(tmp_path, smarthosts=[smarthost(peer)], metrics=settings) as instance:
            instance.wait_for("metrics", error=f"127.0.0.1:{port}: Address already in use")
            instance.wait_for("metrics", error=f"{tmp_path}/no/file: No such file or directory")
            instance.stop()
            instance.start(environment={"PYTHONPATH": str(broken)})
            assert "prometheus-client is not installed" in instance.wait_for("metrics", count=3)["error"]
            instance.submit("bob@example.org")
            instance.wait_for("outcome", status="sent")
