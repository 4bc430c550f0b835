"""What top shows, without a terminal: it fits, it says what it cannot see, and others' escapes are none of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pysendmail import top
from pysendmail.terminal import Look, fit
from pysendmail.top import View, compose
from rig.store import NOW

LOOK = Look(columns=80, rows=24, unicode=True, colour=False)
SMARTHOST: dict[str, Any] = {
    "name": "main",
    "state": "up",
    "reason": None,
    "next_try_at": None,
    "connections": 2,
    "limit": 4,
    "host": "smtp.example.com",
    "port": 587,
    "certificate_until": "2027-01-20T08:00:00Z",
}
STATUS: dict[str, Any] = {
    "health": "ok",
    "queued": 3,
    "deferred": 1,
    "held": 0,
    "in_flight": 2,
    "failed": 0,
    "oldest_age_s": 250.0,
    "smarthosts": [SMARTHOST],
    "warnings": [],
    "scope": "all",
}
SLOT: dict[str, Any] = {
    "sent": 5,
    "deferred": 1,
    "bounced": 0,
    "smarthosts": [{"name": "main", "sent": 5, "deferred": 1, "bounced": 0}],
}
ENTRY: dict[str, Any] = {
    "queue_id": "8DnkO2K11dw7",
    "arrival_time": int(NOW) - 250,
    "queue_name": "deferred",
    "recipients": [{"address": "bob@example.org", "delay_reason": "451 4.2.1 busy"}],
}


def view(**changes: Any) -> View:
    values = {"status": STATUS, "traffic": [SLOT] * 30, "waiting": [ENTRY] * 50, **changes}
    return View(now=NOW, name="/etc/pysendmail/pysendmail.toml", **values)


def test_a_frame() -> None:
    """Counts, rates, smarthosts and as many messages as there is room for."""
    lines = compose(view(), replace(LOOK, columns=100))
    text = "\n".join(lines)
    assert len(lines) <= 24
    assert "3 queued, 1 deferred, 0 held, 2 on the way, 0 failed; oldest 4 min" in text
    assert "sent          30 in 1 min     150 in 5 min" in text
    assert "main             up           2/4    150     30  smtp.example.com:587; certificate 5 d" in text
    assert text.count("8DnkO2K11dw7") > 5 and "4 min" in text and "451 4.2.1 busy" in text


def test_the_health_is_seen_however_long_the_name() -> None:
    """Of the first line the name is cut, not how it is and how to leave."""
    first = compose(replace(view(), name=f"/home/{'a' * 80}/pysendmail.toml"), LOOK)[0]
    assert first.startswith("pysendmail top  /home/aaa") and first.endswith("a ok  q: quit") and len(first) == 80


@pytest.mark.parametrize("columns", [1, 10, 40, 200])
@pytest.mark.parametrize("rows", [1, 5, 12, 60])
def test_it_fits_any_window(columns: int, rows: int) -> None:
    """No line is longer, and there are no more of them."""
    look = Look(columns=columns, rows=rows, unicode=True, colour=False)
    lines = compose(view(), look)
    assert len(lines) <= rows
    assert all(len(line) <= columns for line in lines)


def test_it_says_what_it_cannot_see() -> None:
    """One's own messages only, or nothing at all."""
    theirs = {**SMARTHOST, "connections": None, "limit": None}
    own = "\n".join(compose(view(status={**STATUS, "scope": "own", "smarthosts": [theirs]}), LOOK))
    assert "Your own messages only" in own and "None" not in own
    problem = "\n".join(compose(View(now=NOW, name="x", problem="no daemon answers"), LOOK))
    assert "! no daemon answers" in problem and "unknown" in problem


def test_trouble_is_named() -> None:
    """Why, and when it is tried again; and what status warns of."""
    trouble = {**SMARTHOST, "state": "trouble", "reason": "535 5.7.8 no", "next_try_at": "2027-01-15T08:01:00Z"}
    text = "\n".join(compose(view(status={**STATUS, "smarthosts": [trouble], "warnings": ["mail waits"]}), LOOK))
    assert "535 5.7.8 no; next try 1 min" in text and "! mail waits" in text


def test_nobody_elses_escapes() -> None:
    """Text from a server or an address moves no cursor, and wide letters take two columns."""
    entry = {**ENTRY, "recipients": [{"address": "\x1b[2J漢字@e.org", "delay_reason": "\x07bell"}]}
    text = "\n".join(compose(view(waiting=[entry]), LOOK))
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[2J漢字@e.org" in text
    assert fit("漢字", 3) == "漢 " and fit("ab", 3) == "ab " and fit("e\u0301a", 1) == "e\u0301"


def test_ascii_only() -> None:
    """Where the locale is not UTF-8, nothing is."""
    entry = {**ENTRY, "recipients": [{"address": "jürgen@example.org", "delay_reason": None}]}
    look = Look(columns=80, rows=24, unicode=False, colour=False)
    assert "".join(compose(view(waiting=[entry]), look)).isascii()
    assert top.SLOTS > top.IN_A_MINUTE
