"""The promises of ARCHITECTURE.md point to tests that carry their names, and to parts of the torture that there are."""

from __future__ import annotations

import re
from pathlib import Path

from torture.__main__ import PARTS

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "ARCHITECTURE.md").read_text()
PROMISES = range(1, 16)
ROWS = {int(number): (files, parts) for number, files, parts in re.findall(r"^\| (\d+) \| (.+) \|(.*) \|$", PAGE, re.M)}


def test_each_promise_has_tests_with_its_name() -> None:
    """Every file named has one, and every file that has one is named."""
    assert list(ROWS) == list(PROMISES)
    for promise, (files, _) in ROWS.items():
        name = f"def test_promise_{promise}_"
        there = {str(file.relative_to(TESTS)) for file in TESTS.rglob("test_*.py") if name in file.read_text()}
        assert set(re.findall(r"`(\S+)`", files)) == there, f"promise {promise}"


def test_the_parts_of_the_torture_are_there() -> None:
    """`python -m torture` knows each by this name."""
    named = {part for _, parts in ROWS.values() for part in re.findall(r"[\w-]+", parts)}
    assert named and named <= set(PARTS)
