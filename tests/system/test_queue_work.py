"""What people do with queued mail, and who may: everything over `control`, one's own over `submit` (promise 14)."""

from __future__ import annotations

from pathlib import Path

from rig.instance import Instance, smarthost
from rig.peer import Ordinary, PeerThread

LATER = {"late@example.org": "451 4.2.1 mailbox is busy"}


def deferred(instance: Instance, *, uid: int | None = None) -> str:
    """A message that was tried and waits; its queue id."""
    before = len(instance.events)
    instance.submit("-f", "alice@example.com", "late@example.org", uid=uid)
    return instance.wait_for("outcome", after=before, status="deferred")["queue_id"]


def test_a_header_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    """`queue show` of what anybody has sent: controls and what turns text round are spelled out, all else is there."""
    with Instance(tmp_path) as instance:
        subject = "Subject: gr\u00fcn \x1b]0;title\x07\u202e\u2028\x9b31m\n\tand on"
        instance.submit("bob@example.org", text=f"{subject}\n\nhello\n".encode())
        lines = instance.pysendmail("queue", "show", "--all").split("\n")
    assert "    Subject: gr\u00fcn \\x1b]0;title\\x07\\u202e\\u2028\\x9b31m" in lines
    assert "            and on" in lines
    assert [line for line in lines if not line.isprintable()] == []


def test_hold_release_retry_remove_expire(tmp_path: Path) -> None:
    """Each does to the one message what its name says, and `history` and `explain` know it."""
    with (
        PeerThread(Ordinary(rcpt=LATER)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        one, two, three = (deferred(instance) for _ in range(3))

        assert "held" in instance.pysendmail("queue", "hold", one)
        assert {e["queue_id"]: e["queue_name"] for e in instance.mailq()} == {
            one: "hold",
            two: "deferred",
            three: "deferred",
        }
        before = len(instance.events)
        instance.pysendmail("flush")
        for queue_id in (two, three):
            instance.wait_for("outcome", after=before, queue_id=queue_id)
        assert instance.matching("outcome", after=before, fields={"queue_id": one}) == []
        assert "is held" in instance.pysendmail("queue", "explain", one)

        before = len(instance.events)
        instance.pysendmail("queue", "release", one)
        instance.wait_for("outcome", after=before, queue_id=one)
        before = len(instance.events)
        instance.pysendmail("queue", "retry", two)
        instance.wait_for("outcome", after=before, queue_id=two)

        instance.pysendmail("queue", "remove", one)
        [removed] = instance.history(one)
        assert removed["recipients"][0]["outcome"] == "removed"
        assert "removed by uid" in instance.pysendmail("queue", "explain", one)
        instance.pysendmail("queue", "expire", two)
        instance.wait_for("outcome", queue_id=two, status="expired")
        instance.wait_for("outcome", recipient="<alice@example.com>", status="sent")
        assert [e["queue_id"] for e in instance.mailq()] == [three]

        peer.become(Ordinary())
        assert instance.stop() == 0
        instance.start()
        instance.pysendmail("queue", "retry", two)  # its body is still kept
        instance.wait_for("outcome", queue_id=two, status="sent")
        instance.pysendmail("queue", "remove", "--all", "--yes")
        assert instance.mailq() == []


def test_promise_14_a_user_works_on_his_own_messages_only(open_path: Path, other: int) -> None:
    """Over `submit`: another's message looks as if it did not exist; his own are listed, held, removed, flushed."""
    with (
        PeerThread(Ordinary(rcpt=LATER)) as peer,
        Instance(open_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        roots = deferred(instance)
        his = deferred(instance, uid=other)
        assert [e["queue_id"] for e in instance.mailq(uid=other)] == [his]
        assert [e["queue_id"] for e in instance.mailq()] == [roots, his]
        for verb in ("show", "explain", "hold", "release", "remove", "retry"):
            instance.pysendmail("queue", verb, roots, uid=other, code=66)
        instance.pysendmail("history", roots, uid=other, code=66)
        assert roots not in instance.pysendmail("history", uid=other)
        assert '"queued": 1' in instance.pysendmail("status", "--json", uid=other, code=None)
        before = len(instance.events)
        instance.pysendmail("flush", uid=other)
        instance.wait_for("outcome", after=before, queue_id=his)
        instance.named(["sendmail", "-q"], uid=other)
        instance.wait_for("outcome", after=before, queue_id=his, count=2)
        assert instance.matching("outcome", after=before, fields={"queue_id": roots}) == []
        for verb in ("hold", "release", "remove"):
            assert his in instance.pysendmail("queue", verb, his, uid=other)
        assert [e["queue_id"] for e in instance.mailq()] == [roots]
        instance.pysendmail("probe", "main", uid=other, code=77)
        instance.pysendmail("queue", "remove", "--all", "--yes", uid=other)
        assert [e["queue_id"] for e in instance.mailq()] == [roots]


def test_promise_14_the_uid_is_the_kernels_word(open_path: Path, other: int) -> None:
    """Nothing that a caller says changes the uid in Received and in the log; the queue's files are closed to him."""
    with PeerThread() as peer, Instance(open_path, smarthosts=[smarthost(peer)]) as instance:
        environment = {"NAME": "uid 0", "USER": "root", "LOGNAME": "root"}
        instance.submit("-f", "root@example.com", "bob@example.org", uid=other, environment=environment)
        assert instance.wait_for("outcome", status="sent")["uid"] == str(other)
        assert f"from uid {other})".encode() in peer.messages[0].content
        assert instance.queue_directory.stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_mode & 0o077 == 0 for file in instance.queue_directory.iterdir())
        assert (instance.socket.with_name("control")).stat().st_mode & 0o777 == 0o600
        assert instance.socket.stat().st_mode & 0o777 == 0o666


def test_one_user_cannot_fill_the_queue(open_path: Path, other: int) -> None:
    """[access] messages: 75 for him over it, while others' mail is taken; root is exempt."""
    down = {"name": "main", "host": "127.0.0.1", "port": 1}
    with Instance(open_path, smarthosts=[down], access={"messages": 2}) as instance:
        codes = [instance.sendmail("bob@example.org", uid=other).returncode for _ in range(3)]
        assert codes == [0, 0, 75]
        instance.submit("bob@example.org", uid=other + 1)
        for _ in range(3):
            instance.submit("bob@example.org")
        assert len(instance.mailq()) == 6
