"""Secrets: where they come from, what is refused, and that nothing shows them."""

import asyncio
import copy
import os
import pickle
import re
import select
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from pysendmail import command
from pysendmail.config import Smarthost
from pysendmail.secrets import Secret, SecretError, Secrets

WORD = b"open sesame"
ME, MINE = os.geteuid(), os.getegid()


def relay(**settings: Any) -> Smarthost:
    return Smarthost(**{"name": "main", "host": "mail.example", "username": "box"} | settings)


def read(relay: Smarthost, directory: str = "") -> bytes:
    return asyncio.run(Secrets(credentials_directory=directory).read(relay)).reveal()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A password file as it should be."""
    path = tmp_path / "password"
    path.write_bytes(WORD + b"\n")
    path.chmod(0o600)
    return path


def test_nothing_shows_a_secret() -> None:
    """Neither text nor format nor repr nor pickle nor copy gives a secret away."""
    secret = Secret(WORD)
    assert "sesame" not in repr(secret)
    assert "sesame" not in repr([secret])
    for show in (str, "{}".format, lambda s: f"{s}", lambda s: "%s" % s, pickle.dumps, copy.copy, copy.deepcopy):  # noqa: UP031
        with pytest.raises(TypeError):
            show(secret)  # type: ignore[operator]
    assert secret.reveal() == WORD


@pytest.mark.parametrize("content", [WORD, WORD + b"\n", WORD + b"\r\n"])
@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_file(file: Path, content: bytes, mode: int) -> None:
    """The file's line, without the line end that an editor adds."""
    file.write_bytes(content)
    file.chmod(mode)
    assert read(relay(password_file=str(file))) == WORD


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666, 0o640 if ME else 0o660, 0o601])
def test_file_that_others_can_read(file: Path, mode: int) -> None:
    """A file with rights for others is not used; the error names file, mode and mend, and not the content."""
    file.chmod(mode)
    with pytest.raises(SecretError) as raised:
        read(relay(password_file=str(file)))
    text = str(raised.value)
    assert text.startswith(f"smarthost main: password_file {file}: mode {mode:04o}")
    assert "0400 or 0600" in text
    assert "sesame" not in text


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "good"),
    [
        (4242, 4242, 0o600, True),
        (4242, 4242, 0o400, True),
        (4242, 4242, 0o640, False),
        (0, 4242, 0o640, True),
        (0, 4242, 0o440, True),
        (0, 4242, 0o660, False),
        (0, 4242, 0o644, False),
        (0, 0, 0o640, False),
        (1, 4242, 0o600, False),
        (1, 4242, 0o640, False),
    ],
)
def test_owners(file: Path, uid: int, gid: int, mode: int, good: bool) -> None:
    """The queue's owner with 0400 or 0600, or root with the owner's group and 0640."""
    os.chown(file, uid, gid)
    file.chmod(mode)
    problem = Secrets(credentials_directory="", owner=4242, group=4242).check(relay(password_file=str(file)))
    assert bool(problem) is not good


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"a\nb\n", "more than one line"),
        (b"a\0b", "NUL"),
        (b"x" * 70000, "more than 65536"),
    ],
    ids=["empty", "line end", "two lines", "NUL", "huge"],
)
def test_odd_content(file: Path, content: bytes, why: str) -> None:
    """What is not one line of text is a mistake worth naming."""
    file.write_bytes(content)
    with pytest.raises(SecretError, match=why):
        read(relay(password_file=str(file)))


def test_what_is_no_file(tmp_path: Path) -> None:
    """A missing file, a directory and a FIFO are refused at once; the FIFO without waiting for a writer."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, stat.S_IRUSR)
    for path, why in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "not a regular file"),
        (fifo, "not a regular file"),
    ):
        with pytest.raises(SecretError, match=re.escape(f"password_file {path}: {why}")):
            read(relay(password_file=str(path)))


def test_command() -> None:
    """What a command writes; no shell takes part."""
    assert read(relay(password_command=python("print('$HOME; `id`')"))) == b"$HOME; `id`"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("/no/such/command",), "No such file"),
        (python("import sys; print('sesame'); sys.exit(3)"), "exit status 3"),
        (python("import os; os.kill(os.getpid(), 9)"), "exit status -9"),
        (python("pass"), "empty"),
        (python("print('sesame' * 20000)"), "more than 65536 octets"),
        (python("print('sesame\\nsesame')"), "more than one line"),
        (python("import sys; sys.stderr.write('sesame'); sys.exit(1)"), "exit status 1"),
    ],
    ids=["missing", "failed", "killed", "silent", "flood", "two lines", "stderr"],
)
def test_command_that_fails(words: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The error says what happened, and repeats nothing that the command wrote."""
    with pytest.raises(SecretError, match=re.escape(why)) as raised:
        read(relay(password_command=words))
    assert "sesame" not in str(raised.value)
    assert "sesame" not in "".join(capfd.readouterr())


