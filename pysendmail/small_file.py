"""small_file: the octets of a regular file that is small, read without ever waiting.

For files that an administrator names: in their place may be a FIFO, a terminal, a directory or a disk's image.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Errors of the moment: they say nothing of the file, which may be read the next time.
MOMENTARY = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR),
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),
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
