"""The runner of mutants, on a module of a few lines: what counts as a kill, and what ends the count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RUN = """
import sys
from pathlib import Path
from torture import mutants
mutants.ROOT = Path.cwd()
mutants.PAGE = mutants.ROOT / "PAGE.md"
mutants.IDLE_S = mutants.PROCESSES = 1
mutants.GROUPS = {"one": (mutants.Target(file="one.py", tests=("test_one.py",)),)}
sys.exit(mutants.main())
"""
CODE = '''
def answer(event):
    """Sets the event."""
    event.set()
    return 1 < 2
'''
TEST = """
import threading
from pathlib import Path
from pysendmail import one

def test_answer():
    event = threading.Event()
    assert one.answer(event)
    event.wait()
"""
READS = '''
def test_text():
    assert '"""Sets' in Path(one.__file__).read_text() and "# why" in Path(one.__file__).read_text()
'''
PAGE = """
| one | `one.py:answer: 1 < 2 -> 1 <= 2` | one is not two |
| one | `one.py:answer: gone -> gone` | it was there before |
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package, its test, and a page that knows a reason."""
    for name, text in (
        ("pysendmail/__init__.py", ""),
        ("pysendmail/one.py", f"{CODE}# why\n"),
        ("tests/test_one.py", TEST),
        ("pyproject.toml", ""),
        ("PAGE.md", PAGE),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_kills_and_survivors(checkout: Path) -> None:
    """A failure kills, a test that never ends kills; what passes survives, and the page asks why it may live."""
    ended = run(checkout)
    page = (checkout / "PAGE.md").read_text()
    assert ended.returncode == 1, ended.stderr
    assert "| one | 4 | 2 | 1 | 50.0% |" in page
    assert "| one | `one.py:answer: 1 < 2 -> 1 <= 2` | one is not two |" in page
    assert "| one | `one.py:answer: 2 -> 3` |  |" in page
    assert "gone" not in page
    assert "one never ends: one.py:answer: event.set() -> pass" in ended.stdout
    assert (checkout / "pysendmail/one.py").read_text() == f"{CODE}# why\n"


def test_no_kill_counts_where_the_sound_file_fails(checkout: Path) -> None:
    """A test that fails for how a mutant is written, not for its fault, ends the run, and no page says otherwise."""
    with (checkout / "tests/test_one.py").open("a") as file:
        file.write(READS)
    ended = run(checkout)
    assert ended.returncode != 0
    assert "without any fault" in ended.stderr
    assert (checkout / "PAGE.md").read_text() == PAGE
