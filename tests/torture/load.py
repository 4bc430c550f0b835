"""L: two hundred submitters at once, and ten thousand messages that their destination defers, while others get through.

MANY submitters send everything as fast as they can: most of it to one destination that says 451 to all of it, and now
and then a message to another one, which accepts. That one has to leave within LIMIT_S of its acceptance, by the
daemon's own measure (`delay_s` in its log). Then the destination recovers; after a flush every message arrives exactly
once, and I1-I16 hold.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rig.instance import smarthost
from torture.checker import check
from torture.evidence import Settings, Violation
from torture.ledger import Ledger, Subject, gather
from torture.recorder import Plan, Recorder
from torture.report import Part, Size
from torture.traffic import ACCESS, Message, fast_sendmail, settle, somebody

MANY = 200
LIMIT_S = 30.0
GOOD_ONE_IN = 50
RETRY = {"first": "20s", "factor": 2.0, "jitter": 0.1}
RECOVERY_S = 600.0
LATE = "late.example.com"  # senders there write to the destination that defers


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage(Plan):
    """What is from LATE is deferred until `over`."""

    over: threading.Event = field(default_factory=threading.Event)

    def mood(self, key: str, attempt: int) -> str:
        return "busy" if key.endswith(LATE) and not self.over.is_set() else ""


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="load", seed=seed)
    program = fast_sendmail(directory)
    count = size.of(sample=1000, nightly=10_000)
    plan = Outage(seed=seed)
    settings = Settings(first=20.0, factor=2.0, jitter=0.1, quiet_s=RECOVERY_S, answer_s=60.0)
    with Recorder(plan) as recorder:
        subject = Subject(directory, smarthosts=[smarthost(recorder)], retry=RETRY, access=ACCESS)
        ledger = Ledger(subject, name=seed, program=program)
        user = somebody()
        good: list[str] = []

        def message(number: int) -> Message:
            token = ledger.next_token()
            if number % GOOD_ONE_IN == 0:
                good.append(token)
                return {"recipients": [f"ok.{number}@good.example.org"], "token": token, "uid": user}
            sender = f"{token}@{LATE}"
            return {"recipients": [f"ok.{number}@slow.example.org"], "token": token, "uid": user, "sender": sender}

        with subject:
            began = time.monotonic()
            submit(ledger, [message(number) for number in range(count + count // GOOD_ONE_IN)])
            submitted_s = time.monotonic() - began
            subject.happens(lambda: len(_sent(subject, good)) == len(good), LIMIT_S)
            delays = _sent(subject, good)
            waiting = len(subject.mailq())
            began = time.monotonic()
            plan.over.set()
            subject.pysendmail("flush")
            left = settle(ledger, RECOVERY_S)
            recovered_s = time.monotonic() - began
            found = check(gather(ledger, recorder, settings=settings))
    found += [
        Violation(invariant="L", text=f"{token}: left after {delays.get(token)} s, others being deferred")
        for token in good
        if delays.get(token, LIMIT_S + 1) > LIMIT_S
    ]
    found += [
        Violation(invariant="L", text=f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
        for call in ledger.calls
        if call.code != 0
    ]
    copies = Counter(attempt.token for attempt in recorder.accepted())
    found += [
        Violation(invariant="L", text=f"{call.token}: {copies[call.token]} copies")
        for call in ledger.calls
        if copies[call.token] != 1
    ]
    if left:
        found.append(Violation(invariant="L", text=f"{left} messages still wait {RECOVERY_S:.0f} s after the recovery"))
    if waiting < count:
        part.skip("load", f"only {waiting} messages were waiting when the destination recovered")
    part.note(f"{len(ledger.calls)} calls, {MANY} at a time, in {submitted_s:.0f} s")
    part.note(
        f"{len(good)} to a good destination left after {max(delays.values(), default=0.0):.2f} s at most, "
        f"{waiting} being deferred (limit {LIMIT_S:.0f} s)"
    )
    part.note(f"after the recovery all arrived within {recovered_s:.0f} s")
    part.case("load", found, again=f"python -m torture load --seed {seed}")
    part.cases = len(ledger.calls)
    return part


def submit(ledger: Ledger, messages: list[Message]) -> None:
    """All of them, MANY at a time."""
    left = iter(messages)
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                message = next(left, None)
            if message is None:
                return
            ledger.submit(*message.pop("recipients"), **message)

    threads = [threading.Thread(target=work) for _ in range(MANY)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _sent(subject: Subject, tokens: list[str]) -> dict[str, float]:
    """token -> the seconds from acceptance to delivery, as the daemon logged them."""
    wanted = {f"<{token}@torture.example>": token for token in tokens}
    return {
        wanted[event["message_id"]]: float(event["delay_s"])
        for event in list(subject.events)
        if event["status"] == "sent" and event["message_id"] in wanted
    }
