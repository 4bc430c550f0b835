"""[access] and the two sockets, from outside: what each real user may do, and who owns nothing (promise 14)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rig.hostile import answer, attack, opening, request
from rig.instance import OTHERS, Instance, as_user, smarthost
from rig.peer import Ordinary, PeerThread

DOWN = {"name": "main", "host": "127.0.0.1", "port": 1}
DYNAMIC, NOBODY = 61200, 65534


def test_bytes_of_one_user(open_path: Path, other: int) -> None:
    """[access] bytes: 75 and words for him who is over it, alone or not; another's mail is taken, and root's."""
    with Instance(open_path, smarthosts=[DOWN], access={"bytes": "100KiB"}) as instance:
        half = b"Subject: x\n\n" + (b"x" * 76 + b"\n") * 800
        done = [instance.sendmail("bob@example.org", text=half, uid=other) for _ in range(2)]
        assert [one.returncode for one in done] == [0, 75]
        assert b"[access] allows" in done[1].stderr and b"nothing was queued" in done[1].stderr
        for uid in (OTHERS[1], None, None):
            instance.submit("bob@example.org", text=half, uid=uid)
        instance.submit("bob@example.org", uid=other)  # a small one still has room
        assert sorted(entry["uid"] for entry in instance.mailq()) == [0, 0, other, other, OTHERS[1]]


def test_connections_of_one_user(open_path: Path, other: int) -> None:
    """[access] connections: the next is told 75 at once; other users and root have theirs."""
    with Instance(open_path, smarthosts=[DOWN], access={"connections": 3}) as instance:
        with attack("idle connections", instance.socket, uid=other):
            instance.wait_for("refused", uid=str(other))
            done = instance.sendmail("bob@example.org", uid=other)
            assert done.returncode == 75
            assert b"has 3 connections already ([access] connections): nothing was queued" in done.stderr
            instance.submit("bob@example.org", uid=OTHERS[1])
            instance.submit("bob@example.org")
        assert [entry["uid"] for entry in instance.mailq()] == [OTHERS[1], 0]


@pytest.mark.parametrize("policy", ["off", "warn", "enforce"])
def test_sender_policy(open_path: Path, other: int, policy: str) -> None:
    """Under another's address: nothing, a field that says so, or 77; root and one's own address are always fine."""
    with (
        PeerThread() as peer,
        Instance(open_path, smarthosts=[smarthost(peer)], access={"sender_policy": policy}) as one,
    ):
        done = one.sendmail("-f", "boss@example.com", "bob@example.org", uid=other)
        assert done.returncode == (77 if policy == "enforce" else 0)
        one.submit("carol@example.org", uid=other)
        one.submit("-f", "boss@example.com", "dave@example.org")
        one.wait_for("outcome", recipient="<carol@example.org>", status="sent")
        one.wait_for("outcome", recipient="<dave@example.org>", status="sent")
        if policy == "enforce":
            assert b"[access] sender_policy" in done.stderr
            assert one.history("--to", "bob@example.org") == []
        else:
            one.wait_for("outcome", recipient="<bob@example.org>", status="sent")
        warned = [m.recipients for m in peer.messages if b"X-Authentication-Warning: box.example.com: " in m.content]
        assert warned == ([["<bob@example.org>"]] if policy == "warn" else [])


def test_authorized_submitters(open_path: Path, other: int) -> None:
    """Who is not named may not send, 77, but sees and removes what he has in the queue; root may."""
    with Instance(open_path, smarthosts=[DOWN]) as instance:
        instance.submit("bob@example.org", uid=other)
        instance.configure(smarthosts=[DOWN], access={"authorized_submitters": ["root", "nobody-else"]})
        instance.reload()
        done = instance.sendmail("bob@example.org", uid=other)
        assert done.returncode == 77
        assert b"[access] authorized_submitters" in done.stderr
        instance.submit("bob@example.org")
        [his] = instance.mailq(uid=other)
        instance.pysendmail("queue", "remove", his["queue_id"], uid=other)
        assert [entry["uid"] for entry in instance.mailq()] == [0]


def test_promise_14_root_behind_the_submit_socket_is_one_user_of_many(open_path: Path, other: int) -> None:
    """A container's root reaches `submit` only: others' messages are unknown to it, no smarthost is its own."""
    with Instance(open_path, smarthosts=[DOWN]) as instance:
        instance.submit("bob@example.org", uid=other)
        [entry] = instance.mailq()
        path = str(instance.socket)
        for verb in ("list", "show", "explain", "hold", "release", "remove", "retry", "history"):
            code, words = answer(path, request(verb=verb, ids=[entry["queue_id"]]))
            unknown = answer(path, request(verb=verb, ids=["0" * 13]))
            assert (code, words) == (66, unknown[1].replace(b"0" * 13, entry["queue_id"].encode()))
        for verb in ("hold", "release", "remove", "retry"):
            assert answer(path, request(verb=verb, all=True)) == (0, b"")
        assert answer(path, request(verb="expire", ids=[entry["queue_id"]]))[0] == 77
        assert answer(path, request(verb="probe"))[0] == 77
        assert answer(path, request(verb="probe", ids=["main"], forget=True))[0] == 77
        assert answer(path, opening(b"purgestat"))[0] == 77
        before = len(instance.events)
        assert answer(path, request(verb="flush")) == (0, b'{"flushed": "own"}\n')
        instance.wait_for("flush", after=before, scope="own")
        [after] = instance.mailq()
        assert after["queue_name"] in ("active", "deferred")  # the smarthost may just be probed with it
        assert {**after, "queue_name": ""} == {**entry, "queue_name": ""}


@pytest.mark.parametrize("uid", [DYNAMIC, NOBODY])
def test_promise_14_a_uid_that_passes_on_owns_nothing(open_path: Path, other: int, uid: int) -> None:
    """A dynamic user's mail is taken, counted and delivered; but the next process of that uid finds none of it."""
    with (
        PeerThread(Ordinary(rcpt={"late@example.org": "451 4.2.1 mailbox is busy"})) as peer,
        Instance(open_path, smarthosts=[smarthost(peer)], access={"messages": 2}) as instance,
    ):
        instance.submit("bob@example.org", uid=uid)
        assert instance.wait_for("outcome", status="sent")["uid"] == str(uid)
        instance.submit("late@example.org", uid=uid)
        queue_id = instance.wait_for("outcome", status="deferred")["queue_id"]
        assert instance.mailq(uid=uid) == []
        assert instance.pysendmail("history", "--json", uid=uid) == ""
        for verb in ("show", "explain", "hold", "release", "remove", "retry"):
            instance.pysendmail("queue", verb, queue_id, uid=uid, code=66)
        assert '"queued": 0' in instance.pysendmail("status", "--json", uid=uid, code=None)
        before = len(instance.events)
        instance.pysendmail("flush", uid=uid)
        instance.submit("late@example.org", uid=uid)
        assert instance.sendmail("late@example.org", uid=uid).returncode == 75  # the limit counts what waits
        assert instance.matching("outcome", after=before, fields={"queue_id": queue_id}) == []
        assert queue_id in {entry["queue_id"] for entry in instance.mailq()}
        instance.pysendmail("queue", "remove", queue_id)


