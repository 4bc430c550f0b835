"""What integration tests share."""

import pytest

from rig.ca import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One certificate authority for all tests: making keys takes time."""
    return Authority(tmp_path_factory.mktemp("ca"))
