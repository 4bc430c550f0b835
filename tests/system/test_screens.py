"""What a person sees on a terminal of 80 columns and 24 lines, drawn by tmux: whole columns, no escapes, keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.ca import Authority
from rig.instance import BIN, Instance, smarthost
from rig.peer import Client, Ordinary, PeerThread
from rig.tmux import COLUMNS, ROWS, Tmux, ended

LATER = "451 4.2.1 busy \x1b[2J, and a long answer, as they come: please look at https://provider.example/help"
LONG = f"{'very.' * 12}late@example.org"
REST = "421 4.3.2 not now"


@contextmanager
def terminal(instance: Instance) -> Iterator[Tmux]:
    environment = {"PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "PYSENDMAIL_CONFIG": str(instance.config)}
    with Tmux(instance.config.parent, environment) as terminal:
        yield terminal


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """With one message delivered and two that wait, one of them for an address that is wider than any column."""
    with (
        PeerThread(Ordinary(rcpt={"late@example.org": LATER, LONG: LATER})) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)]) as instance,
    ):
        for address in ("bob@example.org", "late@example.org", LONG):
            instance.submit(address)
        instance.wait_for("outcome", status="deferred", count=2)
        instance.wait_for("outcome", status="sent")
        yield instance


def test_what_is_asked_once(instance: Instance) -> None:
    """status, list, chart and explain: one screen each, with the next prompt; what a server wrote moves no cursor."""
    with terminal(instance) as seen:
        seen.run("pysendmail status")
        status = seen.see(ended(0))
        assert "2 queued (oldest " in status and status.count("smarthost main") == 1

        seen.run("pysendmail queue list")
        titles, _, *rows = seen.see(ended(0)).splitlines()
        to = slice(titles.index("To"), titles.index("State"))
        assert "".join(row[to].strip() for row in rows if row[: to.start].isspace()).endswith("late@example.org")
        assert [row.split()[-1] for row in rows if row.startswith("8")] == ["deferred"] * 2
        assert sum("    451 4.2.1 busy \\x1b[2J, and a long answer, as they come:" in row for row in rows) == 2

        seen.run("pysendmail history --chart")
        chart = seen.see(ended(0)).splitlines()
        assert chart[0].startswith("From ") and chart[0].endswith("24 times 1 h")
        bars = [line for line in chart if "█" in line]
        assert len(bars) >= 6 and {len(line) for line in bars} == {COLUMNS}  # all end with this hour

        queue_id = next(one["queue_id"] for one in instance.mailq() if one["recipients"][0]["address"] != LONG)
        seen.run(f"pysendmail queue explain {queue_id}")
        explained = seen.see(ended(0)).replace("\n", "")
        assert "451 4.2.1 busy \\x1b[2J, and a long answer" in explained
        assert f"pysendmail queue retry {queue_id}" in explained


def test_the_live_view(instance: Instance) -> None:
    """top: columns under their titles, health and keys in the first line, nothing wrapped; ^C leaves all as it was."""
    with terminal(instance) as seen:
        seen.run("pysendmail top")
        screen = seen.see("451 4.2.1")
        assert screen.count("pysendmail top") == screen.count("SMARTHOST") == screen.count("2 queued") == 1
        lines = screen.splitlines()
        assert lines[0].startswith("pysendmail top ") and lines[0].endswith(" ok  q: quit")
        assert "2 queued, 2 deferred" in lines[1]
        title = next(line for line in lines if line.startswith("QUEUE ID"))
        rows = [line for line in lines if "deferred" in line and "451" in line]
        for column in ("STATE", "TO", "REASON"):
            assert {row[title.index(column) - 1] for row in rows} == {" "}
        assert {row[title.index("REASON") :][:9] for row in rows} == {"451 4.2.1"}
        assert len(rows) == 2 and len([line for line in lines if line]) < ROWS
        seen.resize(40, 10)
        seen.see("q: quit\n2 queued")
        seen.keys("C-c")
        seen.see(ended(130))
        assert seen.is_as_found()


def test_work_on_many(tmp_path: Path) -> None:
    """A bar while a smarthost takes its time, which ^C ends; what changes all is asked about, and its sum is said."""

    async def slow(client: Client) -> None:
        await client.stall()

    with (
        PeerThread(Ordinary(greeting=REST)) as peer,
        Instance(tmp_path, smarthosts=[smarthost(peer)], retry={"first": "1h"}) as instance,
        terminal(instance) as seen,
    ):
        for address in ("bob@example.org", "carol@example.org"):
            instance.submit(address)
        instance.wait_for("trouble")
        peer.become(slow)
        seen.run("pysendmail flush --wait")
        assert seen.see("0/2").splitlines()[0].startswith("Trying ━━")
        seen.keys("C-c")
        assert "Trying" not in seen.see(ended(130))
        assert seen.is_as_found()

        seen.run("pysendmail queue hold --all")
        seen.see("Hold 2 messages? [y/N]")
        seen.keys("n", "Enter")
        assert "Nothing was done." in seen.see(ended(0))
        seen.run("pysendmail queue hold --all")
        seen.see("Hold 2 messages? [y/N]")
        seen.keys("y", "Enter")
        assert "Hold: 2 messages" in seen.see(ended(0))


def test_the_dialogue_of_setup(tmp_path: Path) -> None:
    """Questions with their proposals, no letter of a password; ^C there leaves a terminal that shows what is typed."""
    authority = Authority(tmp_path)
    instance = Instance(tmp_path)
    with (
        PeerThread(Ordinary(tls=authority.server(), auth="PLAIN")) as peer,
        terminal(instance) as seen,
    ):
        seen.run(f"pysendmail setup --host localhost --port {peer.port} --tls-ca-file {authority.file}")
        seen.see("Your mail address:")
        seen.keys("me@example.org", "Enter")
        seen.see("User name [me@example.org]:")
        seen.keys("Enter")
        seen.see("Password:")
        seen.keys("sesame", "C-c")
        screen = seen.see(ended(130))
        assert "sesame" not in screen and "Traceback" not in screen
        assert seen.is_as_found()
