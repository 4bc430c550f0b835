"""contrib/container, without an engine: its steps in a Debian root with Python where the image has it, then a sidecar.

What an engine does is done by hand: volumes are directories that two roots share, the configuration is a file mounted
read-only, and CMD is process 1, as USER, without any capability.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import Daemon
from rig.machine import WHEELS, put_wheels
from rig.packaged import PACKAGES, PORT, SMARTHOST, TEXT, wanted
from rig.peer import PeerThread
from rig.root import PATIENCE_S, Root, child, debian

wanted()

CHECKOUT = Path(__file__).parents[2]
RECIPE = (CHECKOUT / "contrib" / "container" / "Containerfile").read_text()
IMAGE = "docker.io/library/python:3.13-slim"
SUITE = "trixie"  # whose Python that is
OFFLINE = ("env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")
SOCKETS = "/run/pysendmail"
CONFIGURATION = "/etc/pysendmail/pysendmail.toml"
MOUNTED = "/var/tmp/pysendmail.toml"


def instructions() -> list[list[str]]:
    """Each instruction's name and the rest of it: without comments, lines joined."""
    lines = "\n".join(line for line in RECIPE.splitlines() if not line.startswith("#")).replace("\\\n", "")
    return [line.split(maxsplit=1) for line in lines.splitlines()]


class Container(Daemon):
    """A daemon whose process is the first of its namespace."""

    @property
    def pid(self) -> int:
        """As we see it: nsenter and unshare wait for theirs."""
        assert self.process is not None
        return child(child(self.process.pid))

    def signal(self, number: int) -> int:
        os.kill(self.pid, number)
        assert self.process is not None
        return self.process.wait(PATIENCE_S)


class Image:
    """What the recipe makes of a root."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.rest: dict[str, str] = {}
        for name, text in instructions():
            match name:
                case "FROM":
                    assert text == IMAGE
                    root.must("python3", "-m", "venv", "/usr/local")
                case "COPY":
                    pattern, place = text.split()
                    [source] = CHECKOUT.glob(pattern)
                    shutil.copy(source, root.path(place))
                case "RUN":
                    root.must(*OFFLINE, "sh", "-c", text)
                case _:
                    self.rest[name] = text
        root.path(MOUNTED).write_text(f'domain = "example.com"\n{SMARTHOST.replace("localhost", "127.0.0.1")}')
        root.path(CONFIGURATION).touch()
        root.must("mount", "--bind", MOUNTED, CONFIGURATION)
        root.must("mount", "-o", "remount,bind,ro", CONFIGURATION)

    def container(self) -> Container:
        """CMD, to be started."""
        command = re.findall(r'"([^"]*)"', self.rest["CMD"])
        bare = ("--no-new-privs", "--bounding-set=-all", "--init-groups")
        user = ("setpriv", f"--reuid={self.rest['USER']}", f"--regid={self.rest['USER']}", *bare)
        return Container(
            self.root.command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *user, *command)
        )

    def is_healthy(self) -> bool:
        command = self.rest["HEALTHCHECK"].removeprefix("CMD ")
        return self.root.run("sh", "-c", command, user=self.rest["USER"]).returncode == 0


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def image(tmp_path: Path, volume: Path) -> Iterator[Image]:
    with Root(debian(PACKAGES, suite=SUITE), tmp_path / "image", volumes={SOCKETS: volume}) as root:
        put_wheels(root)
        yield Image(root)


@pytest.fixture
def other(tmp_path: Path, volume: Path, image: Image) -> Iterator[Root]:
    """A container of somebody's with the volume, Python in its place, and what the recipe says to copy."""
    with Root(debian(PACKAGES, suite=SUITE), tmp_path / "other", volumes={SOCKETS: volume}) as root:
        root.must("python3", "-m", "venv", "--without-pip", "/usr/local")
        root.must("useradd", "--create-home", "--uid=1234", "alice")
        copies = re.findall(r"#   COPY --from=pysendmail (\S+) (?:\\\n#\s+)?(\S+)", RECIPE)
        assert len(copies) == 2
        for source, place in copies:
            copy = shutil.copytree if image.root.path(source).is_dir() else shutil.copy
            copy(image.root.path(source), root.path(place))
        yield root


def test_a_sidecar(image: Image, other: Root) -> None:
    """One process without rights takes mail from another container over a volume, and keeps it when it is replaced."""
    first = image.container()
    first.start()
    status = Path(f"/proc/{first.pid}/status").read_text()
    assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
    assert Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text() == ""
    assert image.is_healthy()
    other.must("sendmail", "bob@example.org", user="alice", stdin=TEXT)
    first.wait_for("accepted", uid="1234", sender="<uid1234@example.com>")
    first.wait_for("trouble", smarthost="main")
    image.root.path(MOUNTED).write_text(image.root.path(MOUNTED).read_text().replace('"main"', '"other"'))
    os.kill(first.pid, signal.SIGHUP)
    first.wait_for("reload", config=CONFIGURATION)
    assert first.stop() == 0
    assert not image.is_healthy()
    with PeerThread(port=PORT, network=image.root.network) as peer, image.container() as second:
        peer.wait_until(lambda: peer.messages)
        second.wait_for("outcome", status="sent", smarthost="other")
        assert second.stop() == 0
