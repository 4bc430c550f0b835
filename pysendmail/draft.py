"""Draft: a configuration that is being written, as `setup` and `import` make it: tables, passwords and remarks.

`toml` is the text of pysendmail.toml(5) that the tables describe; it names a file for each password and holds none.
A remark says what of an older configuration was lost, changed or is not needed, with its line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Table = dict[str, Any]


class Fate(StrEnum):
    """What became of a setting of the older configuration."""

    LOST = "lost"  # it did something that there is no key for
    CHANGED = "changed"  # carried over, but not to the letter
    NEEDLESS = "not needed"  # it has no meaning here


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """`line` is 0 where the file as a whole is meant. `text` says why, and what can be done."""

    file: Path
    line: int
    what: str
    fate: Fate
    text: str


@dataclass(slots=True, kw_only=True)
class Draft:
    """`tables` as tomllib would read them: scalars first. `passwords` are by the smarthost's name, and never shown."""

    tables: Table = field(default_factory=dict)
    passwords: dict[str, bytes] = field(default_factory=dict, repr=False)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def smarthosts(self) -> list[Table]:
        found: list[Table] = self.tables.setdefault("smarthost", [])
        return found

    def set(self, section: str, key: str, value: Any) -> None:
        """A key of a [section]; "" is above the first table."""
        table = self.tables.setdefault(section, {}) if section else self.tables
        table[key] = value

    def password_file(self, name: str, directory: Path) -> Path:
        """Where the password of that smarthost goes, beside a configuration in `directory`."""
        return directory / f"{name}.password"

    def toml(self, directory: Path) -> str:
        """The text of a configuration that will lie in `directory`, which the password files are named in."""
        lines = [f"{key} = {_value(value)}" for key, value in self.tables.items() if not isinstance(value, dict | list)]
        for name, table in self.tables.items():
            for one in table if isinstance(table, list) else [table] if isinstance(table, dict) else []:
                lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
                if name == "smarthost" and one["name"] in self.passwords:
                    one = {**one, "password_file": str(self.password_file(one["name"], directory))}
                lines += [f"{key} = {_value(value)}" for key, value in one.items()]
        return "\n".join(lines).lstrip("\n") + "\n"


def _value(value: Any) -> str:
    """As TOML writes it. JSON's strings are TOML's, but for DEL; what no terminal should get is escaped as well."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    written = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in written)
