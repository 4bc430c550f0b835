"""What this machine is called, without waiting for anybody."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from pysendmail import hostname

HOSTS = """\
127.0.0.1 localhost
127.0.1.1 box.example.com box # the Debian way
192.0.2.1 other.example.com alias.example.com other
192.0.2.2 localhost.localdomain lonely
# 192.0.2.3 no.example.com no
"""
# the kernel's name, what the resolver says, the name
MACHINES = {
    "a full name": ("mail.example.com", "", "mail.example.com"),
    "a full name with its dot": ("mail.example.com.", "", "mail.example.com"),
    "from /etc/hosts": ("box", "wrong.example.net", "box.example.com"),
    "from /etc/hosts, in any case": ("BOX", "", "box.example.com"),
    "not an alias of another name": ("alias", "", "alias"),
    "not localhost.localdomain": ("lonely", "", "lonely"),
    "not from a comment": ("no", "", "no"),
    "from the resolver": ("far", "far.example.net", "far.example.net"),
    "a resolver that knows it bare": ("far", "far", "far"),
    "a resolver with nonsense": ("far", "far.exa mple", "far"),
    "nobody knows": ("far", "", "far"),
    "no name at all": ("(none)", "", "localhost"),
    "an empty name": ("", "", "localhost"),
    "not ASCII": ("b\u00fcro", "", "localhost"),
}


@pytest.mark.parametrize(("kernel", "resolver", "expected"), MACHINES.values(), ids=MACHINES.keys())
def test_machine_name(tmp_path: Path, kernel: str, resolver: str, expected: str) -> None:
    """The kernel's name if it is full, else /etc/hosts, else the resolver, else bare; always fit for SMTP."""
    (tmp_path / "hosts").write_text(HOSTS)
    found = hostname.machine_name(
        gethostname=lambda: kernel, hosts=tmp_path / "hosts", canonical_name=lambda name: resolver
    )
    assert expected == found


def test_no_hosts_file(tmp_path: Path) -> None:
    """A machine without /etc/hosts has a name all the same."""
    found = hostname.machine_name(gethostname=lambda: "x", hosts=tmp_path / "none", canonical_name=lambda name: "")
    assert found == "x"


def test_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A resolver that does not answer costs at most MAX_RESOLVE_S."""
    never = threading.Event()

    def hang(*_args: object, **_named: object) -> list[object]:
        never.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(hostname.socket, "getaddrinfo", hang)
    monkeypatch.setattr(hostname, "MAX_RESOLVE_S", 0.05)
    assert hostname.machine_name(gethostname=lambda: "x", hosts=tmp_path / "none") == "x"
    never.set()


MAIL_NAMES = {
    "one line": ("example.com\n", "example.com"),
    "first of several": (" example.com \nother.example\n", "example.com"),
    "with its dot": ("example.com.\n", "example.com"),
    "empty": ("\n", ""),
    "no domain": ("not a domain\n", ""),
    "not ASCII": ("b\u00fccher.example\n", ""),
}


@pytest.mark.parametrize(("text", "expected"), MAIL_NAMES.values(), ids=MAIL_NAMES.keys())
def test_mail_name(tmp_path: Path, text: str, expected: str) -> None:
    """The first line of /etc/mailname if it is a domain."""
    (tmp_path / "mailname").write_text(text)
    assert expected == hostname.mail_name(tmp_path / "mailname")


def test_no_mail_name(tmp_path: Path) -> None:
    """Without the file there is none."""
    assert hostname.mail_name(tmp_path / "none") == ""
