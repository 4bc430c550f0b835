"""A little of the kill sweep: promises 1 to 4, with kill -9 at commits, at the client, without a daemon, at a start.

All of it is `python -m torture kill-sweep`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rig import debian
from torture.kill_sweep import CONTROLS, MOST, SAMPLE, Point, Sweep, Verdict, choose, is_caught, traces
from torture.report import Size
from torture.scenarios import SCENARIOS
from torture.traffic import WORKERS

# Around every commit of mail that is accepted, sent, refused and tried again, and then of each other kind a few.
POINTS = [
    *(f"half-refused:writer:fdatasync:{k}" for k in range(1, 7)),
    *(f"half-refused:writer:sendto:{k}" for k in range(1, 4)),
    "half-refused:main:write:5",
    "bounce:writer:pwrite64:250",
    "deliver:main:sendto:20",
    "expiry:main:recvfrom:40",
    "submit:client:sendto:1",
    "submit:client:recvfrom:1",
    "submit:direct:fdatasync:10",
    "recovery:start:fdatasync:2",
    "recovery:start:pwrite64:30",
    "reload:main:rename:1",
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    strace = debian.program("strace", "strace")
    if not traces(strace):
        pytest.skip("strace cannot trace here (ptrace is not allowed)")
    made = Sweep(tmp_path_factory.mktemp("sweep"), strace)
    made.prepare(SCENARIOS[name] for name in {text.partition(":")[0] for text in POINTS})
    return made


@pytest.fixture(scope="module")
def swept(sweep: Sweep) -> Sequence[Verdict]:
    """Each point, once."""
    points = [Point.parse(text) for text in POINTS]
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(sweep.visit, points))


def broken(swept: Sequence[Verdict], *invariants: str) -> list[str]:
    """The violations of these, with their points."""
    return [
        f"{point}: {violation}"
        for point, verdict in zip(POINTS, swept, strict=True)
        for violation in verdict.violations
        if violation.invariant in invariants
    ]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_loss_is_seen(sweep: Sweep, control: str) -> None:
    """A daemon that takes its log with it, and a sendmail that says 0 without an answer, are found out."""
    assert is_caught(sweep, control)


def test_the_sweep_goes_where_it_is_sent(swept: Sequence[Verdict]) -> None:
    """Nearly every point is reached (how many calls there are depends on what comes first), and nothing hangs."""
    missed = [point for point, verdict in zip(POINTS, swept, strict=True) if not verdict.reached]
    assert len(missed) <= len(POINTS) // 4, missed
    assert broken(swept, "rest") == []


def test_promise_1_exit_0_survives_kill_9(swept: Sequence[Verdict]) -> None:
    """What was acknowledged arrives, whole. Who loses the answer with the daemon asks the next one, and is told 0."""
    assert broken(swept, "I1", "I4", "I5", "answer") == []
    assert sum(verdict.lived for verdict in swept) > 0


def test_promise_2_a_failure_leaves_nothing(swept: Sequence[Verdict]) -> None:
    """Another exit code than 0, or a sendmail that was killed: all of the message or nothing."""
    assert broken(swept, "I3") == []


def test_promise_3_every_recipient_has_one_end(swept: Sequence[Verdict]) -> None:
    """Sent what could be sent, and one bounce for what could not, whenever the daemon died."""
    assert broken(swept, "fate", "I12", "I13") == []


def test_promise_4_twice_only_when_uncertain(swept: Sequence[Verdict]) -> None:
    """A second copy only where the daemon died before it had recorded the answer; the log says `uncertain`."""
    others = {f"I{number}" for number in range(1, 17)} - {"I1", "I3", "I4", "I5", "I12", "I13"}
    assert broken(swept, *others) == []


def test_a_sample_takes_from_every_kind_and_a_night_takes_all_that_are_few() -> None:
    """The one rename is among 200 of thousands of page writes; the same seed gives the same points, another others."""

    def points(call: str, file: str, number: int) -> list[Point]:
        return [Point(scenario="submit", who="writer", call=call, k=k, file=file) for k in range(1, number + 1)]

    pages, few = points("pwrite64", "queue.db-wal", 5000), [*points("rename", "", 1), *points("fdatasync", "wal", 9)]
    sample = choose([*pages, *few], Size(name="sample"), 1, SAMPLE)
    night = choose([*pages, *few], Size(name="nightly"), 1, None)
    assert len(sample) == min(SAMPLE, MOST + len(few))
    assert set(few) < set(sample)
    assert set(few) < set(night)
    assert len(night) == MOST + len(few)
    assert len(choose([*pages, *few], Size(name="nightly", times=3), 1, None)) == 3 * MOST + len(few)
    assert choose([*pages, *few], Size(name="nightly"), 1, None) == night
    assert set(choose([*pages, *few], Size(name="nightly"), 2, None)) != set(night)
