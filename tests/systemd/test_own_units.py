"""A user's own units and queue, beside the system's: without root, while he is logged in, and longer if he lingers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rig.packaged import PORT, SMARTHOST, UNITS, USERS, Packaged, wanted
from rig.peer import Ordinary

wanted()

LATER = {"later@example.org": "451 4.3.0 later"}
RETRY = '[retry]\nfirst = "2s"\n'
HIS_PORT = PORT + 1
HIS = 'hostname = "box.example.com"\ndomain = "example.com"\n' + RETRY + SMARTHOST.replace(str(PORT), str(HIS_PORT))


@pytest.fixture
def bobs(guest: Packaged) -> Iterator[Packaged]:
    """bob is logged in, and has enabled and started pysendmail's units of his own."""
    with guest.login("bob"):
        guest.must("mkdir", "-p", "/home/bob/.config/pysendmail", user="bob")
        guest.must("tee", "/home/bob/.config/pysendmail/pysendmail.toml", user="bob", stdin=HIS.encode())
        guest.own("bob", "systemctl", "--user", "enable", "--now", *UNITS)
        yield guest
        guest.must("loginctl", "disable-linger", "bob")
    guest.must("rm", "-r", "/home/bob/.config", "/home/bob/.local/state/pysendmail")


def test_without_a_configuration_of_his_own_nothing_runs(guest: Packaged) -> None:
    """The unit says what is missing, once; nothing is started again and again, and his mail goes the system's way."""
    carol = "carol"
    with guest.login(carol):
        guest.own(carol, "systemctl", "--user", "enable", "--now", *UNITS)
        shown = guest.own(carol, "systemctl", "--user", "show", "--property=ConditionResult,ActiveState", UNITS[0])
        assert shown.split() == ["ActiveState=inactive", "ConditionResult=no"]
        guest.submit("bob@example.org", user=carol)
        assert [one["uid"] for one in guest.mailq()] == [USERS[carol]]
        guest.own(carol, "systemctl", "--user", "disable", "--now", *UNITS)
    guest.must("rm", "-r", "/home/carol/.config")


def test_mutt_on_a_laptop(bobs: Packaged) -> None:
    """The mail is his own daemon's; what waits when he logs out leaves when he is back; the system's queue has none."""
    guest = bobs
    since = guest.now()
    with guest.smarthost(Ordinary(rcpt=LATER), port=HIS_PORT) as his:
        for name in ("now", "later"):
            guest.must("mutt", "-s", "hello", f"{name}@example.org", user="bob", stdin=b"text\n")
        his.wait_until(lambda: his.messages)
        guest.wait_for("RECIPIENT=later@example.org", "STATUS=deferred", f"_UID={USERS['bob']}", after=since)
    [message] = his.messages
    assert message.sender.startswith("<bob@example.com>")
    assert f"from uid {USERS['bob']})".encode() in message.content
    told = guest.own("bob", "systemctl", "--user", "show", "--property=ActiveState,NotifyAccess", UNITS[0])
    assert told.split() == ["NotifyAccess=main", "ActiveState=active"]
    assert guest.mailq() == []
    guest.logout("bob")
    assert guest.run("pgrep", "--uid=bob", "--full", "pysendmail daemon").returncode == 1
    with guest.smarthost(port=HIS_PORT) as his, guest.login("bob"):
        his.wait_until(lambda: his.messages)


def test_mail_moves_after_a_reboot(bobs: Packaged) -> None:
    """What was deferred leaves without anybody's doing: the system's queue, and that of a user who lingers."""
    guest = bobs
    guest.configure(RETRY, SMARTHOST)
    with guest.smarthost(Ordinary(rcpt=LATER)):
        guest.submit("later@example.org")
        guest.wait_for("EVENT=outcome", "RECIPIENT=later@example.org")
    guest.must("loginctl", "enable-linger", "bob")
    guest.own("bob", "systemctl", "--user", "reload", UNITS[0])
    guest.submit("his@example.org", user="bob")
    guest.wait_for("EVENT=trouble", f"_UID={USERS['bob']}")
    assert [one["uid"] for one in guest.mailq("bob")] == [USERS["bob"]]
    assert [one["recipients"][0]["address"] for one in guest.mailq()] == ["later@example.org"]
    guest.reboot()
    with guest.smarthost() as ours, guest.smarthost(port=HIS_PORT) as his:
        ours.wait_until(lambda: ours.messages, seconds=90)
        his.wait_until(lambda: his.messages, seconds=90)
    assert guest.must("systemctl", "is-active", *UNITS) == "active\n" * 3
