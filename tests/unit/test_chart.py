"""The charts: every bar as high as it should be, in blocks and in ASCII, in any width."""

from __future__ import annotations

from typing import Any

import pytest

from pysendmail import chart


def slots(*numbers: int, key: str = "sent") -> list[dict[str, Any]]:
    """Hours with so many of a thing."""
    nothing: dict[str, Any] = {"sent": 0, "deferred": 0, "bounced": 0, "uncertain": 0, "delay_longest_s": None}
    return [
        {"at": f"2027-01-15T{hour:02}:00:00Z", "seconds": 3600.0, **nothing, key: number}
        for hour, number in enumerate(numbers)
    ]


def test_a_panel_in_blocks() -> None:
    """The largest fills its column, one eighth is the least that something can be, nothing is nothing."""
    lines = chart.draw(slots(0, 1, 50, 100), width=20, unicode=True, colour=False)
    assert lines[:3] == ["From 2027-01-15T00:00:00Z, 4 times 1 h", "", "delivered, 151 in all"]
    assert lines[3:6] == [
        "    100          ███",
        "              ▄▄▄███",
        "           ▁▁▁██████",
    ]
    assert lines[-5:] == ["deferred: none", "", "bounced: none", "", "longest delay of a delivery: none"]


def test_a_panel_in_ascii() -> None:
    """The same without a letter outside ASCII."""
    lines = chart.draw(slots(0, 1, 50, 100), width=20, unicode=False, colour=False)
    assert lines[3:6] == [
        "    100          ###",
        "              ...###",
        "           ...######",
    ]
    assert "\n".join(lines).isascii()


@pytest.mark.parametrize("width", [1, 9, 20, 80, 300])
@pytest.mark.parametrize("unicode", [False, True])
def test_it_fits(width: int, unicode: bool) -> None:
    """No bar goes beyond the width; where there is too little room the newest hours stay."""
    lines = chart.draw(slots(*range(1, 25)), width=width, unicode=unicode, colour=False)
    bars = lines[3:6]
    assert all(len(line) <= max(width, chart.LABEL + 1) for line in bars)
    full = "█" if unicode else "#"
    assert bars[0].endswith(full)


def test_a_busy_day_fits_a_terminal_of_24_lines() -> None:
    """All four panels, with the next prompt below: the line that says of what time it is has not gone."""
    day = [{**slot, "deferred": 1, "bounced": 1, "delay_longest_s": 5.0} for slot in slots(*range(24))]
    lines = chart.draw(day, width=80, unicode=True, colour=False)
    assert len(lines) < 24
    assert lines[-1].split()[0] == "00:00"


def test_delays_are_in_words() -> None:
    """A delay is a time, not a number."""
    lines = chart.draw(slots(30, 7200, key="delay_longest_s"), width=80, unicode=True, colour=False)
    assert any(line.startswith("    2 h") for line in lines)


def test_colours_end_with_their_line() -> None:
    """Each line that has a colour takes it back."""
    lines = chart.draw(slots(1, 2), width=80, unicode=True, colour=True)
    assert any("\x1b[32m" in line for line in lines)
    assert all(line.count("\x1b[") % 2 == 0 and ("\x1b" not in line or line.endswith(chart.RESET)) for line in lines)


def test_no_time_is_no_chart() -> None:
    """Nothing to show is no error; nor is a day on which nothing happened."""
    assert chart.draw([], width=80, unicode=True, colour=False) == []
    assert "delivered, 0 in all" in chart.draw(slots(0, 0), width=80, unicode=True, colour=False)


def test_a_line() -> None:
    """One letter each, the largest full."""
    assert chart.line([0, 1, 4, 8], unicode=True) == " ▁▄█"
    assert chart.line([0, 1, 4, 8], unicode=False) == " .:#"
    assert chart.line([], unicode=True) == ""
