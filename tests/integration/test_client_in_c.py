"""contrib/client/sendmail.c by itself: what it does without the Python client, what it leaves to that, and any answer.

What both clients do alike is in test_client.py. Here no Python client stands behind it unless a test says so: what is
left to one ends with 75 and says what is missing.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pysendmail import argv, frames
from pysendmail.argv import UsageError
from pysendmail.install import PROGRAM
from pysendmail.thin import client
from pysendmail.thin.client import Given, Lost, Request, Talk
from rig.clients import SANITIZED, SOURCE, THIN, compile_c, compiler, install_python
from rig.command_lines import OPTIONS
from rig.daemon_end import PATIENCE_S, DaemonEnd, end, running
from rig.debian import file, program

MAIL = b"Subject: x\n\nhello\n"
MIB = 1 << 20
TEXT = (SOURCE / "sendmail.c").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with nothing behind it."""
    directory = tmp_path_factory.mktemp("alone")
    compile_c(directory / PROGRAM, directory / "missing", *SANITIZED)
    (directory / "mailq").symlink_to(PROGRAM)
    return directory


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonEnd]:
    daemon = DaemonEnd(tmp_path)
    yield daemon
    daemon.close()


def constants() -> dict[str, int]:
    """The enum at the top, with the values that C gives them."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"\b([A-Z_]+) = ([-\d]+(?: << \d+)?)", TEXT):
        number, _, shift = value.partition(" << ")
        found[name] = int(number) << int(shift or 0)
    return found


# What it is


def test_its_constants_are_the_python_clients() -> None:
    """Protocol, bounds and limits are the same; what has no counterpart there is named here."""
    its_own = {"SPOOL", "UNKNOWN", "LOST", "NOBODY", "UNFINISHED"}
    ours = {name: value for name, value in constants().items() if name not in its_own}
    assert len(ours) > 12
    for name, value in ours.items():
        if name.endswith("_MS"):
            assert value == getattr(client, name.removesuffix("MS") + "S") * 1000
        else:
            assert value == getattr(client, name), name
    quoted = dict(re.findall(r'^#define (\w+) "([^"]+)"', TEXT, re.MULTILINE))
    assert quoted["SYSTEM_CONFIG"].encode() == client.SYSTEM_CONFIG
    assert quoted["SYSTEM_SOCKET"].encode() == client.SYSTEM_SOCKET
    assert quoted["TAKES_VALUE"].encode() == client.TAKES_VALUE
    assert set(client.TAKES_REST.decode()) <= set(quoted["LEFT_TO_PYTHON"])


def test_it_can_be_linked_statically(tmp_path: Path) -> None:
    """Without a word of the linker, and it runs; dynamically, each test here does that."""
    file("/usr/lib/*/libc.a", "libc6-dev")
    out = tmp_path / PROGRAM
    make = [program("make", "make"), "-C", SOURCE, f"OUT={out}", f"CLIENTS={tmp_path}/missing", "LDFLAGS=-static-pie"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with running([out, "-bp"]) as process:
        assert end(process)[0] == 75


def test_an_interpreter_that_it_overtakes_goes_on_with_the_stub(daemon: DaemonEnd, tmp_path: Path) -> None:
    """Whoever was about to start the stub opens this by its name: it is a Python program as well."""
    behind = tmp_path / "behind"
    behind.mkdir()
    install_python(behind, THIN)
    out = tmp_path / PROGRAM
    compile_c(out, tmp_path / "missing")
    subprocess.run([sys.executable, SOURCE / "overtaken.py", out, behind], check=True)
    for command in ([sys.executable, "-IS", out], [out]):
        with running([*command, "-C", daemon.config, b"\xff"]) as process:
            process.stdin.write(MAIL)
            process.stdin.close()
            heard = daemon.accept().read_all()
            assert (heard.name, heard.argv[-1], heard.data) == (b"sendmail", b"\xff", MAIL)
            heard.exit(0)
            assert process.wait() == 0


# What it does, and what it leaves


@pytest.mark.parametrize(
    "words",
    [
        "root",
        "-ti",
        "-t -oi -oem -odi -oee -f box@example.com",
        "-FCronDaemon -i -B8BITMIME -oem root",
        "-oem -oi -- bob@example.org",
        "-bm -N never -R hdrs -V id root",
        "-odq -h 3 -L tag -X log -om root",
        "-ffrom@example.com -x root -v",
        "-GUn -pTCP - -bs",
    ],
)
def test_a_submission_needs_no_python(words: str, alone: Path, daemon: DaemonEnd) -> None:
    """As cron, mutt, git, PHP and others call it."""
    with running([alone / PROGRAM, "-C", daemon.config, *words.split()]) as process:
        process.stdin.write(MAIL)
        process.stdin.close()
        heard = daemon.accept().read_all()
        assert (heard.kinds, heard.argv[3:], heard.data) == ("VAEDZ", tuple(words.encode().split()), MAIL)
        heard.exit(0)
        assert process.wait() == 0


@pytest.mark.parametrize(
    "word",
    [
        "-v",
        "-ov",
        "-bs",
        "-bp",
        "-bv",
        "-bD",
        "-q",
        "-qf",
        "-Qwhy",
        "-d0",
        "-I",
        "-oifalse",
        "-OIgnoreDots=no",
        "-Mx",
        "--config=x",
        "--version",
    ],
)
def test_all_else_is_left_to_python(word: str, alone: Path, daemon: DaemonEnd) -> None:
    """Untouched, and it says so where there is none."""
    ours, theirs = os.pipe()
    os.write(theirs, MAIL)
    with running([alone / PROGRAM, "-C", daemon.config, word], stdin=ours) as process:
        os.close(theirs)
        code, _, err = end(process)
    assert (code, err.decode()) == (
        75,
        f"sendmail: cannot run {alone}/missing/sendmail (No such file or directory); nothing was queued\n",
    )
    os.close(ours)
    assert daemon.nobody_waits()


@pytest.mark.parametrize("text", ["", '[daemon]\nsocket = ""\n', 'socket = "run/submit"\n', "\ufeffsocket = '/x'\n"])
def test_a_configuration_that_names_no_socket_is_left_to_python(text: str, alone: Path, tmp_path: Path) -> None:
    """As is one that cannot be read."""
    config = tmp_path / "c.toml"
    for path in (config, tmp_path):
        config.write_text(text)
        with running([alone / PROGRAM, "-C", path, "root"], stdin=subprocess.DEVNULL) as process:
            assert b"cannot run" in end(process)[2]


HARNESS = """
#define main client_main
#include "%s"
#undef main
int main(int argc, char **argv)
{
    (void)argc;
    words = argv + 1;
    name = argv[1];
    const char *config = scan();
    printf("%%d %%s", dot_ends, config ? config : "");
    return 0;
}
"""


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its reading of argv as a program: says whether a dot ends, and the configuration; 75 if all is left to Python."""
    directory = tmp_path_factory.mktemp("scanner")
    (directory / "scanner.c").write_text(HARNESS % (SOURCE / "sendmail.c"))
    flags = ["-std=c11", '-DCLIENTS="/missing"']
    subprocess.run([compiler(), *flags, directory / "scanner.c", "-o", directory / "scanner"], check=True)
    return directory / "scanner"


