"""Small file systems of a test's own, and how they become full.

    with mounted(TMPFS, directory, 8 * MIB) as disk:
        filler = fill(disk)          # no octet is free
        filler.unlink()

Mounting needs root, and to be allowed: `CannotMount` says what the machine said.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

MIB = 1 << 20
INODES = 24  # of EXT4, of which it takes eleven for itself
TMPFS = "tmpfs"
EXT4 = "ext4"  # in a file beside the directory, with INODES
KINDS = (TMPFS, EXT4)


class CannotMount(Exception):
    """No such file system can be had here; the text says why."""


@contextlib.contextmanager
def mounted(kind: str, directory: Path, octets: int) -> Iterator[Path]:
    """A file system of that size on a directory, which is made where it is missing."""
    directory.mkdir(exist_ok=True)
    if kind == TMPFS:
        _do("mount", "-t", "tmpfs", "-o", f"size={octets},mode=0755", "pysendmail-test", str(directory))
    else:
        image = directory.with_suffix(".image")
        with image.open("wb") as file:
            file.truncate(octets)
        _do("mkfs.ext4", "-q", "-m", "0", "-N", str(INODES), str(image))
        _do("mount", "-o", "loop", str(image), str(directory))
    try:
        yield directory
    finally:
        _do("umount", "-l", str(directory))


def grow(disk: Path, octets: int) -> None:
    """A tmpfs has this size from now on."""
    _do("mount", "-o", f"remount,size={octets}", str(disk))


def _do(*command: str) -> None:
    if os.geteuid() != 0:
        raise CannotMount("mounting needs root")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)
    except FileNotFoundError:
        raise CannotMount(f"there is no {command[0]}") from None
    if done.returncode:
        raise CannotMount(f"{command[0]}: {done.stderr.strip()}")


def fill(disk: Path) -> Path:
    """Another program's file takes all that is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return filler


def fill_inodes(disk: Path) -> Path:
    """Another program's files leave room for octets, and for no file more; in a directory."""
    fillers = disk / "fillers"
    with contextlib.suppress(OSError):
        fillers.mkdir()
        for number in range(INODES):
            (fillers / str(number)).touch()
    return fillers


def empty(fillers: Path) -> None:
    """What `fill` or `fill_inodes` took is free again."""
    files: Sequence[Path] = list(fillers.iterdir()) if fillers.is_dir() else [fillers]
    for file in files:
        file.unlink()
