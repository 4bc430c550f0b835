"""The TLS cells: their page is whole, a cell of each word is as declared, and what goes in clear is told."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.tap import clear_text
from torture.tls import CARELESS, FAULTS, LEAKED_MAIL, LEAKED_SECRET, Cell, cells, play

ALL = list(cells())
POLICIES = ("none", "may", "encrypt", "verify", "fingerprint", "its fingerprint")
WORDS = {"TLS", "clear", "clear, new", "rests", "not opened"}


def test_the_page_is_whole() -> None:
    """Every policy has a word for whatever may be wrong, in both modes, with credentials and without."""
    there = {(cell.mode, cell.fault, cell.policy, cell.credentials) for cell in ALL}
    assert len(there) == len(ALL) == 2 * len(FAULTS) * len(POLICIES) * 2
    assert {cell.fault for cell in ALL} == set(FAULTS)
    assert {cell.policy for cell in ALL} == set(POLICIES)
    assert {cell.word for cell in ALL} == WORDS


def test_promise_9_declares_no_clear_text_but_at_may_without_credentials() -> None:
    """What the page allows in clear is what was promised: nothing under `encrypt` or stronger, no credentials."""
    clear = {(cell.mode, cell.policy, cell.credentials) for cell in ALL if cell.word.startswith("clear")}
    assert clear == {("STARTTLS", "none", False), ("STARTTLS", "may", False)}


def test_promise_8_a_cell_of_each_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mail becomes what the page says; what is declared otherwise is told, and so is what went in clear."""
    caplog.set_level(logging.CRITICAL, "asyncio")
    chosen: dict[str, Cell] = {cell.word: cell for cell in ALL}
    lies = [replace(chosen["clear, new"], word="rests"), CARELESS]
    *right, fallback, careless = asyncio.run(play([*chosen.values(), *lies], tmp_path, Authority(tmp_path)))
    assert right == [""] * len(WORDS)
    assert "seen was 'clear, new'" in fallback and LEAKED_MAIL in fallback and LEAKED_SECRET not in fallback
    assert LEAKED_MAIL in careless and LEAKED_SECRET in careless


def test_a_tap_tells_records_from_text() -> None:
    """Octets of TLS records are none of its business, whatever they are; all others are."""
    record = b"\x17\x03\x03\x00\x05QUIT\n"
    assert clear_text(b"EHLO x\r\n" + record + record + b"RSET\r\n" + b"\x16") == b"EHLO x\r\nRSET\r\n"
