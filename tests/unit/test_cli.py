"""The command line of pysendmail(8): what goes where."""

from __future__ import annotations

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
