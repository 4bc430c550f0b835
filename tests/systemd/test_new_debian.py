"""Debian 12 becomes Debian 13, by apt-get full-upgrade, with mail in the queue. Minutes and 150 MB: nightly only."""

from __future__ import annotations

import pytest

from rig.packaged import CONFIGURATION, SMARTHOST, UNITS, booted, wanted
from rig.peer import Ordinary

SIZE = wanted()

LATER = {"later@example.org": "451 4.3.0 later"}
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "-o", "Dpkg::Options::=--force-confold")
LIST = "/etc/apt/sources.list"


@pytest.mark.skipif(SIZE != "nightly", reason="Debian is upgraded by `make test-systemd SIZE=nightly`")
def test_bookworm_is_upgraded_with_mail_in_the_queue() -> None:
    """A new systemd, a new Python: no mail is refused meanwhile, and what waited leaves after the reboot."""
    with booted("bookworm") as guest:
        guest.install()
        with guest.smarthost(Ordinary(rcpt=LATER)) as peer:
            guest.configure('[retry]\nfirst = "2s"\n', SMARTHOST)
            configuration = guest.path(CONFIGURATION).read_bytes()
            guest.submit("later@example.org")
            guest.wait_for("EVENT=outcome", "RECIPIENT=later@example.org")
            guest.path(LIST).write_text(guest.path(LIST).read_text().replace("bookworm", "trixie"))
            guest.fetch(*APT, "update")
            with guest.submissions("alice", "bob") as codes:
                guest.fetch(*APT, "full-upgrade")
            assert set(codes) == {0}
            peer.wait_until(lambda: len(peer.messages) == len(codes))
        guest.reboot()
        with guest.smarthost() as peer:
            peer.wait_until(lambda: peer.messages, seconds=90)
        assert guest.must("systemctl", "--version").startswith("systemd 257")
        assert guest.must("systemctl", "is-active", *UNITS) == "active\n" * 3
        assert guest.path(CONFIGURATION).read_bytes() == configuration
        assert guest.must("dpkg", "--audit") == ""
        version = guest.must("python3", "-c", "import sys; print(sys.implementation.cache_tag)").strip()
        assert guest.path(f"/usr/lib/pysendmail/pysendmail/thin/__pycache__/client.{version}.pyc").exists()
