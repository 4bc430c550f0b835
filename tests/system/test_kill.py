"""kill -9 of the daemon at each commit point, and of the client: what was acknowledged is delivered, nothing else.

Promises 1, 2, 3 and 4 of ARCHITECTURE.md, seen from outside: exit codes, the smarthost, `history`.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rig import debian
from rig.instance import PATIENCE_S, Instance, json_lines, smarthost
from rig.peer import Ordinary, PeerThread

SYNCS = "fdatasync,fsync"
LARGE = 3 * 1024 * 1024
LINE = b"0123456789abcde" * 60 + b"\n"
WORKERS = 2


class Moods(dict[str, str]):
    """RCPT's replies: nobody@ is refused, later@ is deferred once and then taken."""

    def __init__(self) -> None:
        super().__init__({"nobody@example.org": "550 5.1.1 no such user"})
        self._later = ["451 4.3.0 not now"]

    def get(self, address: str, default: Any = None) -> Any:
        if address == "later@example.org" and self._later:
            return self._later.pop()
        return super().get(address, default)


@dataclass
class Submitted:
    recipient: str
    token: str
    size: int = 0
    code: int = -1
    said: bytes = b""
    through_kill: bool = False  # the daemon died and came back while sendmail waited for its answer


@dataclass
class Run:
    """One scenario with a kill at the `point`-th sync: what was submitted, and what the world saw."""

    directory: Path
    template: Path  # an empty queue, so that the sweep begins with a daemon's daily work
    point: int
    killed: bool = False
    ledger: list[Submitted] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def play(self, strace: str) -> None:
        """The scenario: accept small and large, deliver, bounce, defer; the daemon dies on the way and is restarted."""
        self.directory.mkdir()
        with PeerThread(Ordinary(rcpt=Moods())) as peer:
            instance = Instance(
                self.directory, smarthosts=[smarthost(peer)], retry={"first": "0.2s", "factor": 1.0, "jitter": 0.0}
            )
            shutil.copytree(self.template, instance.queue_directory)
            inject = f"inject={SYNCS}:signal=KILL:when={self.point}"
            instance.launch(
                wrapper=[strace, "-D", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={SYNCS}", "-e", inject]
            )
            nurse = threading.Thread(target=self._restart, args=(instance,))
            nurse.start()
            try:
                instance.wait_quietly(lambda: instance.matching("start"))
                for recipient, size in (("bob", 0), ("big", LARGE), ("nobody", 0), ("later", 0)):
                    self._submit(instance, f"{recipient}@example.org", size)
                self._check(peer, self._settled(instance))
            finally:
                assert instance.process is not None
                self._over = True
                instance.process.kill()
                nurse.join(PATIENCE_S)
                instance.process.kill()
                instance.process.wait(PATIENCE_S)

    def _submit(self, instance: Instance, recipient: str, size: int) -> None:
        token = f"{recipient.partition('@')[0]}-{self.point}"
        head = f"Subject: {token}\nMessage-ID: <{token}@example.com>\n\nThe text.\n"
        text = head.encode() + LINE * (size // len(LINE))
        before = self.killed
        done = instance.sendmail("-f", "alice@example.com", recipient, text=text)
        through_kill = self.killed and not before
        self.ledger.append(Submitted(recipient, token, size, done.returncode, done.stderr, through_kill))

    _over = False

    def _restart(self, instance: Instance) -> None:
        """What a service manager does: the daemon that died is started again."""
        assert instance.process is not None
        instance.process.wait()
        if self._over:
            return
        self.killed = True
        instance.launch()
        if self._over:
            instance.process.kill()

    def _settled(self, instance: Instance) -> list[dict[str, Any]]:
        """The history once nothing waits any more; it is asked for after each outcome and each start in the log.

        A daemon killed after C2 leaves no outcome in the log, and the next has nothing left to do.
        """
        for _ in range(50):
            seen = len(instance.events)
            asked = instance.run("pysendmail", "history", "--json")  # the daemon may die while it answers
            history = list(json_lines(asked.stdout)) if asked.returncode == 0 else []
            waiting = [r for entry in history for r in entry["recipients"] if r["outcome"] is None]
            if history and not waiting:
                return history
            instance.wait_quietly(
                lambda seen=seen: instance.matching("outcome", seen) or instance.matching("start", seen)  # type: ignore[misc]
            )
        self.problems.append(f"mail is still waiting: {waiting}")
        return history

    def _check(self, peer: PeerThread, history: list[dict[str, Any]]) -> None:
        reports = [entry for entry in history if entry["sender"] == ""]
        for mail in self.ledger:
            entries = [entry for entry in history if entry["message_id"] == f"<{mail.token}@example.com>"]
            copies = [
                m for m in peer.messages if f"Subject: {mail.token}\r\n".encode() in m.content and "<>" not in m.sender
            ]
            if mail.code != 0:
                allowed = b"may have been queued" in mail.said
                if (entries or copies) and not allowed:
                    self.problems.append(f"{mail}: refused, and yet {entries} {len(copies)} copies")
                continue
            if len(entries) != 1:
                self.problems.append(f"{mail}: accepted, {len(entries)} entries in the history")
                continue
            [recipient] = entries[0]["recipients"]
            wanted = "bounced" if mail.recipient.startswith("nobody") else "sent"
            if recipient["outcome"] != wanted:
                self.problems.append(f"{mail}: {recipient}")
            uncertain = sum(attempt["outcome"] == "uncertain" for attempt in recipient["attempts"])
            if not (wanted == "sent") <= len(copies) <= (wanted == "sent") + uncertain:
                self.problems.append(f"{mail}: {len(copies)} copies, {recipient}")
            if any(m.content.count(LINE[:-1] + b"\r\n") != mail.size // len(LINE) for m in copies):
                self.problems.append(f"{mail}: a copy is not whole")
            if len({m.content for m in copies}) > 1:
                self.problems.append(f"{mail}: the copies differ")
            if wanted == "bounced":
                self._check_bounce(mail, peer, reports)

    def _check_bounce(self, mail: Submitted, peer: PeerThread, reports: list[dict[str, Any]]) -> None:
        if len(reports) != 1:
            self.problems.append(f"{mail}: {len(reports)} bounces in the history")
            return
        uncertain = sum(a["outcome"] == "uncertain" for a in reports[0]["recipients"][0]["attempts"])
        copies = [m for m in peer.messages if m.sender.startswith("<>") and b"no such user" in m.content]
        if not 1 <= len(copies) <= 1 + uncertain:
            self.problems.append(f"{mail}: {len(copies)} bounces arrived, {reports}")


def test_promises_1_to_4_killed_at_each_commit_point(tmp_path: Path) -> None:
    """Exit 0: delivered exactly once, or twice if `uncertain`; else nothing; one bounce per failure.

    Among the points is C1 itself: the client loses its answer, asks again, exits 0, and there is one copy.
    """
    strace = debian.program("strace", "strace")
    if subprocess.run([strace, "-D", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace cannot trace here (ptrace is not allowed)")
    new = Instance(tmp_path)
    new.pysendmail("daemon", "--once")
    failed: list[str] = []
    points = lost_answers = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in itertools.count(1, WORKERS):
            runs = [Run(tmp_path / str(point), new.queue_directory, point) for point in range(start, start + WORKERS)]
            list(pool.map(lambda run: run.play(strace), runs))
            points += sum(run.killed for run in runs)
            lost_answers += sum(mail.through_kill and mail.code == 0 for run in runs for mail in run.ledger)
            failed += [f"killed at sync {run.point}: {problem}" for run in runs for problem in run.problems]
            for run in runs:
                shutil.rmtree(run.directory)
            if not all(run.killed for run in runs):
                break
    assert points >= 10, f"only {points} syncs were seen: the sweep does not reach what it is for"
    assert lost_answers, "no sendmail lived through a kill of the daemon"
    assert not failed, "\n".join(failed)
