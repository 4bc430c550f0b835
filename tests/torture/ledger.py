"""The submitters' side: calls of `sendmail`, each with a token of its own, and the daemon that is killed meanwhile.

    subject = Subject(directory, smarthosts=[smarthost(recorder)], retry=...)       # an Instance that notes its deaths
    ledger = Ledger(subject)
    ledger.submit("ok.1@example.org", "no.1@example.org")                           # returns when sendmail has ended
    ledger.submit_parallel([["ok.2@example.org"], ["ok.3@example.org"]], workers=50)
    ledger.submit("ok.4@example.org", size=3_000_000, kill_after=0.01)              # SIGKILL for sendmail itself
    evidence = gather(ledger, recorder, settings=Settings(first=0.2))

The sender is `TOKEN@example.com`, so that an attempt that never came to its data can be told from all others, and
so that a bounce says whose it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rig.instance import BIN, PATIENCE_S, Instance, Table, as_user
from torture.evidence import Call, Evidence, Excuse, Rest, Sample, Settings, Stop
from torture.recorder import Recorder

LOOK_S = 1.0  # a line of the log may be lost with the daemon that wrote it: look again by then
REST_S = 2.0  # a daemon with nothing to do is watched for so long
LOOKS = 3
LINE = b"0123456789abcdef" * 60 + b"\n"  # of the bodies that have a size


class Subject(Instance):
    """An instance under torture: each end of a daemon process is noted, whoever brought it about."""

    def __init__(self, directory: Path, *, smarthosts: Sequence[Table] = (), **tables: Table | Sequence[Table]) -> None:
        self.stops: list[Stop] = []
        super().__init__(directory, smarthosts=smarthosts, **tables)

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        threading.Thread(target=self._await_end, args=(process,), daemon=True).start()
        super()._read_log(process)

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        at = time.time()
        how = signal.Signals(-code).name if code < 0 else str(code)
        self.stops.append(Stop(at=at, how=how, pid=process.pid))

    def come_back(self, *, wrapper: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> bool:
        """A daemon that is not there is started, as a service manager would; whether there is one then that serves."""
        if self.process is None or self.process.poll() is not None:
            seen = len(self.events)
            self.launch(wrapper=wrapper, environment=environment)
            self.wait_quietly(lambda: self.matching("start", seen))
            assert self.process is not None
            if not self.matching("start", seen):
                self.process.wait(PATIENCE_S)
        return self.process.poll() is None

    def sends(self, token: str, seconds: float = PATIENCE_S) -> bool:
        """Wait until the log says that this message was sent, at most so long; whether it does."""
        return self.happens(
            lambda: any(token in one["message_id"] for one in self.matching("outcome", 0, {"status": "sent"})), seconds
        )

    def news(self, after: int, seconds: float) -> bool:
        """Wait for a line of the log beyond the first `after`, at most so long; whether one came."""
        with self._news:
            return self._news.wait_for(lambda: len(self.events) > after, seconds)

    def settle(self, seconds: float = PATIENCE_S) -> bool:
        """Wait until nothing is left in the queue, at most so long; it is looked at after each line of the log."""
        deadline = time.monotonic() + seconds
        while True:
            seen = len(self.events)
            if self.listed() == []:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.news(seen, min(left, LOOK_S))

    def mailq(self, **options: Any) -> list[dict[str, Any]]:
        return self._answer(partial(super().mailq, **options))

    def history(self, *arguments: str) -> list[dict[str, Any]]:
        return self._answer(partial(super().history, *arguments))

    def _answer(self, ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What a daemon says, or the next one where it died over the question: a death may come as late as that."""
        while True:
            starts = len(self.matching("start"))
            try:
                return ask()
            except AssertionError:
                if not self.happens(partial(self._started_since, starts), PATIENCE_S):
                    raise

    def _started_since(self, starts: int) -> bool:
        return len(self.matching("start")) > starts

    def rest(self) -> Rest | None:
        """What the daemon takes of the machine in the next REST_S seconds; None where it has ended.

        One that has just worked has some of it left to do: it is looked at up to LOOKS times, until it sleeps.
        """
        rest = None
        for _ in range(LOOKS):
            rest = self._watched()
            if rest is None or rest.wake_ups <= Settings().wake_ups:
                break
        return rest

    def _watched(self) -> Rest | None:
        assert self.process is not None
        pid = self.process.pid
        try:
            before, began = _switches(pid), time.monotonic()
            threading.Event().wait(REST_S)
            woken, seconds = _switches(pid) - before, time.monotonic() - began
            return Rest(
                pid=pid,
                memory=figure(Path(f"/proc/{pid}/status"), "VmHWM") << 10,
                descriptors=len(os.listdir(f"/proc/{pid}/fd")),
                wake_ups=woken / seconds,
            )
        except OSError:
            return None


