"""placing: a configuration and its passwords onto the disk: whole, with the right owners, and nothing there is lost.

Each file is written under another name and takes its place in one step; what it replaces stays beside it under a name
of its own. Passwords come first, so that no configuration ever names a file that is not there. A configuration is for
all to read and holds no secret; a password is the daemon's alone: root's file for its group, or its owner's own.
Errors: OSError, and then the configuration is as it was.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pysendmail import config_file, small_file, spool
from pysendmail.draft import Draft

PUBLIC, OF_A_USER = 0o755, 0o700  # of a directory that is made


def present(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of the configuration that is there, and its tables; "" and none where there is none.

    OSError or ValueError if there is something that is no configuration.
    """
    try:
        text = small_file.read(file, config_file.MAX_FILE_OCTETS).decode("utf-8")
    except FileNotFoundError:
        return "", {}
    return text, tomllib.loads(text)


def merged(present: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that are there with the new ones: keys in their sections, smarthosts and routes as wholes."""
    kept = {name: table for name, table in present.items() if name != "route" or "smarthost" not in new}
    for name, table in new.items():
        old = kept.get(name)
        kept[name] = {**old, **table} if isinstance(old, dict) and isinstance(table, dict) else table
    return {  # scalars stand above the first table
        **{name: value for name, value in kept.items() if not isinstance(value, dict | list)},
        **{name: value for name, value in kept.items() if isinstance(value, dict | list)},
    }


def difference(file: Path, old: str, new: str) -> str:
    """What would change, as diff -u shows it."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(file), "the new one", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def write(file: Path, text: str, draft: Draft, queue: Path, now: float) -> list[str]:
    """`place` for a draft whose text this is; what was done, a line each."""
    passwords = {draft.password_file(name, file.parent): password for name, password in draft.passwords.items()}
    kept = place(file, text, passwords, queue, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)))
    written = [f"{path}: written" for path in (*passwords, file)]
    return written + [f"{path}: what was there before" for path in kept]


def place(file: Path, text: str, passwords: Mapping[Path, bytes], queue: Path, stamp: str) -> list[Path]:
    """Write both; `queue` is the queue's directory, whose owner reads the passwords. What was there is kept.

    Returns the names that it has now, which end in `stamp`.
    """
    file = file.resolve()
    _make_directory(file.parent)
    uid, gid = spool.owner_of(queue)
    kept = []
    for path, password in passwords.items():
        shared = os.geteuid() == 0 and uid != 0
        kept += _put(path.resolve(), password + b"\n", 0o640 if shared else 0o600, gid if shared else None, stamp)
    return kept + _put(file, text.encode(), 0o644, None, stamp)


def _make_directory(directory: Path) -> None:
    """With those above it; for all to read as root, as the configuration is, a user's for himself."""
    if not directory.exists():
        _make_directory(directory.parent)
        directory.mkdir(mode=PUBLIC if os.geteuid() == 0 else OF_A_USER)
        spool.sync(directory.parent)


def _put(path: Path, octets: bytes, mode: int, group: int | None, stamp: str) -> list[Path]:
    """The file in one step; what it replaces, under its new name."""
    with small_file.beside(path, octets, mode, group) as new:
        kept = [_keep(path, stamp)] if path.exists() else []
        new.replace(path)
    with contextlib.suppress(OSError):  # a directory that we may write and not read
        spool.sync(path.parent)
    return kept


def _keep(path: Path, stamp: str) -> Path:
    """A second name for what is there, with its owner and mode."""
    kept = path.with_name(f"{path.name}.{stamp}")
    while kept.exists():
        kept = kept.with_name(f"{kept.name}~")
    os.link(path, kept)
    return kept
