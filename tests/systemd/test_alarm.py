"""The package's alarm: a notice in the service's own directory, a unit that is started by it, and word at login."""

from __future__ import annotations

from rig.packaged import SMARTHOST, Packaged, wanted
from rig.peer import Ordinary

wanted()

NOTICE = "/run/pysendmail-alarm/notice"
SAID = "/run/said"
UNIT = "pysendmail-alarm.path"
ALARM = '[alarm]\nafter = "0"\n'


def test_the_notice_wakes_whom_the_administrator_chose(guest: Packaged) -> None:
    """It is everybody's to read, at login too; the unit is started once for the alarm and once for its end."""
    drop_in = guest.path(f"/etc/systemd/system/{UNIT.replace('.path', '.service')}.d/test.conf")
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'wc -l <{NOTICE} >>{SAID}'\n")
    guest.must("systemctl", "daemon-reload")
    guest.must("systemctl", "enable", "--now", UNIT)
    with guest.smarthost(Ordinary(mail="535 5.7.8 no")) as peer:
        guest.configure(ALARM, SMARTHOST)
        guest.submit("bob@example.org")
        guest.wait_for("EVENT=alarm", "STATE=raised")
        guest.until(lambda: guest.run("cat", SAID).stdout.split() == [b"3"])
        assert guest.must("stat", "--format=%a %U", NOTICE) == "644 pysendmail\n"
        assert "account of this machine" in guest.must("bash", "-l", "-i", "-c", ":", user="alice")
        guest.must("systemctl", "restart", "pysendmail.service")
        guest.must("test", "-s", NOTICE)
        peer.become(Ordinary())
        guest.must("pysendmail", "flush")
        guest.wait_for("EVENT=alarm", "STATE=cleared")
        guest.until(lambda: guest.run("cat", SAID).stdout.split() == [b"3", b"0"])
        assert "account" not in guest.must("bash", "-l", "-i", "-c", ":", user="alice")
    guest.must("systemctl", "disable", "--now", UNIT)
    drop_in.unlink()


def test_who_is_logged_in_is_told(guest: Packaged) -> None:
    """The unit's own command, as it is shipped: the notice on a user's terminal, and then that it is over."""
    guest.must("systemctl", "enable", "--now", UNIT)
    with guest.terminal("bob") as bob, guest.smarthost(Ordinary(mail="535 5.7.8 no")) as peer:
        guest.configure(ALARM, SMARTHOST)
        guest.submit("bob@example.org")
        guest.wait_for("EVENT=alarm", "STATE=raised")
        bob.wait_for("does not take the account of this machine")
        peer.become(Ordinary())
        guest.must("pysendmail", "flush")
        guest.wait_for("EVENT=alarm", "STATE=cleared")
        bob.wait_for("mail leaves again")
    guest.must("systemctl", "disable", "--now", UNIT)