def _switches(pid: int) -> int:
    """How often the threads of a process have gone to sleep of their own will, which they do after each wake-up."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(figure(task / "status", "voluntary_ctxt_switches") for task in tasks)


def figure(file: Path, name: str) -> int:
    """A line of a status in /proc: its number."""
    [line] = [line for line in file.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


class Ledger:
    """`name` makes the tokens repeatable; without it they are new each time. `program` is the sendmail."""

    def __init__(self, instance: Instance, name: int | None = None, *, program: Path | None = None) -> None:
        self.instance = instance
        self.program = program or BIN / "sendmail"
        self.calls: list[Call] = []
        self.samples: list[Sample] = []
        self._prefix = secrets.token_hex(3) if name is None else f"{name % (1 << 24):06x}"
        self._lock = threading.Lock()
        self._count = 0

    def next_token(self) -> str:
        with self._lock:
            self._count += 1
            return f"tk{self._prefix}n{self._count}"

    def text(self, token: str, size: int = 0, header: bytes = b"") -> bytes:
        """A message with what framing may stumble over, and `size` octets more. It has a lone dot: it needs -i."""
        head = b"From: Judge <judge@example.com>\nSubject: torture\nMessage-ID: <%b@torture.example>\n%b\n"
        body = b"body of %b\n.a dot\n..two\n.\n\n.\n\xc3\xbc 8-bit\nFrom here\n" % token.encode()
        return head % (token.encode(), header) + body + LINE * (size // len(LINE)) + b"the end\n"

    def submit(
        self,
        *recipients: str,
        sender: str | None = None,
        size: int = 0,
        header: bytes = b"",
        text: bytes | None = None,
        token: str = "",
        options: Sequence[str] = (),
        in_header: Sequence[str] = (),
        uid: int | None = None,
        environment: dict[str, str] | None = None,
        wrapper: Sequence[str] = (),
        kill_after: float | None = None,
        kill_at_octet: int | None = None,
    ) -> Call:
        """One sendmail, to its end. `in_header`: recipients that it finds there by itself (-t in `options`).

        `kill_after` seconds, or once it was given so many octets (`kill_at_octet`), it gets SIGKILL. `wrapper` goes
        before the command (strace, ...).
        """
        token = token or self.next_token()
        sender = f"{token}@example.com" if sender is None else sender
        text = self.text(token, size, header) if text is None else text
        argv = (*options, "-i", "-f", sender or "<>", *(["--", *recipients] if recipients else []))
        started = time.time()
        process = subprocess.Popen(
            [*as_user(uid), *wrapper, str(self.program), "-C", str(self.instance.config), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        killed = False
        try:
            self.sample(process.pid)
            if kill_at_octet is not None:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(text[:kill_at_octet])
                    process.stdin.flush()
                process.kill()
                killed = True
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                process.stdin = None
            timer = threading.Timer(kill_after, process.kill) if kill_after is not None else None
            if timer is not None:
                timer.start()
            stderr = process.communicate(text if process.stdin else None, timeout=PATIENCE_S * 4)[1]
            if timer is not None:
                timer.cancel()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        killed = process.returncode == -signal.SIGKILL
        call = Call(
            token=token,
            uid=os.getuid() if uid is None else uid,
            argv=argv,
            sender=sender,
            recipients=(*recipients, *in_header),
            text=text,
            started=started,
            ended=time.time(),
            code=None if killed else process.returncode,
            stderr=stderr.decode("utf-8", "replace"),
        )
        with self._lock:
            self.calls.append(call)
        return call

    def submit_parallel(self, jobs: Iterable[Sequence[str]], workers: int, **options: Any) -> list[Call]:
        """One call for each list of recipients, so many at a time."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda recipients: self.submit(*recipients, **options), jobs))

    def sample(self, pid: int) -> None:
        """Keep what everybody on the machine may see of a process."""
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                sample = Sample(what=f"{what} of {pid}", octets=Path(f"/proc/{pid}/{what}").read_bytes())
                if sample.octets:
                    self.samples.append(sample)


def gather(
    ledger: Ledger,
    recorder: Recorder,
    *,
    settings: Settings | None = None,
    excuses: Sequence[Excuse] = (),
    stops: Sequence[Stop] | None = None,
    rests: Sequence[Rest] = (),
    history: bool = True,
) -> Evidence:
    """The evidence as it is now. Ask while the daemon runs: mailq and history are its answers.

    Without `history`, which only corroborates, one command less is run: ask again with it before a violation is told.
    """
    instance = ledger.instance
    if instance.process is not None and instance.process.poll() is None:
        ledger.sample(instance.process.pid)
    mailq, past = instance.mailq(), instance.history() if history else []
    return Evidence(
        calls=list(ledger.calls),
        connections=list(recorder.connections),
        attempts=list(recorder.attempts),
        stops=sorted(getattr(instance, "stops", ()) if stops is None else stops, key=lambda stop: stop.at),
        log=list(instance.events),
        text_log=instance.log,
        mailq=mailq,
        history=past,
        settings=settings or Settings(),
        excuses=excuses,
        samples=list(ledger.samples),
        rests=rests,
        ended=time.time(),
    )
