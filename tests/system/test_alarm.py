"""The alarm of a running daemon: a command and a notice say that mail does not leave, once, and that it does again."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rig.instance import Instance, smarthost
from rig.peer import Ordinary, PeerThread

REFUSAL = "535 5.7.8 $(touch /tmp/x) \x07no"
REFUSING = Ordinary(mail=REFUSAL)
SYSTEMD = Path(__file__).parents[2] / "contrib" / "systemd"
PROFILE = SYSTEMD.parent / "profile.d" / "pysendmail-alarm.sh"
QUICK: dict[str, Any] = {"first": "0.2s", "factor": 1.0, "jitter": 0.0}


@pytest.fixture
def heard(tmp_path: Path) -> Path:
    """Where the command puts what it hears, after its arguments and the names in its environment."""
    return tmp_path / "heard"


def settings(tmp_path: Path, heard: Path, **more: Any) -> dict[str, Any]:
    script = f"(echo $# $(env | cut -d= -f1 | sort); cat) >> {heard}.new && cp {heard}.new {heard}"
    return {
        "command": ["/bin/sh", "-c", script],
        "file": str(tmp_path / "notice"),
        "after": "0",
        "oldest": "0",
        "interval": "1h",
        **more,
    }


def login(notice: Path, flags: str = "i") -> str:
    """What a login shell shows. `flags` are those of the shell; there is no other way to it than the file."""
    script = PROFILE.read_text().replace("/run/pysendmail-alarm/notice", str(notice))
    command = ["/bin/sh", f"-{flags}" if flags else "-u", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=True)
    return done.stdout


def test_an_account_that_is_refused_is_told_once_and_its_end_once(tmp_path: Path, heard: Path) -> None:
    """Command, notice and log; a restart tells nothing again; mail that leaves is the end of it."""
    notice = tmp_path / "notice"
    with (
        PeerThread(REFUSING) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry=QUICK, alarm=settings(tmp_path, heard)) as instance,
    ):
        instance.submit("bob@example.org")
        assert instance.wait_for("alarm")["state"] == "raised"
        arguments, first, second = heard.read_text().splitlines()
        assert arguments == "0 LANG PATH PWD"
        assert first == "pysendmail on box.example.com: mail does not leave as it should"
        assert second.startswith("raised account main: smarthost main does not take the account of this machine, since")
        assert second.endswith(r": 535 5.7.8 $(touch /tmp/x) \x07no")
        assert stat.S_IMODE(notice.stat().st_mode) == 0o644
        assert "account of this machine" in notice.read_text() and "535" not in notice.read_text()
        assert login(notice) == notice.read_text()
        assert login(notice, flags="") == ""  # scp, rsync: nobody reads there
        shown = notice.stat()

        assert instance.stop() == 0
        seen = len(instance.events)
        instance.start()
        instance.wait_for("trouble", after=seen, count=3)
        assert instance.matching("alarm", seen) == []
        assert notice.stat().st_ino == shown.st_ino  # who watches the file is not woken
        assert len(heard.read_text().splitlines()) == 3

        peer.become(Ordinary())
        instance.pysendmail("flush")
        assert instance.wait_for("alarm", after=seen)["state"] == "cleared"
        assert heard.read_text().splitlines()[4] == "pysendmail on box.example.com: mail leaves again"
        assert heard.read_text().splitlines()[5].startswith("cleared account main: it is over")
        assert (notice.read_text(), login(notice)) == ("", "")
        assert instance.status()["health"] == "ok"


def test_mail_that_waits_for_too_long(tmp_path: Path, heard: Path) -> None:
    """Whatever the reason; removed, it is over."""
    with (
        PeerThread(Ordinary(rcpt={"bob@example.org": "451 4.2.1 busy"})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], alarm=settings(tmp_path, heard, oldest="0.1s")) as instance,
    ):
        instance.submit("bob@example.org")
        assert instance.wait_for("alarm")["kind"] == "age"
        assert "raised age: the oldest message waits for too long, since " in heard.read_text()
        instance.pysendmail("queue", "remove", "--all", "--yes")
        assert instance.wait_for("alarm", count=2)["state"] == "cleared"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["/no/such/command"], "/no/such/command: No such file or directory"),
        (["/bin/sh", "-c", "exit 3"], "/bin/sh: exit status 3"),
        (["/bin/sh", "-c", "exec <&-; exit 4"], "/bin/sh: exit status 4"),
    ],
    ids=["missing", "failed", "deaf"],
)
def test_a_command_that_fails_is_tried_again(tmp_path: Path, command: list[str], error: str) -> None:
    """It is said in the log, the mail goes on, the notice is there, and another daemon tells it."""
    heard, alarm = tmp_path / "heard", {"after": "0", "oldest": "0", "file": str(tmp_path / "notice")}
    with (
        PeerThread(REFUSING) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], alarm={**alarm, "command": command}) as instance,
    ):
        instance.submit("bob@example.org")
        told = instance.wait_for("alarm")
        assert (told["state"], told["error"]) == ("untold", error)
        assert (tmp_path / "notice").read_text()
        instance.configure(smarthosts=[smarthost(peer)], alarm=settings(tmp_path, heard))
        instance.stop()
        instance.start()
        assert instance.wait_for("alarm", state="raised")["kind"] == "account"
        assert "raised account main" in heard.read_text()


def test_a_notice_that_cannot_be_written(tmp_path: Path) -> None:
    """It is said once, and the alarm is in the log all the same."""
    alarm = {"after": "0", "file": str(tmp_path / "no" / "notice")}
    with (
        PeerThread(REFUSING) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], alarm=alarm) as instance,
    ):
        instance.submit("bob@example.org")
        instance.wait_for("alarm", state="raised")
        assert instance.wait_for("alarm")["error"] == f"{tmp_path}/no/notice: No such file or directory"
        assert len(instance.matching("alarm", fields={"state": "unwritten"})) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the unit's command runs as root")
def test_what_the_unit_tells_everybody_is_everybodys_to_read(open_path: Path) -> None:
    """The notice, or that it is over; never a file that the daemon's user could not read, and has put a link to."""
    unit = (SYSTEMD / "pysendmail-alarm.service").read_text().replace("\\\n", "").replace("$$", "$")
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=/bin")]
    *command, _ = shlex.split(line.removeprefix("ExecStart="))
    heard, notice, secret = (open_path / name for name in ("heard", "notice", "secret"))
    wall = open_path / "wall"
    wall.write_text(f"#!/bin/sh\ncat >{heard}\n")
    wall.chmod(0o755)
    secret.touch(0o600)
    secret.write_text("root:secret\n")

    def told() -> str:
        subprocess.run([*command, str(notice)], env={"PATH": f"{open_path}:/usr/bin:/bin"}, check=True)
        return heard.read_text()

    over = "pysendmail: mail leaves again\n"
    assert told() == over
    notice.write_text("pysendmail on box: mail does not leave as it should\n  the disk is full\n")
    assert told() == notice.read_text()
    notice.write_text("")
    assert told() == over
    notice.unlink()
    notice.symlink_to(secret)
    assert told() == over


def test_under_systemd_the_notice_is_in_its_directory(tmp_path: Path) -> None:
    """RuntimeDirectory= is all that is needed; nobody who watches it is woken when all is well."""
    directory = tmp_path / "runtime"
    directory.mkdir()
    with PeerThread(REFUSING) as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)], alarm={"after": "0"})
        with instance:
            instance.stop()
            instance.start(environment={"RUNTIME_DIRECTORY": str(directory)})
            assert list(directory.iterdir()) == []
            instance.submit("bob@example.org")
            instance.wait_for("alarm", state="raised")
            assert "account of this machine" in (directory / "notice").read_text()
