"""The nine scenarios: what a queue does on its good and its bad days, played from outside and waited for by event.

    template = Template.make(SCENARIOS["expiry"], directory)            # once
    with Stage(scenario, directory, template) as stage:                 # once for each case
        stage.start(wrapper=...)                                        # the daemon, and one again whenever it dies
        scenario.play(stage)
        stage.settle()                                                  # nothing waits any more
        violations = stage.judge()

Recipients' local parts say what the recorder does (recorder.py), and so what has to become of them: `judge` adds to
I1-I16 that mail which could be sent was sent, that what was refused was bounced, and that nobody was turned away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from rig.instance import BIN, PATIENCE_S, Event, Table, json_lines, smarthost
from torture.checker import TEMPFAIL, check
from torture.evidence import Attempt, Call, Connection, Evidence, Excuse, Settings, Stop, Violation
from torture.keeper import Keeper
from torture.ledger import Ledger, Subject, gather
from torture.recorder import Recorder, mood_of
from torture.view import FINAL

RETRY_S = 0.2
LIFETIME_S = 0.5  # where mail is to expire
LARGE = 1_300_000  # stored in more than one commit, sent in more than one read
HALF_A_LOG = 2_400_000  # SQLite writes its WAL back once it has 1,000 pages of 4 KiB
SMALL = 1 << 20  # sendmail keeps so much of its input, and can tell it again to the next daemon
ROUNDS = 50  # looks at the queue until it must be empty
CONFIG = 78
UNREAD = ("cannot read the configuration", "it cannot be read")
DEAD = "@dead.example"  # its smarthost is not there
DEAD_PORT = 1
TIMES = ("at", "started", "ended", "opened", "closed", "answered_at", "handshake_at")  # in evidence
SETTINGS = Settings(first=RETRY_S, postmaster="root@example.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`prepare` makes the queue that the scenario begins with, and its daemon is killed. `new`: it begins with none."""

    name: str
    play: Callable[[Stage], None]
    prepare: Callable[[Stage], None] | None = None
    tables: Mapping[str, Table | Sequence[Table]] = field(default_factory=dict)
    settings: Settings = SETTINGS
    new: bool = False
    starts: bool = False  # its start is what it is about
    submits: bool = False  # its submission is what it is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A queue to begin with, and all that was seen while it was made."""

    queue: Path | None = None
    calls: Sequence[Call] = ()
    connections: Sequence[Connection] = ()
    attempts: Sequence[Attempt] = ()
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    stops: Sequence[Stop] = ()
    events: Sequence[Event] = ()
    lines: list[str] = field(default_factory=list)
    ended: float = 0.0

    @classmethod
    def make(cls, scenario: Scenario, directory: Path) -> Template:
        """The queue of this scenario; an empty one where it says nothing of that."""
        if scenario.new:
            return cls()
        with Stage(scenario, directory) as stage:
            stage.start()
            if scenario.prepare is not None:
                scenario.prepare(stage)
            stage.keeper.close()
            stage.subject.wait_quietly(lambda: False)  # its log has come to its end
            recorder, subject = stage.recorder, stage.subject
            recorder.wait_until(lambda: all(one.closed is not None for one in recorder.connections))
            return cls(
                queue=subject.queue_directory,
                calls=stage.ledger.calls,
                connections=recorder.connections,
                attempts=recorder.attempts,
                seen=recorder.seen,
                stops=subject.stops,
                events=subject.events,
                lines=subject.lines,
                ended=time.time(),
            )


