"""Programs from Debian that a test stands on: found, installed where that is allowed, else the test is skipped by name.

Installing is allowed where PYSENDMAIL_TEST_INSTALL=1 says so (`make test` run by root; so in CI). It never starts a
service (policy-rc.d says no while apt-get runs), never takes away a package, and so never replaces the machine's MTA.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POLICY = Path("/usr/sbin/policy-rc.d")
_LOCK = Path("/run/lock/pysendmail-tests")
_INSTALL_SECONDS = 300
_APT = ("apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3")
_tried: dict[str, str] = {}  # package -> what became of it, so that one missing package costs one try


def program(name: str, package: str) -> str:
    """The path of the program `name`; skips the calling test, saying why, where it cannot be had."""
    return _have(name, package, lambda: shutil.which(name, path=_SYSTEM_PATH))


def file(pattern: str, package: str) -> str:
    """The first file that fits `pattern`, an absolute path with wildcards; else as `program`."""
    relative = pattern.lstrip("/")
    return _have(pattern, package, lambda: next((str(path) for path in Path("/").glob(relative)), None))


def _have(what: str, package: str, find: Callable[[], str | None]) -> str:
    if found := find():
        return found
    if os.environ.get("PYSENDMAIL_TEST_INSTALL") != "1":
        pytest.skip(f"{what} is missing: apt-get install {package}, or run `make test` as root")
    if package not in _tried:
        _tried[package] = _install(package)
    if found := find():
        return found
    pytest.skip(f"{what} is missing and apt-get could not install {package}: {_tried[package]}")


def _install(package: str) -> str:
    """apt-get installs `package`; the last line of what it said."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "PATH": _SYSTEM_PATH}
    if package == "postfix":  # no /etc/postfix/main.cf: the system's own Postfix stays off, also after a restart
        question = "postfix postfix/main_mailer_type select No configuration\n"
        subprocess.run(["debconf-set-selections"], input=question, text=True, env=environment, check=False)
    said = ""
    with _alone(), _nothing_starts():
        for arguments in (["update"], ["install", "--no-install-recommends", "--no-remove", package]):
            try:
                run = subprocess.run(
                    [*_APT, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=_INSTALL_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            said = (run.stdout + run.stderr).strip().rpartition("\n")[2]
    return said


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Tests may run in several processes; one that is done must not take the policy away from another."""
    with open(_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """While this lasts, no maintainer script starts a service. A policy that is already there is left as it is."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
