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
