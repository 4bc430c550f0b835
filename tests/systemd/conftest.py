"""Guests with the Debian package, one of each Debian a run; each test begins with an empty queue and no drop-ins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rig.packaged import PACKAGES, Packaged, package
from rig.root import debian

SUITES = ("trixie", "bookworm")


@contextmanager
def booted(suite: str) -> Iterator[Packaged]:
    """A guest of its own, without the package."""
    if os.environ.get("PYSENDMAIL_TEST_SYSTEMD") != "1":
        pytest.skip("systemd is tested by `make test-systemd`")
    package()
    base = debian(PACKAGES, suite=suite)
    with TemporaryDirectory(prefix="pysendmail-guest-") as directory, Packaged(base, Path(directory)) as guest:
        yield guest


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
