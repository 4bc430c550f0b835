"""Spool: the queue's directory: its owner, its lock, the ballast, the room that is left.

Root, command or daemon, first becomes the directory's owner (groups, gid, uid), so that no root-owned file is ever
left there, and no file that the owner prepared is ever followed with root's rights. Whoever holds `queue.lock` is the
one writer; the kernel frees it when he dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FREE_FLOOR = 4 * 1024 * 1024  # a submission leaves at least this much of the disk, beside twice its own size
LEAST_RESERVE = 64 * 1024  # enough to record outcomes on a full disk (measured); less is none
LOCK_WAIT_S = 10.0
TRIAL_OCTETS = 64 * 1024  # more than SQLite writes at once
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SERVICE_USER = "pysendmail"


class QueueError(Exception):
    """The queue cannot be used; the text says what, where and what to do."""


class QueueBusy(QueueError):
    """Another process holds queue.lock."""


def directory_owner(directory: Path) -> tuple[int, int]:
    """Make the queue's directory if it is missing; returns its owner's uid and gid.

    Raises QueueError where it cannot be made or is not fit: open to others, not a directory, not ours.
    """
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            if os.geteuid() == 0:
                os.chown(directory, *future_owner())
        if not (directory / "queue.db").exists():
            _keep_names(directory)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise QueueError(f"{directory}: is not a directory: [queue] directory must name one")
        if status.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise QueueError(f"{directory}: cannot be used as the queue's directory: {error.strerror}") from None
    return status.st_uid, status.st_gid


def _keep_names(directory: Path) -> None:
    """Before a queue is first used: sync what its path stands on, or a power cut may take it away with its mail.

    A file's own sync need not make the directories above it durable. Who may not read one of them did not make it.
    """
    for parent in directory.resolve().parents:
        with suppress(OSError):
            sync(parent)


def sync(path: Path) -> None:
    """Make durable what anybody has written to this file, or entered in this directory."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def future_owner() -> tuple[int, int]:
    """Uid and gid of a queue's directory that this process would make: root makes it for the service user."""
    if os.geteuid() == 0:
        with suppress(KeyError):  # no such user (a container): root's own queue
            account = pwd.getpwnam(SERVICE_USER)
            return account.pw_uid, account.pw_gid
    return os.geteuid(), os.getegid()


def owner_of(directory: Path) -> tuple[int, int]:
    """Uid and gid of a queue's directory, or what they will be: as whom the daemon works."""
    try:
        status = directory.stat()
    except OSError:
        return future_owner()
    return status.st_uid, status.st_gid


def become(uid: int, gid: int) -> None:
    """Give up root for good: groups, gid, uid, in this order."""
    if uid == 0:
        return
    try:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


class acting_as:
    """For a moment, as root, the queue's owner: what is made meanwhile is his."""

    def __init__(self, uid: int, gid: int) -> None:
        self._who = (uid, gid) if os.geteuid() == 0 else None

    def __enter__(self) -> None:
        if self._who:
            os.setegid(self._who[1])
            os.seteuid(self._who[0])

    def __exit__(self, *_: object) -> None:
        if self._who:
            os.seteuid(0)
            os.setegid(0)


def answers(path: Path) -> bool:
    """Whether somebody listens on the socket. Not allowed to know counts as no."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


def may_write(directory: Path) -> bool:
    """Whether this process may own the queue there: root, the directory's owner, or whoever may make it."""
    if os.geteuid() == 0:
        return True
    try:
        return directory.stat().st_uid == os.geteuid() and os.access(directory, os.W_OK | os.X_OK)
    except FileNotFoundError:
        parent = next(parent for parent in directory.parents if parent.exists())
        return os.access(parent, os.W_OK | os.X_OK)
    except OSError:
        return False


class QueueLock:
    """`queue.lock`: whoever holds it is the queue's one writer. Freed by the kernel when the process ends."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "queue.lock"
        self._fd = -1

    def acquire(self, wait_s: float = LOCK_WAIT_S, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Take the lock, waiting for another command; raises QueueBusy after `wait_s` seconds.

        `unless` is asked while it is held: when it says yes, waiting is in vain, and QueueBusy comes at once.
        """
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline or unless():
                    self.release()
                    raise QueueBusy(
                        f"{self.path} is held by another process (a daemon, or a command at work)"
                    ) from None
                time.sleep(0.01)
            except OSError as error:
                self.release()
                words = f"{self.path} cannot be locked ({error.strerror}): a queue needs a local disk"
                raise QueueError(words) from None

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Reserve:
    """The ballast: disk space kept back so that outcomes can still be recorded when the disk is full."""

    def __init__(self, directory: Path, octets: int) -> None:
        self.path = directory / "reserve"
        self.octets = octets
        self.given_up = False
        self._lent = 0  # what it had when it was given up

    def fill(self) -> None:
        """Set the ballast up, or again after it was given up: whole, or on a small disk as much as may lie there.

        Half of what submissions leave free is ours to take. What it gave up itself is no sign of room.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        free = free_octets(self.path.parent) + size
        wanted = min(self.octets, max(free - FREE_FLOOR, 0) // 2)
        if wanted <= size <= self.octets and (size or not self.octets):
            self.given_up = False
            return
        if wanted < min(self.octets, LEAST_RESERVE) or (self._lent and free < self._lent + FREE_FLOOR):
            self.given_up = True
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:  # no inode is left, most likely
            self.given_up = True
            return
        try:
            os.ftruncate(fd, 0)
            if wanted:
                os.posix_fallocate(fd, 0, wanted)
        except OSError:
            self.give_up()
            return
        finally:
            os.close(fd)
        self.given_up = False
        self._lent = 0

    @property
    def room(self) -> bool:
        """Whether there is room for more than recording what became of mail: beside the ballast, not in its place."""
        return not self.given_up or free_beside_reserve(self.path.parent, self.octets) >= FREE_FLOOR

    def give_up(self) -> None:
        with suppress(FileNotFoundError):
            self._lent = self.path.stat().st_size
        self.path.unlink(missing_ok=True)
        self.given_up = True


def free_beside_reserve(directory: Path, reserve: int) -> int:
    """What is free for mail: a ballast that was given up is to be filled again, not to be used up by new mail."""
    try:
        filled = os.stat(f"{directory}/reserve").st_size  # at each submission: a Path costs more than the question
    except FileNotFoundError:
        filled = 0
    return max(free_octets(directory) - max(reserve - filled, 0), 0)


def takes_mail(directory: Path, reserve: int) -> bool:
    """Whether there is room for the smallest message."""
    try:
        return free_beside_reserve(directory, reserve) >= FREE_FLOOR
    except OSError:
        return False


def free_octets(directory: Path) -> int:
    """What an unprivileged process may still write on this file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def has_no_room(directory: Path) -> bool:
    """Whether queue.db can grow no more: the disk is full, or a quota or a limit on sizes of files is reached.

    Tried where that would show, at the end of the longest of its files, in a file without a name. None of SQLite's own
    is opened: to close it would take away this process' locks.
    """
    try:
        longest = max(file.stat().st_size for file in directory.glob("queue.db*"))
        trial = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            return os.pwrite(trial, bytes(TRIAL_OCTETS), longest) < TRIAL_OCTETS
        finally:
            os.close(trial)
    except OSError as error:
        return error.errno in NO_ROOM
