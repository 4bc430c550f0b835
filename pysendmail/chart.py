"""Chart: mail over time as text: columns for `history --chart`, a line of them for `top`. Pure.

Blocks of eighths where the terminal can show them, else ASCII. Times are UTC, as in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pysendmail.units import words_for_duration

Entry = dict[str, Any]
HEIGHT = 3  # lines of a panel: four of them, with the axis below the last, fit a terminal of 24
LABEL = 8  # columns before the first bar
MAX_BAR = 3  # columns
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:#"
RESET = "\x1b[0m"
_COLOURS = {"sent": "\x1b[32m", "deferred": "\x1b[33m", "bounced": "\x1b[31m", "delay_longest_s": "\x1b[36m"}
_PANELS = (
    ("sent", "delivered"),
    ("deferred", "deferred"),
    ("bounced", "bounced"),
    ("delay_longest_s", "longest delay of a delivery"),
)


def draw(slots: Sequence[Entry], *, width: int, unicode: bool, colour: bool) -> list[str]:
    """Entries of `traffic` as panels, one below the other; what does not fit in the width is the oldest."""
    if not slots:
        return []
    slots = slots[-max(width - LABEL, 1) :]
    bar = min(max((width - LABEL) // len(slots), 1), MAX_BAR)
    stretch = words_for_duration(slots[0]["seconds"])
    lines = [f"From {slots[0]['at']}, {len(slots)} times {stretch}"]
    below = 0
    for key, title in _PANELS:
        values = [float(slot[key] or 0) for slot in slots]
        if not any(values) and key != "sent":
            lines += ["", f"{title}: none"]
            continue
        top = max(values)
        sum_up = "" if key == "delay_longest_s" else f", {int(sum(values))} in all"
        lines += ["", f"{title}{sum_up}"]
        for number, row in enumerate(_bars(values, bar, unicode=unicode)):
            label = _amount(key, top) if not number else ""
            lines.append(f"{label:>{LABEL - 1}} {_painted(row, key, colour=colour)}".rstrip())
        below = len(lines)
    lines.insert(below, " " * LABEL + _axis(slots, bar))
    return lines


def line(values: Sequence[float], *, unicode: bool) -> str:
    """One character for each value, as high as it is beside the largest."""
    steps = BLOCKS if unicode else ASCII
    top = max(values, default=0)
    return "".join(steps[_eighths(value, top, len(steps) - 1)] for value in values)


def _bars(values: Sequence[float], width: int, *, unicode: bool) -> list[str]:
    """The lines of a panel, from the top."""
    steps = BLOCKS if unicode else ASCII
    full = len(steps) - 1
    heights = [_eighths(value, max(values), full * HEIGHT) for value in values]
    return [
        "".join(steps[min(max(height - full * floor, 0), full)] * width for height in heights)
        for floor in reversed(range(HEIGHT))
    ]


def _eighths(value: float, top: float, steps: int) -> int:
    """How many of the steps to the top; something is never nothing."""
    if value <= 0 or top <= 0:
        return 0
    return max(1, round(value / top * steps))


def _axis(slots: Sequence[Entry], bar: int) -> str:
    """The time of day below the bars, wherever there is room for it."""
    axis = ""
    for number, slot in enumerate(slots):
        if number * bar >= len(axis) + bool(axis) and number * bar + 5 <= len(slots) * bar:
            axis = axis.ljust(number * bar) + str(slot["at"])[11:16]
    return axis


def _amount(key: str, value: float) -> str:
    return words_for_duration(value) if key == "delay_longest_s" else f"{int(value)}"


def _painted(row: str, key: str, *, colour: bool) -> str:
    return f"{_COLOURS[key]}{row.rstrip()}{RESET}" if colour and row.strip() else row
