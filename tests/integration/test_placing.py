"""placing: configuration and passwords on a disk, with owners and modes, and what was there before kept beside them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pysendmail import placing, small_file, spool
from pysendmail.secrets import Secrets

STAMP = "20260102T030405Z"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written(tmp_path: Path) -> None:
    """The directory is made; the configuration is for all, the password for the daemon; nothing else is left."""
    file, password, queue = tmp_path / "etc" / "p.toml", tmp_path / "etc" / "main.password", tmp_path / "queue"
    queue.mkdir()
    assert placing.place(file, "x = 1\n", {password: b"secret"}, queue, STAMP) == []
    assert (file.read_text(), mode(file)) == ("x = 1\n", 0o644)
    assert (password.read_bytes(), mode(password)) == (b"secret\n", 0o600)
    assert sorted(entry.name for entry in file.parent.iterdir()) == ["main.password", "p.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for another user")
def test_root_writes_for_the_queues_owner(tmp_path: Path) -> None:
    """The daemon's group reads the password, and nobody changes it but root; `check` is content with it."""
    queue, password = tmp_path / "queue", tmp_path / "main.password"
    queue.mkdir()
    os.chown(queue, 4321, 5432)
    placing.place(tmp_path / "p.toml", "", {password: b"secret"}, queue, STAMP)
    status = password.stat()
    assert (status.st_uid, status.st_gid, mode(password)) == (0, 5432, 0o640)
    Secrets(owner=4321, group=5432)._check_owner(password, status)


def test_what_was_there_is_kept(tmp_path: Path) -> None:
    """Both old files have another name, their content and their mode; a name that is taken is not used again."""
    file, password = tmp_path / "p.toml", tmp_path / "main.password"
    file.write_text("old\n")
    password.write_text("older")
    password.chmod(0o400)
    taken = tmp_path / f"p.toml.{STAMP}"
    taken.write_text("another")
    kept = placing.place(file, "new\n", {password: b"newer"}, tmp_path, STAMP)
    assert kept == [tmp_path / f"main.password.{STAMP}", tmp_path / f"p.toml.{STAMP}~"]
    assert [path.read_text() for path in (*kept, taken)] == ["older", "old\n", "another"]
    assert mode(kept[0]) == 0o400
    assert (file.read_text(), password.read_bytes()) == ("new\n", b"newer\n")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Who keeps the configuration elsewhere finds it changed there."""
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "p.toml", tmp_path / "p.toml"
    real.write_text("old\n")
    link.symlink_to(real)
    placing.place(link, "new\n", {}, tmp_path, STAMP)
    assert link.is_symlink()
    assert real.read_text() == "new\n"


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    """A password that cannot be written: the configuration is the old one, and no half file is left."""
    file, password = tmp_path / "p.toml", tmp_path / "main.password"
    file.write_text("old\n")
    password.mkdir()
    with pytest.raises(OSError):
        placing.place(file, "new\n", {password: b"secret"}, tmp_path, STAMP)
    assert file.read_text() == "old\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["main.password", "p.toml"]


def test_new_tables_on_those_that_are_there() -> None:
    """Sections are merged key by key; smarthosts are replaced, and with them the routes that name them."""
    there = {
        "queue": {"directory": "/q", "lifetime": "1d"},
        "smarthost": [{"name": "a"}],
        "route": [{"smarthost": ["a"]}],
    }
    new = {"queue": {"lifetime": "2d"}, "smarthost": [{"name": "b"}], "domain": "example.com"}
    expected = {"domain": "example.com", "queue": {"directory": "/q", "lifetime": "2d"}, "smarthost": [{"name": "b"}]}
    found = placing.merged(there, new)
    assert expected == found
    assert next(iter(found)) == "domain"


def test_present(tmp_path: Path) -> None:
    """No file and one of comments hold no tables; one that is no TOML is an error."""
    file = tmp_path / "p.toml"
    assert placing.present(file) == ("", {})
    file.write_text("# all default\n")
    assert placing.present(file) == ("# all default\n", {})
    file.write_text("x = \n")
    with pytest.raises(ValueError):
        placing.present(file)


def test_owner_of_a_queue_to_be(tmp_path: Path) -> None:
    """A directory that is not there will have the owner that the daemon gives it."""
    assert spool.owner_of(tmp_path / "none") == spool.future_owner()


def test_nothing_is_left_beside(tmp_path: Path) -> None:
    """What a crash has left there is not written through and goes, as does what could not take the file's place."""
    file, precious = tmp_path / "file", tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".file.new").symlink_to(precious)
    small_file.replace(file, b"new", 0o644)
    assert (file.read_bytes(), mode(file), precious.read_text()) == (b"new", 0o644, "mine")
    directory = tmp_path / "directory"
    directory.mkdir()
    with pytest.raises(OSError, match="directory"):
        small_file.replace(directory, b"new", 0o600)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "precious", "directory"}
