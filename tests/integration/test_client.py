"""The thin clients against a scripted daemon: processes as installed, real Unix sockets, no sleeps.

What holds for one client holds for the other: the stub in Python, and the one in C, sanitized, with the stub behind it.
Where a test needs a time limit to run out, it starts the client with that limit set to a moment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysendmail import frames
from pysendmail.install import OTHER_NAMES
from pysendmail.origin import CGROUP, COMMAND
from pysendmail.thin import client
from rig.clients import KINDS, SANITIZED, THIN, Clients
from rig.daemon_end import Conversation, DaemonEnd, end, running

MIB = 1 << 20
STEP = 100_000  # more than a pipe holds, less than pipe and socket: who is both ends must not block himself
MAIL = b"Subject: x\n\nhello\n"


@pytest.fixture(scope="session", params=KINDS)
def clients(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clients:
    return Clients(request.param, tmp_path_factory.mktemp("clients"), *SANITIZED)


@pytest.fixture
def bin_directory(clients: Clients) -> Path:
    return clients.install()


@pytest.fixture
def sendmail(bin_directory: Path) -> Path:
    return bin_directory / "sendmail"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonEnd]:
    daemon = DaemonEnd(tmp_path)
    yield daemon
    daemon.close()


@pytest.fixture
def env(daemon: DaemonEnd) -> dict[str, str]:
    return {"PYSENDMAIL_CONFIG": str(daemon.config)}


# What crosses the socket


@pytest.mark.parametrize("more", [{}, {"NAME": "A = B"}, {"NAME": ""}, {"NAME": "x" * 1025}], ids=str)
def test_a_submission_crosses_in_its_exact_bytes(
    more: dict[str, str], sendmail: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """argv with any octets, NAME of the environment, unless it is no name, and standard input arrive as they were."""
    words = [b"-F", b"M\xfcller \xc3\xa9\n", b"", b"-oem", b"root"]
    body = bytes(range(256)) * 9
    with running([sendmail, *words], env={**env, **more, "SECRET": "x"}) as process:
        process.stdin.write(body)
        process.stdin.close()
        heard = daemon.accept().read_all()
        assert (heard.name, heard.argv[1:]) == (b"sendmail", tuple(words))
        given = {name: value for name, value in heard.environment.items() if name not in (COMMAND, CGROUP)}
        assert given == {os.fsencode(k): os.fsencode(v) for k, v in more.items() if len(v) < 1025}
        assert heard.data == body
        heard.exit(0)
        assert process.wait() == 0


def test_it_says_what_it_is_of(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Its parent's name and its control group, as /proc has them, and nothing of anybody's arguments."""
    with running([sendmail, "root"], env=env) as process:
        process.stdin.close()
        heard = daemon.accept().read_all()
        groups = [line for line in Path("/proc/self/cgroup").read_bytes().splitlines() if line.startswith(b"0::")]
        expected = [(CGROUP, group.removeprefix(b"0::")) for group in groups]
        expected.append((COMMAND, Path("/proc/self/comm").read_bytes().rstrip(b"\n")))
        assert heard.environment == dict(expected)
        heard.exit(0)
        assert process.wait() == 0


