"""install: `pysendmail install-client DIR` writes the fast `sendmail` and its other names into a directory.

`sendmail` is a stub of a few lines with absolute paths: a bare interpreter (`-IS`: no site, no environment,
no current directory) that loads the one compiled module thin/client.py. The other names are symbolic links to
it, so that the name which was called is argv[0].

Promises: what is in the way is found before the first write; each file is replaced in one step, so that a
running system always has a whole `sendmail`; a file or link that is not ours stays unless forced, a directory
always. That the target interpreter has compiled the client is a gain of some milliseconds, not a condition:
where it cannot, `Installed.warnings` says so.

InstallError leaves it, with one line for the person who asked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pysendmail import spool
from pysendmail.thin import client

PROGRAM = "sendmail"
OTHER_NAMES = ("mailq", "newaliases", "runq", "send-mail", "rmail", "hoststat", "purgestat")

# What Linux reads of the first line was 127 octets before 5.1; other kernels and container runtimes differ.
MAX_SHEBANG_OCTETS = 127
# By these a file is known as ours: in every stub, in the scripts that pip writes, in the client in C.
MARKS = (
    b"# written by `pysendmail install-client`",
    b"from pysendmail.thin.client import run",
    b"pysendmail's client in C",
)
MAX_OURS_OCTETS = 2 << 20  # the one in C, with the whole C library in it
COMPILE_S = 60.0

_COMPILE = "import py_compile, sys; py_compile.compile(sys.argv[1], doraise=True)"


class InstallError(Exception):
    """Nothing was installed, or not all of it; the text says what is in the way and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was written, and what could not be but does no harm."""

    paths: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def install_client(
    directory: Path, *, python: str = sys.executable, thin: Path | None = None, force: bool = False
) -> Installed:
    """Write the stub and its names. `python` is not resolved, so that a virtual environment stays one.

    `thin` is the folder of client.py as it will be called at run time; default: where this package is.
    """
    folder = thin if thin is not None else Path(client.__file__).absolute().parent
    text = stub(python, str(folder))
    directory = directory.absolute()
    if not directory.is_dir():
        raise InstallError(f"{directory} is no directory; create it first")
    program = directory / PROGRAM
    others = tuple(directory / name for name in OTHER_NAMES)
    _check_free(program, others, force=force)
    try:
        _replace_file(program, text)
        for other in others:
            _replace_link(other, PROGRAM)
        spool.sync(directory)
    except OSError as error:
        raise InstallError(f"{error.filename or directory}: {error.strerror}") from error
    problem = _compile(python, folder / "client.py")
    return Installed(paths=(program, *others), warnings=(problem,) if problem else ())


def stub(python: str, thin: str) -> bytes:
    """The text of the `sendmail` stub, for an interpreter and a folder with absolute names."""
    if not python.startswith("/") or any(character in python for character in "\n\r\0\"'\\$`"):
        # In the longer form below it is a shell's word within a Python string.
        raise InstallError(f"the interpreter {python!r} must be an absolute path without any of \"'$`\\")
    if not thin.startswith("/"):
        raise InstallError(f"the folder {thin!r} must be an absolute path")
    try:
        return (_first_line(python) + _STUB.format(thin=ascii(thin))).encode()
    except UnicodeEncodeError:
        raise InstallError(f"the interpreter's path {python!r} is not UTF-8") from None


_STUB = """\
# written by `pysendmail install-client`; do not edit, run it again
import sys
thin = {thin}
sys.path.insert(0, thin)
try:
    from client import main
except ImportError:
    import posix
    try:
        posix.write(2, b"sendmail: pysendmail has gone from %a; nothing was queued\\n" % thin)
    except OSError:
        pass
    posix._exit(75)
main()
"""


def _first_line(python: str) -> str:
    line = f"#!{python} -IS\n"
    if len(os.fsencode(line)) <= MAX_SHEBANG_OCTETS and not any(c.isspace() for c in python):
        return line
    # The kernel would cut or split that line. A shell reads '''exec' as exec and never comes to the next
    # line, where Python's string ends.
    return f"#!/bin/sh\n'''exec' \"{python}\" -IS \"$0\" \"$@\"\n' '''\n"


# What is there already


def _check_free(program: Path, others: tuple[Path, ...], *, force: bool) -> None:
    """InstallError if something is in the way of any of the names."""
    ours = _is_ours(program)
    for path in (program, *others):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InstallError(f"{path}: {error.strerror}") from error
        if stat.S_ISDIR(mode):
            raise InstallError(f"{path} is a directory; nothing was installed")
        known = _is_ours(path) or (ours and stat.S_ISLNK(mode) and os.readlink(path) == PROGRAM)
        if not known and not force:
            raise InstallError(
                f"{path} is not pysendmail's; nothing was installed. Move it away, or replace it with --force"
            )


def _is_ours(path: Path) -> bool:
    """A regular file that we, or pip or make for us, wrote. A link is none, wherever it points."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        head = file.read(MAX_OURS_OCTETS)
    return any(mark in head for mark in MARKS)


# Writing


def _replace_file(path: Path, text: bytes) -> None:
    temporary = _temporary(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, 0o755)  # whatever the umask: every user runs it
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _replace_link(path: Path, target: str) -> None:
    temporary = _temporary(path)
    os.symlink(target, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _compile(python: str, module: Path) -> str:
    """Have the interpreter that will run it compile the client. The reason if that failed, else ""."""
    try:
        done = subprocess.run(
            [python, "-IS", "-c", _COMPILE, os.fspath(module)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python} cannot be run: {error}"
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        return f"{module} is not compiled, each start will take some milliseconds longer: {last}"
    return ""
