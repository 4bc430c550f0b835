"""Guests with the Debian package, for many tests each; each test begins with an empty queue and no drop-ins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rig.packaged import PACKAGES, Packaged, booted, install
from rig.root import Root, debian

SUITES = ("trixie", "bookworm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Two guests of each Debian, each in a process of its own: half of the time systemd waits, and we with it."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGuest(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            suite = next((suite for suite in SUITES if suite in nodeid), SUITES[0])
            return f"{suite} {'test_service.py' in nodeid}"  # where most of the waiting is

    return ByGuest(config, log)


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def unbooted(suite: str) -> Iterator[Root]:
    """A root with the package, where nothing runs but what a test starts."""
    base = debian(PACKAGES, suite=suite)
    with TemporaryDirectory(prefix="pysendmail-root-") as directory, Root(base, Path(directory)) as root:
        install(root)
        root.path("/etc/hosts").write_text("127.0.0.1 localhost\n")
        yield root


@pytest.fixture(scope="session")
def installed(suite: str) -> Iterator[Packaged]:
    with booted(suite) as guest:
        guest.install()
        yield guest


@pytest.fixture
def guest(installed: Packaged) -> Packaged:
    installed.as_new()
    return installed


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have measured."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
