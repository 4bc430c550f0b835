"""The Debian package, from a first installation without configuration to purge: one life, in this order."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.debian import program
from rig.packaged import CONFIGURATION, PORT, SMARTHOST, TEXT, UNITS, Packaged, booted, newer, package, wanted
from rig.peer import Ordinary, PeerThread
from rig.root import STAND_IN, Root

wanted()

LATER = {"later@example.org": "451 4.3.0 later"}
ROOT = Path(__file__).parents[2]
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes")
QUEUE = "/var/lib/pysendmail"
THIN = "/usr/lib/pysendmail/pysendmail/thin"


def test_all_of_it_is_in_the_package() -> None:
    """Commands, man pages, units of both kinds, completion; pure Python: one package for every Python and machine."""
    listed = subprocess.run(["dpkg-deb", "--contents", package()], capture_output=True, text=True, check=True).stdout
    files = {line.split()[5].removeprefix(".") for line in listed.splitlines()}
    commands = {
        f"/usr/{name}" for name in ("bin/mailq", "bin/newaliases", "bin/pysendmail", "lib/sendmail", "sbin/sendmail")
    }
    pages = {f"/usr/share/man/man{page.suffix[1:]}/{page.name}.gz" for page in (ROOT / "man").glob("*.[1-8]")}
    units = {f"/usr/lib/systemd/{kind}/{unit}" for kind in ("system", "user") for unit in UNITS}
    units |= {f"/usr/lib/systemd/system/pysendmail-alarm.{kind}" for kind in ("path", "service")}
    callers = ("NetworkManager/dispatcher.d/50-", "networkd-dispatcher/routable.d/50-", "systemd/system-sleep/")
    hooks = {f"/usr/lib/{caller}pysendmail" for caller in callers}
    completions = {
        "/etc/profile.d/pysendmail-alarm.sh",
        "/usr/share/bash-completion/completions/pysendmail",
        "/usr/share/zsh/vendor-completions/_pysendmail",
        "/usr/share/fish/vendor_completions.d/pysendmail.fish",
    }
    assert len(pages) == 5
    assert commands | pages | units | hooks | completions <= files
    assert [name for name in files if name.endswith((".so", ".pyc"))] == []


@pytest.fixture(scope="module")
def fresh(suite: str) -> Iterator[Packaged]:
    with booted(suite) as guest:
        yield guest


def test_a_new_installation_accepts_and_keeps_mail(fresh: Packaged) -> None:
    """With no configuration: all commands are there, mail is taken, and status says why it stays."""
    assert fresh.run("dpkg-query", "--status", STAND_IN).returncode == 0
    fresh.install()
    assert fresh.run("dpkg-query", "--status", STAND_IN).returncode == 1  # another MTA makes room
    assert fresh.must("dpkg", "--audit") == ""
    assert list(fresh.path(f"{THIN}/__pycache__").glob("client.*.pyc"))
    assert fresh.must("systemctl", "is-active", *UNITS) == "active\n" * 3
    assert fresh.must("systemctl", "is-active", "pysendmail-smtp.socket", "cron") == "inactive\nactive\n"
    done = fresh.run("pysendmail", "status")
    assert (done.returncode, done.stdout.count(b"no smarthost is configured: mail is accepted and kept")) == (1, 1)
    for command in ("/usr/sbin/sendmail", "/usr/lib/sendmail"):
        fresh.must(command, "bob@example.org", user="alice", stdin=b"Subject: hello\n\ntext\n")
    assert len(fresh.must("/usr/bin/mailq", user="alice").splitlines()) > 4
    assert "\x1b[1mQueue id" in fresh.talk("mailq", user="alice", keys=())  # rich has all that its tables need
    fresh.must("newaliases")
    done = fresh.run("pysendmail", "status")
    assert (done.returncode, done.stdout.count(b"mail waits and no smarthost")) == (2, 1)
    assert fresh.status()["queued"] == 2


def test_nothing_has_special_rights(fresh: Packaged) -> None:
    """No file of the package is setuid, setgid or anybody's to write; the queue is closed to all but its owner."""
    listed = (
        "dpkg --listfiles pysendmail | xargs ls --directory --numeric-uid-gid 2>/dev/null"  # manuals are left out here
    )
    assert (
        fresh.must("sh", "-c", f"{listed} -l | grep --invert-match '^[-d]..[-x].-..-. .* 0 0 \\|^l.* 0 0 ' || :") == ""
    )
    assert fresh.must("stat", "--format=%a %U:%G", QUEUE) == "700 pysendmail:pysendmail\n"


