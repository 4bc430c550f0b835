"""One Debian with all the callers, made once a run; each test begins with an empty smarthost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rig.machine import PACKAGES, Machine
from rig.root import debian

CALLERS = (
    *("alpine", "at", "bsd-mailx", "cron", "fail2ban", "git-email", "libemail-sender-perl", "libmime-lite-perl"),
    *("logwatch", "mailutils", "mutt", "nodejs", "php-cli", "s-nail", "smartmontools", "sudo"),
)


@pytest.fixture(scope="session")
def debian_machine() -> Iterator[Machine]:
    if os.environ.get("PYSENDMAIL_TEST_CALLERS") != "1":
        pytest.skip("the callers are tested by `make interop`")
    base = debian([*PACKAGES, *CALLERS])
    with TemporaryDirectory(prefix="pysendmail-machine-") as directory, Machine(base, Path(directory)) as machine:
        print(machine.must("dpkg-query", "-W", *CALLERS))  # the versions: pytest shows them where a test has failed
        yield machine


@pytest.fixture
def machine(debian_machine: Machine) -> Machine:
    debian_machine.forget()
    return debian_machine
