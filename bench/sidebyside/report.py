"""RESULTS.md and its chart, made from the figures that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sidebyside.chart import Bar, Panel, svg
from sidebyside.figures import Figures
from sidebyside.goals import GOALS, OUR_C, OURS, WAYS

NAMES = {
    OURS: "pysendmail",
    OUR_C: "pysendmail, C client",
    "postfix": "Postfix",
    "nullmailer": "nullmailer",
    "dma": "dma",
    "opensmtpd": "OpenSMTPD",
}
_OTHERS = [who for who in NAMES if who not in (OURS, OUR_C)]
CHART = "results.svg"

# part -> its heading and what has to be known of its figures
_PARTS = {
    "submit": ("Submission", "2 KB on standard input of `sendmail`, delivery held back."),
    "bulk": ("A program with much to send", "2 KB each, delivery held back; SMTP waits for each reply."),
    "arrival": ("From exit 0 to the smarthost", "One message at a time; the median of each round."),
    "through": ("All the way", "16 `sendmail` at a time while delivery goes on, until the smarthost has the last one."),
    "drain": ("Delivery", "Of a queue that has filled; from the first connection to the last message."),
    "memory": ("Memory", "The proportional set size of all processes that stay when mail was delivered. dma has none."),
    "backlog": ("With much in the queue", "What it costs all else; the first 2,000 that leave."),
    "slow-disk": ("On a disk that turns", "The same with each fsync 10 ms slower."),
    "million": ("A million queued", "Ours only."),
    "profile": ("Where the daemon's time goes", "Per cent of its processor time, by function; the largest come first."),
}
_ABSENT = "–"

# heading, what is better, the measure, who has no such thing and what to say of it
_PANELS = (
    ("One sendmail", "wall ms, less is better", "submit/wall ms", ""),
    ("Submissions, 16 at a time", "per second, more is better", "submit/16 at a time, per s", ""),
    ("Bulk, one session", "per second, more is better", "bulk/{} 1 at a time, per s", "no such way"),
    ("Drain of 2 KB messages", "per second, more is better", "drain/2 KB, 0 ms: per s", ""),
    ("Drain at a round trip of 20 ms", "per second, more is better", "drain/2 KB, 20 ms: per s", ""),
    ("Processor time to deliver one", "ms, less is better", "drain/2 KB, 0 ms: CPU ms each", ""),
    ("mailq with 10,000 queued", "seconds, less is better", "backlog/10,000: mailq s", ""),
    ("Idle memory", "MiB (PSS), less is better", "memory/idle MiB", "no daemon"),
)


def write(figures: Figures, directory: Path) -> None:
    """Both files, over what was there."""
    (directory / "RESULTS.md").write_text(page(figures))
    (directory / CHART).write_text(chart(figures))


def page(figures: Figures) -> str:
    parts = [_part(figures, name, *words) for name, words in _PARTS.items()]
    runs: dict[str, list[str]] = {}
    for name, words in figures.about.items():
        runs.setdefault(words, []).append(name)
    about = "\n".join(f"- {', '.join(names)}: {words}" for words, names in runs.items())
    return f"""\
# Side by side

pysendmail beside the MTAs that it replaces, each as Debian ships it, in a throwaway root of its own, on one disk of one
machine, with one smarthost on loopback. In each round everybody has his turn; a cell is the median of the rounds and,
in brackets, the least and the most. Only figures of one run compare. "Against the best": ours divided by the best of
the others, in bold where ours is better.

    make bench                          # root; about half an hour; gigabytes in ~/.cache, for a week
    make bench SIZE=sample              # minutes; shows that it works, no more
    make bench PARTS="drain million"    # some of it again: the rest of this page stays

What is measured, and how, stands in `bench/sidebyside`: `measures.py`, and `mta.py` for what each MTA is told.

![the figures that matter most]({CHART})

## Numbers to reach

{_table(("", "goal", "reached", ""), _goals(figures))}

{chr(10).join(part for part in parts if part)}
## Runs

{about}
"""


def _goals(figures: Figures) -> Iterable[Sequence[str]]:
    for goal in GOALS:
        reached = goal.reached(figures)
        if reached is None:
            yield goal.words, goal.bound_words, "not measured", ""
        else:
            yield goal.words, goal.bound_words, digits(reached), goal.verdict(reached)


def _part(figures: Figures, name: str, heading: str, words: str) -> str:
    measures = figures.measures(name)
    if not measures:
        return ""
    columns = [who for who in NAMES if any(figures.spread(what, who) for what in measures)]
    compared = OURS in columns and len(set(columns) - {OURS, OUR_C}) > 0
    rows = []
    for what in measures:
        cells = [_cell(figures, what, who) for who in columns]
        rows.append((what.partition("/")[2], *cells, *([_against(figures, what)] if compared else [])))
    head = ("", *(NAMES[who] for who in columns), *(["against the best"] if compared else []))
    return f"## {heading}\n\n{words}\n\n{_table(head, rows)}\n"


def _cell(figures: Figures, what: str, who: str) -> str:
    spread = figures.spread(what, who)
    if spread is None:
        return _ABSENT
    if spread.least == spread.most:
        return digits(spread.median)
    return f"{digits(spread.median)} ({digits(spread.least)}–{digits(spread.most)})"


def more_is_better(what: str) -> bool:
    return what.endswith("per s")


def _against(figures: Figures, what: str) -> str:
    best = max if more_is_better(what) else min
    ours = [value for who in (OURS, OUR_C) if (value := figures.median(what, who)) is not None]
    others = [value for who in _OTHERS if (value := figures.median(what, who)) is not None]
    if not ours or not others or what.endswith("connections") or not best(others):
        return _ABSENT
    ratio = best(ours) / best(others)
    return f"**{digits(ratio)}**" if (ratio > 1) == more_is_better(what) else digits(ratio)


def digits(value: float) -> str:
    """Three of them that mean something."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    text = [f"| {' | '.join(line)} |" for line in lines]
    text.insert(1, "|" + "---|" * len(head))
    return "\n".join(text)


def chart(figures: Figures) -> str:
    panels = [_panel(figures, *panel) for panel in _PANELS]
    note = "Medians of one run on one machine; the tables beside this chart have the ranges and the commands."
    return svg("pysendmail beside the MTAs that it replaces", note, panels)


def _panel(figures: Figures, title: str, note: str, what: str, absent: str) -> Panel:
    values = {who: _shown(figures, what, who) for who in NAMES}
    if absent == "" or all(value is None for value in values.values()):
        absent = "not measured"
    bars = [
        Bar(
            name=NAMES[who],
            value=value,
            shown=absent if value is None else digits(value),
            kind={OURS: "ours", OUR_C: "also"}.get(who, ""),
        )
        for who, value in values.items()
        if value is not None or who != OUR_C
    ]
    return Panel(title=title, note=note, bars=bars)


def _shown(figures: Figures, what: str, who: str) -> float | None:
    """`what` may leave open by which way: then it is the best of them."""
    ways = WAYS if who == OURS else ("SMTP",)
    return max((one for way in ways if (one := figures.median(what.format(way), who)) is not None), default=None)
