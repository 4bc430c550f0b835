"""pysendmail setup: at a terminal, and by flags alone, up to the message at the smarthost."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.instance import BIN, PATIENCE_S, Instance, as_user
from rig.peer import Ordinary, PeerThread
from rig.terminal import Terminal

PASSWORD = "open sesame"


def plain(user: str, password: str) -> str:
    """The SASL exchange."""
    return "PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def peer(authority: Authority) -> Iterator[PeerThread]:
    """A provider: one account, mail as itself only, TLS by STARTTLS."""
    wrong = {plain("box@gmail.com", "wrong"): "535 5.7.8 wrong password"}
    provider = Ordinary(tls=authority.server(), auth="PLAIN LOGIN", only="box@gmail.com", users=wrong)
    with PeerThread(provider) as peer:
        yield peer


def command(instance: Instance, *arguments: str) -> list[str]:
    return [str(BIN / "pysendmail"), "-C", str(instance.config), "setup", *arguments]


def flags(peer: PeerThread, authority: Authority) -> list[str]:
    server = ["--host", "localhost", "--port", str(peer.port), "--tls-ca-file", authority.file]
    return ["--address", "box@gmail.com", *server]


@pytest.mark.parametrize("redirection", ["<&-", "0>/dev/null"])
def test_standard_input_that_cannot_be_read(tmp_path: Path, redirection: str) -> None:
    """74 and a line that says so, and nothing is written."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    words = ["--address", "box@gmail.com", "--host", "localhost", "--password-file", "-", "--replace"]
    script = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command(instance, *words)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (74, 1), done.stderr
    assert "standard input: " in done.stderr and "nothing was written" in done.stderr
    assert instance.config.read_text() == before


def test_at_a_terminal(tmp_path: Path, peer: PeerThread, authority: Authority) -> None:
    """Address, server, login: asked with proposals; a wrong password again; the difference; the message arrives."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    with Terminal(command(instance, "--tls-ca-file", authority.file)) as terminal:
        terminal.expect("Your mail address: ")
        terminal.type("box")
        terminal.expect("there is no domain in it")
        terminal.type("box@gmail.com")
        terminal.expect("Gmail, by the table of well-known providers")
        terminal.expect("app password")
        terminal.expect("Its server for outgoing mail [smtp.gmail.com]: ")
        terminal.type("localhost")
        terminal.expect("Port [465]: ")
        terminal.type(str(peer.port))
        terminal.expect("User name [box@gmail.com]: ")
        terminal.type("")
        terminal.expect("Password: ")
        terminal.type("wrong")
        terminal.expect("error: auth: 535 5.7.8 *** password; check username and password")
        terminal.expect("Another password? [Y/n]: ")
        terminal.type("y")
        terminal.expect("User name [box@gmail.com]: ")
        terminal.type("")
        terminal.expect("Password: ")
        terminal.type(PASSWORD)
        terminal.expect("logged in as box@gmail.com (PLAIN)")
        terminal.expect("it takes mail from box@gmail.com")
        terminal.expect('+force_from = "box@gmail.com"')
        terminal.expect("The old one is kept [y/N]: ")
        terminal.type("y")
        terminal.expect(f"{instance.config}: written")
        terminal.expect("A message to box@gmail.com:")
        terminal.expect("accepted as ")
        terminal.expect(": sent: 250 2.0.0 queued")
        terminal.expect("Done: look into the mailbox of box@gmail.com.")
        terminal.expect(f"No daemon runs, and mail leaves only when one does: pysendmail -C {instance.config} daemon")
    assert terminal.code == 0
    assert PASSWORD not in terminal.text
    assert "wrong\n" not in terminal.text  # what is typed as a password is not shown
    (message,) = peer.messages
    assert (message.tls, message.sender.startswith("<box@gmail.com>")) == (True, True)
    assert b"If you read it in your mailbox, mail of this machine arrives." in message.content
    [kept] = tmp_path.glob("pysendmail.toml.*Z")
    assert kept.read_text() == before


def test_the_dns_proposes(tmp_path: Path, authority: Authority) -> None:
    """SRV records of the address's domain, by the resolver of the machine, are shown as what they are."""
    pytest.importorskip("dns", reason="dnspython is not installed (extra `setup`)")
    from rig.dns import name_server

    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.99\n")
    mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    private = ["/usr/bin/unshare", "--mount", "sh", "-c", mount, str(resolver)]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of our own here: /etc/resolv.conf is the machine's")
    instance = Instance(tmp_path)
    with PeerThread(Ordinary(tls=authority.server(), auth="PLAIN"), tls=authority.server()) as peer:
        records = {"_submissions._tcp.box.example": [f"0 0 {peer.port} smtp.box.example."]}
        with (
            name_server(records, where=("127.0.0.99", 53)),
            Terminal([*private, *command(instance, "--tls-ca-file", authority.file)]) as terminal,
        ):
            terminal.expect("Your mail address: ")
            terminal.type("me@box.example")
            terminal.expect("the DNS says smtp.box.example; nobody vouches for that")
            terminal.expect("Its server for outgoing mail [smtp.box.example]: ")
            terminal.type("localhost")
            terminal.expect(f"Port [{peer.port}]: ")
            terminal.type("0")
            terminal.expect("a number from 1 to 65535")
            terminal.type("")
            terminal.expect("User name [me@box.example]: ")
            terminal.type("")
            terminal.expect("Password: ")
            terminal.type(PASSWORD)
            terminal.expect("Write it all the same? [y/N]: ")  # another server: how TLS begins is not known any more
            terminal.type("")
    assert terminal.code == 69