def test_output_and_exit_code_come_back(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """STDOUT, STDERR and EXIT frames become this process's; no environment is needed for it."""
    with running([sendmail, "-C", daemon.config, "root"]) as process:
        process.stdin.close()
        heard = daemon.accept().read_all()
        assert heard.kinds == "VAEZ"
        heard.say(frames.STDOUT, b"out\n").say(frames.STDERR, b"err ").say(frames.STDERR, b"more\n").exit(65)
        process.stdin = None
        assert end(process) == (65, b"out\n", b"err more\n")


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_every_name_is_argv0(name: str, bin_directory: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """The daemon learns by which name it was called."""
    with running([bin_directory / name], env=env, stdin=subprocess.DEVNULL) as process:
        heard = daemon.accept().read_all()
        assert heard.name == os.fsencode(name)
        heard.exit(0)
        assert process.wait() == 0


@pytest.mark.parametrize(
    "words",
    [["mailq"], ["newaliases"], ["runq"], ["hoststat"], ["purgestat"], ["mailq", "--format", "sendmail"]]
    + [["sendmail", word] for word in ("-bp", "-bi", "-q", "-q15m", "-vbp", "--version", "--help", "-bh")]
    + [["sendmail", "-v", "-bv", "root"], ["sendmail", "-b", "p"], ["mailq", "-v"]],
    ids=" ".join,
)
def test_modes_without_input_never_touch_it(
    words: list[str], bin_directory: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """They end while their standard input is open, and leave what is in it to others."""
    ours, theirs = os.pipe()
    os.write(theirs, b"for somebody else")
    with running([bin_directory / words[0], *words[1:]], env=env, stdin=ours) as process:
        heard = daemon.accept().read_all()
        assert heard.kinds == "VAZ"
        heard.exit(3)
        assert process.wait() == 3
    assert os.read(ours, 100) == b"for somebody else"
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 5 * MIB])
def test_any_size_arrives_whole(size: int, sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Around and beyond the buffer nothing is lost or doubled."""
    body = os.urandom(size)
    with running([sendmail, "-i", "root"], env=env, stdin=subprocess.PIPE) as process:
        process.stdin.write(body[:MIB])
        heard: Conversation | None = None
        if size > MIB:
            process.stdin.write(body[MIB : MIB + 1])
            process.stdin.flush()
            heard = daemon.accept().read_data(body[: MIB + 1])  # connected with the input still open
            for at in range(MIB + 1, size, STEP):
                process.stdin.write(body[at : at + STEP])
                process.stdin.flush()
                heard.read_data(body[: at + STEP])
        process.stdin.close()
        heard = heard or daemon.accept()
        assert heard.read_all().data == body
        heard.exit(0)
        assert process.wait() == 0


def test_a_slow_writer_holds_no_connection(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Up to 1 MiB is read before the client connects."""
    with running([sendmail, "-i", "root"], env=env) as process:
        body = MAIL + b".\n" + b"x" * 300_000  # more than a pipe holds: once written, it has been read
        process.stdin.write(body)
        process.stdin.flush()
        assert daemon.nobody_waits()
        process.stdin.close()
        assert daemon.accept().read_all().data == body


# Where it cannot wait for the end


def test_a_lone_dot_is_sent_at_once(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """With the input still open, the daemon gets to see it, and may end the submission."""
    with running([sendmail, "root"], env=env) as process:
        process.stdin.write(MAIL + b".\n")
        process.stdin.flush()
        heard = daemon.accept().read_data(MAIL + b".\n")
        heard.exit(0)
        assert process.wait() == 0


def test_a_dot_that_ends_nothing_lets_the_input_go_on(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """The daemon decides; if it says nothing, the rest follows."""
    with running([sendmail, "root"], env=env) as process:
        process.stdin.write(b".\n")
        process.stdin.flush()
        heard = daemon.accept().read_data(b".\n")
        process.stdin.write(b"more\n")
        process.stdin.close()
        assert heard.read_all().data == b".\nmore\n"
        heard.exit(0)
        assert process.wait() == 0


def test_a_terminal_is_sent_as_it_is_typed(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """A person at a terminal hears of a refusal before having typed the message."""
    keyboard, terminal = os.openpty()
    with running([sendmail, "root"], env=env, stdin=terminal) as process:
        os.close(terminal)
        heard = daemon.accept().read_until(frames.ARGV)
        os.write(keyboard, b"one\n")
        heard.read_data(b"one\n").say(frames.STDERR, b"no\n").exit(64)
        assert process.stderr.read() == b"no\n"
        assert process.wait() == 64
    os.close(keyboard)


def test_a_dialogue_goes_both_ways(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """-bs: replies arrive while the input is open, commands as they are written."""
    with running([sendmail, "-bs"], env=env) as process:
        heard = daemon.accept().read_until(frames.ARGV)
        heard.say(frames.STDOUT, b"220 hello\r\n")
        assert process.stdout.readline() == b"220 hello\r\n"
        process.stdin.write(b"QUIT\r\n")
        process.stdin.flush()
        heard.read_data(b"QUIT\r\n").say(frames.STDOUT, b"221 bye\r\n").exit(0)
        assert process.stdout.readline() == b"221 bye\r\n"
        assert process.wait() == 0


def test_verbose_streams_its_report(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """-v: the report is shown as it comes, after the end of the input as well."""
    with running([sendmail, "-v", "root"], env=env) as process:
        heard = daemon.accept().read_until(frames.ARGV)
        process.stdin.write(MAIL)
        process.stdin.close()
        heard.read_all().say(frames.STDERR, b">>> EHLO\n")
        assert process.stderr.readline() == b">>> EHLO\n"
        heard.exit(0)
        assert process.wait() == 0


def test_an_early_answer_is_read_although_the_rest_cannot_be_sent(
    sendmail: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """On EPIPE the client reads what the daemon had to say."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * MIB)
        process.stdin.close()
        heard = daemon.accept().read_until(frames.ARGV)
        heard.say(frames.STDERR, b"too large\n").exit(65)
        assert process.stderr.read() == b"too large\n"
        assert process.wait() == 65


def test_an_early_answer_counts_while_the_daemon_reads_no_more(
    sendmail: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """A full socket does not keep the client from the answer."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * MIB)
        process.stdin.close()
        daemon.accept().read_until(frames.ARGV).say(frames.EXIT, b"\x41")
        assert process.wait() == 65


def test_a_refusal_does_not_break_the_callers_pipe(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """He may write to the end and sees the exit code, where SIGPIPE would have killed git, Perl and mailutils."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * (MIB + 1))
        daemon.accept().read_until(frames.ARGV).exit(65)
        process.stdin.write(b"x" * 8 * MIB)
        assert end(process)[0] == 65


def test_a_refusal_does_not_wait_for_a_caller_who_waits(
    clients: Clients, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """The pipe that he keeps open until we are gone costs a moment."""
    command = [clients.install(DRAIN_QUIET_S=0.05) / "sendmail", "root"]
    with running(command, env=env) as process:
        process.stdin.write(b".\n")
        process.stdin.flush()
        daemon.accept().read_until(frames.ARGV).exit(65)
        assert process.wait() == 65


def test_a_refusal_does_not_read_without_end(clients: Clients, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """From a caller who never comes to an end."""
    command = [clients.install(DRAIN_S=0.05) / "sendmail", "-i", "root"]
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless,
        running(command, env=env, stdin=endless.stdout.fileno()) as process,
    ):
        endless.stdout.close()
        daemon.accept().read_until(frames.ARGV).exit(65)
        assert process.wait() == 65


# Input that fails, signals, odd descriptors


def test_unreadable_input_is_74_and_never_connects(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """An input that cannot be read queues nothing."""
    for stdin in (os.open("/dev/null", os.O_WRONLY), os.open("/proc/self/mem", os.O_RDONLY)):
        with running([sendmail, "root"], env=env, stdin=stdin) as process:
            code, _, err = end(process)
        os.close(stdin)
        assert (code, err.count(b"\n")) == (74, 1)
        assert err.startswith(b"sendmail: cannot read standard input (")
        assert b"nothing was queued" in err
    assert daemon.nobody_waits()


def test_a_directory_as_input_queues_nothing(
    sendmail: Path, daemon: DaemonEnd, env: dict[str, str], tmp_path: Path
) -> None:
    """Python itself refuses to start with it, in its own words and with a 1."""
    directory = os.open(tmp_path, os.O_RDONLY)
    with running([sendmail, "root"], env=env, stdin=directory) as process:
        assert end(process)[0] in (1, 74)
    os.close(directory)
    assert daemon.nobody_waits()


def failing_input() -> tuple[int, socket.socket]:
    """A descriptor whose reads fail as soon as the other end is closed: a connection that is reset."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours = listener.accept()[0]
    listener.close()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return ours.detach(), theirs


def test_input_that_fails_midway_is_74_and_sends_no_end(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """The daemon sees the connection end without Z."""
    stdin, writer = failing_input()
    with running([sendmail, "-v", "root"], env=env, stdin=stdin) as process:
        writer.sendall(MAIL)
        heard = daemon.accept().read_data(MAIL)
        writer.close()
        assert "Z" not in heard.read_to_close().kinds
        code, _, err = end(process)
    os.close(stdin)
    assert (code, err) == (
        74,
        b"sendmail: cannot read standard input (Connection reset by peer); nothing was queued\n",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_reading_queues_nothing(
    number: signal.Signals, sendmail: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """The client dies by it, without having connected."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * 300_000)
        process.stdin.flush()
        process.send_signal(number)
        assert process.wait() == -number
        assert process.stderr.read() == b""
    assert daemon.nobody_waits()


def test_a_signal_while_streaming_sends_no_end(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """What was sent so far is worth nothing without Z."""
    with running([sendmail, "-v", "root"], env=env) as process:
        process.stdin.write(MAIL)
        process.stdin.flush()
        heard = daemon.accept().read_data(MAIL)
        process.terminate()
        assert "Z" not in heard.read_to_close().kinds
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_do_no_harm(closed: str, sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """No socket becomes standard output; a closed input is an empty one."""
    shell = ["/bin/sh", "-c", f'exec "$0" root {closed}', sendmail]
    with running(shell, env=env, stdin=subprocess.DEVNULL) as process:
        heard = daemon.accept().read_all()
        assert heard.kinds == "VAEZ"
        heard.say(frames.STDOUT, b"out").say(frames.STDERR, b"err").exit(5)
        code, out, err = end(process)
    assert (code, out, err) == (5, b"" if " >" in f" {closed}" else b"out", b"" if "2>" in closed else b"err")


def test_input_that_does_not_block_is_waited_for(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Whoever shares the pipe may have set O_NONBLOCK on it."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    with running([sendmail, "-i", "root"], env=env, stdin=ours) as process:
        with open(theirs, "wb") as writer:
            writer.write(b"x" * 300_000)
        assert daemon.accept().read_all().data == b"x" * 300_000
        process.kill()
    os.close(ours)


def test_output_that_nobody_reads_keeps_the_exit_code(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """A reader that has gone, and a device that is full."""
    for out in (os.open("/dev/full", os.O_WRONLY), broken_pipe()):
        with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL, stdout=out) as process:
            daemon.accept().read_all().say(frames.STDOUT, b"x" * 200_000).exit(0)
            assert end(process) == (0, b"", b"")
        os.close(out)


def test_output_that_is_stuck_does_not_hold_a_submission(
    clients: Clients, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """A full pipe that nobody reads costs its limit, once."""
    reader, writer = os.pipe()
    with running(
        [clients.install(OUTPUT_S=0.05) / "sendmail", "root"], env=env, stdin=subprocess.DEVNULL, stderr=writer
    ) as process:
        heard = daemon.accept().read_all()
        for _ in range(50):
            heard.say(frames.STDERR, b"x" * 10_000)
        heard.exit(0)
        assert process.wait() == 0
    os.close(reader)
    os.close(writer)


def test_a_listing_waits_for_its_reader(
    clients: Clients, bin_directory: Path, env: dict[str, str], daemon: DaemonEnd
) -> None:
    """`mailq | less` gets all of it, however slowly it is read."""
    with running([clients.install(OUTPUT_S=0.0) / "mailq"], env=env, stdin=subprocess.DEVNULL) as process:
        heard = daemon.accept().read_all()
        heard.say(frames.STDOUT, b"x" * STEP).say(frames.EXIT, b"\0")
        assert len(process.stdout.read()) == STEP
        assert process.wait() == 0


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


# The configuration


def test_a_named_configuration_that_is_missing_is_78(sendmail: Path, tmp_path: Path) -> None:
    """Somebody who names a file means it."""
    for words, env in (
        ([sendmail, "-C", tmp_path / "none", "root"], {}),
        ([sendmail, f"--config={tmp_path}/none", "root"], {}),
        ([sendmail, "root"], {"PYSENDMAIL_CONFIG": f"{tmp_path}/none"}),
    ):
        with running(words, env=env, stdin=subprocess.DEVNULL) as process:
            code, _, err = end(process)
        expected = (
            f"sendmail: cannot read the configuration {tmp_path}/none (No such file or directory); nothing was queued\n"
        )
        assert (code, err.decode()) == (78, expected)


def test_a_module_in_the_current_directory_is_not_loaded(
    sendmail: Path, daemon: DaemonEnd, env: dict[str, str], tmp_path: Path
) -> None:
    """Neither the current directory nor PYTHONPATH has a say."""
    for name in ("client", "errno", "site", "_socket", "select", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)\n")
    with running(
        [sendmail, "root"], env={**env, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, stdin=subprocess.DEVNULL
    ) as process:
        daemon.accept().read_all().exit(0)
        assert process.wait() == 0


# A daemon that is gone, restarts, or does not answer


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the package's thin part, with a `direct` that writes down how it was called."""
    package = tmp_path / "lib" / "pysendmail"
    (package / "thin").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "thin" / "client.py").write_bytes((THIN / "client.py").read_bytes())
    (package / "direct.py").write_text(
        f"""\
import json, os, sys
def takes_over(config_path):
    if os.path.exists({str(tmp_path / "refuses")!r}):
        with open({str(tmp_path / "refuses")!r}, "w") as fifo:
            fifo.write("asked")
        return False
    return True
def run(argv, env, chunks, submission_id, config_path, socket_path):
    json.dump(
        [[word.decode() for word in argv], {{k.decode(): v.decode() for k, v in env.items()}},
         b"".join(chunks).decode(), submission_id.hex(), config_path, socket_path, sys.path,
         "site" in sys.modules],
        open({str(tmp_path / "called.json")!r}, "w"),
    )
    return 7
"""
    )
    return package


def called(tmp_path: Path) -> list[object]:
    found: list[object] = json.loads((tmp_path / "called.json").read_text())
    return found


def test_without_a_socket_the_command_does_it_itself(
    library: Path, clients: Clients, daemon: DaemonEnd, env: dict[str, str], tmp_path: Path
) -> None:
    """No daemon: `direct` gets argv, environment, input, id, configuration and socket; its code is ours."""
    daemon.path.unlink()
    sendmail = clients.install(library / "thin") / "sendmail"
    body = b"y" * (2 * MIB)
    with running([sendmail, "-i", "root"], env={**env, "NAME": "A"}, cwd=tmp_path) as process:
        code, _, err = end(process, body)
    assert (code, err) == (7, b"")
    argv, environment, data, submission_id, config, socket, path, site = called(tmp_path)
    assert isinstance(argv, list) and (Path(argv[0]).name, argv[1:]) == ("sendmail", ["-i", "root"])
    assert isinstance(environment, dict)
    claims = {"PYSENDMAIL_COMMAND", "PYSENDMAIL_CGROUP"}  # the latter where this kernel has one
    assert {name: value for name, value in environment.items() if name not in claims} == {"NAME": "A"}
    assert data == body.decode()
    assert len(str(submission_id)) == 32
    assert (config, socket, site) == (str(daemon.config), str(daemon.path), True)
    assert isinstance(path, list)
    assert "site-packages" not in "".join(path[: path.index(str(library.parent))])  # its own package, no other
    assert not {str(library), str(library / "thin"), str(tmp_path), ""} & set(path)


@pytest.mark.parametrize("make", ["no folder", "a file as folder", "too long"])
def test_other_ways_to_have_no_socket(clients: Clients, make: str, library: Path, tmp_path: Path) -> None:
    """A socket that cannot be there is no daemon."""
    (tmp_path / "file").touch()
    socket = {"no folder": "none/submit", "a file as folder": "file/submit", "too long": "x" * 120}[make]
    config = tmp_path / "c.toml"
    config.write_text(f'socket = "{tmp_path}/{socket}"\n')
    with running([clients.install(library / "thin") / "sendmail", "-C", config, "-q"], stdin=None) as process:
        assert end(process)[0] == 7
    assert called(tmp_path)[2] == ""


def test_input_that_fails_in_direct_is_74(
    library: Path, clients: Clients, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """The read error leaves `direct` and is reported as such."""
    daemon.path.unlink()
    stdin, writer = failing_input()
    writer.close()
    with running([clients.install(library / "thin") / "sendmail", "-v", "root"], env=env, stdin=stdin) as process:
        code, _, err = end(process)
    os.close(stdin)
    assert code == 74
    assert b"nothing was queued" in err


def test_without_the_rest_of_the_package_it_is_75(
    library: Path, clients: Clients, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """No daemon and nothing to replace it: nothing was queued, and the socket is named."""
    daemon.path.unlink()
    (library / "direct.py").unlink()
    with running(
        [clients.install(library / "thin") / "sendmail", "root"], env=env, stdin=subprocess.DEVNULL
    ) as process:
        code, _, err = end(process)
    assert (code, err.count(b"\n")) == (75, 1)
    assert f"no daemon at {daemon.path}".encode() in err
    assert b"nothing was queued" in err


def test_an_error_in_direct_is_one_line_and_75(
    library: Path, clients: Clients, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """A bug is no traceback in a cron mail, and does not claim to know what became of the message."""
    daemon.path.unlink()
    (library / "direct.py").write_text("def run(*_): raise ZeroDivisionError('oh\\nno')\n")
    with running(
        [clients.install(library / "thin") / "sendmail", "root"], env=env, stdin=subprocess.DEVNULL
    ) as process:
        code, _, err = end(process)
    assert (code, err.count(b"\n")) == (75, 1)
    assert b"internal error (ZeroDivisionError: oh no); the message may have been queued" in err


def test_a_dead_daemons_socket_is_taken_over(
    library: Path, clients: Clients, daemon: DaemonEnd, env: dict[str, str], tmp_path: Path
) -> None:
    """Nobody listens, the lock is free and the caller may write the queue: at once, without waiting."""
    daemon.listener.close()
    with running([clients.install(library / "thin") / "sendmail", "root"], env=env) as process:
        assert end(process, MAIL)[0] == 7
    assert called(tmp_path)[2] == MAIL.decode()


def test_a_restart_is_waited_for(library: Path, clients: Clients, tmp_path: Path) -> None:
    """Refused connections, and no right to the queue: the client goes on trying until the daemon listens."""
    daemon = DaemonEnd(tmp_path, listening=False)
    os.mkfifo(tmp_path / "refuses")
    with running([clients.install(library / "thin") / "sendmail", "-C", daemon.config, "root"]) as process:
        process.stdin.write(MAIL)
        process.stdin.close()
        assert (tmp_path / "refuses").read_text() == "asked"  # it has been refused once
        daemon.listener.listen()
        heard = daemon.accept().read_all()
        assert heard.data == MAIL
        heard.exit(0)
        assert process.wait() == 0
    assert not (tmp_path / "called.json").exists()
    daemon.close()


def test_a_restart_that_takes_too_long_ends_in_direct(library: Path, clients: Clients, tmp_path: Path) -> None:
    """Its words for "no daemon and no right to the queue" are the right ones then."""
    daemon = DaemonEnd(tmp_path, listening=False)
    (tmp_path / "refuses").touch()
    command = [clients.install(library / "thin", RESTART_S=0.1) / "sendmail", "-C", daemon.config, "root"]
    with running(command, stdin=subprocess.DEVNULL) as process:
        assert end(process)[0] == 7
    daemon.close()


def test_a_full_backlog_is_75_in_the_end(clients: Clients, tmp_path: Path) -> None:
    """A daemon too busy to accept: nothing was queued."""
    daemon = DaemonEnd(tmp_path, backlog=0)
    held = [client.connect(os.fsencode(daemon.path))]
    with running(
        [clients.install(RESTART_S=0.1) / "sendmail", "-C", daemon.config, "root"], stdin=subprocess.DEVNULL
    ) as process:
        code, _, err = end(process)
    expected = f"sendmail: the daemon at {daemon.path}: it is too busy; nothing was queued, try again later\n"
    assert (code, err.decode()) == (75, expected)
    held[0].close()
    daemon.close()


def test_a_lost_answer_is_asked_for(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """The connection breaks after Z: the same id, the code that the daemon knows, no second copy."""
    with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL) as process:
        first = daemon.accept().read_all()
        first.close()
        question = daemon.accept().read_all()
        assert question.kinds == "VQ"
        assert question.submission_id == first.submission_id
        question.exit(0)
        assert end(process) == (0, b"", b"")
    assert daemon.nobody_waits()


def test_a_silent_daemon_is_asked(clients: Clients, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """No answer within the limit counts as a lost one."""
    with running([clients.install(ANSWER_S=0.1) / "sendmail", "root"], env=env) as process:
        process.stdin.write(MAIL)
        process.stdin.close()
        daemon.accept().read_all()
        question = daemon.accept().read_all()
        assert question.kinds == "VQ"
        question.exit(67)
        assert process.wait() == 67


def test_a_frame_is_a_sign_of_life(clients: Clients, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Each frame, an empty one as well, starts the limit anew: a slow attempt under -v is no lost answer."""
    with running([clients.install(ANSWER_S=1.5) / "sendmail", "-v", "root"], env=env) as process:
        process.stdin.close()
        heard = daemon.accept().read_all()
        for _ in range(20):
            assert not client_left(heard, 0.1)
            heard.say(frames.STDERR)
        heard.exit(0)
        assert process.wait() == 0


def client_left(heard: Conversation, seconds: float) -> bool:
    """Whether the connection ends within that time."""
    heard.sock.settimeout(seconds)
    try:
        return not heard.sock.recv(1)
    except TimeoutError:
        return False


def test_an_unknown_id_is_sent_again(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """U: nothing was queued, the input is still here: the same submission with the same id, but not for ever."""
    with running([sendmail, "root"], env=env) as process:
        process.stdin.write(MAIL)
        process.stdin.close()
        first = daemon.accept().read_all()
        first.close()
        daemon.accept().read_all().say(frames.UNKNOWN)
        second = daemon.accept().read_all()
        assert (second.submission_id, second.argv, second.data) == (first.submission_id, first.argv, MAIL)
        second.close()
        daemon.accept().read_all().say(frames.UNKNOWN)
        daemon.accept().read_all().close()
        daemon.accept().read_all().say(frames.UNKNOWN)
        code, _, err = process.wait(), b"", process.stderr.read()
    assert code == 75
    assert b"nothing was queued" in err
    assert daemon.nobody_waits()


def test_an_unknown_id_of_streamed_input_is_75(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """What is no longer here cannot be sent again: nothing was queued, says the client."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * (MIB + 1))
        process.stdin.flush()
        first = daemon.accept()
        first.read_data(b"x" * (MIB + 1))
        process.stdin.close()
        first.read_all().close()
        daemon.accept().read_all().say(frames.UNKNOWN)
        assert process.wait() == 75
        assert b"it closed the connection; nothing was queued, try again later" in process.stderr.read()


def test_only_no_answer_at_all_leaves_it_open(clients: Clients, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """75 "may have been queued", and where to look."""
    with running([clients.install(ASK_S=0.2) / "sendmail", "root"], env=env, stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().close()
        daemon.accept().read_all()
        code, _, err = end(process)
    expected = (
        f"sendmail: the daemon at {daemon.path}: it closed the connection; the message may have been queued, "
        "look at mailq before sending it again\n"
    )
    assert (code, err.decode()) == (75, expected)


def test_an_unknown_with_a_payload_is_no_exit_code(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """An answer that is none of the protocol's is none, to a question as well: its octet once became the code."""
    with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().close()
        daemon.accept().read_all().say(frames.UNKNOWN, b"\0")
        daemon.accept().read_all().exit(65)
        assert process.wait() == 65


def test_a_daemon_that_dies_while_asked_is_asked_again(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Questions go on until there is an answer or the time is over."""
    with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().close()
        daemon.accept().read_all().close()
        daemon.accept().read_all().exit(0)
        assert process.wait() == 0


def test_lost_before_the_end_is_sent_again(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Without Z nothing can have been queued: no question, a second try with the input so far."""
    with running([sendmail, "root"], env=env) as process:
        process.stdin.write(b".\nfirst\n")
        process.stdin.flush()
        first = daemon.accept().read_data(b".\nfirst\n")
        first.close()
        second = daemon.accept().read_data(b".\nfirst\n")
        assert second.submission_id == first.submission_id
        process.stdin.write(b"second\n")
        process.stdin.close()
        assert second.read_all().data == b".\nfirst\nsecond\n"
        second.exit(0)
        assert process.wait() == 0


def test_a_daemon_that_is_killed_resets_connections_one_by_one(
    sendmail: Path, daemon: DaemonEnd, env: dict[str, str]
) -> None:
    """Its end takes a moment, in which it can be called once more: that is no reason to give up."""
    with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL) as process:
        daemon.accept().close()
        daemon.accept().close()
        daemon.accept().read_all().exit(0)
        assert process.wait() == 0


def test_lost_before_the_end_of_streamed_input_is_75(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Nothing was queued, and what has been read is not here any longer."""
    with running([sendmail, "-i", "root"], env=env) as process:
        process.stdin.write(b"x" * (MIB + 1))
        process.stdin.flush()
        daemon.accept().read_data(b"x" * (MIB + 1)).close()
        assert process.wait() == 75
        assert b"nothing was queued, try again later" in process.stderr.read()
    assert daemon.nobody_waits()


def test_a_lost_listing_is_75_and_asks_nothing(bin_directory: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """There is no submission to ask about."""
    with running([bin_directory / "mailq"], env=env, stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().close()
        code, _, err = end(process)
    expected = f"mailq: the daemon at {daemon.path}: it closed the connection; try again later\n"
    assert (code, err.decode()) == (75, expected)
    assert daemon.nobody_waits()


def test_a_lost_dialogue_is_75_and_not_repeated(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """Each reply stood for itself: what was acknowledged is queued, the rest is not."""
    with running([sendmail, "-bs"], env=env) as process:
        daemon.accept().read_until(frames.ARGV).close()
        assert process.wait() == 75
        assert b"only what it has acknowledged is queued" in process.stderr.read()
    assert daemon.nobody_waits()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400\r\n", b"1\xff\xff\xff\xff", b"X\0\0\0\2ab", b"U\0\0\0\0", b"X\0\0\0"],
    ids=["another protocol", "a huge frame", "a long exit", "unknown unasked", "cut"],
)
def test_a_malformed_answer_is_no_answer(answer: bytes, sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """It counts as a lost one: the client asks, and never takes it for a 0."""
    with running([sendmail, "root"], env=env, stdin=subprocess.DEVNULL) as process:
        first = daemon.accept().read_all()
        first.sock.sendall(answer)
        first.close()
        question = daemon.accept().read_all()
        assert question.kinds == "VQ"
        question.exit(0)
        assert process.wait() == 0


def test_too_many_arguments_are_64(sendmail: Path, daemon: DaemonEnd, env: dict[str, str]) -> None:
    """What no frame may carry is refused here, in words."""
    with running([sendmail, *["x@y.example"] * 10_001], env=env, stdin=subprocess.DEVNULL) as process:
        code, _, err = end(process)
    assert (code, b"too many arguments; nothing was queued" in err) == (64, True)
    assert daemon.nobody_waits()


# What is loaded

ALLOWED = {"client", "_signal", "_socket", "posix", "sys", "time"}


def test_the_path_to_the_socket_loads_builtins_only(daemon: DaemonEnd) -> None:
    """A submission needs what a bare interpreter has, and the list in the client's docstring."""
    code = (
        "import sys\nbefore = set(sys.modules)\n"
        f"sys.path.insert(0, {str(THIN)!r})\nimport client\n"
        f"argv = [b'sendmail', b'-C', {os.fsencode(daemon.config)!r}, b'root']\n"
        "code = client.Command(argv, {}, 0).run()\n"
        "print(*(set(sys.modules) - before))\nsys.exit(code)\n"
    )
    with running([sys.executable, "-IS", "-c", code], stdin=subprocess.DEVNULL) as process:
        daemon.accept().read_all().exit(0)
        status, out, _ = end(process)
    assert status == 0
    assert set(out.decode().split()) <= ALLOWED


def test_talk_is_one_whole_conversation(daemon: DaemonEnd) -> None:
    """What the admin commands use: exit code, output and errors of one exchange."""
    code = (
        f"import sys\nsys.path.insert(0, {str(THIN)!r})\nimport client\n"
        f"path = {os.fsencode(daemon.path)!r}\n"
        "print(client.talk(path, [b'pysendmail', b'flush'], {b'NAME': b'A'}, b'in'))\n"
    )
    with running([sys.executable, "-IS", "-c", code], stdin=subprocess.DEVNULL) as process:
        heard = daemon.accept().read_all()
        assert (heard.argv, heard.environment, heard.data) == (
            (b"pysendmail", b"flush"),
            {b"NAME": b"A"},
            b"in",
        )
        heard.say(frames.STDOUT, b"out").say(frames.STDERR, b"err").exit(9)
        assert end(process) == (0, b"(9, b'out', b'err')\n", b"")