def test_promise_14_a_daemon_in_a_user_namespace_tells_no_strangers_apart(open_path: Path, other: int) -> None:
    """Whom its namespace does not map are one uid to it: each may submit, none has anything of the others'."""
    unshare = ["unshare", "--user", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not to be had here")
    instance = Instance(open_path, smarthosts=[DOWN])
    instance.launch(wrapper=unshare)
    try:
        instance.wait_for("start")
        for uid in OTHERS[:2]:
            instance.submit("bob@example.org", uid=uid)
            assert instance.mailq(uid=uid) == []
        assert [entry["uid"] for entry in instance.mailq()] == [NOBODY, NOBODY]
    finally:
        instance.__exit__()


def test_not_allowed_is_77(open_path: Path, other: int) -> None:
    """What only the control socket takes: 77 for a user, in one line that says who may."""
    with Instance(open_path, smarthosts=[DOWN]) as instance:
        for command in (["probe"], ["probe", "--forget", "main"]):
            done = instance.run("pysendmail", *command, uid=other)
            assert (done.returncode, done.stderr.count(b"\n")) == (77, 1)
            assert b"only root and the queue's owner" in done.stderr
        refused = subprocess.run(
            [*as_user(other), "cat", str(instance.queue_directory / "queue.db")], capture_output=True, check=False
        )
        assert refused.returncode != 0
        assert os.stat(instance.socket.with_name("control")).st_mode & 0o777 == 0o600
