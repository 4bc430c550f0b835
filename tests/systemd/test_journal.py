"""The journal: each event found by its fields, at the right priority; and a journal that hangs holds up no mail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rig.packaged import Packaged, wanted
from rig.peer import Ordinary

wanted()

# As many datagrams as journald's socket holds. A new socket for each, so that it is not our end that is full.
FILL = """
import socket
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
        try:
            ours.sendto(b"MESSAGE=more\\n", "/run/systemd/journal/socket")
        except BlockingIOError:
            break
"""
REPLIES = {"later@example.org": "451 4.3.0 later", "never@example.org": "550 5.1.1 unknown"}


def test_events_are_found_by_their_fields(guest: Packaged) -> None:
    """By queue id, recipient, smarthost and user; addresses without angle brackets."""
    since = guest.now()
    with guest.smarthost():
        guest.submit("bob@example.org", user="alice")
        sent = guest.wait_for("RECIPIENT=bob@example.org", "STATUS=sent", after=since)
        guest.submit("carol@example.org", user="bob")
        guest.wait_for("RECIPIENT=carol@example.org", "STATUS=sent", after=since)
    story = guest.journal(f"QUEUE_ID={sent['QUEUE_ID']}", after=since)
    assert [entry["EVENT"] for entry in story] == ["accepted", "attempt", "outcome"]
    assert {entry["SENDER"] for entry in story if "SENDER" in entry} == {"alice@example.com"}
    assert [entry["UID"] for entry in guest.journal("EVENT=accepted", after=since)] == ["1000", "1001"]
    outcomes = guest.journal("SMARTHOST=main", "EVENT=outcome", "_SYSTEMD_UNIT=pysendmail.service", after=since)
    assert [(one["RECIPIENT"], one["TLS"], one["DSN"]) for one in outcomes] == [
        ("bob@example.org", "none", "2.0.0"),
        ("carol@example.org", "none", "2.0.0"),
    ]
    assert sent["MESSAGE"].startswith(f"event=outcome queue_id={sent['QUEUE_ID']} recipient=<bob@example.org>")


def test_priorities_tell_what_a_person_should_look_at(guest: Packaged) -> None:
    """journalctl -p warning shows the bounce and the smarthost that is away, and not what went well."""
    since = guest.now()
    with guest.smarthost(Ordinary(rcpt=REPLIES)) as peer:
        for recipient in ("bob@example.org", *REPLIES):
            guest.submit(recipient)
        guest.wait_for("RECIPIENT=alice@example.com", "STATUS=sent", after=since)
        peer.wait_until(lambda: len(peer.messages) == 2)
    guest.submit("bob@example.org")
    guest.wait_for("EVENT=trouble", after=since)
    outcomes = guest.journal("EVENT=outcome", after=since)
    assert {(one["STATUS"], one["PRIORITY"]) for one in outcomes if one["RECIPIENT"] in REPLIES} == {
        ("deferred", "5"),
        ("bounced", "4"),
    }
    loud = guest.journal("--priority=warning", "_SYSTEMD_UNIT=pysendmail.service", after=since)
    assert [(one["EVENT"], one.get("STATUS")) for one in loud] == [("outcome", "bounced"), ("trouble", None)]


@contextmanager
def hanging_journal(guest: Packaged) -> Iterator[None]:
    """While this lasts, journald reads nothing, and there is no room for more."""
    journald = guest.show("systemd-journald.service", "MainPID")
    guest.must("kill", "-STOP", journald)
    try:
        guest.must("python3", "-c", FILL)
        yield
    finally:
        guest.must("kill", "-CONT", journald)


def test_a_journal_that_hangs_stops_no_mail(guest: Packaged) -> None:
    """Submissions are accepted and delivered while journald is stopped; it has their events when it goes on."""
    since = guest.now()
    messages = 40
    with guest.smarthost() as peer, hanging_journal(guest):
        for number in range(messages):
            guest.submit(f"number{number}@example.org")
        peer.wait_until(lambda: len(peer.messages) == messages)
        assert guest.status()["queued"] == 0
    guest.until(lambda: len(guest.journal("EVENT=outcome", "STATUS=sent", after=since)) == messages)


def test_a_journal_that_hangs_holds_up_no_restart(guest: Packaged) -> None:
    """One daemon ends, the next one begins; what the first had not got rid of is lost to the journal, no mail is."""
    since = guest.now()
    with guest.smarthost() as peer, hanging_journal(guest):
        guest.submit("before@example.org")
        guest.must("systemctl", "restart", "pysendmail.service")
        guest.submit("after@example.org")
        peer.wait_until(lambda: len(peer.messages) == 2)
    guest.wait_for("EVENT=outcome", "RECIPIENT=after@example.org", after=since)


def test_a_journal_that_is_started_again_has_what_comes_then(guest: Packaged) -> None:
    """The daemon need not be: it finds the new one."""
    since, pid = guest.now(), guest.main_pid()
    guest.must("systemctl", "restart", "systemd-journald.service")
    guest.submit("bob@example.org")
    assert guest.wait_for("EVENT=accepted", after=since)["_PID"] == str(pid)
