"""Guests with the Debian package, one of each Debian a run; each test begins with an empty queue and no drop-ins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rig.packaged import Packaged, booted

SUITES = ("trixie", "bookworm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each Debian in a process of its own: half of the time systemd waits, and we with it."""
    from xdist.scheduler import LoadScopeScheduling

    class BySuite(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((suite for suite in SUITES if suite in nodeid), SUITES[0])

    return BySuite(config, log)


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def installed(suite: str) -> Iterator[Packaged]:
    with booted(suite) as guest:
        guest.install()
        yield guest


@pytest.fixture
def guest(installed: Packaged) -> Packaged:
    installed.as_new()
    return installed
