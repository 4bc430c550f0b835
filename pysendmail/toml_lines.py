"""toml_lines: on which line of a TOML text each key stands, since tomllib does not say.

`key_lines` reads any text: of one that tomllib accepts it finds every key (tables, arrays of tables, dotted
and quoted keys, inline tables, values over several lines); of any other those before the first thing it does
not understand, so that `last` names the statement in which the trouble is. It judges nothing and never
raises.

A path is a tuple of names and, for the elements of arrays, indices from 0: ("smarthost", 0, "port").
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?!"")(?:[^"\\\n]|\\.)*"'
    r"|'(?!'')[^'\n]*'",
    re.DOTALL,
)
_QUOTED_KEY = re.compile(r'"(?!"")(?:[^"\\\n]|\\.)*"' r"|'(?!'')[^'\n]*'")
_BARE_VALUE = re.compile(r"[^\s,\[\]{}#\"']+")


@dataclass(slots=True)
class KeyLines:
    """Lines from 1. `last` is the statement that was begun last: its path and its line."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    last: tuple[KeyPath, int] = ((), 0)

    def at(self, path: KeyPath) -> int:
        """The line of the key, or else of the nearest table around it; 0 where the text has none of them."""
        for length in range(len(path), 0, -1):
            if (line := self.lines.get(path[:length])) is not None:
                return line
        return 0


def key_lines(text: str) -> KeyLines:
    scanner = _Scanner(text)
    with contextlib.suppress(_Stop, RecursionError):  # what was found so far stands
        scanner.run()
    return scanner.found


class _Stop(Exception):
    """Here the text stops to be TOML."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.newlines = [match.start() for match in re.finditer("\n", text)]
        self.newest: dict[KeyPath, int] = {}  # array of tables -> index of its newest element
        self.found = KeyLines()

    def run(self) -> None:
        table: KeyPath = ()
        while self.match(_BLANK) is not None and self.position < len(self.text):
            line = self.line()
            if self.take("[["):
                table = self.header("]]", line)
            elif self.take("["):
                table = self.header("]", line)
            else:
                self.statement(table, line)
            self.match(_REST_OF_LINE)

    def header(self, end: str, line: int) -> KeyPath:
        names = self.key()
        if not self.take(end):
            raise _Stop
        path = self.resolve(names[:-1])
        self.note(path, names[-1:], line)
        path = (*path, names[-1])
        if end == "]]":
            self.newest[path] = self.newest.get(path, -1) + 1
        if path in self.newest:
            path = (*path, self.newest[path])
        self.found.lines.setdefault(path, line)
        self.found.last = (path, line)
        return path

    def resolve(self, names: tuple[str, ...]) -> KeyPath:
        """A table's path, with the newest element of every array of tables on the way."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            if path in self.newest:
                path = (*path, self.newest[path])
        return path

    def statement(self, table: KeyPath, line: int) -> None:
        names = self.key()
        self.note(table, names, line)
        self.found.last = ((*table, *names), line)
        if not self.take("="):
            raise _Stop
        self.match(_SPACE)
        self.value((*table, *names))

    def value(self, path: KeyPath) -> None:
        if self.take("["):
            index = 0
            while not self.take_blank("]"):
                self.found.lines.setdefault((*path, index), self.line())
                self.value((*path, index))
                index += 1
                if not self.take_blank(","):
                    self.expect("]")
                    return
        elif self.take("{"):
            while not self.take_blank("}"):
                line = self.line()
                names = self.key()
                self.note(path, names, line)
                self.expect("=")
                self.match(_SPACE)
                self.value((*path, *names))
                if not self.take_blank(","):
                    self.expect("}")
                    return
        elif self.match(_STRING) is None and self.match(_BARE_VALUE) is None:
            raise _Stop

    def key(self) -> tuple[str, ...]:
        names: list[str] = []
        while True:
            self.match(_SPACE)
            if (bare := self.match(_BARE_KEY)) is not None:
                names.append(bare)
            elif (quoted := self.match(_QUOTED_KEY)) is not None:
                names.append(_unquoted(quoted))
            else:
                raise _Stop
            self.match(_SPACE)
            if not self.take("."):
                return tuple(names)

    def note(self, table: KeyPath, names: tuple[str, ...], line: int) -> None:
        for length in range(1, len(names) + 1):
            self.found.lines.setdefault((*table, *names[:length]), line)

    def line(self) -> int:
        return bisect_right(self.newlines, self.position - 1) + 1

    def match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        return match[0]

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.position):
            self.position += len(token)
            return True
        return False

    def take_blank(self, token: str) -> bool:
        self.match(_BLANK)
        return self.take(token)

    def expect(self, token: str) -> None:
        if not self.take_blank(token):
            raise _Stop


def _unquoted(token: str) -> str:
    try:
        return str(tomllib.loads(f"key = {token}")["key"])
    except ValueError:
        raise _Stop from None
