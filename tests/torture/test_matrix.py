"""The smarthost matrix: its table is whole, a cell of each kind is as declared, and another one is told."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rig.ca import Authority
from torture.faulty import STAGES, WHATS
from torture.matrix import CONTROLS, Cell, cells, play, spoilt

ALL = list(cells())
WORDS = {"sent", "bounced", "deferred", "deferred, close", "uncertain, close", "sent, close", "rests"}
IMPOSSIBLE = 7  # the table says why


def test_the_table_is_whole() -> None:
    """Every stage has a word for whatever may happen there."""
    there = {(cell.stage, cell.what) for cell in ALL}
    assert len(there) == len(STAGES) * len(WHATS) - IMPOSSIBLE
    assert {cell.word for cell in ALL} == WORDS


def test_promise_13_a_cell_of_each_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mail becomes what the table says; what is declared otherwise is told."""
    caplog.set_level(logging.ERROR, "asyncio")
    quick = [cell for cell in ALL if cell.what in WHATS[:20] and cell.stage != "body"]
    chosen: dict[str, Cell] = {cell.word: cell for cell in quick}
    assert set(chosen) == WORDS
    lie = replace(chosen["bounced"], word="deferred")
    wrong = asyncio.run(play([*chosen.values(), lie], tmp_path, Authority(tmp_path)))
    assert wrong[:-1] == [""] * len(chosen)
    assert "declared is 'deferred'" in wrong[-1]


@pytest.mark.parametrize("control", CONTROLS)
def test_what_the_server_got_is_looked_at(tmp_path: Path, control: str) -> None:
    """A text that is not octet for octet ours, and an envelope that is not its own, are told in so many words."""
    *_, words = CONTROLS[control]
    said = spoilt(control, tmp_path, Authority(tmp_path))
    assert said.count(words) == 4 and "declared is" not in said
