"""Sockets: what the daemon answers on, each already listening: handed over by who started it, or bound by path.

`handed_over` takes the descriptors of sd_listen_fds(3): LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, where the names are
`submit`, `control` and `smtp`, the last for loopback addresses. Such a socket outlives daemons, so that nobody is
refused while one follows the other; its path, owner and mode are its maker's, and we neither unlink nor replace it.
The variables are taken away: they are for this process, none of its children. What is for another process is left
alone.

`bind` makes the rest. HandOverError leaves `handed_over` for what is not as it should be, QueueError leaves `bind`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pysendmail.config import Config
from pysendmail.spool import QueueError, answers

BACKLOG = 1024
SUBMIT, CONTROL, SMTP = "submit", "control", "smtp"
NAMES = (SUBMIT, CONTROL, SMTP)
FIRST_DESCRIPTOR = 3
MAX_DESCRIPTORS = 64
MODES = {SUBMIT: 0o666, CONTROL: 0o600}
PID, COUNT, DESCRIPTOR_NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"


class HandOverError(Exception):
    """Who started us handed over something that we cannot answer on; the text says what and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening socket; `name` is `submit`, for everybody, `control`, for the queue's owner and root, or `smtp`."""

    name: str
    sock: socket.socket
    held: bool  # by who handed it over: others answer on it before and after us


def handed_over(environment: MutableMapping[str, str], pid: int) -> list[Listener]:
    """The sockets that the process `pid`, which is this one, was started with."""
    given = {name: environment.pop(name, "") for name in (PID, COUNT, DESCRIPTOR_NAMES)}
    if given[PID] != str(pid) or not given[COUNT]:
        return []
    if not given[COUNT].isascii() or not given[COUNT].isdecimal() or int(given[COUNT]) > MAX_DESCRIPTORS:
        raise HandOverError(f"{COUNT}={given[COUNT]!r}: is no number up to {MAX_DESCRIPTORS}")
    names = given[DESCRIPTOR_NAMES].split(":") if given[DESCRIPTOR_NAMES] else []
    if len(names) != int(given[COUNT]):
        raise HandOverError(
            f"{COUNT} hands over {given[COUNT]} sockets, {DESCRIPTOR_NAMES} has {len(names)} names: "
            f"each needs one of {', '.join(NAMES)} (FileDescriptorName= in its .socket unit)"
        )
    return [_take(fd, name) for fd, name in enumerate(names, FIRST_DESCRIPTOR)]


def _take(fd: int, name: str) -> Listener:
    if name not in NAMES:
        raise HandOverError(
            f"a socket was handed over as {name!r}: FileDescriptorName= in its .socket unit must be one of "
            f"{', '.join(NAMES)}"
        )
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise HandOverError(f"{name}: the descriptor {fd} that was handed over: {error.strerror}") from None
    if problem := _problem(name, sock):
        sock.close()
        raise HandOverError(f"{name}: the descriptor {fd} that was handed over {problem} in its .socket unit")
    return Listener(name=name, sock=sock, held=True)


def _problem(name: str, sock: socket.socket) -> str:
    """Why we cannot answer on it, and what mends that; "" if we can."""
    listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if name == SMTP:
        inet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM and listens
        if not inet or not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
            return "is not listening on a loopback address: ListenStream=127.0.0.1:25, and Accept=no,"
        return ""
    if (sock.family, sock.type, listens) != (socket.AF_UNIX, socket.SOCK_STREAM, True):
        return "is no listening Unix stream socket: ListenStream= with a path, and Accept=no,"
    if name == CONTROL:
        # All rights for whoever can connect, and the mode of a .socket unit is 0666 unless it says something else.
        path = sock.getsockname()
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except (OSError, ValueError):  # ValueError: an abstract one, which nothing closes
            return f"is not at its path {path!s} any more: ListenStream= with a path"
        if mode & ~MODES[CONTROL]:
            return f"is open to others ({path}, mode {mode:04o}): SocketMode=0600"
    return ""


def astray(listeners: Sequence[Listener], config: Config) -> list[str]:
    """What to say of sockets that were handed over and that nobody finds, since `config` has them elsewhere."""
    wanted = {SUBMIT: config.daemon.socket, CONTROL: config.daemon.control}
    return [
        f"{one.name}: was handed over at {path}, but commands look for it at {wanted[one.name]} ([daemon] socket): "
        "ListenStream= in its .socket unit must be the same"
        for one in listeners
        if one.held and one.name in wanted
        if (path := _place(one.sock)).resolve() != wanted[one.name].resolve()
    ]


def _place(sock: socket.socket) -> Path:
    return Path(os.fsdecode(sock.getsockname()).replace("\0", "@"))  # an abstract one is spelled so


def bind(config: Config, uid: int, gid: int, *, but: Collection[str] = ()) -> Sequence[Listener]:
    """The sockets whose names are not in `but`, bound by path. One that answers is another's: QueueError."""
    paths = {SUBMIT: config.daemon.socket, CONTROL: config.daemon.control}
    wanted = [name for name in paths if name not in but]
    directory = config.daemon.socket.parent
    if wanted and not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # whatever the umask: everybody has to reach `submit`
        if os.geteuid() == 0:
            os.chown(directory, uid, gid)
    return [Listener(name=name, sock=_bind(paths[name], MODES[name], uid, gid), held=False) for name in wanted]


def _bind(path: Path, mode: int, uid: int, gid: int) -> socket.socket:
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise QueueError(f"{path}: is there already and is not a socket")
    if answers(path):
        raise QueueError(f"{path}: another daemon answers there: stop it, or give this one its own [daemon] socket")
    # Made beside its place and moved there: who calls in between meets the old socket or the new one, never none.
    new = path.with_name(".new")
    new.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # The mode has to be right from the first moment: nobody may reach `control` in between.
    old = os.umask(0o777 & ~mode)
    try:
        sock.bind(str(new))
        sock.listen(BACKLOG)  # whoever comes before we are ready waits instead of being refused
    finally:
        os.umask(old)
    if os.geteuid() == 0:
        # Not through a link: who owns the directory may have put one there since.
        os.chown(new, uid, gid, follow_symlinks=False)
    new.rename(path)
    return sock
