"""The sandbox: what the service cannot do, and that a submitter in a sandbox of his own still can submit."""

from __future__ import annotations

from rig.packaged import Packaged, wanted

wanted()

BEST = 12  # systemd-analyze counts in tenths; what others ship begins at 33
DYNAMIC = range(61184, 65520)
UNIT = """\
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "Subject: hello\\n\\ntext" | sendmail bob@example.org'
DynamicUser=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
RestrictAddressFamilies=AF_UNIX
"""


def test_the_units_have_no_faults(guest: Packaged) -> None:
    """systemd-analyze verify has nothing to say."""
    units = guest.must("sh", "-c", "ls /usr/lib/systemd/system/pysendmail*").split()
    assert len(units) == 6
    done = guest.run("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    users = guest.must("sh", "-c", "ls /usr/lib/systemd/user/pysendmail*").split()
    assert len(users) == 3


def test_the_score(guest: Packaged, suite: str) -> None:
    """systemd-analyze security, of the running service."""
    done = guest.run("systemd-analyze", "security", f"--threshold={BEST}", "pysendmail.service")
    said = done.stdout.decode()
    print(said)
    if suite == "trixie":
        assert done.returncode == 0, said


def test_a_sandboxed_service_submits(guest: Packaged) -> None:
    """No privileges, no user of its own, nothing to write to, no network: the socket is enough."""
    since = guest.now()
    guest.path("/etc/systemd/system/submitter.service").write_text(UNIT)
    guest.must("systemctl", "daemon-reload")
    with guest.smarthost() as peer:
        guest.must("systemctl", "start", "submitter.service")
        peer.wait_until(lambda: peer.messages)
    assert peer.messages[0].recipients[0].startswith("<bob@example.org>")
    assert guest.journal("_SYSTEMD_UNIT=submitter.service") == []
    assert int(guest.wait_for("EVENT=accepted", after=since)["UID"]) in DYNAMIC
