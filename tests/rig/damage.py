"""Damage: what a disk does to a database, done to its file while nobody has it open."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

PAGE = 4096
# The first octet of a page: with the rest of a long row, or with rows (https://www.sqlite.org/fileformat.html, 1.6).
REST, ROWS = 0x00, 0x0D


def overwrite(file: Path, what: bytes, nth: int = 0, kind: int = REST) -> None:
    """The n-th page of this kind is lost on which this is."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("VACUUM")  # what is on free pages is nobody's
    octets = file.read_bytes()
    pages = [at for at in range(0, len(octets), PAGE) if octets[at] == kind and what in octets[at : at + PAGE]]
    with file.open("r+b") as stream:
        stream.seek(pages[nth])
        stream.write(b"\xff" * PAGE)


def unindex(file: Path, index: str, statement: str) -> None:
    """A row is changed, and an index does not know of it."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        names = "type, name, tbl_name, rootpage, sql"
        [row] = database.execute(f"SELECT {names} FROM sqlite_master WHERE name = ?", (index,)).fetchall()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_master WHERE name = ?", (index,))
        database.commit()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.execute("PRAGMA writable_schema = ON")
        database.execute(f"INSERT INTO sqlite_master ({names}) VALUES (?, ?, ?, ?, ?)", row)
        database.commit()


def overwrite_root(file: Path, index: str) -> None:
    """The page is lost on which an index begins."""
    with file.open("r+b") as stream:
        stream.seek(_root(file, index))
        stream.write(b"\xff" * PAGE)


def overwrite_first_leaf(file: Path, index: str) -> None:
    """The page is lost on which an index of several pages has its first rows."""
    with file.open("r+b") as stream:
        stream.seek(_root(file, index))
        page = stream.read(PAGE)
        first_cell = int.from_bytes(page[12:14])  # behind the header of an interior page; it begins with its child
        stream.seek((int.from_bytes(page[first_cell : first_cell + 4]) - 1) * PAGE)
        stream.write(b"\xff" * PAGE)


def _root(file: Path, index: str) -> int:
    """Where in the file an index begins."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        [(root,)] = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,)).fetchall()
    return (int(root) - 1) * PAGE
