"""The faults that are put into the code: each is one, and has a name of its own."""

from __future__ import annotations

import ast

from torture.mutator import of_python, of_sql

CODE = '''
WORD = re.compile("[a-z]+")
def f(a, b):
    """Text."""
    if a < 1 and not b:
        b.append("some words")
    return a + len(b)
'''
SQL = """-- name: end
-- Why.
UPDATE m SET done = 1 WHERE id = :id AND done IS NULL;

-- name: other
DELETE FROM m;
"""


def test_faults_of_python() -> None:
    """Conditions, numbers, patterns, statements; no text for people."""
    assert [fault.name for fault in of_python(CODE)] == [
        "module: '[a-z]+' -> '[a-z]*'",
        "f: a < 1 and (not b) -> a < 1 or not b",
        "f: a < 1 -> a <= 1",
        "f: 1 -> 2",
        "f: b.append('some words') -> pass",
        "f: a + len(b) -> a - len(b)",
    ]
    assert all(ast.dump(ast.parse(fault.text)) != ast.dump(ast.parse(CODE)) for fault in of_python(CODE))
    assert of_python(CODE, ["g"]) == []


def test_one_place_at_a_time() -> None:
    """An operator that stands at several places is another at one of them only."""
    faults = of_python("def f(a, b):\n    return a is None or b is None or a < b < 7 and a + b + 1\n")
    changed = [fault.text.partition("return ")[2].strip() for fault in faults]
    assert changed == [
        "a is None and b is None and (a < b < 7 and a + b + 1)",
        "a is not None or b is None or (a < b < 7 and a + b + 1)",
        "a is None or b is not None or (a < b < 7 and a + b + 1)",
        "a is None or b is None or (a < b < 7 or a + b + 1)",
        "a is None or b is None or (a <= b < 7 and a + b + 1)",
        "a is None or b is None or (a < b <= 7 and a + b + 1)",
        "a is None or b is None or (a < b < 8 and a + b + 1)",
        "a is None or b is None or (a < b < 7 and a + b - 1)",
        "a is None or b is None or (a < b < 7 and a - b + 1)",
        "a is None or b is None or (a < b < 7 and a + b + 2)",
    ]


def test_faults_of_sql() -> None:
    """In the statements that were asked for, and nowhere else."""
    faults = of_sql(SQL, ["end"])
    assert [fault.name for fault in faults] == [
        "end: UPDATE m SET done = 1 WHERE id = :id AND done IS NULL; -> "
        f"UPDATE m SET done = {number} WHERE id {equals} :id {also} done IS {null};"
        for number, equals, also, null in (
            ("1", "!=", "AND", "NULL"),
            ("1", "=", "OR", "NULL"),
            ("1", "=", "AND", "NOT NULL"),
            ("2", "=", "AND", "NULL"),
        )
    ]
    assert all(fault.text.startswith("-- name: end") and fault.text.endswith("DELETE FROM m;\n") for fault in faults)
