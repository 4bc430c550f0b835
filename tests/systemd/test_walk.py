"""A person's way on a fresh Debian: package, setup, cron's mail in the inbox, a password that expires, and back.

Only what the package brings and what setup proposes, with the alarm as it is shipped: minutes, and nightly only. What
each step took is shown at the end of the run, for people; no test says how quick a machine has to be.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.dns import name_server
from rig.packaged import Packaged, booted, wanted
from rig.peer import Ordinary
from rig.terminal import Terminal

if wanted() != "nightly":
    pytest.skip("the walk is done by `make test-systemd SIZE=nightly`", allow_module_level=True)

ADDRESS, HOST, PORT = "me@provider.example", "smtp.provider.example", 465
FIRST, SECOND = "open sesame", "open barley"
REFUSAL = "535 5.7.8 the password has expired"
NOTICE = "/run/pysendmail-alarm/notice"
CRON_S = 150.0  # for what happens each minute
ALARM_S = 600.0  # [alarm] after is two minutes, and each attempt comes later than the one before


@pytest.fixture
def fresh(suite: str) -> Iterator[Packaged]:
    with booted(suite) as guest:
        yield guest


def plain(password: str) -> str:
    """The SASL exchange of the account."""
    return "PLAIN " + base64.b64encode(f"\0{ADDRESS}\0{password}".encode()).decode()


def setup(guest: Packaged, password: str, *, anew: bool = False) -> None:
    """`pysendmail setup`, as a person answers: address and password, everything else as it is proposed."""
    with Terminal(["/usr/bin/env", *guest.command("pysendmail", "setup")]) as terminal:
        terminal.expect("Your mail address: ")
        terminal.type(ADDRESS)
        terminal.expect(f"the DNS says {HOST}")
        for question in (f"Its server for outgoing mail [{HOST}]: ", f"Port [{PORT}]: ", f"User name [{ADDRESS}]: "):
            terminal.expect(question)
            terminal.type("")
        terminal.expect("Password: ")
        terminal.type(password)
        if anew:
            terminal.expect("The old one is kept [y/N]: ")
            terminal.type("y")
        terminal.expect(f"Done: look into the mailbox of {ADDRESS}.")
    assert terminal.code == 0


def test_the_walk(fresh: Packaged, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Each step is seen where a person would look: in the inbox, at the terminal, at login, in `status`."""
    authority = Authority(tmp_path, HOST)
    provider = {"tls": authority.server(), "auth": "PLAIN LOGIN", "only": ADDRESS}
    fresh.path("/usr/local/share/ca-certificates/provider.crt").write_bytes(Path(authority.file).read_bytes())
    fresh.must("update-ca-certificates")
    fresh.path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    zone = {"_submissions._tcp.provider.example": [f"0 1 {PORT} {HOST}."]}

    began = last = time.monotonic()

    def done(step: str) -> None:
        nonlocal last
        now = time.monotonic()
        record_property(step, f"{now - last:.1f} s, {now - began:.1f} s since the beginning")
        last = now

    with (
        name_server(zone, hosts={HOST: "127.0.0.1"}, where=("127.0.0.1", 53), network=fresh.network),
        fresh.smarthost(Ordinary(**provider), port=PORT, tls=authority.server()) as peer,
    ):

        def inbox(text: bytes) -> bytes:
            """The message with this text, when it is there."""
            peer.wait_until(lambda: any(text in message.content for message in peer.messages), CRON_S)
            return next(message.content for message in peer.messages if text in message.content)

        fresh.install()
        done("apt-get install")
        setup(fresh, FIRST)
        assert b"mail of this machine arrives" in inbox(b"pysendmail setup")
        assert peer.exchanges[-1] == plain(FIRST)
        done("setup, up to the first verified mail")
        fresh.must("systemctl", "enable", "--now", "pysendmail-alarm.path")
        assert fresh.run("pysendmail", "status").returncode == 0

        fresh.path("/etc/cron.d/walk").write_text("* * * * * alice echo the backup is done\n")
        assert b"From: " in inbox(b"the backup is done")
        done("mail of a cron job, by the next full minute")

        with fresh.terminal("bob") as bob:
            peer.become(Ordinary(**provider, users={plain(FIRST): REFUSAL}))
            fresh.wait_for("EVENT=alarm", "STATE=raised", seconds=ALARM_S)
            bob.wait_for("does not take the account of this machine")
            done("alarm at a terminal, after the password was taken no more")
            assert "account of this machine" in fresh.path(NOTICE).read_text()
            assert "account of this machine" in fresh.must("bash", "-l", "-i", "-c", ":", user="alice")
            status = fresh.run("pysendmail", "status")
            assert status.returncode == 2 and REFUSAL.encode() in status.stdout
            waiting = [entry["queue_id"] for entry in fresh.mailq()]
            assert waiting
            assert REFUSAL in fresh.must("pysendmail", "queue", "explain", waiting[0])
            done("notice, login, status and explain, all of which name it")

            setup(fresh, SECOND, anew=True)
            done("setup with the new password")
            fresh.until(lambda: not {entry["queue_id"] for entry in fresh.mailq()}.intersection(waiting))
            bob.wait_for("mail leaves again")
            done("the mail that waited in the inbox, and word of it at the terminal")
        assert fresh.path(NOTICE).read_text() == ""
        fresh.until(lambda: fresh.run("pysendmail", "status").returncode == 0)
        assert peer.exchanges[-1] == plain(SECOND)
