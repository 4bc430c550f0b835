"""The exit codes of sendmail(8), each with one line on standard error that says what, where and what to do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import BIN, Instance, smarthost
from rig.peer import Ordinary, PeerThread


@pytest.fixture(scope="module", params=["with a daemon", "without a daemon"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The same words and codes, whoever does the work."""
    with PeerThread() as peer:
        made = Instance(
            tmp_path_factory.mktemp("codes"),
            smarthosts=[smarthost(peer)],
            queue={"max_message_size": "100KiB", "max_recipients": 3},
        )
        if request.param == "with a daemon":
            with made:
                yield made
        else:
            yield made


HOPS = b"".join(b"Received: from a by b; Sun, 22 Nov 2026 00:00:00 +0000\n" for _ in range(51)) + b"\nhello\n"
MAIL = b"Subject: x\n\nhello\n"

REFUSED = {
    "no recipient": (64, ["-f", "alice@example.com"], MAIL),
    "-t and nobody in the header": (64, ["-t"], MAIL),
    "unknown option": (64, ["--frobnicate", "bob@example.org"], MAIL),
    "-B with another word": (64, ["-B", "9BIT", "bob@example.org"], MAIL),
    "-N with another word": (64, ["-N", "sometimes", "bob@example.org"], MAIL),
    "an address that begins with -": (65, ["--", "-bob@example.org"], MAIL),
    "not an address": (65, ["bob@@example.org"], MAIL),
    "a line feed in an address": (65, ["bob@example.org\nRCPT TO:<eve@example.org>"], MAIL),
    "not an address in the header": (65, ["-t"], b"To: bob@exa mple@org\n\nhello\n"),
    "a sender that is none": (65, ["-f", "a@b@c", "bob@example.org"], MAIL),
    "too large": (65, ["bob@example.org"], MAIL + b"x" * 72 * 2000),
    "too many recipients": (65, [f"r{number}@example.org" for number in range(4)], MAIL),
    "too many hops": (65, ["bob@example.org"], HOPS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_submissions(instance: Instance, case: str) -> None:
    """The code says whose fault it is, one line says what."""
    code, arguments, text = REFUSED[case]
    done = instance.sendmail(*arguments, text=text)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert done.stderr.startswith(b"sendmail: ")


def test_each_refusal_is_an_event(tmp_path: Path) -> None:
    """Whoever refuses, argv's reader included, the log says to whom, with which code and why."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)], queue={"max_recipients": 3}) as one:
        for name in ("no recipient", "unknown option", "-B with another word", "not an address", "too many recipients"):
            code, arguments, text = REFUSED[name]
            before = len(one.events)
            said = one.sendmail(*arguments, text=text).stderr.decode()
            event = one.wait_for("refused", after=before, code=str(code), uid=str(os.getuid()))
            assert said == f"sendmail: {event['reason']}\n"


ADMIN = {
    "unknown queue id": (66, ["queue", "show", "0000000000AB"]),
    "unknown queue id, held": (66, ["queue", "hold", "0000000000AB"]),
    "history of an unknown id": (66, ["history", "0000000000AB"]),
    "no id": (64, ["queue", "hold"]),
    "no such verb": (64, ["queue", "eat", "0000000000AB"]),
    "no such command": (64, ["dance"]),
    "a time that is none": (64, ["history", "--since", "yesterday"]),
    "an unknown smarthost": (66, ["probe", "other"]),
}


@pytest.mark.parametrize("case", ADMIN)
def test_administration(instance: Instance, case: str) -> None:
    """pysendmail's own commands: 64 for usage, 66 for what does not exist."""
    code, arguments = ADMIN[case]
    done = instance.run("pysendmail", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_probe_of_a_smarthost_that_cannot_be_used_is_69(tmp_path: Path, form: tuple[str, ...]) -> None:
    """In words and as JSON alike: scripts read one, people the other."""
    instance = Instance(tmp_path, smarthosts=[{"name": "main", "host": "127.0.0.1", "port": 1}])
    assert "main" in instance.pysendmail("probe", *form, code=69)


def test_mailq_with_wrong_usage_is_64(instance: Instance) -> None:
    """mailq takes a format that it knows."""
    done = instance.run("mailq", "--format", "baroque")
    assert (done.returncode, len(done.stderr.splitlines())) == (64, 1)


def test_an_unreadable_stdin_is_74(instance: Instance, tmp_path: Path) -> None:
    """Standard input that cannot be read: an I/O error, nothing queued."""
    write_only = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        done = subprocess.run(
            [str(BIN / "sendmail"), "-C", str(instance.config), "bob@example.org"],
            stdin=write_only,
            capture_output=True,
            check=False,
        )
    finally:
        os.close(write_only)
    assert (done.returncode, len(done.stderr.splitlines())) == (74, 1)


def test_a_configuration_that_cannot_be_read_is_78(instance: Instance, tmp_path: Path) -> None:
    """It was named, so nothing else is tried in its place."""
    for command, *arguments in (("sendmail", "bob@example.org"), ("mailq",), ("pysendmail", "daemon")):
        done = subprocess.run(
            [
                str(BIN / command),
                "-C",
                str(tmp_path / "missing.toml"),
                *arguments,
            ],
            input=MAIL,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (78, 1), done.stderr
        assert b"missing.toml" in done.stderr


def test_newaliases_is_78_for_a_file_with_errors(tmp_path: Path) -> None:
    """The aliases are configuration: counts and 0, or each error with its line and 78."""
    instance = Instance(tmp_path)
    aliases = tmp_path / "aliases"
    for text, code in ("root: admin@example.net\n", 0), ("root: admin@example.net\nnews: |/bin/false\n", 78):
        aliases.write_text(text)
        done = instance.run("newaliases")
        assert done.returncode == code, done.stderr
        assert (b"1 alias" in done.stdout) if not code else (b"aliases:2: news" in done.stderr)


def test_config_with_a_delivering_option_is_64(instance: Instance) -> None:
    """-C may choose where to queue, never deliver."""
    for option in ("-v", "-q", "-bD", "-odi"):
        done = subprocess.run(
            [str(BIN / "sendmail"), option, "-C", str(instance.config), "bob@example.org"],
            input=MAIL,
            capture_output=True,
            check=False,
        )
        assert (option, done.returncode) == (option, 64), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_promise_2_nothing_of_all_that_was_queued(instance: Instance) -> None:
    """After all the tests above: not one of them left anything."""
    assert instance.history() == []


@pytest.mark.parametrize("option", ["-v", "-odi"])
def test_v_and_odi_exit_0_once_the_mail_is_accepted(tmp_path: Path, option: str) -> None:
    """Whatever the attempt gave; only -v waits for it and shows it."""
    with (
        PeerThread(Ordinary(rcpt={"no@example.org": "550 5.1.1 no such user"})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        done = instance.by_name("sendmail", option, "no@example.org", stdin=MAIL)
        assert (done.returncode, done.stdout) == (0, b"")
        assert (b"no such user" in done.stderr) == (option == "-v")
        instance.wait_for("outcome", status="bounced")


def test_promise_2_sigterm_while_stdin_is_read_queues_nothing(tmp_path: Path) -> None:
    """75 or death by the signal, with and without a connection to the daemon; nothing is queued."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        for amount in (100, 3 << 20):
            for number in (signal.SIGTERM, signal.SIGKILL):
                process = subprocess.Popen(
                    [str(BIN / "sendmail"), "-C", str(instance.config), "bob@example.org"], stdin=subprocess.PIPE
                )
                assert process.stdin is not None
                process.stdin.write(MAIL + b"x" * amount)  # more than a pipe holds: it has been read
                process.stdin.flush()
                process.send_signal(number)
                assert process.wait(30) != 0
                process.stdin.close()
        instance.submit("carol@example.org")
        instance.wait_for("outcome", status="sent")
        assert [m.recipients[0] for m in peer.messages] == ["<carol@example.org>"]
        assert len(instance.history()) == 1
