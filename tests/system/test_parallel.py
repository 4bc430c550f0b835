"""Many at once: 200 submissions of several users, each delivered exactly once (promises 1, 4, 10)."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pysendmail.thin import client
from rig.instance import OTHERS, PATIENCE_S, Instance, can_be, smarthost
from rig.peer import PeerThread

SUBMISSIONS = 200
AT_ONCE = 40
BACKLOG = 30


def test_200_parallel_submissions_arrive_exactly_once(open_path: Path) -> None:
    """Every message for which sendmail said 0 arrives once, with the uid that the kernel saw in its Received."""
    uids = (os.geteuid(), *OTHERS) if can_be(OTHERS[0]) else (os.geteuid(),)
    with PeerThread() as peer, Instance(open_path, smarthosts=[smarthost(peer)]) as instance:

        def submit(number: int) -> int:
            text = f"Subject: token-{number}-\n\n{'x' * number}\n".encode()
            who = uids[number % len(uids)]
            done = instance.sendmail(f"r{number}@d{number % 7}.example", text=text, uid=who if who != uids[0] else None)
            return done.returncode

        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(submit, range(SUBMISSIONS)))
        assert codes == [0] * SUBMISSIONS
        instance.wait_for("outcome", count=SUBMISSIONS, status="sent")
        assert instance.stop() == 0
    arrived = sorted(int(found[1]) for m in peer.messages if (found := re.search(rb"token-(\d+)-", m.content)))
    assert arrived == list(range(SUBMISSIONS))
    for message in peer.messages:
        found = re.search(rb"from uid (\d+)\) .*?token-(\d+)-", message.content, re.DOTALL)
        assert found is not None
        assert int(found[1]) == uids[int(found[2]) % len(uids)]
    assert instance.matching("outcome", fields={"status": "deferred"}) == []


def test_restarts_under_load_refuse_and_lose_nothing(open_path: Path) -> None:
    """Three restarts of the daemon while 60 messages are submitted: every sendmail says 0, each arrives once."""
    uid = OTHERS[0] if can_be(OTHERS[0]) else None  # who may write the queue would do without the daemon
    with PeerThread() as peer, Instance(open_path, smarthosts=[smarthost(peer)]) as instance:

        def submit(number: int) -> tuple[int, bytes]:
            done = instance.sendmail(f"r{number}@example.org", text=f"Subject: n{number}-\n\nx\n".encode(), uid=uid)
            return done.returncode, done.stderr

        with ThreadPoolExecutor(6) as pool:
            running = [pool.submit(submit, number) for number in range(60)]
            for count in (5, 20, 40):
                instance.wait_for("accepted", count=count)
                assert instance.stop() == 0
                instance.start()
            assert {future.result() for future in running} == {(0, b"")}
        instance.wait_for("outcome", count=60, status="sent")
        arrived = sorted(m.recipients[0] for m in peer.messages)
        assert arrived == sorted(f"<r{number}@example.org>" for number in range(60))


def test_a_daemon_that_stops_serves_its_backlog(tmp_path: Path) -> None:
    """Connected, but not accepted yet when the daemon is told to stop: taken, and not reset. Who comes later waits."""
    with Instance(tmp_path) as instance:
        daemon = instance.process
        assert daemon is not None
        daemon.send_signal(signal.SIGSTOP)
        path = os.fsencode(instance.socket)
        waiting = [client.Talk(client.connect(path), lambda kind, data: None) for _ in range(BACKLOG)]
        daemon.send_signal(signal.SIGTERM)
        daemon.send_signal(signal.SIGCONT)
        for number, talk in enumerate(waiting):
            start = client.opening(os.urandom(client.ID_OCTETS), [b"sendmail", b"r%d@example.org" % number], {})
            assert talk.submit(start, client.Given(b"Subject: x\n\nhello\n")) == 0
            talk.close()
        with pytest.raises(ConnectionRefusedError):
            client.connect(path)
        assert daemon.wait(PATIENCE_S) == 0
    assert len(instance.mailq()) == BACKLOG
