"""Completion: what is offered is what the commands take, no more and no fewer."""

from __future__ import annotations

import argparse
import runpy
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pysendmail.cli import parser
from rig.debian import program

FILE = Path(__file__).parents[2] / "contrib" / "completions" / "pysendmail.bash"
(COMMANDS,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]


SCRIPT = f"""
source {FILE}
pysendmail() {{ [ "$*" != 'queue list --json' ] || echo '{{"queue_name": "active", "queue_id": "8DnkO2K11dw7"}}'; }}
COMP_WORDS=(pysendmail "$@" '')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_pysendmail
echo "${{COMPREPLY[@]}}"
"""


def offered(*words: str) -> set[str]:
    """What Tab offers after these words, in a directory without anything."""
    bash = program("bash", "bash")
    with TemporaryDirectory() as empty:
        done = subprocess.run(
            [bash, "-c", SCRIPT, "bash", *words], capture_output=True, text=True, cwd=empty, check=True
        )
    assert done.stderr == ""
    return set(done.stdout.split())


def options(command: argparse.ArgumentParser) -> set[str]:
    """Its long options, without those that every command has."""
    every = {"--help", "--config", "--version"}
    return {name for action in command._actions for name in action.option_strings if name.startswith("--")} - every


def test_the_commands_are_offered() -> None:
    """All of them, and what may stand before them."""
    assert offered() == {*COMMANDS.choices, "--config", "--version", "--help"}


@pytest.mark.parametrize("command", COMMANDS.choices)
def test_the_options_of_a_command_are_offered(command: str) -> None:
    """After the command, also where the configuration is named before it."""
    expected = options(COMMANDS.choices[command])
    for action in COMMANDS.choices[command]._actions:
        if not action.option_strings and action.choices:
            expected |= set(action.choices)
    if command == "history":
        expected.add("8DnkO2K11dw7")
    assert offered(command) == expected
    assert offered("-C", "x.toml", command) == expected


def test_queue_ids_are_offered() -> None:
    """Those of the queue, after the verb."""
    assert offered("queue", "show") == {"8DnkO2K11dw7"} | options(COMMANDS.choices["queue"])


@pytest.mark.parametrize(("shell", "file"), [("zsh", "_pysendmail"), ("fish", "pysendmail.fish")])
def test_other_shells_are_offered_what_the_parser_takes(shell: str, file: str) -> None:
    """The files are what generate.py makes of the parser; where the shell is installed, it can read its one."""
    made = runpy.run_path(str(FILE.parent / "generate.py"))["FILES"][file]()
    assert made == (FILE.parent / file).read_text(), "run contrib/completions/generate.py"
    for command in COMMANDS.choices.values():
        for option in options(command):
            assert (option if shell == "zsh" else f"-l {option[2:]}") in made
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n", FILE.parent / file], check=True)
