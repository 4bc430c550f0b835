"""Guests with the Debian package, one of each Debian a run; each test begins with an empty queue and no drop-ins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rig.packaged import Packaged, booted

# Each in a process of its own (xdist's loadgroup): much of the time systemd waits, and so do we.
SUITES = [pytest.param(suite, marks=pytest.mark.xdist_group(suite)) for suite in ("trixie", "bookworm")]


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