def test_an_upgrade_refuses_no_mail(fresh: Packaged, tmp_path: Path) -> None:
    """Queue and configuration stay, the daemon is another one, the sockets are the same as before."""
    with fresh.smarthost(Ordinary(rcpt=LATER)) as peer:
        fresh.configure('[retry]\nfirst = "1h"\n', SMARTHOST)
        configuration = fresh.path(CONFIGURATION).read_bytes()
        fresh.submit("later@example.org")
        fresh.wait_for("EVENT=outcome", "RECIPIENT=later@example.org")
        [waiting] = [one for one in fresh.mailq() if one["recipients"][0]["address"] == "later@example.org"]
        pid = fresh.main_pid()
        opened = [fresh.show(unit, "ActiveEnterTimestampMonotonic") for unit in UNITS[1:]]
        with fresh.submissions("alice", "bob") as codes:
            fresh.install(newer(package(), tmp_path))
        assert set(codes) == {0}
        assert fresh.must("dpkg-query", "--show", "--showformat=${Version}", "pysendmail").startswith("1:")
        assert fresh.main_pid() not in (0, pid)
        assert [fresh.show(unit, "ActiveEnterTimestampMonotonic") for unit in UNITS[1:]] == opened
        assert fresh.path(CONFIGURATION).read_bytes() == configuration
        peer.wait_until(lambda: len(peer.messages) == 2 + len(codes))
    assert [one["queue_id"] for one in fresh.mailq()] == [waiting["queue_id"]]


def test_a_new_python_gets_its_own_byte_code(fresh: Packaged) -> None:
    """What Debian's python3 runs when it is upgraded."""
    library = fresh.path(f"{THIN}/__pycache__")
    shutil.rmtree(library)
    fresh.must("/usr/share/python3/runtime.d/pysendmail.rtupdate", "rtupdate", "python3.10", "python3")
    assert list(library.glob("client.*.pyc"))
    fresh.submit("bob@example.org")


def test_removed_and_installed_again_it_has_its_queue(fresh: Packaged) -> None:
    """Removal closes the sockets and keeps queue and configuration."""
    before = [one["queue_id"] for one in fresh.mailq()]
    configuration = fresh.path(CONFIGURATION).read_bytes()
    assert before
    fresh.must(*APT, "remove", "pysendmail")
    assert fresh.run("systemctl", "is-active", *UNITS).stdout == b"inactive\n" * 3
    assert not fresh.path("/usr/sbin/sendmail").exists()
    assert not fresh.path("/usr/lib/pysendmail").exists()
    fresh.install()
    assert fresh.must("systemctl", "is-active", *UNITS) == "active\n" * 3
    assert [one["queue_id"] for one in fresh.mailq()] == before
    assert fresh.path(CONFIGURATION).read_bytes() == configuration


def test_purge_leaves_nothing(fresh: Packaged) -> None:
    """No file, no unit, no dangling link; only the user, whose uid must not become another's."""
    fresh.must("systemctl", "enable", "pysendmail-smtp.socket")
    fresh.must(*APT, "purge", "pysendmail")
    everywhere = ("/etc", "/run", "/usr", "/var/lib", "/var/cache", "/var/spool")
    left = fresh.must("find", *everywhere, "-xdev", "-name", "*pysendmail*").splitlines()
    assert left == []
    assert fresh.must("systemctl", "list-units", "--all", "--legend=no", "--plain", "pysendmail*") == ""
    assert fresh.must("find", "/etc/systemd", "-xtype", "l", "-not", "-lname", "/dev/null") == ""
    assert fresh.run("systemctl", "is-system-running").stdout == b"running\n"
    fresh.must("id", "pysendmail")


def test_without_systemd_it_still_runs(unbooted: Root) -> None:
    """Installed where something else is the first process: whoever starts the daemon has the same service."""
    unbooted.path(CONFIGURATION).write_text(f'domain = "example.com"\n{SMARTHOST}')
    with PeerThread(port=PORT, network=unbooted.network) as peer:
        unbooted.must("sendmail", "now@example.org", stdin=TEXT)  # root queues it himself
        with unbooted.service("pysendmail", "daemon"):
            peer.wait_until(lambda: peer.messages)
            unbooted.must("sendmail", "bob@example.org", user="alice", stdin=TEXT)
            peer.wait_until(lambda: len(peer.messages) == 2)


@pytest.mark.parametrize("name", ["pysendmail", "pysendmail-client"])
def test_lintian_finds_no_error(name: str) -> None:
    """Debian's own judge of packages."""
    lintian = program("lintian", "lintian")
    done = subprocess.run(
        [lintian, "--allow-root", "--fail-on=error", package(name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
