"""The numbers to reach, each a ratio of two figures of one run, or a bound on one: which are met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidebyside.figures import Figures

OURS, OUR_C = "pysendmail", "pysendmail, C"
WAYS = ("socket", "SMTP", "-bs")  # of ours, for a program with much to send
Point = tuple[str, str]  # what, who
ONE_PROCESS = "processor time: a daemon in Python is one process, whose threads share a lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The best of `of` over `over`, or alone; to be at most, or at least, `bound`.

    `what_bounds`: for who reads that it is not met, as `profile` and measurements beside it have shown.
    """

    words: str
    of: Sequence[Point]
    over: Point | None = None
    at_most: bool = False
    bound: float
    what_bounds: str = ""

    def reached(self, figures: Figures) -> float | None:
        """None: not measured."""
        values = [value for point in self.of if (value := figures.median(*point)) is not None]
        value = (min if self.at_most else max)(values, default=None)
        if self.over is None or value is None:
            return value
        other = figures.median(*self.over)
        return value / other if other else None

    def met(self, reached: float) -> bool:
        return reached <= self.bound if self.at_most else reached >= self.bound

    def verdict(self, reached: float) -> str:
        if self.met(reached):
            return "met"
        return f"**not met**: {self.what_bounds}" if self.what_bounds else "**not met**"

    @property
    def bound_words(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def _drain(of: str) -> str:
    return f"drain/{of}: per s"


def _backlog(waiting: str) -> tuple[Goal, ...]:
    part = "million" if waiting == "1,000,000" else "backlog"
    pairs = (("drain rate", "drained, per s"), ("submissions/s (bulk, 4 at a time)", "bulk, 4 at a time, per s"))
    return tuple(
        Goal(
            words=f"{words} with {waiting} queued / with none",
            of=[(f"{part}/{waiting}: {what}", OURS)],
            over=(f"backlog/0: {what}", OURS),
            bound=0.8,
        )
        for words, what in pairs
    )


GOALS: Sequence[Goal] = (
    Goal(
        words="submit, median wall: C client / dma",
        of=[("submit/wall ms", OUR_C)],
        over=("submit/wall ms", "dma"),
        at_most=True,
        bound=0.8,
    ),
    Goal(
        words="submit, median wall: Python stub / Postfix",
        of=[("submit/wall ms", OURS)],
        over=("submit/wall ms", "postfix"),
        at_most=True,
        bound=1.2,
        what_bounds="its processor time is that of a bare `python3 -I -S` (`python bench/startup.py`)",
    ),
    Goal(
        words="submissions/s, 16 at a time: C client / dma",
        of=[("submit/16 at a time, per s", OUR_C)],
        over=("submit/16 at a time, per s", "dma"),
        bound=1.5,
    ),
    *(
        Goal(
            words=f"bulk submissions/s, {sessions}: the best of our ways / Postfix's smtpd",
            of=[(f"bulk/{way} {parallel} at a time, per s", OURS) for way in WAYS],
            over=(f"bulk/SMTP {parallel} at a time, per s", "postfix"),
            bound=2,
            what_bounds=ONE_PROCESS,
        )
        for parallel, sessions in ((1, "1 session"), (16, "16 sessions"))
    ),
    *(
        Goal(
            words=f"drain {size}, {trip} / Postfix",
            of=[(what, OURS)],
            over=(what, "postfix"),
            bound=bound,
            what_bounds=ONE_PROCESS,
        )
        for size, trip, bound in (
            ("2 KB", "0 ms", 4),
            ("2 KB", "20 ms", 1.5),
            ("100 KB", "0 ms", 1.5),
            ("5 MB", "0 ms", 1),
        )
        for what in (_drain(f"{size}, {trip}"),)
    ),
    Goal(
        words="CPU per message drained (2 KB, 0 ms) / Postfix",
        of=[("drain/2 KB, 0 ms: CPU ms each", OURS)],
        over=("drain/2 KB, 0 ms: CPU ms each", "postfix"),
        at_most=True,
        bound=0.3,
        what_bounds="what the dialogue, the log and the store of a message cost in Python (shares below)",
    ),
    *_backlog("100,000"),
    *_backlog("1,000,000"),
    Goal(
        words="memory (PSS) of the idle daemon, MiB",
        of=[("memory/idle MiB", OURS)],
        at_most=True,
        bound=30,
        what_bounds="Python with asyncio and ssl is 18 of them, aiosmtplib 6, for it loads the package email",
    ),
    Goal(
        words="memory (PSS) at most with 100,000 queued, MiB",
        of=[("backlog/100,000: memory at most MiB", OURS)],
        at_most=True,
        bound=70,
    ),
    Goal(
        words="mailq with 10,000 queued / nullmailer's",
        of=[("backlog/10,000: mailq s", OURS)],
        over=("backlog/10,000: mailq s", "nullmailer"),
        at_most=True,
        bound=1,
        what_bounds="nullmailer's, in C, prints a line of each file; ours has recipients and reasons, by way of JSON",
    ),
    Goal(
        words="mailq's first line with 1,000,000 queued, s",
        of=[("million/1,000,000: mailq's first line s", OURS)],
        at_most=True,
        bound=1,
    ),
)
