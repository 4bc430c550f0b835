"""Real jobs of several users at once, and what each of them sees: only his own."""

from __future__ import annotations

import email
import email.policy

from rig.packaged import USERS, Packaged, wanted

wanted()


def test_jobs_of_several_users(guest: Packaged) -> None:
    """cron, mailx and mutt, by three users: each message is its user's, in envelope, trace and journal."""
    since = guest.now()
    for user in USERS:
        tab = f"MAILTO={user}-cron@example.org\n@reboot echo a job of {user}\n"
        guest.must("crontab", "-", user=user, stdin=tab.encode())
    with guest.smarthost() as peer:
        guest.must("rm", "-f", "/var/run/crond.reboot", "/run/crond.reboot")
        guest.must("systemctl", "restart", "cron.service")
        for user in USERS:
            guest.must("mail", "-s", "from mailx", f"{user}-mailx@example.org", user=user, stdin=b"text\n")
            guest.must("mutt", "-s", "from mutt", f"{user}-mutt@example.org", user=user, stdin=b"text\n")
        peer.wait_until(lambda: len(peer.messages) == 9, seconds=90)
    found = set()
    for message in peer.messages:
        [recipient] = message.recipients
        user, _, program = recipient.removeprefix("<").partition("@")[0].partition("-")
        found.add((user, program))
        assert message.sender.startswith(f"<{user}@example.com>")
        received = email.message_from_bytes(message.content, policy=email.policy.SMTP)["Received"]
        assert f"from uid {USERS[user]}" in received
        accepted = guest.wait_for("EVENT=accepted", f"QUEUE_ID={queue_id(received)}", after=since)
        assert accepted["UID"] == str(USERS[user])
    assert found == {(user, program) for user in USERS for program in ("cron", "mailx", "mutt")}
    for user in USERS:
        guest.must("crontab", "-r", user=user)


def queue_id(received: str) -> str:
    return received.partition(" id ")[2].partition(";")[0]


def test_users_see_and_touch_only_their_own(guest: Packaged) -> None:
    """Over submit each works on his own mail, root's neither; control and the queue itself are closed to him."""
    for user in USERS:
        guest.submit(f"{user}@example.org", user=user)
    ids = {}
    for user, uid in USERS.items():
        [own] = guest.mailq(user)
        assert own["uid"] == uid
        ids[user] = own["queue_id"]
    assert len(guest.mailq()) == 3
    for verb in ("show", "hold", "remove"):
        assert guest.run("pysendmail", "queue", verb, ids["alice"], user="bob").returncode == 66
    assert guest.status("bob")["queued"] == 1
    guest.must("pysendmail", "queue", "remove", ids["bob"], user="bob")
    assert guest.run("ls", "/var/lib/pysendmail", user="bob").returncode == 2
    assert guest.run("python3", "-c", CONNECT, user="bob").stderr.endswith(b"PermissionError\n")


CONNECT = """
import socket, sys
try:
    socket.socket(socket.AF_UNIX).connect("/run/pysendmail/control")
except OSError as error:
    print(type(error).__name__, file=sys.stderr)
"""