@example(["-f", "-v"])
@example(["-oi", "-tC"])
@example(["-Ca", "-Cb"])
@settings(max_examples=300, deadline=None)
@given(OPTIONS)
def test_it_reads_argv_as_the_python_client_does(scanner: Path, words: list[str]) -> None:
    """Of what the daemon would accept, it takes plain submissions only, with the same configuration and dots."""
    raw = [b"sendmail", *(os.fsencode(word) for word in words)]
    try:
        argv.parse(raw)
    except UsageError:
        return  # refused, whatever the client makes of it
    done = subprocess.run([scanner, *raw], capture_output=True, check=False)
    request = Request(raw)
    plain = request.reads and not (request.dialogue or request.verbose or request.debug or request.here)
    assert plain or done.returncode == 75
    if done.returncode != 75:
        assert done.stdout == b"%d %b" % (request.dot_ends, request.config or b"")


def test_room_in_a_full_backlog_is_waited_for(alone: Path, daemon: DaemonEnd) -> None:
    """Without an interpreter: a thousand of those would not make the daemon any faster."""
    full = ["-o", "/dev/null", "-e", "trace=connect", "-e", "inject=connect:error=EAGAIN:when=1..3"]
    command = [program("strace", "strace"), *full, alone / PROGRAM, "-C", daemon.config, "root"]
    with running(command, stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().exit(0)
        assert end(process) == (0, b"", b"")


# Handing over


@pytest.fixture
def direct(tmp_path: Path) -> Path:
    """The Python client, and in the place of `direct` one that keeps what it gets."""
    package = tmp_path / "lib" / "pysendmail"
    (package / "thin").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "thin" / "client.py").write_text(Path(client.__file__).read_text())
    (package / "direct.py").write_text(
        "def takes_over(config):\n    return True\n"
        f"def run(argv, env, chunks, *more):\n    open({str(tmp_path / 'got')!r}, 'wb').write(b''.join(chunks))\n"
        "    return 0\n"
    )
    behind = tmp_path / "behind"
    behind.mkdir()
    install_python(behind, package / "thin")
    return behind


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ([b""], b""),
        ([MAIL], MAIL),
        ([b"x" * (3 * MIB)], b"x" * (3 * MIB)),
        ([MAIL + b".\r", b"\n"], MAIL + b".\r\n"),
    ],
    ids=["nothing", "small", "large", "a lone dot"],
)
def test_what_finds_nobody_goes_on_to_python(
    given: list[bytes], got: bytes, direct: Path, daemon: DaemonEnd, tmp_path: Path
) -> None:
    """A dead daemon's socket: all that was read, up to the end or to a lone dot, which the caller need not outlive."""
    daemon.listener.close()
    compile_c(tmp_path / PROGRAM, direct)
    with running([tmp_path / PROGRAM, "-C", daemon.config, "root"]) as process:
        for piece in given:
            process.stdin.write(piece)
            process.stdin.flush()
        if not got.endswith(b".\r\n"):
            process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "got").read_bytes() == got


