"""Instance: whose queue it is. The directory, its owner, becoming him before anything there is touched, and who answers.

Root, command or daemon, first becomes the directory's owner (groups, gid, uid), so that no root-owned file is ever
left there, and no file that the owner prepared is ever followed with root's rights.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
from pathlib import Path

from pysendmail.queue import QueueError

SERVICE_USER = "pysendmail"


def directory_owner(directory: Path) -> tuple[int, int]:
    """Make the queue's directory if it is missing; returns its owner's uid and gid.

    Raises QueueError where it cannot be made or is not fit: open to others, not a directory, not ours.
    """
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True)
            if os.geteuid() == 0:
                _give_to_service_user(directory)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise QueueError(f"{directory}: is not a directory: [queue] directory must name one")
        if status.st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise QueueError(f"{directory}: cannot be used as the queue's directory: {error.strerror}") from None
    return status.st_uid, status.st_gid


def _give_to_service_user(directory: Path) -> None:
    try:
        account = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return  # no such user (a container): root's own queue
    os.chown(directory, account.pw_uid, account.pw_gid)


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
