"""One Debian with all the callers, made once a run; each test begins with an empty smarthost."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from rig.machine import PACKAGES, Machine
from rig.root import debian

CALLERS = (
    *("alpine", "at", "bsd-mailx", "cron", "fail2ban", "git-email", "libemail-sender-perl", "libmime-lite-perl"),
    *("logwatch", "mailutils", "mutt", "nodejs", "php-cli", "s-nail", "smartmontools", "sudo"),
)


@pytest.fixture(scope="session")
def debian_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.environ.get("PYSENDMAIL_TEST_CALLERS") != "1":
        pytest.skip("the callers are tested by `make interop`")
    with Machine(debian([*PACKAGES, *CALLERS]), tmp_path_factory.mktemp("machine")) as machine:
        print(machine.must("dpkg-query", "-W", *CALLERS))  # the versions: pytest shows them where a test has failed
        yield machine


@pytest.fixture
def machine(debian_machine: Machine) -> Machine:
    debian_machine.forget()
    return debian_machine
