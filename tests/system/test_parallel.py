"""Many at once: 200 submissions of several users, each delivered exactly once (promises 1, 4, 10)."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.instance import OTHERS, Instance, can_be, smarthost
from rig.peer import PeerThread

SUBMISSIONS = 200
AT_ONCE = 40


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
