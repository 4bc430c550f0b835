"""What a smarthost sees of a sender under [rewrite], with installed commands: envelope, header, size, bounces."""

from __future__ import annotations

import re
from pathlib import Path

from rig.instance import Instance, smarthost
from rig.peer import Message, Ordinary, PeerThread

BOX = "box@provider.example"
CRON = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@box> backup\n\ndone\n"
FORCE = {"from_": "force", "force_from": BOX}


def field(message: Message, name: str) -> str:
    """The one field of this name, unfolded."""
    header = message.content.partition(b"\r\n\r\n")[0].decode()
    [value] = re.findall(rf"(?mi)^{name}:((?:.*\n?)(?:[ \t].*\n?)*)", header)
    return " ".join(str(value).split())


def test_cron_leaves_through_a_smarthost_that_accepts_one_address(tmp_path: Path) -> None:
    """As Debian's cron calls it: the envelope and From are the account's, the name stays, replies find the way."""
    with (
        PeerThread(Ordinary(only=BOX)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, **FORCE)]) as instance,
    ):
        (tmp_path / "aliases").write_text("root: admin@example.org\n")
        instance.submit("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root", text=CRON)
        instance.submit("-f", "<>", "root", text=CRON)
        instance.wait_for("outcome", count=2, status="sent", recipient="<admin@example.org>")
        assert instance.wait_for("attempt")["rewritten"] == "yes"
        cron, null = peer.messages
        assert cron.sender.startswith(f"<{BOX}> ") and null.sender.startswith("<> ")
        for message in (cron, null):
            assert field(message, "From") == f"{BOX} (Cron Daemon)"
            assert field(message, "Reply-To") == "root@example.com (Cron Daemon)"
            assert field(message, "To") == "root@example.com"
            assert message.content.endswith(b"\r\n\r\ndone\r\n")
            assert f"SIZE={len(message.content)}" in message.sender.split()


def test_each_smarthost_has_its_rule_and_begins_with_the_original(tmp_path: Path) -> None:
    """A retry elsewhere is rewritten for there; what is stored, the log's sender and the bounce are the original."""
    with (
        PeerThread(Ordinary(only=BOX, dot="421 4.3.0 closing"), Ordinary(greeting="554 go away")) as first,
        PeerThread(Ordinary(rcpt={"no@example.org": "550 5.1.1 no"})) as second,
        Instance(
            tmp_path,
            smarthosts=[
                smarthost(first, "first", **FORCE),
                smarthost(second, "second", force_from="second@provider.example"),
            ],
            rewrite={"from_": "qualify", "force_from": "unused@example.com"},
            retry={"first": "0.2s"},
        ) as instance,
    ):
        text = b"From: Me <me@localhost>\nSubject: x\n\nhello\n"
        instance.submit("-f", "me@localhost", "bob@example.org", "no@example.org", text=text)
        queue_id = instance.wait_for("accepted")["queue_id"]
        instance.wait_for("outcome", status="bounced", sender="<me@localhost>")
        instance.wait_for("outcome", recipient="<me@example.com>", status="sent")
        assert any(command.startswith(f"MAIL FROM:<{BOX}>") for command in first.commands)
        [mail] = [m for m in second.messages if m.recipients[0].startswith("<bob")]
        assert mail.sender.startswith("<me@example.com> ")
        assert field(mail, "From") == "Me <me@example.com>"
        assert b"Reply-To" not in mail.content
        assert "From: Me <me@localhost>" in instance.pysendmail("queue", "show", queue_id)


def test_the_rewritten_header_goes_to_a_server_without_8bitmime(tmp_path: Path) -> None:
    """Re-encoding for such a server begins with the rewritten header; a broken signature is in the log."""
    with (
        PeerThread(Ordinary(only=BOX, keywords=())) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, **FORCE)]) as instance,
    ):
        text = b"DKIM-Signature: v=1; h=from; b=x\nFrom: me@example.com\n\ncaf\xc3\xa9\n"
        instance.submit("bob@example.org", text=text)
        instance.wait_for("outcome", status="sent")
        assert instance.wait_for("attempt")["rewritten"] == "signed"
        [message] = peer.messages
        assert (field(message, "From"), field(message, "Reply-To")) == (BOX, "me@example.com")
        assert field(message, "Content-Transfer-Encoding") == "quoted-printable"
        assert message.content.endswith(b"\r\n\r\ncaf=C3=A9\r\n")


def test_our_own_reports_leave_through_it_too(tmp_path: Path) -> None:
    """A bounce is forced as all mail is; its envelope is null, unless [bounce] sender says that nobody takes that."""
    replies = {"no@example.org": "550 5.1.1 no"}
    with (
        PeerThread(Ordinary(only=BOX, rcpt=replies)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, **FORCE)]) as instance,
    ):
        instance.submit("-f", "me@example.com", "no@example.org")
        instance.wait_for("outcome", recipient="<me@example.com>", status="sent")
        instance.configure(smarthosts=[smarthost(peer, **FORCE)], bounce={"sender": "bounces@example.com"})
        instance.reload()
        instance.submit("-f", "me@example.com", "no@example.org")
        instance.submit("-f", "<>", "bob@example.org")
        instance.wait_for("outcome", recipient="<me@example.com>", status="sent", count=2)
        instance.wait_for("outcome", recipient="<bob@example.org>", status="sent")
        null, *others = peer.messages
        assert null.sender.startswith("<> ")
        assert len(others) == 2 and all(message.sender.startswith(f"<{BOX}> ") for message in others)
        assert field(null, "From") == f'"Mail Delivery System" <{BOX}>'


def test_explain_names_the_sender_that_is_used(tmp_path: Path) -> None:
    """Whoever looks at a message that waits sees under which address each smarthost gets it."""
    with (
        PeerThread(Ordinary(greeting="554 go away")) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer, **FORCE)]) as instance,
    ):
        instance.submit("-f", "me@example.com", "bob@example.org")
        queue_id = instance.wait_for("outcome", status="deferred")["queue_id"]
        told = instance.pysendmail("queue", "explain", queue_id)
        assert f"Through the smarthost main its sender is written <{BOX}> ([rewrite])." in told
