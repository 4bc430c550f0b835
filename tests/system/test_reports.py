"""Bounces, expiry, delay notices and their silence, with installed commands: nobody waits for word that never comes.

Promise 3 of ARCHITECTURE.md: every recipient ends as exactly one of sent, bounced, expired, discarded, removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rig.instance import Instance, smarthost
from rig.peer import Message, Ordinary, PeerThread

QUICK: dict[str, Any] = {"first": "0.2s", "factor": 1.0, "jitter": 0.0}
NO = "550 5.1.1 no such user here"
LATER = "451 4.2.1 mailbox is busy"


def to(peer: PeerThread, address: str) -> list[Message]:
    return [m for m in peer.messages if m.recipients[0].startswith(f"<{address}>")]


def outcomes(instance: Instance) -> dict[str, str | None]:
    """By recipient, of the messages that were submitted (not of reports)."""
    return {
        recipient["address"]: recipient["outcome"]
        for entry in instance.history()
        if entry["sender"]
        for recipient in entry["recipients"]
    }


def test_promise_3_every_recipient_ends_as_exactly_one(tmp_path: Path) -> None:
    """Sent, bounced, expired, discarded and removed side by side; one bounce for each that failed; records of all."""
    replies = {"no@example.org": NO, "late@example.org": LATER, "held@example.org": LATER}
    with (
        PeerThread(Ordinary(rcpt=replies)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry=QUICK, queue={"lifetime": "0.3s"}) as instance,
    ):
        instance.submit("-f", "alice@example.com", "yes@example.org", "no@example.org", "late@example.org")
        instance.submit("-f", "<>", "no@example.org")
        instance.wait_for("outcome", recipient="<late@example.org>", status="expired")
        instance.wait_for("outcome", recipient="<no@example.org>", status="discarded")
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent", count=2)
        queue_id = instance.matching("accepted")[0]["queue_id"]
        ended = {r["address"]: r["outcome"] for r in instance.history(queue_id)[0]["recipients"]}
        assert ended == {"yes@example.org": "sent", "no@example.org": "bounced", "late@example.org": "expired"}
        assert instance.mailq() == []
        bounces = to(peer, "alice@example.com")
        assert all(m.sender.startswith("<>") for m in bounces)
        assert [b"no such user here" in m.content for m in bounces] == [True, False]
        assert b"mailbox is busy" in bounces[1].content
        records = instance.history("--bounces")
        assert sorted((r["recipient"], r["outcome"], r["reported_to"]) for r in records) == [
            ("late@example.org", "expired", "alice@example.com"),
            ("no@example.org", "bounced", "alice@example.com"),
            ("no@example.org", "discarded", None),
        ]
        assert all(r["silence"] for r in records if r["reported_to"] is None)


def test_a_bounce_says_what_happened_in_words(tmp_path: Path) -> None:
    """multipart/report with the server's words, the status fields and the returned header; auto-replied, from <>."""
    with (
        PeerThread(Ordinary(rcpt={"no@example.org": NO})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        text = b"Subject: the subject\nBcc: secret@example.org\n\nthe body\n"
        instance.submit("-f", "alice@example.com", "-V", "env-42", "no@example.org", text=text)
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
        [bounce] = peer.messages
        for part in (
            b"multipart/report",
            b"report-type=delivery-status",
            b"Auto-Submitted: auto-replied",
            b"Reporting-MTA: dns; box.example.com",
            b"Original-Envelope-Id: env-42",
            b"Final-Recipient: rfc822; no@example.org",
            b"Action: failed",
            b"Status: 5.1.1",
            b"550 5.1.1 no such user here",
            b"Subject: the subject",
        ):
            assert part in bounce.content, part
        assert b"the body" not in bounce.content
        assert b"secret@example.org" not in bounce.content


def test_the_delay_notice_comes_once_and_not_for_a_smarthost_in_trouble(tmp_path: Path) -> None:
    """After warn_after a message that its recipient's server defers is reported as delayed, once; an outage is not."""
    with (
        PeerThread(Ordinary(rcpt={"late@example.org": LATER})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry=QUICK, queue={"warn_after": "0.3s"}) as instance,
    ):
        instance.submit("-f", "alice@example.com", "late@example.org")
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
        instance.wait_for("outcome", recipient="<late@example.org>", status="deferred", count=5)
        [notice] = to(peer, "alice@example.com")
        assert b"Action: delayed" in notice.content and b"mailbox is busy" in notice.content
        peer.become(Ordinary(mail="530 5.7.0 authentication required"))
        assert instance.stop() == 0
        instance.start()
        instance.submit("-f", "carol@example.com", "bob@example.org")
        instance.wait_for("trouble", count=3)
        assert instance.matching("bounce", fields={"recipient": "<carol@example.com>"}) == []


def test_notify_never_is_silent_and_recorded(tmp_path: Path) -> None:
    """-N never: no mail about the failure, but a record that says why not."""
    with (
        PeerThread(Ordinary(rcpt={"no@example.org": NO})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        instance.submit("-f", "alice@example.com", "-N", "never", "no@example.org")
        instance.wait_for("outcome", status="bounced")
        [record] = instance.history("--bounces")
        assert (record["outcome"], record["reported_to"]) == ("bounced", None)
        assert "NOTIFY" in record["silence"]
        assert peer.messages == [] and instance.mailq() == []


def test_notify_success_through_a_smarthost_without_dsn_is_reported_as_relayed(tmp_path: Path) -> None:
    """RFC 3461 5.2.2: what cannot pass the request on says "relayed"; a smarthost with DSN is given the request."""
    for keywords, reports in ((("8BITMIME",), 1), (("8BITMIME", "DSN"), 0)):
        directory = tmp_path / str(reports)
        directory.mkdir()
        with (
            PeerThread(Ordinary(keywords=keywords)) as peer,
            Instance(directory, smarthosts=[smarthost(peer)]) as instance,
        ):
            instance.submit("-f", "alice@example.com", "-N", "success", "bob@example.org")
            instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
            if reports:
                instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
                assert b"Action: relayed" in to(peer, "alice@example.com")[0].content
            else:
                assert "NOTIFY=SUCCESS" in peer.messages[0].recipients[0]
            assert instance.stop() == 0
            assert len(to(peer, "alice@example.com")) == reports


@pytest.mark.parametrize("note_fails", [False, True])
def test_a_bounce_that_fails_becomes_one_note_to_postmaster(tmp_path: Path, note_fails: bool) -> None:
    """The bounce is refused: the postmaster hears of it once; refused too: a record and a warning, no further mail."""
    replies = {"no@example.org": NO, "alice@example.com": "550 5.7.1 go away"}
    if note_fails:
        replies["root@example.com"] = "550 5.7.1 you too"
    with (
        PeerThread(Ordinary(rcpt=replies)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        instance.submit("-f", "alice@example.com", "no@example.org")
        ending = "bounced" if note_fails else "sent"
        instance.wait_for("outcome", recipient="<root@example.com>", status=ending)
        assert len(to(peer, "root@example.com")) == (not note_fails)
        assert instance.mailq() == []
        records = instance.history("--bounces")
        assert [(r["kind"], r["recipient"]) for r in records[:2]] == [
            ("bounce", "no@example.org"),
            ("postmaster", "alice@example.com"),
        ]
        assert len(records) == 2 + note_fails
        if note_fails:
            assert records[2]["reported_to"] is None
            done = instance.run("pysendmail", "status")
            assert done.returncode == 1 and b"history --bounces" in done.stdout
        assert instance.stop() == 0
        assert len(instance.matching("bounce")) == 2


def test_mail_expires_behind_a_smarthost_that_stays_down(tmp_path: Path) -> None:
    """The lifetime is over and every smarthost of the route failed a fresh probe: expired, with a bounce that waits."""
    down = {"name": "main", "host": "127.0.0.1", "port": 1}
    with Instance(tmp_path, smarthosts=[down], retry=QUICK, queue={"lifetime": "0.3s"}) as instance:
        instance.submit("-f", "alice@example.com", "bob@example.org")
        instance.wait_for("outcome", recipient="<bob@example.org>", status="expired")
        assert outcomes(instance) == {"bob@example.org": "expired"}
        instance.wait_for("bounce", recipient="<alice@example.com>")


def test_held_mail_does_not_expire(tmp_path: Path) -> None:
    """The lifetime passes while it is held: it is still there, is released, and delivered."""
    with PeerThread() as peer, Instance(tmp_path, smarthosts=[smarthost(peer)], queue={"lifetime": "0.2s"}) as instance:
        assert instance.stop() == 0
        instance.submit("bob@example.org")
        [entry] = instance.mailq()
        instance.pysendmail("queue", "hold", entry["queue_id"])
        instance.start()  # takes longer than the lifetime
        assert [e["queue_name"] for e in instance.mailq()] == ["hold"]
        instance.pysendmail("queue", "release", entry["queue_id"])
        instance.wait_for("outcome", status="sent")


def test_what_was_under_way_when_the_daemon_died_is_tried_again_before_it_expires(tmp_path: Path) -> None:
    """Past its lifetime at the next start: no attempt failed afresh, so it is sent and not expired."""
    with PeerThread() as peer:
        instance = Instance(tmp_path, smarthosts=[smarthost(peer)], queue={"lifetime": "0.2s"})
        with PeerThread(Ordinary(), port=0) as silent:
            silent.become(_no_answer_to_dot)
            instance.configure(smarthosts=[smarthost(silent)], queue={"lifetime": "0.2s"})
            with instance:
                instance.submit("bob@example.org")
                silent.wait_until(lambda: "DATA" in silent.commands)
                instance.kill()
        instance.configure(smarthosts=[smarthost(peer)], queue={"lifetime": "0.2s"})
        with instance:
            instance.wait_for("outcome", status="sent", recipient="<bob@example.org>")
            [entry] = instance.history()
            assert [a["outcome"] for a in entry["recipients"][0]["attempts"]] == ["uncertain", "sent"]


async def _no_answer_to_dot(client: Any) -> None:
    await client.say("220 peer.example")
    await client.hear("EHLO")
    await client.say("250 peer.example")
    for verb in ("MAIL", "RCPT"):
        await client.hear(verb)
        await client.say("250 ok")
    await client.hear("DATA")
    await client.say("354 go ahead")
    await client.stall()
