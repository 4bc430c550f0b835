"""Write the completions for zsh and fish: what the command line's parser takes, in their words.

    PYTHONPATH=. python contrib/completions/generate.py

A test holds the files beside this one to what this prints; that for bash is written by hand. A value is completed by
the name that it has in the usage: FILE and DIR are paths, ID and NAME are asked of pysendmail.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pysendmail.cli import parser

HERE = Path(__file__).parent
ASKED = {  # who knows the values: the functions in both shells
    "ids": """pysendmail queue list --json 2>/dev/null | grep -o '"queue_id": "[^"]*"' | cut -d '"' -f 4""",
    "names": """pysendmail status --json 2>/dev/null | grep -o '"name": "[^"]*"' | cut -d '"' -f 4""",
}
ZSH_VALUES = {"FILE": "_files", "DIR": "_files -/", "ID": "_pysendmail_ids", "NAME": "_pysendmail_names"}
FISH_VALUES = {
    "FILE": "-r -F",
    "DIR": "-x -a '(__fish_complete_directories)'",
    "ID": "-x -a '(__pysendmail_ids)'",
    "NAME": "-x -a '(__pysendmail_names)'",
}


def commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Name -> what it does, and its parser."""
    (found,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    words = {action.dest: action.help or "" for action in found._choices_actions}
    return {name: (words[name], command) for name, command in found.choices.items()}


def options(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in command._actions if action.option_strings and action.help != argparse.SUPPRESS)


def operands(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in command._actions if not action.option_strings and action.dest != "command")


def value(action: argparse.Action) -> str:
    """The name of its value; "" if it takes none."""
    return "" if action.nargs == 0 else str(action.metavar or "")


# -- zsh --


def _zsh_option(action: argparse.Action) -> str:
    names = action.option_strings
    spelled = names[0] if len(names) == 1 else f"({' '.join(names)})'{{{','.join(names)}}}'"
    values = f"({' '.join(map(str, action.choices))})" if action.choices else ZSH_VALUES.get(value(action), "")
    taken = f":{value(action).lower()}:{values}" if value(action) else ""
    return f"'{spelled}[{_quoted(action.help or '')}]{taken}'"


def _quoted(words: str) -> str:
    return words.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]")


def _zsh_operand(action: argparse.Action) -> str:
    many = "*" if action.nargs in ("*", "+") else ""
    name = str(action.metavar or action.dest)
    chosen = f"({' '.join(map(str, action.choices))})" if action.choices else ZSH_VALUES.get(name, "")
    return f"'{many}:{name.lower()}:{chosen}'"


def zsh() -> str:
    lines = [
        "#compdef pysendmail",
        "# zsh completion for pysendmail(8). Written by generate.py.",
        "",
        "_pysendmail() {",
        "    local line state",
        "    _arguments -C \\",
        *(f"        {_zsh_option(action)} \\" for action in options(parser())),
        "        '1:command:->command' '*::argument:->argument'",
        "    case $state in",
        "    command)",
        "        local -a commands=(",
        *(f"            '{name}:{_quoted(words)}'" for name, (words, _) in commands().items()),
        "        )",
        "        _describe command commands",
        "        ;;",
        "    argument)",
        "        case $line[1] in",
    ]
    for name, (_, command) in commands().items():
        taken = [*map(_zsh_option, options(command)), *map(_zsh_operand, operands(command))]
        lines += [f"        {name})", "            _arguments \\"]
        lines += [f"                {one} \\" for one in taken[:-1]] + [
            f"                {taken[-1]}",
            "            ;;",
        ]
    lines += ["        esac", "        ;;", "    esac", "}", ""]
    for name, question in ASKED.items():
        lines += [f"_pysendmail_{name}() {{", f'    compadd -- ${{(f)"$({question})"}}', "}", ""]
    return "\n".join([*lines, '_pysendmail "$@"', ""])


# -- fish --


def _fish(action: argparse.Action) -> str:
    names = [f"-{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in action.option_strings]
    values = f"-x -a '{' '.join(map(str, action.choices))}'" if action.choices else FISH_VALUES.get(value(action), "-x")
    return " ".join([*names, *([values] if value(action) else []), f"-d '{_fish_quoted(action.help or '')}'"])


def _fish_operand(action: argparse.Action) -> str:
    return FISH_VALUES.get(str(action.metavar or action.dest), "").replace("-r -F", "-F").replace("-x ", "")


def _fish_line(condition: str, *words: str) -> str:
    return " ".join(("complete -c pysendmail", f"-n '{condition}'", *words))


def _fish_quoted(words: str) -> str:
    return words.replace("'", "\\'")


def fish() -> str:
    lines = ["# fish completion for pysendmail(8). Written by generate.py.", ""]
    for name, question in ASKED.items():
        lines += [f"function __pysendmail_{name}", f"    {question}", "end", ""]
    lines.append("complete -c pysendmail -f")
    lines += [_fish_line("__fish_use_subcommand", _fish(action)) for action in options(parser())]
    taken: dict[str, list[str]] = {}  # an option, or what stands for an operand -> the commands that take it
    for name, (words, command) in commands().items():
        lines.append(_fish_line("__fish_use_subcommand", f"-a {name}", f"-d '{_fish_quoted(words)}'"))
        for one in [*map(_fish, options(command)), *map(_fish_operand, operands(command))]:
            taken.setdefault(one, []).append(name)
        for verbs in (" ".join(map(str, action.choices)) for action in operands(command) if action.choices):
            seen = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {verbs}"
            lines.append(_fish_line(seen, f"-a '{verbs}'"))
    lines += [_fish_line(f"__fish_seen_subcommand_from {' '.join(names)}", one) for one, names in taken.items() if one]
    return "\n".join([*lines, ""])


FILES = {"_pysendmail": zsh, "pysendmail.fish": fish}

if __name__ == "__main__":
    for file, text in FILES.items():
        (HERE / file).write_text(text(), encoding="utf-8")
