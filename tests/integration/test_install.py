"""install-client: what it writes, what it leaves alone, and that the result runs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pysendmail.install import OTHER_NAMES, PROGRAM, InstallError, install_client, stub
from rig.clients import THIN, compile_c
from rig.daemon_end import DaemonEnd, end, running


def contents(directory: Path) -> dict[str, object]:
    return {
        path.name: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in directory.iterdir()
    }


def test_all_names_are_there(tmp_path: Path) -> None:
    """One stub that everybody may run, the other names as links to it, nothing else left behind."""
    old = os.umask(0o077)
    try:
        installed = install_client(tmp_path)
    finally:
        os.umask(old)
    assert contents(tmp_path) == {
        PROGRAM: stub(sys.executable, str(THIN)),
        **dict.fromkeys(OTHER_NAMES, PROGRAM),
    }
    assert stat.S_IMODE((tmp_path / PROGRAM).stat().st_mode) == 0o755
    assert [path.name for path in installed.paths] == [PROGRAM, *OTHER_NAMES]
    assert installed.warnings == ()


def test_it_may_be_run_again(tmp_path: Path) -> None:
    """Ours is replaced without being forced, and so are the scripts that pip wrote."""
    install_client(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "mailq").unlink()
    (tmp_path / "mailq").write_text("#!/x\nimport sys\nfrom pysendmail.thin.client import run\n")
    install_client(tmp_path)
    assert contents(tmp_path) == before


def test_the_client_in_c_is_ours(tmp_path: Path) -> None:
    """Where `make install` has put it, install-client may put the stub."""
    compile_c(tmp_path / PROGRAM, tmp_path)
    shutil.rmtree(tmp_path / f"{PROGRAM}.source")
    install_client(tmp_path)
    assert contents(tmp_path)[PROGRAM] == stub(sys.executable, str(THIN))


@pytest.mark.parametrize("name", [PROGRAM, "mailq", "rmail"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "link to sendmail"])
def test_what_is_not_ours_stays(name: str, kind: str, tmp_path: Path) -> None:
    """Another MTA's program or link stops it before anything is written; --force replaces it."""
    other = tmp_path / "elsewhere"
    other.write_text("another MTA's")
    path = tmp_path / "bin" / name
    path.parent.mkdir()
    if kind == "file":
        path.write_text("another MTA's")
    else:
        path.symlink_to({"link": other, "dangling link": "nowhere", "link to sendmail": "sendmail"}[kind])
    before = contents(path.parent)
    with pytest.raises(InstallError, match=f"{name} is not pysendmail's; nothing was installed"):
        install_client(path.parent)
    assert contents(path.parent) == before
    install_client(path.parent, force=True)
    assert set(contents(path.parent)) == {PROGRAM, *OTHER_NAMES}
    assert other.read_text() == "another MTA's"


def test_a_directory_in_the_way_stays_even_if_forced(tmp_path: Path) -> None:
    """And nothing is written beside it."""
    (tmp_path / "rmail").mkdir()
    with pytest.raises(InstallError, match="rmail is a directory"):
        install_client(tmp_path, force=True)
    assert contents(tmp_path) == {"rmail": None}


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """It is not created: a typing error would end in an unexpected place."""
    with pytest.raises(InstallError, match="is no directory"):
        install_client(tmp_path / "none")


@pytest.mark.parametrize("python", ["python3", "/a/'b'/python", '/a"b', "/a$b", "/a`b", "/a\\b", "/a\nb", "/\udcff"])
def test_an_interpreter_that_cannot_be_written_down_is_refused(python: str) -> None:
    """In words, rather than with a stub that does something else."""
    with pytest.raises(InstallError, match="interpreter"):
        stub(python, "/x")


@pytest.mark.parametrize("length", [10, 119, 120, 300])
def test_the_first_line_is_never_too_long(length: int) -> None:
    """What a kernel would cut goes through a shell."""
    python = "/" + "p" * (length - 1)
    first = stub(python, "/x").split(b"\n")[0]
    assert first == (f"#!{python} -IS".encode() if length < 122 else b"#!/bin/sh")
    assert len(first) + 1 <= 127


