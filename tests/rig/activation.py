"""Who holds the listening sockets while daemons come and go, as a service manager does for its socket units.

    instance.activation = Activation(instance.socket)    # from now on each daemon is handed `submit` and `control`

Until it is closed, connecting to either path succeeds, whether a daemon runs or not.
"""

from __future__ import annotations

import fcntl
import socket
import sys
from pathlib import Path

BACKLOG = 1024
_HIGH = 100  # above what a daemon is to find them at, 3 and 4, so that one does not overwrite the other
# What fork and exec do in a service manager: the descriptors from 3 on, and the pid, which exec keeps.
_HAND_OVER = """
import os, sys
names, *descriptors = sys.argv[1].split(",")
for number, descriptor in enumerate(descriptors, 3):
    os.dup2(int(descriptor), number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=names)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Activation:
    """See the module. `submit` is for everybody, `control` beside it for us."""

    def __init__(self, submit: Path) -> None:
        submit.parent.mkdir(exist_ok=True)
        submit.parent.chmod(0o755)
        self._sockets = [self._listen(submit, 0o666), self._listen(submit.with_name("control"), 0o600)]
        self.descriptors = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, _HIGH) for sock in self._sockets]

    def _listen(self, path: Path, mode: int) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(BACKLOG)
        return sock

    @property
    def wrapper(self) -> list[str]:
        """What goes before the daemon's command; it needs `descriptors` to be passed."""
        given = ",".join(["submit:control", *map(str, self.descriptors)])
        return [sys.executable, "-IS", "-c", _HAND_OVER, given]

    def close(self) -> None:
        for descriptor in self.descriptors:
            socket.close(descriptor)
        for sock in self._sockets:
            sock.close()
