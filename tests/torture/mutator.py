"""Mutator: small faults in a Python module or in statements of SQL, one at a time, as texts. No I/O.

In Python: comparisons and conditions turned round, `and` for `or`, other numbers, other words, a statement left out.
In patterns and in SQL: one of a pair of PATTERN or SQL for the other. Left alone are texts for people (a string with a
space) and names of keys, of types and of statements (SPARED, `_is_query`), where each fault ends in an exception.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

LONG, AROUND = 70, 12  # characters of a name
_STATEMENT = re.compile(r"^-- name: (\w+)\n(?:--[^\n]*\n)*(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
FAULTS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip
PATTERN = ((r"\*", "+"), (r"\+", "*"), (r"\?(?!:)", ""), (r"\[\^", "["), (r"\\Z", ""), (r"\d(?=\]|-)", "4"))
SQL = (
    (r"<=", "<"), (r">=", ">"), (r"(?s)(?<![<>!])=(?!.*WHERE)", "!="), (r"\bAND\b", "OR"), (r"\bDESC\b", "ASC"),
    (r"\bNOT EXISTS\b", "EXISTS"), (r"\bIS NOT NULL\b", "IS NULL"), (r"\bIS NULL\b", "IS NOT NULL"),
    (r"(?<!IS )(?<!NOT )\bNULL\b", "7"), (r"(?<!SELECT )\b[01]\b", "2"), (r"\+", "-"), (r"'\w+'", "'other'"),
)  # fmt: skip
SPARED = ("annotation", "returns", "decorator_list", "slice", "keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    place: str  # function or statement
    change: str  # what was there -> what is
    text: str = field(repr=False)  # all of the file, with it

    @property
    def name(self) -> str:
        return f"{self.place}: {self.change}"


def of_python(text: str, functions: Sequence[str] = ()) -> list[Fault]:
    """Of a module, or of some of its functions and classes."""
    mutator = _Mutator(_OwnOperators().visit(ast.parse(text)), functions)
    mutator.walk()
    return mutator.found


def of_sql(text: str, statements: Sequence[str]) -> list[Fault]:
    """Of some of the statements of a file like queue.sql."""
    return [
        _fault(match[1], match[2], changed, text[: match.start(2)] + changed + text[match.end(2) :])
        for match in _STATEMENT.finditer(text)
        if match[1] in statements
        for changed in _changed(match[2], SQL)
    ]


def _fault(place: str, before: str, after: str, text: str) -> Fault:
    """`before` and `after` as the name has them: what differs, with some of what is around it where it is long."""
    before, after = " ".join(before.split()), " ".join(after.split())
    start, end = 0, len(before)
    if len(before) > LONG:
        same = _alike(before, after)
        tail = _alike(before[same:][::-1], after[same:][::-1])
        start = before.rfind(" ", 0, max(same - AROUND, 0)) + 1
        end = len(before) - max(tail - AROUND, 0)
    change = f"{before[start:end]} -> {after[start : len(after) - len(before) + end]}"
    return Fault(place=place, change=change, text=text)


class _OwnOperators(ast.NodeTransformer):
    """Gives each place an operator of its own: Python's parser has one `is not` for all of a file."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        return type(node)() if type(node) in FAULTS else node


class _Mutator(ast.NodeVisitor):
    """Walks over a tree, and at each place puts a fault there for as long as its text is taken."""

    def __init__(self, tree: ast.Module, functions: Sequence[str]) -> None:
        self._tree = tree
        self._functions = functions
        self.found: list[Fault] = []
        self._where: list[str] = []

    def walk(self) -> None:
        self.visit(self._tree)

    def visit(self, node: ast.AST) -> None:
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            self._where.append(node.name)  # type: ignore[attr-defined]
        if not self._functions or set(self._where) & set(self._functions):
            self._mutate(node)
        documentation = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for name, value in () if documentation else ast.iter_fields(node):
            if name not in SPARED and not _is_query(node, name):
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, ast.AST):
                        self.visit(one)
        if named:
            self._where.pop()

    def _mutate(self, node: ast.AST) -> None:
        if isinstance(node, ast.Compare):
            self._each(node, node.ops)
        elif isinstance(node, ast.BoolOp) or (isinstance(node, ast.BinOp) and not _is_text(node)):
            self._each(node, [node.op])
        elif isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
            self._swap(node.test, ast.UnaryOp(ast.Not(), node.test))
        elif isinstance(node, ast.comprehension):
            for test in node.ifs:
                self._swap(test, ast.Constant(True))
        elif _can_be_left_out(node):
            self._swap(node, ast.Pass())
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile" and node.args:
            self._pattern(node.args[0])
        elif isinstance(node, ast.Constant):
            self._constant(node)

    def _each(self, node: ast.AST, operators: list[ast.cmpop] | list[ast.operator] | list[ast.boolop]) -> None:
        for operator in operators:
            if type(operator) in FAULTS:
                self._swap(operator, FAULTS[type(operator)](), shown=node)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._swap(node, ast.Constant(not value))
        elif isinstance(value, int):
            self._swap(node, ast.Constant(value + 1))
        elif isinstance(value, str | bytes) and value and (b" " if isinstance(value, bytes) else " ") not in value:
            self._swap(node, ast.Constant("no" + value if isinstance(value, str) else b"no" + value))

    def _pattern(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            octets = isinstance(node.value, bytes)
            pattern = node.value.decode("latin-1") if octets else str(node.value)
            for changed in _changed(pattern, PATTERN):
                self._swap(node, ast.Constant(changed.encode("latin-1") if octets else changed))

    def _swap(self, old: ast.AST, new: ast.AST, shown: ast.AST | None = None) -> None:
        """The tree with `new` in place of `old`, as text; `shown` is what the name shows of it."""
        shown = shown or old
        before = ast.unparse(shown)
        kept = old.__class__, old.__dict__.copy()
        inner = copy.copy(old)  # `not x` holds what it stands for
        if isinstance(new, ast.UnaryOp):
            new.operand = inner  # type: ignore[assignment]
        old.__class__, old.__dict__ = new.__class__, ast.copy_location(new, old).__dict__  # type: ignore[assignment]
        after, text = ast.unparse(shown), ast.unparse(self._tree)
        old.__class__, old.__dict__ = kept  # type: ignore[assignment]
        self.found.append(_fault(".".join(self._where) or "module", before, after, text))


def _can_be_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)  # documentation
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute)
    return isinstance(node, ast.Raise | ast.AugAssign | ast.Continue | ast.Break)


def _is_text(node: ast.BinOp) -> bool:
    """Strings that are joined, which can do nothing else."""
    constants = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return any(isinstance(one, str | bytes) for one in constants)


def _is_query(node: ast.AST, field_name: str) -> bool:
    """Whether these are the arguments that name a statement, or a pattern, which has faults of its own."""
    return (
        isinstance(node, ast.Call)
        and field_name == "args"
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("run", "one", "rows", "many", "compile")
    )


def _changed(text: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each place of each pair, one at a time."""
    for pattern, other in pairs:
        for match in re.finditer(pattern, text):
            if match[0] != other:
                yield text[: match.start()] + other + text[match.end() :]


def _alike(one: str, other: str) -> int:
    """In how many characters they begin the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