# Any answer

KINDS = [frames.STDOUT, frames.STDERR, frames.EXIT, frames.UNKNOWN, frames.DATA, b"\0"]
frame = st.builds(frames.encode, st.sampled_from(KINDS[:3]), st.binary(max_size=3))
odd = st.builds(
    lambda kind, size, rest: kind + size.to_bytes(4) + rest,
    st.sampled_from(KINDS),
    st.sampled_from([0, 1, 2, 5, frames.MAX_CHUNK, frames.MAX_CHUNK + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
    st.binary(max_size=6),
)
answers = st.lists(st.one_of(frame, frame, odd, st.binary(max_size=8)), max_size=5).map(b"".join)
LARGE = frames.encode(frames.STDOUT, b"y" * frames.MAX_CHUNK)
LOST, UNKNOWN = -1, -2  # no code came; nobody knows the message
LATER_CODE = 98  # what we answer to the next question, or when it is sent again


def python_hears(answer: bytes, *, asking: bool) -> tuple[int, bytes, bytes]:
    """What the Python client makes of it: code and output."""
    shown = {frames.STDOUT: b"", frames.STDERR: b""}

    def show(kind: bytes, data: bytes) -> None:
        shown[kind] += data

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * frames.MAX_CHUNK)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        talk = Talk(ours, show)
        try:
            code = (
                talk.ask(bytes(16), PATIENCE_S) if asking else talk.submit(client.opening(bytes(16), [], {}), Given())
            )
        except Lost:
            code = LOST
    return UNKNOWN if code is None else code, shown[frames.STDOUT], shown[frames.STDERR]


@pytest.mark.parametrize("asking", [False, True], ids=["submission", "question"])
@example(answer=LARGE * 2 + frames.encode(frames.EXIT, b"\x05"))
@example(answer=LARGE[:-1])
@example(answer=frames.encode(frames.EXIT, bytes([LATER_CODE])))
@example(answer=frames.encode(frames.EXIT, b"\xff"))
@example(answer=frames.encode(frames.UNKNOWN))
@example(answer=frames.encode(frames.UNKNOWN, b"\0"))
@settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=answers)
def test_any_answer_is_taken_as_the_python_client_takes_it(
    asking: bool, alone: Path, daemon: DaemonEnd, answer: bytes
) -> None:
    """The same code and output; or it is as good as lost: nothing but an X is ever a success."""
    expected = python_hears(answer, asking=asking)
    command = [alone / PROGRAM, "-C", daemon.config, "root"]
    with (
        tempfile.TemporaryFile() as output,
        running(command, stdin=subprocess.DEVNULL, stdout=output.fileno()) as process,
    ):
        if asking:
            daemon.accept().read_all().close()
        heard = daemon.accept().read_all()
        heard.sock.sendall(answer)
        heard.close()
        for missing, kinds in ((LOST, "VQ"), (UNKNOWN, "VAEZ")):
            if expected[0] == missing:
                again = daemon.accept().read_all()
                assert again.kinds == kinds
                again.exit(LATER_CODE)
                expected = (LATER_CODE, *expected[1:])
        code, _, err = end(process)
        output.seek(0)
        assert (code, output.read(), err) == expected
    assert daemon.nobody_waits()
