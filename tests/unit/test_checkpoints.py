"""Whose turn it is to write the WAL back, from how long it is and how much of it is left."""

from __future__ import annotations

import pytest

from pysendmail.checkpoints import Pace, Turn

NOTHING, BESIDE, BETWEEN = Turn.NOTHING, Turn.BESIDE, Turn.BETWEEN


@pytest.mark.parametrize(
    ("what", "lengths"),
    [
        ("a short WAL is left alone", [(1, 1, NOTHING), (999, 999, NOTHING)]),
        ("a piece is written back beside", [(1000, 1000, BESIDE)]),
        ("once for each piece", [(1000, 1000, BESIDE), (1900, 1900, NOTHING), (2000, 2000, BESIDE)]),
        ("what the thread has done is done", [(1000, 1000, BESIDE), (2100, 200, NOTHING), (3000, 999, NOTHING)]),
        ("a long one ends when little is left", [(4000, 251, NOTHING), (4000, 250, BETWEEN), (4010, 10, NOTHING)]),
        ("it has begun anew", [(4000, 250, BETWEEN), (50, 50, NOTHING), (1000, 1000, BESIDE)]),
        ("too long: the writer does it all", [(8000, 8000, BETWEEN), (8100, 8100, NOTHING), (9000, 9000, BETWEEN)]),
        ("a reader holds it up: now and then", [(5000, 100, BETWEEN), (5100, 200, NOTHING), (6000, 200, BETWEEN)]),
    ],
)
def test_turns(what: str, lengths: list[tuple[int, int, Turn]]) -> None:
    """One after the other, of a WAL that may have 8,000 pages."""
    pace = Pace(8000)
    assert [pace.turn(pages, left) for pages, left, _ in lengths] == [turn for _, _, turn in lengths], what