def test_who_says_no_changes_nothing(tmp_path: Path, peer: PeerThread, authority: Authority) -> None:
    """The difference was shown, and the answer is the default: 73, and all is as it was."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    with Terminal(command(instance, *flags(peer, authority))) as terminal:
        terminal.expect("User name [box@gmail.com]: ")
        terminal.type("")
        terminal.expect("Password: ")
        terminal.type(PASSWORD)
        terminal.expect("The old one is kept [y/N]: ")
        terminal.type("")
    assert terminal.code == 73
    assert instance.config.read_text() == before
    assert not (tmp_path / "main.password").exists()
    assert peer.messages == []


def test_by_flags_with_a_daemon(tmp_path: Path, peer: PeerThread, authority: Authority) -> None:
    """No question: the password on standard input, the daemon takes the configuration over and delivers."""
    with Instance(tmp_path) as instance:
        done = subprocess.run(
            command(instance, *flags(peer, authority), "--yes", "--replace", "--password-file", "-"),
            input=f"{PASSWORD}\n".encode(),
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stdout.decode().splitlines()[-1], done.stderr) == (
            0,
            "Done: look into the mailbox of box@gmail.com.",
            done.stderr,
        )
        assert b"the daemon uses it now" in done.stdout
        instance.wait_for("reload", config=str(instance.config))
        instance.submit("root")  # local names have a mailbox now
        instance.wait_for("outcome", count=2, status="sent")
    password = tmp_path / "main.password"
    assert (password.read_text(), stat.S_IMODE(password.stat().st_mode) & 0o007) == (f"{PASSWORD}\n", 0)
    assert [message.recipients for message in peer.messages] == [["<box@gmail.com>"]] * 2 or len(peer.messages) == 2


REFUSED = {
    "no address": (["--yes"], 64, "--address is missing"),
    "no host": (["--yes", "--address", "box@nowhere.invalid"], 64, "--host is missing"),
    "no password": (["--yes", "--address", "box@gmail.com", "--host", "localhost"], 64, "--password-file is missing"),
    "no such file": (
        ["--yes", "--address", "box@gmail.com", "--host", "localhost", "--password-file", "/nowhere/password"],
        66,
        "/nowhere/password: No such file",
    ),
    "no domain": (["--yes", "--address", "box"], 64, "--address: there is no domain in it"),
    "odd host": (["--yes", "--address", "box@gmail.com", "--host", "a b", "--no-login"], 78, "smarthost.host: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_missing_or_wrong_is_named(name: str, tmp_path: Path) -> None:
    """Without a terminal nothing is asked, and nothing is written."""
    arguments, code, words = REFUSED[name]
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    done = subprocess.run(
        command(instance, *arguments, "--replace"), input=b"", capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, words in done.stderr.decode(), instance.config.read_text()) == (code, True, before), (
        done.stderr
    )


def test_a_configuration_is_not_changed_unasked(tmp_path: Path) -> None:
    """73 before anything is asked or tried."""
    instance = Instance(tmp_path)
    done = subprocess.run(command(instance, "--yes"), input=b"", capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 73
    assert b"is there: --replace changes it, and keeps the old one" in done.stderr


def test_a_refused_login_writes_nothing(tmp_path: Path, peer: PeerThread, authority: Authority) -> None:
    """69, with what to do about it; the password is nowhere."""
    instance = Instance(tmp_path)
    before = instance.config.read_text()
    done = subprocess.run(
        command(instance, *flags(peer, authority), "--yes", "--replace", "--password-file", "-"),
        input=b"wrong\n",
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, instance.config.read_text()) == (69, before)
    assert b"many providers want a password of its own for each program" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if "password" in path.name) == []


@pytest.mark.parametrize(
    ("reply", "code", "last"), [("451 4.3.0 later", 75, "waits"), ("550 5.1.1 no", 69, "not taken")]
)
def test_a_message_that_does_not_arrive(reply: str, code: int, last: str, tmp_path: Path, authority: Authority) -> None:
    """The configuration is written, since the probe was content; the exit code and the words are the message's."""
    server = Ordinary(tls=authority.server(), auth="PLAIN", rcpt={"me@example.org": reply})
    instance = Instance(tmp_path)
    with PeerThread(server) as peer:
        done = subprocess.run(
            command(instance, *flags(peer, authority), "--yes", "--replace", "--to", "me@example.org", "--no-login"),
            input=b"",
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    end = done.stdout.decode().splitlines()[-2]
    assert (done.returncode, last in end) == (code, True), done.stdout + done.stderr
    assert reply in done.stdout.decode()
    assert f'host = "localhost"\nport = {peer.port}\ntls = "verify"' in instance.config.read_text()


def test_a_users_own(open_path: Path, other: int, peer: PeerThread, authority: Authority) -> None:
    """Who is not root and has no configuration gets one of his own, with a queue of his own, and his mail arrives."""
    home = open_path / "home"
    home.mkdir()
    os.chown(home, other, other)
    authority.file = shutil.copy(authority.file, open_path)
    done = subprocess.run(
        [*as_user(other), str(BIN / "pysendmail"), "setup", *flags(peer, authority), "--yes", "--password-file", "-"],
        input=PASSWORD.encode(),
        capture_output=True,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(home)},
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    own = home / ".config" / "pysendmail"
    modes = {path.name: (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (own, *own.iterdir())}
    assert modes == {
        "pysendmail": (other, 0o700),
        "pysendmail.toml": (other, 0o644),
        "main.password": (other, 0o600),
    }
    assert (home / ".local" / "state" / "pysendmail" / "queue.db").exists()
    assert len(peer.messages) == 1
