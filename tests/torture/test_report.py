"""The end of a torture run: the table, the page that is kept, and the exit code's two reasons."""

from __future__ import annotations

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
    assert "| kill-sweep | 1000  | 0          |" in table([one])
    assert "- kill-sweep: skipped strace: ptrace is not allowed" in details([one])
    assert "- Size: nightly x 3" in page
    assert "- Commit: " in page
    assert "cores" in page
    assert "/" not in page.replace("`", "")


def test_the_multiplier_is_for_nightly_runs() -> None:
    """A sample stays a sample."""
    assert Size().of(sample=200, nightly=1000) == 200
    assert Size(name="nightly", times=3).of(sample=200, nightly=1000) == 3000