def _later(value: Any, by: float) -> Any:
    """A copy of some evidence in which everything happened `by` seconds later."""
    if isinstance(value, list):
        return [_later(one, by) for one in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changes: dict[str, Any] = {}
    for one in fields(value):
        old = getattr(value, one.name)
        if one.name in TIMES and old is not None:
            changes[one.name] = old + by
        elif isinstance(old, list) or is_dataclass(old):
            changes[one.name] = _later(old, by)
    return replace(value, **changes)


class Stage:
    """One run of a scenario, in a directory of its own."""

    def __init__(self, scenario: Scenario, directory: Path, template: Template | None = None) -> None:
        self.scenario = scenario
        self.directory = directory
        directory.mkdir()
        self.recorder = Recorder()
        self.subject = Subject(directory)
        self.configure()
        self.ledger = Ledger(self.subject)
        self.keeper = Keeper(self.subject)
        self.client: Sequence[str] = ()  # what goes before the next sendmail
        self.excuses: Sequence[Excuse] = ()
        if template is not None:
            self._continue(template)

    def _continue(self, template: Template) -> None:
        """What was seen before is evidence too, as if it had been just now; the recorder goes on where it was."""
        by = time.time() - template.ended
        if template.queue is not None:
            shutil.copytree(template.queue, self.subject.queue_directory)
        self.ledger.calls += _later(template.calls, by)
        self.recorder.connections += _later(template.connections, by)
        self.recorder.attempts += _later(template.attempts, by)
        self.recorder.seen.update(template.seen)
        self.subject.stops += _later(template.stops, by)
        self.subject.events += template.events
        self.subject.lines += template.lines

    def __enter__(self) -> Self:
        self.recorder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.close()
        self.recorder.__exit__()

    # -- the daemon --

    def configure(self, name: str = "main", **settings: Any) -> None:
        """The configuration file with the recorder as the smarthost `name`."""
        tables: dict[str, Any] = {
            "retry": {"first": f"{RETRY_S}s", "factor": 1.0, "jitter": 0.0},
            **self.scenario.tables,
        }
        smarthosts = [smarthost(self.recorder, name, tls="none", **settings), *tables.pop("smarthosts", ())]
        self.subject.configure(smarthosts=smarthosts, **tables)

    def start(self, *, wrapper: Sequence[str] = ()) -> None:
        self.keeper.start(wrapper=wrapper)

    def reload(self) -> Event:
        """SIGHUP until a daemon has lived to say what it made of it."""
        subject = self.subject
        seen = len(subject.events)
        while not (words := subject.matching("reload", seen)):
            daemon = self.keeper.process
            # Before its start is told, SIGHUP would end it: it is not there yet to hear of it.
            self._wait_beside(daemon, "start", pid=str(daemon.pid))
            daemon.send_signal(signal.SIGHUP)
            self._wait_beside(daemon, "reload", seen)
        return words[0]

    def _wait_beside(self, daemon: subprocess.Popen[bytes], event: str, after: int = 0, **fields: str) -> None:
        """Wait for this event, or until another daemon has taken the place of this one."""
        self.subject.wait_through_deaths(
            lambda: self.subject.matching(event, after, fields) or self.keeper.process is not daemon
        )

    # -- mail --

    def submit(self, *recipients: str, **options: Any) -> Call:
        """One sendmail. Only the first one is watched by `client`."""
        wrapper, self.client = self.client, ()
        return self.ledger.submit(*recipients, wrapper=wrapper, **options)

    def wait_for_outcome(self, call: Call) -> None:
        """Wait until the log tells of an outcome of this mail; or the daemon has died, and may never tell."""
        restarts = self.keeper.restarts
        self.subject.wait_through_deaths(
            lambda: (
                self.keeper.restarts > restarts
                or any(call.token in event["message_id"] for event in self.subject.matching("outcome"))
            )
        )

    def settle(self) -> None:
        """Wait until nothing waits; the queue is listed again when the log says that all it listed is over.

        A daemon killed after C2 leaves no outcome in the log, hence a look after each start, too.
        """
        for _ in range(ROUNDS):
            starts, restarts = len(self.subject.matching("start")), self.keeper.restarts
            listed = self.subject.run("mailq", "--json")
            whole = listed.returncode == 0 and self.keeper.restarts == restarts  # or the daemon died over the question
            waiting = _waiting(listed.stdout) if whole else None
            if waiting is not None and not waiting:
                return
            asked = f"mailq said {listed.returncode} {listed.stderr.decode()!r}, and waiting are {waiting}"
            news = partial(self._news, starts, waiting)
            assert self.subject.happens(news, PATIENCE_S), f"{self.subject.log}\n{asked}"
        raise AssertionError(f"mail is still waiting: {waiting}")

    def _news(self, starts: int, waiting: set[tuple[str, str]] | None) -> bool:
        """An outcome may have been told before the queue was listed: by a fault that answers before its commit."""
        if len(self.subject.matching("start")) > starts:
            return True
        outcomes = self.subject.matching("outcome")
        over = {(event["queue_id"], event["recipient"]) for event in outcomes if event["status"] in FINAL}
        return waiting is not None and over >= waiting

    # -- the end --

    def judge(self) -> list[Violation]:
        """I1-I16, and what the scenario itself promises. Asked while the daemon runs."""
        violations: list[Violation] = []
        for history in (False, True):
            evidence = gather(
                self.ledger, self.recorder, settings=self.scenario.settings, excuses=self.excuses, history=history
            )
            violations = [*check(evidence), *unexpected(evidence)]
            if not violations:
                break
        return violations


def _waiting(listed: bytes) -> set[tuple[str, str]]:
    """Queue id and recipient of all that waits."""
    return {(entry["queue_id"], f"<{one['address']}>") for entry in json_lines(listed) for one in entry["recipients"]}


def fate(address: str) -> str:
    """What has to become of mail to this recipient."""
    if address.endswith(DEAD):
        return "expired"
    return {"no": "bounced", "dot5": "bounced", "busy": "expired"}.get(mood_of(address).name, "sent")


def unexpected(evidence: Evidence) -> Iterator[Violation]:
    """Whoever lived to hear it was told 0, or nothing had to work; what could be sent was sent, and nothing else."""
    for call in evidence.calls:
        allowed = (None, 0) if len(call.text) < SMALL and not evidence.excuses else (None, 0, TEMPFAIL)
        unread = evidence.excuses and call.code == CONFIG and any(words in call.stderr for words in UNREAD)
        if call.code not in allowed and not unread:
            yield Violation(invariant="answer", text=f"{call.token}: sendmail said {call.code}: {call.stderr}")
        if not call.accepted:
            continue
        copies = [one for one in evidence.attempts if one.token == call.token and one.dot and one.dot.accepted]
        arrived = {recipient for copy in copies for recipient in copy.recipients}
        for recipient in call.recipients:
            if (recipient in arrived) != (fate(recipient) == "sent"):
                yield Violation(
                    invariant="fate",
                    text=f"{call.token} to {recipient} was to be {fate(recipient)}, and {len(copies)} copies arrived",
                )


# -- the nine --


def _submit_one(stage: Stage) -> None:
    stage.submit("ok.1@example.org")


def _submit_many(stage: Stage) -> None:
    stage.submit(*(f"ok.{number}@{'abcd'[number % 4]}.example" for number in range(100)))


def _deliver(stage: Stage) -> None:
    """Mail that arrives, some of it at the second or third try, and some of it twice."""
    stage.submit("ok.1@example.org", size=LARGE)
    stage.submit("later2.2@example.org")
    for mood in ("lost", "cut", "drop", "dot4x1"):
        stage.submit(f"{mood}.3@{mood}.example")


def _bounce(stage: Stage) -> None:
    stage.submit("no.1@example.org")
    stage.submit("dot5.2@example.org")
    stage.submit("no.3@example.org", sender="")


def _half_refused(stage: Stage) -> None:
    stage.submit(
        "ok.1@example.org",
        "no.1@example.org",
        "later1.2@example.org",
        "no.2@a.example",
        "ok.3@a.example",
        "ok.4@b.example",
    )


def _expire(stage: Stage) -> None:
    """A lifetime that is over, with a smarthost that answers and one that is not there; and a person's order."""
    stage.submit("busy.1@example.org", "ok.1@example.org")
    stage.submit(f"ok.2{DEAD}")
    forced = stage.submit("busy.3@example.org")
    stage.wait_for_outcome(forced)
    for event in stage.subject.matching("accepted"):
        if forced.token in event["message_id"]:
            stage.subject.run("pysendmail", "queue", "expire", event["queue_id"])


def _prepare_recovery(stage: Stage) -> None:
    """The daemon is to die with one message half received, one half sent, and one that waits for its next try."""
    stage.submit("later3.1@example.org", "ok.1@example.org")
    token = stage.ledger.next_token()
    text = stage.ledger.text(token, 3 * LARGE)
    started = time.time()
    command = [str(BIN / "sendmail"), "-C", str(stage.subject.config), "-i", "-f", f"{token}@example.com"]
    client = subprocess.Popen(
        [*command, "ok.2@example.org"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with client:
        assert client.stdin is not None
        client.stdin.write(text)
        client.stdin.flush()  # now most of it is with the daemon, and before what comes next
        half = stage.submit("slow.3@example.org", "no.3@example.org", "ok.3@example.org")
        stage.recorder.wait_until(lambda: stage.recorder.copies(half.token))
        stage.keeper.close()
        client.kill()
    stage.ledger.calls.append(
        Call(
            token=token,
            uid=os.getuid(),
            argv=tuple(command),
            sender=f"{token}@example.com",
            recipients=("ok.2@example.org",),
            text=text,
            started=started,
            ended=time.time(),
            code=None,
        )
    )


def _recover(stage: Stage) -> None:
    stage.submit("ok.4@example.org")


def _prepare_large(stage: Stage) -> None:
    """A WAL that is half full, and a queue.db with nothing in most of its pages."""
    call = stage.submit("ok.1@example.org", size=HALF_A_LOG)
    stage.wait_for_outcome(call)


def _write_back(stage: Stage) -> None:
    stage.submit("ok.2@example.org", size=HALF_A_LOG)


def _reload(stage: Stage) -> None:
    """Another name for the smarthost, other aliases; then a file that is broken, and nothing may notice."""
    subject = stage.subject
    aliases = subject.directory / "aliases"
    team: dict[str, Any] = {"options": ("-t",), "header": b"To: team\n"}
    aliases.write_text("team: ok.1@example.org\n")
    stage.submit("later2.3@example.org")
    stage.submit(in_header=("ok.1@example.org",), **team)
    aliases.write_text("team: ok.2@example.org\n")
    stage.configure("second", messages_per_connection=1)
    stage.reload()
    stage.submit(in_header=("ok.2@example.org",), **team)
    subject.write_configuration(f"{subject.config.read_text()}\n[retry\n")
    stage.reload()
    stage.submit("no.4@example.org", "ok.4@example.org")


SCENARIOS = {
    one.name: one
    for one in (
        Scenario(name="submit", play=_submit_one, new=True, submits=True),
        Scenario(name="submit-100", play=_submit_many, submits=True),
        Scenario(name="deliver", play=_deliver),
        Scenario(name="bounce", play=_bounce),
        Scenario(name="half-refused", play=_half_refused),
        Scenario(
            name="expiry",
            play=_expire,
            tables={
                "queue": {"lifetime": f"{LIFETIME_S}s"},
                "smarthosts": [{"name": "dead", "host": "127.0.0.1", "port": DEAD_PORT, "tls": "none"}],
                "route": [
                    {"recipient": f"*{DEAD}", "smarthost": ["dead"]},
                    {"recipient": "*", "smarthost": ["main"]},
                ],
            },
            settings=replace(SETTINGS, lifetime=LIFETIME_S),
        ),
        Scenario(name="recovery", play=_recover, prepare=_prepare_recovery, starts=True),
        Scenario(name="write-back", play=_write_back, prepare=_prepare_large, starts=True),
        Scenario(name="reload", play=_reload, new=True, starts=True),
    )
}