def test_command_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At its deadline a command is killed with its children."""
    monkeypatch.setattr(command, "DEADLINE_S", 1.0)
    pids = tmp_path / "pids"
    code = f"import os, time; pid = os.fork(); open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(600)"
    with pytest.raises(SecretError, match="no answer in 1 s"):
        read(relay(password_command=python(code)))
    for pid in map(int, pids.read_text().split()):
        assert _ends(pid)


def test_what_a_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    """A child that goes on in its group is ended with it, also where the command itself went well."""
    pid = tmp_path / "pid"
    child = f"os.close(1); open({str(pid)!r}, 'w').write(str(os.getpid())); os.write(w, b'.'); time.sleep(600)"
    code = f"import os, time; r, w = os.pipe()\nif os.fork() == 0: {child}\nos.read(r, 1); print('sesame')"
    assert read(relay(password_command=python(code))) == b"sesame"
    assert _ends(int(pid.read_text()))


@pytest.mark.parametrize("session", [False, True], ids=["same group", "another session"])
def test_a_child_that_holds_the_output(tmp_path: Path, session: bool) -> None:
    """What counts is that the command has ended, and what was written by then; nothing of it stays open here."""
    pid = tmp_path / "pid"
    child = f"{'os.setsid(); ' if session else ''}open({str(pid)!r}, 'w').write(str(os.getpid())); os.write(w, b'.')"
    code = (
        f"import os, time; r, w = os.pipe()\nif os.fork() == 0: {child}; time.sleep(60)\nos.read(r, 1); print('sesame')"
    )

    async def left_open() -> set[int]:
        counts = set()
        for _ in range(2):
            secret = await Secrets(credentials_directory="").read(relay(password_command=python(code)))
            assert secret.reveal() == b"sesame"
            await asyncio.sleep(0)  # a transport is closed in the loop's next turn
            counts.add(len(os.listdir("/proc/self/fd")))
        return counts

    assert len(asyncio.run(left_open())) == 1
    if session:
        os.kill(int(pid.read_text()), signal.SIGKILL)
    else:
        assert _ends(int(pid.read_text()))


def test_environment_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ours, but for what systemd tells its service alone; no descriptor of ours is open in it."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "JOURNAL_STREAM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("GNUPGHOME", "/somewhere")
    with open("/dev/null") as stays:
        os.set_inheritable(stays.fileno(), True)
        code = "import os; print(*sorted(os.environ), sorted(os.listdir('/proc/self/fd')))"
        names, _, descriptors = read(relay(password_command=python(code))).decode().partition(" [")
    assert "GNUPGHOME" in names and "PATH" in names
    for part in ("NOTIFY", "WATCHDOG", "LISTEN", "JOURNAL"):
        assert part not in names
    assert descriptors == "'0', '1', '2', '3']"  # 3 is the listing itself


def test_a_symbolic_link_is_followed_to_a_file_that_is_judged(file: Path, tmp_path: Path) -> None:
    """As secrets are mounted into containers: what counts is the file at the end, its owner and its mode."""
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read(relay(password_file=str(link))) == WORD
    file.chmod(0o644)
    with pytest.raises(SecretError, match="mode 0644"):
        read(relay(password_file=str(link)))
    file.unlink()
    with pytest.raises(SecretError, match="No such file"):
        read(relay(password_file=str(link)))


def test_each_use_looks_again(file: Path) -> None:
    """The secret is read, its mode and owner judged, at each connection."""
    once = Secrets(credentials_directory="")
    smarthost = relay(password_file=str(file))
    assert asyncio.run(once.read(smarthost)).reveal() == WORD
    file.write_bytes(b"changed\n")
    assert asyncio.run(once.read(smarthost)).reveal() == b"changed"
    file.chmod(0o640)
    with pytest.raises(SecretError, match="mode 0640"):
        asyncio.run(Secrets(credentials_directory="", owner=ME or 1, group=MINE or 1).read(smarthost))


def _ends(pid: int) -> bool:
    """Whether a process has ended, or does so in ten seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credential named after the smarthost, read when Secrets is made; files and commands come first."""
    (tmp_path / "smarthost.main.password").write_bytes(WORD + b"\n")
    assert read(relay(), str(tmp_path)) == WORD
    assert read(relay(password_command=python("print('other')")), str(tmp_path)) == b"other"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    made = Secrets()
    (tmp_path / "smarthost.main.password").unlink()
    assert asyncio.run(made.read(relay())).reveal() == WORD
    with pytest.raises(SecretError, match=r"smarthost other: no password: .*smarthost\.other\.password"):
        asyncio.run(made.read(relay(name="other")))


def test_check_reads_a_credential_as_a_connection_does(tmp_path: Path) -> None:
    """One that is there and of no use is named by `check` and `status`, not only when mail has to wait for it."""
    credential = tmp_path / "smarthost.main.password"
    for content, words in ((WORD, ""), (b"\n", "the secret is empty"), (b"two\nlines\n", "more than one line")):
        credential.write_bytes(content)
        found = Secrets(credentials_directory=str(tmp_path)).check(relay())
        assert words in found and bool(found) is bool(words)


def test_check(file: Path) -> None:
    """check says what is wrong without a connection, and runs no command."""
    looks = Secrets(credentials_directory="")
    assert looks.check(relay(username="")) == ""
    assert looks.check(relay(password_file=str(file))) == ""
    assert looks.check(relay(password_command=("/no/such/command",))) == ""
    assert "no password_file" in looks.check(relay())
    file.chmod(0o644)
    assert "0644" in looks.check(relay(password_file=str(file)))
