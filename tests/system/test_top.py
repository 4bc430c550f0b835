"""pysendmail top and the chart on a real terminal: what is seen, keys, resizing, and the terminal afterwards."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import BIN, Instance, as_user, smarthost
from rig.peer import Ordinary, PeerThread
from rig.tty import Tty

LATER = {"late@example.org": "451 4.2.1 mailbox is busy"}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """With one message delivered and one that waits."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("bob@example.org")
        instance.submit("late@example.org")
        instance.wait_for("outcome", status="sent")
        instance.wait_for("outcome", status="deferred")
        yield instance


def top(instance: Instance) -> list[str]:
    return [str(BIN / "pysendmail"), "-C", str(instance.config), "top"]


def test_a_live_view(instance: Instance) -> None:
    """Counts, rates, smarthost and message; it follows the queue and the window; q ends it."""
    with Tty(top(instance), rows=30, columns=100) as tty:
        seen = tty.wait_for("late@example.org")
        assert "1 queued, 1 deferred" in seen and "main " in seen and "451 4.2.1 mailbox is busy" in seen
        before = len(tty.text)
        tty.resize(10, 40)
        tty.wait_for("1 queued", after=before)
        instance.pysendmail("queue", "remove", "--all", "--yes")
        tty.wait_for("0 queued")
        before = len(tty.text)
        tty.type(" ")  # looks again
        tty.wait_for("0 queued", after=before)
        tty.type("q")
        assert tty.end() == 0
        left_as_found(tty)


def left_as_found(tty: Tty) -> None:
    assert tty.modes_now() == tty.modes
    assert tty.text.endswith("\x1b[?25h\x1b[?1049l"), "the cursor, and the screen that was there"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(instance: Instance, number: signal.Signals) -> None:
    """Whatever ends it."""
    with Tty(top(instance)) as tty:
        tty.wait_for("1 queued")
        tty.signal(number)
        assert tty.end() == 128 + number
        left_as_found(tty)


def test_a_signal_that_comes_while_it_looks_is_not_lost() -> None:
    """An event loop, as there is one where no daemon is asked, catches what a signal raises in one of its callbacks."""
    looks = "\n".join(
        [
            "import asyncio, os, signal, sys, time",
            "from pysendmail import top",
            "async def look():",
            "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)",
            "    await asyncio.sleep(0)",
            "    await asyncio.sleep(0)",
            "def view():",
            "    asyncio.run(look())",
            "    return top.View(now=time.time(), name='x', problem='nobody')",
            "sys.exit(top.run(view))",
        ]
    )
    with Tty([BIN / "python", "-c", looks]) as tty:
        assert tty.end() == 128 + signal.SIGTERM
        assert tty.modes_now() == tty.modes


def test_it_can_be_stopped(instance: Instance) -> None:
    """^Z gives the terminal back; when it goes on, it takes it again."""
    with Tty(["bash", "-mc", f"{shlex.join(top(instance))}; echo IN THE SHELL; read; fg; echo ended $?"]) as tty:
        tty.wait_for("1 queued")
        tty.type("\x1a")
        tty.wait_for("IN THE SHELL")
        assert tty.modes_now() == tty.modes
        before = len(tty.text)
        tty.type("\n")
        tty.wait_for("1 queued", after=before)
        tty.type("q")
        tty.wait_for("ended 0", after=before)
        assert tty.end() == 0
        assert tty.modes_now() == tty.modes


def test_it_goes_on_without_a_daemon(instance: Instance) -> None:
    """It says that none runs, and shows the queue itself where the caller may read it."""
    with Tty(top(instance)) as tty:
        tty.wait_for("1 queued")
        assert instance.stop() == 0
        tty.wait_for("no daemon is running")
        tty.type("q")
        assert tty.end() == 0


def test_a_user_sees_his_own(open_path: Path, other: int) -> None:
    """Over `submit`: his messages and nobody else's, and it says so."""
    with PeerThread(Ordinary(rcpt=LATER)) as peer, Instance(open_path, smarthosts=[smarthost(peer)]) as instance:
        instance.submit("late@example.org")
        instance.wait_for("outcome", status="deferred")
        with Tty([*as_user(other), *top(instance)]) as tty:
            assert "0 queued" in tty.wait_for("Your own messages only")
            tty.type("q")
            assert tty.end() == 0
            assert "late@example.org" not in tty.text


def test_it_needs_a_terminal(instance: Instance) -> None:
    """Elsewhere it is 64, and says what to use."""
    done = instance.run("pysendmail", "top")
    assert done.returncode == 64 and b"pysendmail status" in done.stderr


def test_the_chart(instance: Instance) -> None:
    """A day in 24 steps: blocks where the locale is UTF-8, ASCII elsewhere."""
    command = [BIN / "pysendmail", "-C", instance.config, "history", "--chart"]
    for locale, full in (("C.UTF-8", "███"), ("C", "###")):
        with Tty(command, environment={"LC_ALL": locale, "NO_COLOR": "1"}) as tty:
            assert tty.end() == 0
            assert full in tty.text and "delivered, 1 in all" in tty.text and "deferred, 1 in all" in tty.text
            assert tty.text.isascii() == (locale == "C")
