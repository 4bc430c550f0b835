"""K2 and K3: SIGKILL at random moments, of the daemon under load and of `sendmail` while it works.

K2: FIFTY submitters and a smarthost that errs at random; the daemon is killed KILLS times a round and started again
at once: in the middle of its start, some time after it, or right after something happened (an attempt, an acceptance,
a dot at the recorder that is not answered yet), so that kills land in the windows that matter. In every other round the
sockets outlive the daemon. At the end everything settles, and I1-I16 have to hold.

K3: `sendmail` is killed while it streams 1 B to 5 MiB, before it has said that this is all, or while it waits for the
answer of a daemon that is asleep. There is never a part of a message and never two; and none where the end of the
input was not seen.

`--only N` runs round N alone. The seed decides what is sent and when a kill comes; the machine decides the rest.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from torture.checker import MAYBE
from torture.evidence import Call, Violation
from torture.ledger import Subject
from torture.recorder import Plan, Recorder
from torture.report import Part, Size
from torture.traffic import Traffic, everyday, in_rounds, scene, somebody, verdict

FIFTY = 50  # submitters
KILLS = 50  # in a round
CALLS = 16  # let go for each kill of the daemon
WINDOW_S = 1.0  # the event that a kill waits for did not come: then it comes without
LARGEST = 5 << 20
CLIENTS = 8  # at a time in K3
EVENTS = ("accepted", "attempt", "outcome", "bounce")


def run_daemon(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="kill-daemon", seed=seed)
    return in_rounds(part, size.of(sample=100, nightly=1000) // KILLS, only, directory, _daemon_round)


def _daemon_round(part: Part, number: int, directory: Path, program: Path) -> str:
    random = Random(f"{part.seed}/{number}")
    again = f"python -m torture {part.name} --seed {part.seed} --only {number}"
    plan, uid = Plan(seed=part.seed, rate=0.15), somebody()
    with scene(directory, random.getrandbits(24), program, plan, held=bool(number % 2)) as (subject, ledger, recorder):
        with Traffic(
            ledger, workers=FIFTY, seed=f"{part.seed}/{number}", message=lambda random: everyday(random) | {"uid": uid}
        ) as traffic:
            for _ in range(KILLS):
                traffic.let(CALLS)
                wait_for_a_moment(random, subject, recorder)
                subject.kill()
                subject.launch()
                part.case(f"round {number}", (), again=again)
        found = verdict(ledger, recorder)
    part.case(f"round {number}", found, again=again)
    part.cases -= 1  # the round itself is none
    told = Counter("0" if one.accepted else "maybe" if MAYBE in one.stderr else "nothing" for one in ledger.calls)
    return (
        f"round {number}: {len(ledger.calls)} calls, {told['0']} accepted, {told['nothing']} told that nothing was "
        f"queued, {told['maybe']} that it may have been; {len(recorder.accepted())} copies"
    )


def wait_for_a_moment(random: Random, subject: Subject, recorder: Recorder) -> None:
    """Until the moment of a kill, in the life of a daemon that has just been launched."""
    seen = len(subject.events)
    pause = threading.Event().wait
    if random.random() < 0.15:  # in the middle of its start
        pause(random.uniform(0.0, 0.6))
        return
    subject.happens(lambda: subject.matching("start", seen), WINDOW_S)
    seen, mails = len(subject.events), len(recorder.attempts)
    count = random.randint(1, 6)
    match random.choice(("time", "log", "log", "dot", "dot", "mail")):
        case "time":
            pause(random.uniform(0.0, 0.4))
        case "log":
            event = random.choice(EVENTS)
            wanted = 1 if event == "bounce" else count
            subject.happens(lambda: len(subject.matching(event, seen)) >= wanted, WINDOW_S)
        case "dot":
            _heard(recorder, lambda: sum(one.dot is not None for one in recorder.attempts[mails:]) >= count)
        case "mail":
            _heard(recorder, lambda: len(recorder.attempts) >= mails + count)
    pause(random.choice((0.0, 0.0, random.uniform(0.0, 0.005))))


def _heard(recorder: Recorder, true: Callable[[], bool]) -> None:
    with contextlib.suppress(AssertionError):
        recorder.wait_until(true, WINDOW_S)


def run_client(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="kill-client", seed=seed)
    return in_rounds(part, size.of(sample=100, nightly=1000) // KILLS, only, directory, _client_round)


def _client_round(part: Part, number: int, directory: Path, program: Path) -> str:
    random = Random(f"{part.seed}/{number}")
    again = f"python -m torture {part.name} --seed {part.seed} --only {number}"
    with (
        scene(directory, random.getrandbits(24), program) as (subject, ledger, recorder),
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        daemon = subject.process
        assert daemon is not None
        unfinished: list[str] = []

        def jobs(count: int) -> list[Random]:
            return [Random(random.random()) for _ in range(count)]

        def call(job: Random) -> Call:
            token = ledger.next_token()
            text = ledger.text(token, size=int(2 ** job.uniform(0, LARGEST.bit_length() - 1)))
            match job.choice(("stream", "stream", "open", "time", "time")):
                case "stream":
                    unfinished.append(token)
                    kill = {"kill_at_octet": job.randint(0, len(text))}
                case "open":  # all of it is there, but not its end
                    unfinished.append(token)
                    kill = {"kill_at_octet": len(text)}
                case _:
                    kill = {"kill_after": job.uniform(0.005, 0.1)}
            return ledger.submit(f"ok.{token}@example.org", token=token, text=text, **kill)

        def call_in_vain(job: Random) -> Call:
            """While the daemon is asleep: all of it is sent, and no answer comes."""
            return ledger.submit(f"ok.{job.random()}@example.org", kill_after=job.uniform(0.02, 0.5))

        daemon.send_signal(signal.SIGSTOP)
        killed = len(list(pool.map(call_in_vain, jobs(CLIENTS))))
        daemon.send_signal(signal.SIGCONT)
        while killed < KILLS:
            calls = list(pool.map(call, jobs(KILLS - killed)))
            killed += sum(one.killed for one in calls)
        found = verdict(ledger, recorder)
    found += [
        Violation(invariant="K3", text=f"{token}: sent, and sendmail was killed before its input ended")
        for token in unfinished
        if recorder.copies(token)
    ]
    for _ in range(killed - 1):
        part.case(f"round {number}", (), again=again)
    part.case(f"round {number}", found, again=again)
    whole = sum(bool(recorder.copies(one.token)) for one in ledger.calls if one.killed)
    return f"round {number}: {killed} killed, of whose messages {whole} were queued already"
