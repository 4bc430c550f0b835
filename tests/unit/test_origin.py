"""Which process a message is of: the kernel's word, and claims that are escaped, capped and called so."""

from __future__ import annotations

import pytest

from pysendmail.message import received
from pysendmail.origin import CGROUP, COMMAND, Origin, origin, words


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        (b"/system.slice/cron.service", "cron.service"),
        (b"/user.slice/user-1000.slice/user@1000.service/app.slice/app-mutt-4242.scope", "app-mutt-4242.scope"),
        (b"/user.slice/user-1000.slice/user@1000.service/init.scope", "init.scope"),
        (b"/system.slice/docker.service/deep/inside", "docker.service"),
        (rb"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        (b"/system.slice/a\n\x1b.service", r"a\x0a\x1b.service"),
        (b"/" + b"x" * 300 + b".service", None),
        (b"/lxc/box", None),
        (b"/", None),
        (b"", None),
    ],
)
def test_the_unit_of_a_control_group(cgroup: bytes, unit: str | None) -> None:
    """The innermost thing that systemd runs processes in."""
    assert origin(7, {CGROUP: cgroup}) == Origin(pid=7, unit=unit)


def test_a_command() -> None:
    """One short line, whatever is claimed."""
    assert origin(7, {COMMAND: b"php-fpm8.2"}).command == "php-fpm8.2"
    assert origin(7, {COMMAND: b"a\r\nb\xff"}).command == r"a\x0d\x0ab\xff"
    assert len(origin(7, {COMMAND: b"x" * 1000}).command or "") == 64


def test_nothing_is_claimed() -> None:
    """By an older client, or one that sees no /proc; the kernel gives no pid to who is in another pid namespace."""
    assert origin(7, {b"NAME": b"x"}) == Origin(pid=7)
    assert origin(0, {COMMAND: b""}) == Origin()


def test_words() -> None:
    """What is known, and what is only claimed."""
    assert words(1000, 42, "cron", "cron.service") == (
        "uid 1000, process 42, which claims to be of command cron and unit cron.service"
    )
    assert words(0, 42, None, "a.service") == "uid 0, process 42, which claims to be of unit a.service"
    assert words(33, None, None, None) == "uid 33"


def test_received() -> None:
    """Where the administrator wants it, as a comment that nobody can break out of."""

    def field(claims: Origin | None, style: str = "full") -> bytes:
        return received(host="h", queue_id="Q", date="D", uid=1, style=style, origin=claims)  # type: ignore[arg-type]

    claims = Origin(pid=7, command="a) b\\(c", unit="getty@tty1.service")
    expected = b"Received: by h (pysendmail, from uid 1, process 7, command a??b??c, unit getty@tty1.service) id Q;"
    assert field(claims).startswith(expected)
    assert field(Origin()) == field(None)
    assert b"a??b" not in field(claims, "minimal")
