"""The manual pages: mandoc finds no fault, and sendmail(8) has the options that argv.py has, no more and no fewer."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pysendmail import argv, submission
from pysendmail.cli import parser
from pysendmail.thin import client
from rig.debian import program

_CHECKOUT = Path(__file__).parents[2] / "man"
_PAGES = ("sendmail.8", "mailq.1", "newaliases.1", "pysendmail.8", "pysendmail.toml.5")
_OTHERS = (("aliases", 5), ("gethostname", 2), ("passwd", 5), ("sd_listen_fds", 3))
_OPTION = re.compile(r"\.It Fl (?P<name>\S+)(?: (?P<attached>Ns )?Ar (?P<argument>\S+))?$")
# Where they stand in the page, and how they are treated.
_SECTIONS = {
    "Options that are honoured": argv.Treatment.HONOURED,
    "Options that are accepted and ignored": argv.Treatment.IGNORED,
    "Options that are refused": argv.Treatment.REFUSED,
}
# An interval stands for all of them and has no argument of its own.
_EXAMPLES = {"-q15m", "-qp5m"}


def _sections(page: str) -> dict[str, list[str]]:
    """The lines of each .Sh and .Ss."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (_CHECKOUT / page).read_text("utf-8").splitlines():
        if line.startswith((".Sh ", ".Ss ")):
            lines = found.setdefault(line[4:], [])
        else:
            lines.append(line)
    return found


def test_sendmail_options_are_those_of_the_table() -> None:
    """Each option stands in the list that says how it is treated, with its argument; none is missing or made up."""
    sections = _sections("sendmail.8")
    in_page = [
        (f"-{match['name']}", treatment, (match["argument"] or "").upper(), bool(match["attached"]))
        for title, treatment in _SECTIONS.items()
        for line in sections[title]
        if (match := _OPTION.match(line))
    ]
    in_table = [
        (option.name, option.treatment, "", False)
        if option.name in _EXAMPLES
        else (option.name, option.treatment, option.argument, option.value is argv.Value.ATTACHED)
        for option in argv.OPTIONS
    ]
    assert sorted(in_page) == sorted(in_table)


def test_sendmail_lists_every_exit_code() -> None:
    """EXIT STATUS has the codes that are promised, and every one that submission and the client give."""
    listed = [int(line[4:]) for line in _sections("sendmail.8")["EXIT STATUS"] if line.startswith(".It ")]
    given = {value for name, value in vars(submission).items() if name.startswith("EX_")}
    given |= {client.USAGE, client.IOERR, client.TEMPFAIL, client.CONFIG}
    assert listed == [0, 64, 65, 66, 67, 69, 74, 75, 77, 78]
    assert given <= set(listed)


@pytest.mark.parametrize("page", _PAGES)
def test_page_is_clean_mdoc(page: str, tmp_path: Path) -> None:
    """mandoc has nothing to say; our pages are where it looks for them, and others' that are named are these few."""
    mandoc = program("mandoc", "mandoc")
    for each in _PAGES:
        section = tmp_path / f"man{each.rpartition('.')[2]}"
        section.mkdir(exist_ok=True)
        (section / each).symlink_to(_CHECKOUT / each)
    for name, number in _OTHERS:
        (tmp_path / f"man{number}").mkdir(exist_ok=True)
        (tmp_path / f"man{number}" / f"{name}.{number}").touch()
    command = [mandoc, "-Tlint", "-Wstyle", str(_CHECKOUT / page)]
    run = subprocess.run(command, capture_output=True, text=True, env={"MANPATH": str(tmp_path)}, check=False)
    # It would rather have an index of them.
    complaints = [line for line in (run.stdout + run.stderr).splitlines() if "outdated mandoc.db" not in line]
    assert complaints == []


@pytest.mark.parametrize("page", _PAGES)
def test_page_comes_with_the_wheel(page: str) -> None:
    """pip puts the pages where man looks for them beside the commands."""
    if not Path(sysconfig.get_path("purelib"), "pysendmail").is_dir():
        pytest.skip("pysendmail is not installed here: `make test` tests the wheel")
    section = page.rpartition(".")[2]
    assert (Path(sys.prefix) / "share" / "man" / f"man{section}" / page).is_file()


def test_pysendmail_has_every_command_with_its_options() -> None:
    """The synopsis of pysendmail(8) names each command of the parser and each of its long options, and no other."""
    (verbs,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    expected = {
        name: {option[2:] for action in sub._actions for option in action.option_strings if option.startswith("--")}
        - {"help", "config"}
        for name, sub in verbs.choices.items()
    }
    found: dict[str, set[str]] = {}
    for form in "\n".join(_sections("pysendmail.8")["SYNOPSIS"]).split(".Nm\n"):
        if command := re.search(r"^\.Cm (\S+)", form, re.MULTILINE):
            found.setdefault(command[1], set()).update(re.findall(r"Fl -([a-z-]+)", form))
    assert expected == found
