"""K4: one daemon after the other, and SIGHUP, under load: no submission is refused, none is lost, none is sent twice.

Rounds of HANDOVERS, by turns in two ways. By path: the daemon is stopped by SIGTERM and started again, and its new
socket replaces the old one. Held: the sockets outlive daemons; the next is started before or after the last has ended.
In between the configuration is read again. The moments are random, and right after something happened.

A daemon that is told to stop has no excuse: what the smarthost has told it is recorded. So I1-I16 are asked as if no
daemon had ended; beside them every `sendmail` has to say 0 and nothing else, and every daemon to end with 0.
`--only N` runs round N alone.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from random import Random

from rig.instance import PATIENCE_S
from torture.checker import check
from torture.evidence import Violation
from torture.ledger import Subject, gather
from torture.random_kills import wait_for_a_moment
from torture.recorder import Plan
from torture.report import Part, Size
from torture.traffic import (
    SETTINGS,
    Message,
    Traffic,
    everyday,
    in_rounds,
    rests,
    scene,
    settle,
    somebody,
)

HANDOVERS = 25  # in a round
SUBMITTERS = 30
CALLS = 12  # let go for each hand-over
OWNERS = 0.1  # of the calls are by who may write the queue, and does so where no daemon runs


def run(size: Size, seed: int, directory: Path, only: str) -> Part:
    part = Part(name="hand-over", seed=seed)
    return in_rounds(part, size.of(sample=50, nightly=500) // HANDOVERS, only, directory, _round)


def _round(part: Part, number: int, directory: Path, program: Path) -> str:
    random = Random(f"{part.seed}/{number}")
    again = f"python -m torture {part.name} --seed {part.seed} --only {number}"
    user = somebody()

    def message(random: Random) -> Message:
        return everyday(random) | {"uid": None if random.random() < OWNERS else user}

    found: list[Violation] = []
    plan = Plan(seed=part.seed, rate=0.1)
    with scene(directory, random.getrandbits(24), program, plan, held=bool(number % 2)) as (subject, ledger, recorder):
        with Traffic(ledger, workers=SUBMITTERS, seed=f"{part.seed}/{number}", message=message) as traffic:
            for _ in range(HANDOVERS):
                traffic.let(CALLS)
                wait_for_a_moment(random, subject, recorder)
                found += _hand_over(random, subject)
                part.case(f"round {number}", (), again=again)
        left = settle(ledger)
        rest = [] if left else rests(ledger)
        found += check(gather(ledger, recorder, settings=SETTINGS, stops=(), rests=rest))
    found += [_k4(f"{left} messages still wait")] if left else []
    found += [
        _k4(f"{call.token}: sendmail said {call.code} {call.stderr.strip()!r}")
        for call in ledger.calls
        if call.code != 0 or call.stderr
    ]
    part.case(f"round {number}", found, again=again)
    part.cases -= 1  # the round itself is none
    way = "held sockets" if subject.activation else "by path"
    return f"round {number}, {way}: {len(ledger.calls)} calls, {len(subject.stops)} daemons"


def _k4(text: str) -> Violation:
    return Violation(invariant="K4", text=text)


def _hand_over(random: Random, subject: Subject) -> list[Violation]:
    """One of the things that are done to a daemon that serves; what is wrong about it."""
    ways = ["restart", "restart", "reload"] + (["overlap", "overlap"] if subject.activation else [])
    last = subject.process
    assert last is not None
    seen = len(subject.events)
    match random.choice(ways):
        case "reload":
            last.send_signal(signal.SIGHUP)
            good = subject.happens(lambda: subject.matching("reload", seen), PATIENCE_S)
            return [] if good else [_k4("SIGHUP had no answer")]
        case "restart":
            found = _stop(last)
            subject.launch()
        case _:
            subject.launch()
            found = _stop(last)
    if not subject.happens(lambda: subject.matching("start", seen), PATIENCE_S):
        assert subject.process is not None
        found.append(_k4(f"the next daemon did not start ({subject.process.poll()})"))
        subject.launch()
    return found


def _stop(daemon: subprocess.Popen[bytes]) -> list[Violation]:
    daemon.send_signal(signal.SIGTERM)
    code = daemon.wait(PATIENCE_S * 2)
    return [_k4(f"a daemon ended with {code}")] if code else []
