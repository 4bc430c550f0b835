"""small_file: the octets of a regular file that is small, read without ever waiting, and replaced in one step.

For files that an administrator names: in their place may be a FIFO, a terminal, a directory or a disk's image.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# What an error says of the file itself; every other is one of the moment, and it may be read the next time.
LASTING = frozenset(
    {
        *(0, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL),
    }
)


def read(path: Path, limit: int) -> bytes:
    """All octets. OSError, whose `strerror` is fit to be shown, also for what is no file or has more than `limit`."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is not a file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(0, f"it is larger than {limit >> 20} MiB")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        raise OSError(0, "there is a NUL in its name") from None
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "it is not a file")
    return handle


def replace(path: Path, octets: bytes, mode: int) -> None:
    """Make this the file's content: a crash leaves the old one or the new, whole. Its directory is not synced."""
    with beside(path, octets, mode) as new:
        new.replace(path)


@contextlib.contextmanager
def beside(path: Path, octets: bytes, mode: int, group: int | None = None) -> Iterator[Path]:
    """A file with this content, durable, that may take the name of the one beside which it lies; else it goes again.

    With a `group`, it is root's and of that group.
    """
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()  # left by a crash; also never written through, whatever it is
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o600), "wb") as file:
        try:
            if group is not None:
                os.fchown(file.fileno(), 0, group)
            os.fchmod(file.fileno(), mode)  # only now: until it has its group, nobody else may read it
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
            yield new
        finally:
            new.unlink(missing_ok=True)
