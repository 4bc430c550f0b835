"""contrib/apparmor: well-formed, and wide enough for all that the daemon does with files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from rig.apparmor import Access, Profile, accesses, wrapper
from rig.ca import Authority
from rig.debian import program
from rig.instance import Daemon
from rig.packaged import CONFIGURATION, PORT, TEXT, wanted
from rig.peer import Ordinary, PeerThread
from rig.root import PATIENCE_S, Root, child

wanted()

CONTRIB = Path(__file__).parents[2] / "contrib"
PROFILE = CONTRIB / "apparmor" / "pysendmail"
SERVICE = CONTRIB / "systemd" / "pysendmail.service"
DAEMON = "/usr/bin/pysendmail"
CREDENTIALS = "/run/credentials/pysendmail.service"
SMTP = 2526
CONFIGURED = f"""
hostname = "box.example.com"
domain = "example.com"
[daemon]
listen = ["127.0.0.1:{SMTP}"]
[[smarthost]]
name = "main"
host = "localhost"
port = {PORT}
tls_ca_file = "/etc/pysendmail/ca.pem"
username = "box"
password_file = "/etc/pysendmail/password"
"""
BY_SMTP = f"""
import smtplib
with smtplib.SMTP("127.0.0.1", {SMTP}) as smtp:
    smtp.sendmail("alice@example.com", ["smtp@example.org"], "Subject: hello\\r\\n\\r\\ntext\\r\\n")
"""


def test_the_profile_is_well_formed() -> None:
    """AppArmor's own compiler takes it without a warning."""
    parser = program("apparmor_parser", "apparmor")
    command = [parser, "--skip-kernel-load", "--skip-cache", "--warn=all", PROFILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_profile_allows_what_the_daemon_does(unbooted: Root, tmp_path: Path) -> None:
    """Each file that it opens, maps, locks, runs, moves or connects to, from its start to its end."""
    root, profile, authority = unbooted, Profile(PROFILE), Authority(tmp_path)
    root.path("/etc/aliases").write_text("root: admin@example.org\n")
    root.path(CONFIGURATION).write_text(CONFIGURED)
    shutil.copyfile(authority.file, root.path("/etc/pysendmail/ca.pem"))
    root.path("/etc/pysendmail/password").write_text("crocodile")
    root.must("install", "-D", "-o", "pysendmail", "/dev/null", f"{CREDENTIALS}/smarthost.main.password")
    root.must("chown", "pysendmail", "/etc/pysendmail/password", "/run/pysendmail")
    root.path("/etc/pysendmail/password").chmod(0o600)
    behaviour = Ordinary(tls=authority.server(), auth="PLAIN", rcpt={"never@example.org": "550 5.1.1 unknown"})
    with PeerThread(behaviour, port=PORT, network=root.network) as peer:
        environment = {"CREDENTIALS_DIRECTORY": CREDENTIALS}
        daemon = Daemon(root.command(DAEMON, "daemon", user="pysendmail", environment=environment))
        daemon.start(wrapper=wrapper(tmp_path))
        for recipient in ("root", "never@example.org"):
            root.must("sendmail", recipient, user="alice", stdin=TEXT)
        root.must("python3", "-c", BY_SMTP, user="alice")
        peer.wait_until(lambda: len(peer.messages) == 3)  # one of them the bounce
        root.must("pysendmail", "history")
        assert daemon.process is not None
        pid = child(child(daemon.process.pid))
        os.kill(pid, signal.SIGHUP)
        daemon.wait_for("reload")
        os.kill(pid, signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 0
    done = accesses(tmp_path, DAEMON) | {Access("/run/systemd/journal/socket", "w"), Access("/run/systemd/notify", "w")}
    for file in ("/usr/bin/python3", *re.findall(r"^Exec\w+=(\S+)", SERVICE.read_text(), re.MULTILINE)):
        done.add(Access(root.must("readlink", "--canonicalize", file).strip(), "x"))
    done = {Access(one.path.rstrip("/") + "/", "r") if root.path(one.path).is_dir() else one for one in done}
    assert {one.right for one in done} == set("rwxmk")
    assert {Access("/etc/pysendmail/password", "r"), Access("/var/lib/pysendmail/queue.db", "w")} <= done
    assert [f"{one.path} {one.right}" for one in sorted(done) if not profile.allows(one)] == []