@pytest.mark.parametrize("folder", ["plain", "with a space", "long" * 40, "ünï"])
def test_it_runs_from_such_a_path(folder: str, tmp_path: Path) -> None:
    """The interpreter, the package and the stub below an odd directory: argv arrives as it was given."""
    place = tmp_path / folder
    place.mkdir()
    python = place / "python3"
    python.symlink_to(sys.executable)
    thin = place / 'it\'s "thin"'
    thin.mkdir()
    (thin / "client.py").write_bytes((THIN / "client.py").read_bytes())
    install_client(place, python=str(python), thin=thin)
    daemon = DaemonEnd(tmp_path)
    words = [place / "mailq", "-C", daemon.config, "a b", "", "$HOME", "*"]
    with running(words, stdin=subprocess.DEVNULL, cwd=place) as process:
        heard = daemon.accept().read_all()
        assert heard.argv == tuple(os.fsencode(word) for word in words)
        heard.exit(0)
        assert end(process) == (0, b"", b"")
    daemon.close()


def test_the_client_is_compiled(tmp_path: Path) -> None:
    """By the interpreter that will run it, so that no start pays for it."""
    (tmp_path / "client.py").write_bytes((THIN / "client.py").read_bytes())
    (tmp_path / "bin").mkdir()
    install_client(tmp_path / "bin", thin=tmp_path)
    tag = sys.implementation.cache_tag
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == [f"client.{tag}.pyc"]


def test_a_client_that_cannot_be_compiled_is_a_warning(tmp_path: Path) -> None:
    """The stub works all the same, some milliseconds slower."""
    (tmp_path / "client.py").write_bytes((THIN / "client.py").read_bytes())
    (tmp_path / "__pycache__").write_text("in the way")
    (tmp_path / "bin").mkdir()
    (warning,) = install_client(tmp_path / "bin", thin=tmp_path).warnings
    assert "is not compiled" in warning
    (warning,) = install_client(tmp_path / "bin", python="/nonexistent", thin=tmp_path).warnings
    assert "/nonexistent cannot be run" in warning


def test_a_package_that_has_gone_is_75(tmp_path: Path) -> None:
    """The stub outlives an uninstall; mail is not lost by it."""
    (tmp_path / "client.py").touch()
    (tmp_path / "bin").mkdir()
    install_client(tmp_path / "bin", thin=tmp_path)
    (tmp_path / "client.py").unlink()
    with running([tmp_path / "bin" / "sendmail", "root"], stdin=subprocess.DEVNULL) as process:
        code, _, err = end(process)
    expected = f"sendmail: pysendmail has gone from '{tmp_path}'; nothing was queued\n"
    assert (code, err.decode()) == (75, expected)


def test_a_virtual_environment_stays_one(tmp_path: Path) -> None:
    """Where there is no daemon, the packages of the environment are found, and those of nobody else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    package = site / "pysendmail"
    (package / "thin").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "thin" / "client.py").write_bytes((THIN / "client.py").read_bytes())
    (package / "direct.py").write_text(
        "import dependency, os, sys\n"
        "def run(*_):\n"
        "    os.write(1, repr((dependency.__file__, sys.prefix)).encode())\n"
        "    return 0\n"
    )
    (site / "dependency.py").touch()
    target = tmp_path / "venv" / "bin"
    install_client(target, python=str(target / "python"), thin=package / "thin")
    (tmp_path / "c.toml").write_text(f'socket = "{tmp_path}/none"\n')
    with running([target / "sendmail", "-C", tmp_path / "c.toml", "root"], stdin=subprocess.DEVNULL) as process:
        expected = repr((str(site / "dependency.py"), str(tmp_path / "venv")))
        assert end(process) == (0, expected.encode(), b"")
