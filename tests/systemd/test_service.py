"""The units as systemd runs them: start, reload, watchdog, restart and stop under load, port 25."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from rig.dialogue import load
from rig.packaged import SMARTHOST, UNITS, USERS, Packaged, wanted
from rig.peer import Ordinary

wanted()

LATER = {"later@example.org": "451 4.3.0 later"}
RETRY = '[retry]\nfirst = "2s"\n'
SERVICE = UNITS[0]
LOCK = "/var/lib/pysendmail/queue.lock"


def test_the_units_are_enabled_and_active(guest: Packaged) -> None:
    """Sockets and service: both doors open, and deferred mail moves after a reboot."""
    for unit in UNITS:
        assert guest.must("systemctl", "is-enabled", unit) == "enabled\n"
        assert guest.must("systemctl", "is-active", unit) == "active\n"
    assert guest.must("stat", "--format=%a %U", "/run/pysendmail/submit", "/run/pysendmail/control").splitlines() == [
        "666 root",
        "600 pysendmail",
    ]


def test_systemctl_shows_the_queue_in_words(guest: Packaged) -> None:
    """What STATUS says changes with the queue."""
    with guest.smarthost(Ordinary(rcpt=LATER)):
        guest.submit("later@example.org")
        guest.wait_for("EVENT=outcome", "RECIPIENT=later@example.org")
        assert guest.show(SERVICE, "NotifyAccess") == "main"
        words = re.compile(r"1 queued, 1 deferred, oldest .*, main: up")
        guest.until(lambda: words.fullmatch(guest.show(SERVICE, "StatusText")))


def test_systemd_knows_what_the_daemon_does(guest: Packaged) -> None:
    """READY once the queue is open, RELOADING until the new configuration is used, STOPPING while mail is sent."""
    guest.must("systemctl", "stop", SERVICE)
    with guest.stuck_queue():
        guest.must("systemctl", "start", "--no-block", SERVICE)
        guest.until(lambda: guest.run("flock", "--nonblock", LOCK, "true").returncode)  # there is a daemon
        assert guest.state(SERVICE) == ("activating", "start")
    guest.until(lambda: guest.state(SERVICE) == ("active", "running"))
    pid = guest.main_pid()
    with guest.stuck_queue():
        guest.must("kill", "-HUP", str(pid))
        guest.until(lambda: guest.show(SERVICE, "ActiveState") == "reloading")
    guest.until(lambda: guest.state(SERVICE) == ("active", "running"))
    [silence] = [dialogue for dialogue in load() if dialogue.name == "dot-silence"]
    with guest.smarthost(silence) as peer:
        guest.submit("a@example.org")
        peer.wait_until(lambda: "DATA" in peer.commands)
        guest.must("kill", "-TERM", str(pid))
        guest.until(lambda: guest.state(SERVICE) == ("deactivating", "stop-sigterm"))
        assert guest.main_pid() == pid
    guest.until(lambda: guest.state(SERVICE) == ("inactive", "dead"))
    assert guest.show(SERVICE, "Result") == "success"


def test_reload_works_as_newer_systemds_have_it(guest: Packaged, suite: str) -> None:
    """Type=notify-reload takes RELOADING only with the monotonic time; without, systemctl waits in vain."""
    if suite == "bookworm":
        pytest.skip("Type=notify-reload came with systemd 253")
    guest.drop_in("[Service]\nType=notify-reload\nExecReload=\n")
    pid = guest.main_pid()
    for number in range(3):
        guest.configure(SMARTHOST.replace('"main"', f'"main{number}"'))
        assert [one["name"] for one in guest.status()["smarthosts"]] == [f"main{number}"]
    assert guest.main_pid() == pid


def test_reload_returns_with_the_new_configuration_in_use(guest: Packaged) -> None:
    """Again and again: systemctl waits for the daemon, not only for the signal to be sent."""
    pid = guest.main_pid()
    for number in range(8):
        guest.configure(SMARTHOST.replace('"main"', f'"main{number}"'))
        assert [one["name"] for one in guest.status()["smarthosts"]] == [f"main{number}"]
    assert guest.main_pid() == pid


def test_reload_waits_for_a_daemon_that_is_slow(guest: Packaged) -> None:
    """However late it hears the signal, systemctl does not come back before."""
    pid = guest.main_pid()
    with ThreadPoolExecutor() as pool:
        guest.must("kill", "-STOP", str(pid))
        reloading = pool.submit(guest.configure, SMARTHOST.replace('"main"', '"other"'))
        guest.until(lambda: guest.run("pgrep", "--full", "pysendmail status").returncode == 0)
        assert not reloading.done()
        guest.must("kill", "-CONT", str(pid))
        reloading.result()
    assert [one["name"] for one in guest.status()["smarthosts"]] == ["other"]


def test_a_broken_configuration_is_told_and_stops_nothing(guest: Packaged) -> None:
    """systemctl reload comes back, the last good configuration stays, also over a restart, and status names the key."""
    guest.configure("nonsense = 1\n", SMARTHOST)
    for _ in range(2):
        assert any("nonsense" in warning for warning in guest.status()["warnings"])
        guest.submit("bob@example.org")
        guest.must("systemctl", "restart", SERVICE)


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_no_submission_is_refused_meanwhile(guest: Packaged, verb: str) -> None:
    """Three users submit without a pause; each message is accepted at once or a little later, and arrives once."""
    with guest.smarthost() as peer:
        with guest.submissions(*USERS) as codes:
            for _ in range(8):
                guest.must("systemctl", verb, SERVICE)
                before = len(codes)
                guest.until(lambda before=before: len(codes) > before)
        assert set(codes) == {0}
        peer.wait_until(lambda: len(peer.messages) >= len(codes))
        arrived = [recipient for message in peer.messages for recipient in message.recipients]
        assert len(arrived) == len(set(arrived)) == len(codes)
    assert guest.must("systemctl", "is-active", *UNITS[1:]) == "active\nactive\n"


@pytest.mark.parametrize("what", ["process", "queue"])
def test_a_daemon_that_hangs_is_killed_and_started_again(guest: Packaged, what: str) -> None:
    """Wholly, or only without progress in its queue. Who submits meanwhile waits: the sockets never close."""
    guest.drop_in("[Service]\nWatchdogSec=3s\n")
    since, hanging = guest.now(), guest.main_pid()
    restarts = int(guest.show(SERVICE, "NRestarts"))
    with guest.smarthost() as peer, ThreadPoolExecutor() as pool:
        with guest.stuck_queue() if what == "queue" else nullcontext():
            if what == "process":
                guest.must("kill", "-STOP", str(hanging))
            waiting = pool.submit(guest.sendmail, "bob@example.org")
            guest.wait_for("UNIT=pysendmail.service", "UNIT_RESULT=watchdog", after=since)
        assert waiting.result().returncode == 0
        peer.wait_until(lambda: peer.messages)
    assert guest.main_pid() != hanging
    assert int(guest.show(SERVICE, "NRestarts")) == restarts + 1
    assert guest.must("systemctl", "is-active", *UNITS[1:]) == "active\nactive\n"


def test_the_door_is_closed_with_the_units_together(guest: Packaged) -> None:
    """Then a submission is told 75, and starts nothing; without their sockets' units a daemon goes on."""
    guest.must("systemctl", "stop", *UNITS[1:])
    guest.submit("bob@example.org")
    guest.must("systemctl", "stop", *UNITS)
    done = guest.sendmail("bob@example.org")
    assert (done.returncode, done.stderr.count(b"nothing was queued")) == (75, 1)
    assert guest.run("systemctl", "is-active", *UNITS).stdout == b"inactive\n" * 3
    guest.must("systemctl", "start", *UNITS)
    assert len(guest.mailq()) == 1


