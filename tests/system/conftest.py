"""What the system tests share: a directory that other users can reach, and a user who is not us."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import BIN, OTHERS, can_be


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter, where tmp_path is closed to all but us."""
    directory = Path(tempfile.mkdtemp(prefix="pysendmail-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def other() -> int:
    """The uid of another user; the test is skipped where we cannot run commands as his."""
    if not can_be(OTHERS[0]):
        pytest.skip(f"commands of another user: needs root, setpriv, and a Python and {BIN} that everybody may read")
    return OTHERS[0]
