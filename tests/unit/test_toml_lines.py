"""On which line a key stands, in every form that TOML has for keys."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.toml_lines import key_lines

WHERE = {
    "bare key": ('a = 1\nb = "x"\n', ("b",), 2),
    "in a table": ("# comment\n\n[queue]\nlifetime = '5d'\n", ("queue", "lifetime"), 4),
    "the table itself": ("\n[queue]\n", ("queue",), 2),
    "second element of an array of tables": ("[[s]]\nh=1\n[[s]]\nh=2\n", ("s", 1, "h"), 4),
    "table below an array of tables": ("[[s]]\n[[s]]\n[s.t]\nk=1\n", ("s", 1, "t", "k"), 4),
    "dotted key": ("a=1\nqueue . lifetime = '5d'\n", ("queue", "lifetime"), 2),
    "dotted table": ("[a.b]\nc=1\n", ("a", "b", "c"), 2),
    "quoted key": ('"a b" = 1\n"\\u0063" = 2\n', ("c",), 2),
    "literal key": ("'a.b' = 1\n", ("a.b",), 1),
    "after a text over several lines": ('a = """\nb = 1\n"""\nb = 2\n', ("b",), 4),
    "after a literal over several lines": ("a = '''\n[x]\n'''\nb = 2\n", ("b",), 4),
    "after quotes within three quotes": ('a = """x""""\nb = 2\n', ("b",), 2),
    "after an empty text": ('a = ""\nb = 2\n', ("b",), 2),
    "after a list over several lines": ("a = [\n 1, # ] \n 2,\n]\nb = 2\n", ("b",), 5),
    "element of a list": ("a = [\n 1,\n 2,\n]\n", ("a", 1), 3),
    "in an inline table": ("a = [\n {b = 1},\n {b = 2},\n]\n", ("a", 1, "b"), 3),
    "after a comment with a quote": ('a = 1 # "\nb = 2\n', ("b",), 2),
    "CRLF": ("a = 1\r\n[q]\r\nb = 2\r\n", ("q", "b"), 3),
    "a missing key is where its table is": ("a=1\n[[s]]\nport=1\n", ("s", 0, "host"), 2),
    "nothing": ("", ("a",), 0),
}


@pytest.mark.parametrize(("text", "path", "line"), WHERE.values(), ids=WHERE.keys())
def test_line_of_a_key(text: str, path: tuple[str | int, ...], line: int) -> None:
    """Every form of key, table and value leaves the count of lines right."""
    tomllib.loads(text)
    assert line == key_lines(text).at(path)


LAST = {
    "a text that never ends": ('[q]\na = 1\nb = """\nc = 2\n', (("q", "b"), 3)),
    "a list that never ends": ("a = [\n1,\n2\nb = 3", (("a",), 1)),
    "no value": ("a = 1\nb =\n", (("b",), 2)),
    "no key": ("a = 1\n= 2\n", (("a",), 1)),
    "a table's name that never ends": ("a = 1\n[q\n", (("a",), 1)),
}


@pytest.mark.parametrize(("text", "last"), LAST.values(), ids=LAST.keys())
def test_last_statement_of_a_broken_text(text: str, last: tuple[tuple[str, ...], int]) -> None:
    """In a text that is not TOML, the statement begun last is the one in trouble."""
    assert last == key_lines(text).last


@given(st.text(alphabet="ab.=[]{}\"'\\\n #,1", max_size=60))
def test_any_text_is_survived(text: str) -> None:
    """No text raises, and where tomllib accepts it every key that it found has a line."""
    found = key_lines(text)
    try:
        tables = tomllib.loads(text)
    except ValueError:
        return
    for path in paths(tables):
        assert 1 <= found.lines.get(path, 0) <= text.count("\n") + 1


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += [(*path, key), *paths(inner, (*path, key))]
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += paths(inner, (*path, index))
    return found


def test_deep_nesting_is_survived() -> None:
    """A text that nests beyond Python's stack ends the search and nothing else."""
    assert key_lines("a = " + "[" * 100_000).at(("a",)) == 1
