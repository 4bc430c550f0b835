"""What ARCHITECTURE.md says of the text of the code: the picture of the imports, and that SQL stands in one file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pysendmail
from pysendmail.store import SQL

PACKAGE = Path(pysendmail.__file__).parent
PICTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"
ROWS = ("nouns", "decisions", "doors", "programs")


def rows() -> dict[str, int]:
    """Module -> the number of its row."""
    block = re.search(r"```\n(nouns .*?)```", PICTURE.read_text(), re.DOTALL)
    assert block is not None
    found: dict[str, int] = {}
    number = -1
    for line in block[1].splitlines():
        words = line.split()
        if words[0] in ROWS:
            number = ROWS.index(words.pop(0))
        found.update(dict.fromkeys(words, number))
    return found


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pysendmail":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pysendmail."):
            found.add(str(node.module).split(".")[1])
    return found - {"__version__"}


def test_every_module_has_its_row() -> None:
    """A new module is placed in the picture, and the picture names nothing that is gone."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert modules - {"__init__"} == set(rows())


def test_imports_run_one_way() -> None:
    """No module imports from a row below its own."""
    row = rows()
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if (own := path.stem if path.parent == PACKAGE else path.parent.name) in row
        for name in imports(path)
        if row.get(name, 99) > row[own]
    ]
    assert wrong == []


def test_all_sql_is_in_one_file() -> None:
    """Every statement of queue.sql is used, and none stands elsewhere (ARCHITECTURE.md)."""
    code = "".join(path.read_text() for path in PACKAGE.glob("*.py") if path.name not in ("schema.py", "check.py"))
    assert [name for name in SQL if f'"{name}"' not in code] == []
    assert not re.search(r'execute\(\s*f?"(SELECT|INSERT|UPDATE|DELETE)', code)
