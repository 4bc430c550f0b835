"""The targets of the fuzzers: a few examples of each, and what was found by many."""

from __future__ import annotations

import pytest

from torture.fuzz import controls
from torture.fuzzing import explore
from torture.targets import TARGETS

FEW = 25
FOUND = [
    ("configuration", b'"""[queue]\npassword = "hunter2 SECRET"\n"""sender = "*@x"\n'),
    ("header", b"\0\r\n .\r\r\n"),
    ("rows", b"\x1dX: y\r\n z\r\n\x1f\x1a\t\x02\x0c\x0b\x1d!--=_"),
    ("rows", b"\xb1bounce\xe5\x14X: y\r\n z\r\n\x04"),
    ("rows", b"\x10\x15\x1c\x04bounce"),
]


@pytest.mark.parametrize("name", TARGETS)
def test_no_octets_break_a_promise(name: str) -> None:
    """Whatever reads what others wrote raises nothing but what it declares, and keeps what it promises."""
    assert explore(TARGETS[name], FEW, 1).what == ""


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_once(name: str, data: bytes) -> None:
    """Inputs that broke a promise keep it."""
    TARGETS[name].check(data)
    TARGETS[name].weigh(data)


def test_what_is_broken_is_found() -> None:
    """An encoder that stuffs no dot, and work that is the square of the input, are told with an input that shows it."""
    for control in controls().values():
        assert explore(control, 200, 1).input is not None