def test_a_daemon_that_cannot_start_is_tried_until_it_can(guest: Packaged) -> None:
    """However often it fails, neither systemd nor the sockets give up, and the submission that waits is accepted."""
    guest.must("systemctl", "stop", SERVICE)
    since = guest.now()
    with guest.smarthost() as peer, ThreadPoolExecutor() as pool:
        guest.must("mv", "/var/lib/pysendmail/queue.db", "/var/lib/pysendmail/away")
        guest.must("mkdir", "/var/lib/pysendmail/queue.db")
        waiting = pool.submit(guest.sendmail, "bob@example.org")
        failures = ("UNIT=pysendmail.service", "UNIT_RESULT=exit-code")
        guest.until(lambda: len(guest.journal(*failures, after=since)) >= 3)
        guest.must("rmdir", "/var/lib/pysendmail/queue.db")
        guest.must("mv", "/var/lib/pysendmail/away", "/var/lib/pysendmail/queue.db")
        assert waiting.result().returncode == 0
        peer.wait_until(lambda: peer.messages)


def test_a_second_daemon_by_hand_takes_nothing_away(guest: Packaged) -> None:
    """Whoever starts it, and whether the service runs or only its sockets wait: it ends with 75, the sockets stay."""
    sockets = ("stat", "--format=%i", "/run/pysendmail/submit", "/run/pysendmail/control")
    inodes = guest.must(*sockets)
    for before in ("start", "stop"):
        for user in ("root", "pysendmail"):
            guest.must("systemctl", before, SERVICE)
            done = guest.run("pysendmail", "daemon", user=user)
            assert done.returncode == 75, done.stderr
            assert guest.must(*sockets) == inodes
            guest.submit("bob@example.org")


def test_port_25_comes_from_systemd(guest: Packaged) -> None:
    """The daemon has no right to bind it. Mail from there is the mail of the user whose process connects."""
    socket = "pysendmail-smtp.socket"
    guest.must("systemctl", "enable", socket)
    guest.must("systemctl", "stop", SERVICE)
    guest.must("systemctl", "start", socket, SERVICE)
    script = """
import smtplib
for host in ("127.0.0.1", "::1"):
    with smtplib.SMTP(host, 25) as smtp:
        smtp.sendmail("alice@example.com", ["bob@example.org"], "Subject: hello\\r\\n\\r\\ntext\\r\\n")
"""
    try:
        with guest.smarthost() as peer:
            guest.must("python3", "-c", script, user="alice")
            peer.wait_until(lambda: len(peer.messages) == 2)
        for message in peer.messages:
            assert f"from uid {USERS['alice']})".encode() in message.content
    finally:
        guest.must("systemctl", "disable", "--now", socket)
