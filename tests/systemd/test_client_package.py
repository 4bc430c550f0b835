"""The package pysendmail-client: it takes sendmail over and gives it back, in any order, while mail is submitted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.packaged import Packaged, booted, newer, package, wanted

wanted()

APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes")
NATIVE = "/usr/libexec/pysendmail/native/sendmail"
STUB = "/usr/libexec/pysendmail/python/sendmail"


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Packaged]:
    package("pysendmail-client")
    with booted(suite) as guest:
        guest.install()
        yield guest


def install(machine: Packaged, *debs: Path) -> None:
    names = [f"/var/tmp/{deb.name}" for deb in debs]
    for deb, name in zip(debs, names, strict=True):
        shutil.copyfile(deb, machine.path(name))
    machine.must(*APT, "install", *names)


def sendmail(machine: Packaged) -> str:
    """What it is now, by each of its names the same."""
    names = ("/usr/sbin/sendmail", "/usr/lib/sendmail", "/usr/bin/mailq", "/usr/sbin/runq")
    (one,) = set(machine.must("readlink", "--canonicalize", *names).split())
    return one


def test_nobody_is_without_sendmail_for_a_moment(machine: Packaged, tmp_path: Path) -> None:
    """Installed, upgraded, removed and installed again, each package in turn: every submission succeeds."""
    client = package("pysendmail-client")
    assert sendmail(machine) == STUB
    with machine.submissions("alice", "bob") as codes:
        install(machine, client)
        assert sendmail(machine) == NATIVE
        install(machine, newer(client, tmp_path))
        assert sendmail(machine) == NATIVE
        install(machine, newer(package(), tmp_path))
        assert sendmail(machine) == NATIVE
        machine.must(*APT, "remove", "pysendmail-client")
        assert sendmail(machine) == STUB
        install(machine, client)
    assert sendmail(machine) == NATIVE
    assert set(codes) == {0}


def test_all_names_do_their_work(machine: Packaged) -> None:
    """Those that are not a submission by way of the stub, which knows the name."""
    machine.submit("bob@example.org", user="bob")
    assert machine.mailq("bob")
    assert "bob@example.org" in machine.must("sendmail", "-bp", user="bob")
    assert "aliases" in machine.must("newaliases")
    machine.must("runq", user="bob")
    assert machine.run("mailq", "nonsense").returncode == 64


def test_they_go_and_come_together(machine: Packaged) -> None:
    """Nothing is left of either, not even a choice between them."""
    machine.must(*APT, "purge", "pysendmail")
    left = machine.must("find", "/etc", "/usr", "/var/lib", "-xdev", "-name", "*pysendmail*").splitlines()
    assert left == []
    assert machine.run("test", "-L", "/usr/sbin/sendmail").returncode == 1
    install(machine, package("pysendmail-client"), package())
    assert sendmail(machine) == NATIVE
    machine.submit("bob@example.org")
