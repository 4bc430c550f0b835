"""Damage: what a disk does to a database, done to its file while nobody has it open."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

PAGE = 4096
REST = 0x00  # the first octet of a page with the rest of a long row (https://www.sqlite.org/fileformat.html, 1.6)


def overwrite(file: Path, what: bytes, nth: int = 0) -> None:
    """The n-th page is lost on which this is, in the rest of a long row."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("VACUUM")  # what is on free pages is nobody's
    octets = file.read_bytes()
    pages = [at for at in range(0, len(octets), PAGE) if octets[at] == REST and what in octets[at : at + PAGE]]
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
