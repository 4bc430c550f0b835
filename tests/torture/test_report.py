"""The end of a torture run: the table, the page that is kept, and the exit code's two reasons."""

from __future__ import annotations

import re

import pytest

from torture.evidence import Violation
from torture.report import Part, Size, details, results, table


def part(**more: object) -> Part:
    return Part(name="kill-sweep", seed=7, **more)  # type: ignore[arg-type]


def test_a_part_is_good_only_without_violation_and_with_every_control_caught(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And a violation is printed at once, with the command that repeats it."""
    good, violated, blind = part(), part(), part()
    good.case("deliver:pwrite64:17", [], again="")
    good.control("answer before commit", caught=True)
    violated.case("deliver:pwrite64:18", [Violation(invariant="I2", text="two copies")], again="python -m torture x")
    blind.control("answer before commit", caught=False)
    assert [one.good for one in (good, violated, blind, part(broken="Traceback"))] == [True, False, False, False]
    said = capsys.readouterr().out
    assert "deliver:pwrite64:18: I2: two copies" in said
    assert "again: python -m torture x" in said
    assert "CONTROL NOT CAUGHT: answer before commit" in said


def test_what_is_kept_names_cases_violations_skips_and_seed() -> None:
    """RESULTS.md: a row for each part, each skip with its reason, the commit, and no path of this machine."""
    one = part(cases=1000, skips={"strace": "ptrace is not allowed"}, seconds=61.2)
    page = results([one], Size(name="nightly", times=3))
    assert re.search(r"\| kill-sweep \| \w+(-dirty)? +\| \d{4}-\d\d-\d\d \| 1000  \| 0 ", table([one]))
    assert "- kill-sweep: skipped strace: ptrace is not allowed" in details([one])
    assert re.search(r"^- Machine: \d+ cores, .*; size nightly x 3$", page, re.MULTILINE)
    assert "/" not in page.replace("`", "")


def test_parts_that_did_not_run_keep_their_rows() -> None:
    """A part that is run again replaces its row and its notes, and no other's."""
    first = results([part(cases=1), Part(name="load", seed=1, cases=2, notes=["30 s"])], Size())
    page = results([part(cases=3, notes=["new"])], Size(), first)
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")]
    assert [(row[1], row[4]) for row in rows] == [("part", "cases"), ("kill-sweep", "3"), ("load", "2")]
    assert page.count("- Machine") == 1
    assert "- kill-sweep: new" in page and "- load: 30 s" in page


def test_the_multiplier_is_for_nightly_runs() -> None:
    """A sample stays a sample."""
    assert Size().of(sample=200, nightly=1000) == 200
    assert Size(name="nightly", times=3).of(sample=200, nightly=1000) == 3000
