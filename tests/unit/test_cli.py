"""The command line of pysendmail(8): what goes where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pysendmail import cli


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("queue hold A B", ["A", "B"]),
        ("queue hold --yes A B", ["A", "B"]),
        ("queue explain A --json B", ["A", "B"]),
        ("history --json A", ["A"]),
        ("history A --since 2h B", ["A", "B"]),
        ("queue list", []),
    ],
)
def test_ids_stand_before_and_behind_options(line: str, ids: list[str]) -> None:
    """As a person writes them; `queue hold --yes ID` was refused."""
    assert cli.parse(line.split()).ids == ids


@pytest.mark.parametrize(
    "line", ["flush A", "status A", "queue hold A --never", "queue never A", "history --outcome odd"]
)
def test_what_is_unknown_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """64, in one line."""
    assert cli.main(line.split()) == 64
    said = capsys.readouterr().err
    assert said.startswith("pysendmail") and said.count("\n") == 1


@pytest.mark.parametrize(("text", "said"), [("frobnicate = 1\n", "frobnicate"), (None, "No such file")])
def test_status_with_a_configuration_that_cannot_be_used(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a daemon it is critical, 2 and not 78, and JSON where that is asked for: monitoring knows no other."""
    file = tmp_path / "pysendmail.toml"
    if text is not None:
        file.write_text(f'{text}[daemon]\nsocket = "{tmp_path}/submit"\n[queue]\ndirectory = "{tmp_path}/queue"\n')
    assert cli.main(["-C", str(file), "status", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert (report["health"], report["queued"], report["smarthosts"]) == ("critical", None, [])
    assert said in report["warnings"][0] and str(file) in report["warnings"][0]
    assert cli.main(["-C", str(file), "history"]) == 78


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("queue list", "The queue is empty.\n"),
        ("queue explain --all", "The queue is empty.\n"),
        ("queue list --reason mispelt", "No message that waits is chosen.\n"),
        ("queue list --json --reason mispelt", ""),
    ],
)
def test_nothing_to_show_is_said(line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that is empty is another thing than one of which nothing was chosen; JSON is for programs."""
    file = tmp_path / "pysendmail.toml"
    file.write_text(f'[daemon]\nsocket = "{tmp_path}/submit"\n[queue]\ndirectory = "{tmp_path}/queue"\n')
    assert cli.main(["-C", str(file), *line.split()]) == 0
    assert capsys.readouterr().out == said


def test_a_chart_of_what_is_still_to_come(capsys: pytest.CaptureFixture[str]) -> None:
    """64, in words of the command line."""
    assert cli.main(["history", "--chart", "--since", "2999-01-01"]) == 64
    assert "--since 2999-01-01: that is still to come" in capsys.readouterr().err


def test_flush_without_a_daemon_says_that_nothing_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is due, and waits all the same."""
    file = tmp_path / "pysendmail.toml"
    file.write_text(f'[daemon]\nsocket = "{tmp_path}/submit"\n[queue]\ndirectory = "{tmp_path}/queue"\n')
    assert cli.main(["-C", str(file), "flush"]) == 0
    said = capsys.readouterr()
    assert "due now" in said.out and "No daemon is running: nothing leaves" in said.err
