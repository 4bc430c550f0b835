"""mailq on a terminal: a table for who looks at it. Programs get Postfix's layout, on a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.instance import BIN, PATIENCE_S, Instance, smarthost
from rig.peer import Ordinary, PeerThread

REASON = "451 4.3.0 [red]later[/red], after a while that is longer than the terminal is wide"


@pytest.fixture(scope="module", params=["with a daemon", "without a daemon"])
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One message for two recipients, which was deferred."""
    with PeerThread(Ordinary(rcpt={"bob@example.org": REASON, "carol@example.org": REASON})) as peer:
        with Instance(tmp_path_factory.mktemp("mailq"), smarthosts=[smarthost(peer)]) as made:
            made.submit("-f", "me@example.com", "bob@example.org", "carol@example.org")
            made.wait_for("outcome", status="deferred", count=2)
            if request.param == "with a daemon":
                yield made
                return
        yield made


def on_terminal(instance: Instance, *arguments: str) -> tuple[int, str]:
    """Exit code, and what somebody at a terminal of 80 columns sees."""
    ours, theirs = pty.openpty()
    command = [str(BIN / "mailq"), "-C", str(instance.config), *arguments]
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "80"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        try:
            while data := os.read(ours, 65536):
                seen += data
        except OSError:  # EIO: nobody holds the other end any more
            pass
        code = process.wait(PATIENCE_S)
    os.close(ours)
    return code, seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", [(), ("--format", "table"), ("--json", "--format=table", "--")], ids=str)
def test_on_a_terminal_it_is_a_table(instance: Instance, arguments: tuple[str, ...]) -> None:
    """A line a recipient or more, within the terminal; the message's facts once; no reply is taken for markup.

    A reason for which there is no room beside the rest stands below it, whole.
    """
    (waiting,) = instance.mailq()
    code, text = on_terminal(instance, *arguments)
    heading, titles, below, *lines, last = text.splitlines()
    assert (code, last, heading) == (0, "1 message", f"mailq: the queue of {instance.config}")
    assert [*titles.split(), below] == ["Queue", "id", "Size", "Arrived", "From", "To", "State", "    Reason"]
    assert all(len(line) <= 80 for line in lines)
    assert [line.startswith(waiting["queue_id"]) for line in lines].count(True) == 1
    assert text.count("deferred") == 2
    assert "[red]later" in text
    assert "bob@example.org" in text and "…" not in text


@pytest.mark.parametrize("layout", ["postfix", "sendmail", "json"])
def test_a_layout_that_was_asked_for_is_given_there_too(instance: Instance, layout: str) -> None:
    """Byte for byte what a pipe gets."""
    option = "--json" if layout == "json" else f"--format={layout}"
    code, text = on_terminal(instance, option)
    on_a_pipe = instance.run("mailq", option).stdout.decode()
    assert (code, text.endswith(on_a_pipe), "1 message" in text) == (0, True, False)


def test_the_body_type_is_in_sendmails_layout(tmp_path: Path) -> None:
    """8-bit mail is marked as Sendmail marks it; the JSON has Postfix's keys and ours, and no other."""
    instance = Instance(tmp_path)
    instance.submit("bob@example.org", text="Subject: x\n\nünd\n".encode())
    assert "\n      8BITMIME   (no smarthost" in instance.run("mailq", "--format", "sendmail").stdout.decode()
    assert "body_type" not in instance.mailq()[0]


def test_filters_and_an_empty_listing(instance: Instance) -> None:
    """The filters of -q choose what is in the table."""
    assert "1 message" in on_terminal(instance, "-qSme@example.com")[1]
    assert on_terminal(instance, "-q!Sme@example.com")[1].endswith("\nThe queue is empty.\n")


def test_a_refusal_is_one_line_there_too(instance: Instance) -> None:
    """No table, and the exit status."""
    code, text = on_terminal(instance, "bob@example.org")
    assert (code, text.count("\n"), text.startswith("mailq: mailq takes no addresses")) == (64, 1, True)
