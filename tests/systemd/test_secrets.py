"""Passwords as systemd hands them over, and as files and commands inside the sandbox; none of them in the journal."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from rig.packaged import SMARTHOST, TEXT, Packaged, wanted
from rig.peer import Ordinary, PeerThread

SIZE = wanted()

WITH_PASSWORD = SMARTHOST + 'username = "box"\nauth_in_clear = true\n'
CREDENTIAL = "smarthost.main.password"
FILE = "/etc/pysendmail/main.password"
COMMAND = "/usr/local/bin/mail-token"
SECRETS = ("crocodile", "hippopotamus", "rhinoceros")


def said(password: str) -> str:
    """The AUTH PLAIN exchange with that password."""
    return "PLAIN " + base64.b64encode(f"\0box\0{password}".encode()).decode()


def put(guest: Packaged, path: str, text: str, owner: str = "root:root", mode: int = 0o600) -> None:
    guest.path(path).write_text(text)
    guest.must("chown", owner, path)
    guest.path(path).chmod(mode)


@pytest.fixture
def peer(guest: Packaged) -> Iterator[PeerThread]:
    """A smarthost that asks for a password. Afterwards no secret is anywhere in the journal."""
    since = guest.now()
    with guest.smarthost(Ordinary(auth="PLAIN")) as one:
        yield one
    everything = guest.must("journalctl", "--output=export", "--all", f"--since={since}")
    assert "EVENT=outcome" in everything
    for secret in SECRETS:
        assert secret not in everything
        assert said(secret).split()[1] not in everything
    for path in (FILE, COMMAND):
        guest.path(path).unlink(missing_ok=True)


def test_a_credential_is_used_and_a_restart_takes_the_new_one(guest: Packaged, peer: PeerThread) -> None:
    """LoadCredential=: readable for root alone; probe and -v use it. Who submits during the restart is not refused."""
    put(guest, FILE, f"{SECRETS[0]}\n")
    guest.configure(WITH_PASSWORD)
    guest.drop_in(f"[Service]\nLoadCredential={CREDENTIAL}:{FILE}\n")
    guest.submit("bob@example.org")
    peer.wait_until(lambda: peer.messages)
    # Nobody but the daemon has it, so that it is the daemon who tries.
    assert "AUTH         PLAIN as box:" in guest.must("pysendmail", "probe", "main")
    assert b"sent" in guest.run("sendmail", "-v", "carol@example.org", user="alice", stdin=TEXT).stderr
    assert set(peer.exchanges) == {said(SECRETS[0])}
    put(guest, FILE, f"{SECRETS[1]}\n")
    with guest.submissions("alice", "bob") as codes:
        guest.must("systemctl", "restart", "pysendmail.service")
        guest.until(lambda: codes)
    assert set(codes) == {0}
    peer.wait_until(lambda: len(peer.messages) == 2 + len(codes))
    assert peer.exchanges[-1] == said(SECRETS[1])


def test_an_encrypted_credential_is_used(guest: Packaged, peer: PeerThread) -> None:
    """LoadCredentialEncrypted=: on disk nobody can read it, root neither."""
    encrypted = "/etc/pysendmail/main.credential"
    guest.must("systemd-creds", "encrypt", f"--name={CREDENTIAL}", "-", encrypted, stdin=SECRETS[2].encode())
    assert SECRETS[2] not in guest.path(encrypted).read_text()
    guest.configure(WITH_PASSWORD)
    guest.drop_in(f"[Service]\nLoadCredentialEncrypted={CREDENTIAL}:{encrypted}\n")
    guest.submit("bob@example.org")
    peer.wait_until(lambda: peer.messages)
    assert peer.exchanges == [said(SECRETS[2])]


def test_a_missing_secret_is_named_and_the_mail_waits(guest: Packaged, peer: PeerThread) -> None:
    """The service starts all the same, and status says which smarthost lacks what; the mail leaves when it is there."""
    guest.configure(WITH_PASSWORD, restart=True)
    guest.submit("bob@example.org")
    guest.wait_for("EVENT=trouble", "SMARTHOST=main", fits=lambda one: CREDENTIAL in one["REASON"])
    report = guest.status()
    assert report["health"] == "critical"
    assert [warning for warning in report["warnings"] if "smarthost main" in warning and "credential" in warning]
    [waiting] = guest.mailq()
    assert CREDENTIAL in waiting["recipients"][0]["delay_reason"]
    put(guest, FILE, SECRETS[0])
    guest.drop_in(f"[Service]\nLoadCredential={CREDENTIAL}:{FILE}\n")
    guest.must("pysendmail", "flush")
    peer.wait_until(lambda: peer.messages)


def test_a_password_file_that_others_can_read_is_refused(guest: Packaged, peer: PeerThread) -> None:
    """Each wrong mode or owner is named in status, no byte of it is used; set right, it is used without a restart."""
    guest.configure(WITH_PASSWORD + f'password_file = "{FILE}"\n')
    for owner, mode in (("root:pysendmail", 0o644), ("alice:pysendmail", 0o640), ("root:root", 0o600)):
        put(guest, FILE, SECRETS[0], owner, mode)
        [problem] = guest.status()["warnings"]
        assert problem.startswith(f"smarthost main: password_file {FILE}: ")
        assert f"mode {mode:04o}" in problem or "Permission denied" in problem
    guest.submit("bob@example.org")
    guest.wait_for("EVENT=trouble", "SMARTHOST=main", fits=lambda one: FILE in one["REASON"])
    assert peer.exchanges == []
    put(guest, FILE, SECRETS[0], "root:pysendmail", 0o640)
    guest.must("pysendmail", "flush")
    peer.wait_until(lambda: peer.messages)
    assert peer.exchanges == [said(SECRETS[0])]
    guest.until(lambda: guest.status()["warnings"] == [])


HANGS = WITH_PASSWORD.replace('"main"', '"hangs"') + f'password_command = ["{COMMAND}", "hangs"]\n'
SCRIPT = f"#!/bin/sh\n[ $1 = main ] || sleep 1000\necho {SECRETS[1]}\n"


def test_a_password_command_runs_in_the_sandbox(guest: Packaged, peer: PeerThread) -> None:
    """One that hangs holds up neither probe nor another smarthost."""
    put(guest, COMMAND, SCRIPT, mode=0o755)
    routes = '[[route]]\nrecipient = "*@hangs.example"\nsmarthost = ["hangs"]\n'
    route = '[[route]]\nrecipient = "*"\nsmarthost = ["main"]\n'
    guest.configure(WITH_PASSWORD, f'password_command = ["{COMMAND}", "main"]\n', HANGS, routes, route)
    guest.submit("bob@hangs.example")
    guest.until(lambda: guest.run("pgrep", "--full", f"{COMMAND} hangs").returncode == 0)
    guest.submit("bob@example.org")
    peer.wait_until(lambda: peer.messages)
    assert peer.exchanges == [said(SECRETS[1])]
    told = guest.must("pysendmail", "probe", "main")
    assert "mail can go there" in told
    assert "AUTH         PLAIN as box:" in told
    done = guest.sendmail("-v", "carol@example.org", user="alice")
    assert done.returncode == 0
    assert b"carol@example.org" in done.stderr and b"sent" in done.stderr


@pytest.mark.skipif(SIZE != "nightly", reason="the 30 s are waited for by `make test-systemd SIZE=nightly`")
def test_a_password_command_has_a_deadline(guest: Packaged, peer: PeerThread) -> None:
    """It is killed, and its smarthost is in trouble for a reason that says so."""
    put(guest, COMMAND, SCRIPT, mode=0o755)
    guest.configure(HANGS)
    guest.submit("bob@example.org")
    trouble = guest.wait_for("EVENT=trouble", "SMARTHOST=hangs")
    assert f"password_command {COMMAND}: no answer in 30 s" in trouble["REASON"]
    assert guest.run("pgrep", "--full", COMMAND).returncode == 1
    guest.wait_for("EVENT=outcome", "STATUS=deferred")
