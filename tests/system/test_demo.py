"""`pysendmail demo`, as a new user sees it: the installed command, at a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from rig.instance import BIN

PATIENCE_S = 60.0
COMMAND = [str(BIN / "pysendmail"), "demo"]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """What the demo takes for /tmp."""
    directory = tmp_path / "t"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def environment(temporary: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return {**kept, "TMPDIR": str(temporary), **more}


def run(temporary: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """In a pipe, and so wide that no line is broken."""
    return subprocess.run(
        COMMAND,
        env=environment(temporary, COLUMNS="400"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


def assert_told(text: str) -> None:
    """The whole story, in its order."""
    at = 0
    for piece in (
        'tls = "verify"',
        "$ sendmail -t",
        "| To: Ada <ada@example.org>",
        "$ mailq",
        "----Queue ID-----",
        "ada@example.org",
        "in 1 Request.",
        "$ pysendmail daemon",
        "status=sent",
        "tls=TLSv1.3",
        "arrived over TLSv1.3 (TLS_",
        "Received: by box.example.com (pysendmail, from uid ",
        "Message-ID: <",
        "Subject: Backup done\n",
        "All files of /home are saved.",
        "$ mailq",
        "Mail queue is empty",
        "$ sendmail -t",
        "| To: nobody@example.org",
        "status=bounced",
        'From: "Mail Delivery System" <MAILER-DAEMON@example.com>',
        "Subject: Undelivered mail: nobody@example.org",
        "Your message could not be delivered to this recipient",
        "550 5.1.1 <nobody@example.org>: there is nobody of this name here",
        "The address does not exist there.",
        "Status: 5.1.1",
        "$ pysendmail history",
        "ada@example.org: sent",
        "(1 attempt): 250 2.0.0 thank you",
        "nobody@example.org: bounced",
        "delivered over TLSv1.3",
    ):
        found = text.find(piece, at)
        assert found >= 0, f"{piece!r} is not there{' any more' if piece in text else ''}:\n{text}"
        at = found + len(piece)


def test_a_message_arrives_and_one_bounces(temporary: Path) -> None:
    """The demo tells its story on standard output, without colour in a pipe, and leaves nothing behind."""
    done = run(temporary)
    assert (done.returncode, done.stderr) == (0, "")
    assert_told(done.stdout)
    assert "\x1b" not in done.stdout
    assert list(temporary.iterdir()) == []


def test_it_needs_no_root(temporary: Path) -> None:
    """Any user can run it, also one without a name."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user, and the test above ran without root")
    for directory in temporary.parents[:3]:
        directory.chmod(0o755)
    stranger: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([str(BIN / "python"), "-c", "import pysendmail"], check=True, capture_output=True, **stranger)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"other users than root cannot run what is in {BIN}")
    done = run(temporary, **stranger)
    assert (done.returncode, done.stderr) == (0, "")
    assert_told(done.stdout)
    assert "(pysendmail, from uid 54321)" in done.stdout
    assert list(temporary.iterdir()) == []


def test_it_fits_a_terminal_of_80_columns(temporary: Path) -> None:
    """At a terminal there is colour, and no line is wider than it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(temporary, TERM="xterm-256color")
    )
    os.close(theirs)
    output = b""
    try:
        while data := os.read(ours, 65536):
            output += data
    except OSError:
        pass  # EIO: nobody has the other side open any more
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0
    text = output.decode().replace("\r\n", "\n")
    assert "\x1b[1m" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert [line for line in plain.split("\n") if len(line) > 80 or "\x1b" in line] == []
    assert "550 5.1.1 <nobody@example.org>: there is nobody of this name here" in plain


def alive_in_group(group: int) -> list[int]:
    """Its processes but the dead ones, which stay where nobody waits for orphans, as in a container without an init."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(pgrp) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    """Ctrl-C, which the whole group gets, or a signal to the demo alone: daemon and directory are gone when it ends."""
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(temporary),
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "4. A message" in line:  # the daemon runs
            break
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "pysendmail: demo: interrupted; everything is stopped and removed\n")
    assert list(temporary.iterdir()) == []
    assert alive_in_group(process.pid) == []


@pytest.mark.parametrize("missing", ["aiosmtpd", "trustme"])
def test_without_its_extra_it_says_how_to_install_it(tmp_path: Path, missing: str) -> None:
    """An interpreter that has everything but one of the two packages: 69, and the command to type."""
    rich, ours = importlib.util.find_spec("rich"), importlib.util.find_spec("pysendmail")
    assert rich and rich.origin and ours and ours.origin
    for entry in Path(rich.origin).parents[1].iterdir():
        if entry.name not in (missing, "pysendmail"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "pysendmail").symlink_to(Path(ours.origin).parent)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pysendmail.cli import run; run()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, "demo"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    command = f"{sys.executable} -m pip install 'pysendmail-mta[demo]'"
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == f"pysendmail: demo needs aiosmtpd and trustme: {command}\n"
