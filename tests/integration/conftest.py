"""What integration tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.store import Store


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One certificate authority for all tests: making keys takes time."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open queue in a directory of its own."""
    store = Store(tmp_path)
    yield store
    store.queue.close()
