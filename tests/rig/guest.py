"""A throwaway Debian that has booted: systemd is its first process, and runs services, sockets, journal and users.

    base = debian(PACKAGES, suite="bookworm")
    with Guest(base, tmp_path) as guest:               # up: systemd says that its start is finished
        guest.must("systemctl", "restart", "cron")
        guest.reboot()                                 # the same files, everything else anew

As `Root`, which this is, with a part of cgroup2 of its own. What systemd cannot have here: memory, process and CPU
limits, where the machine keeps those controllers for cgroup v1; modules, the clock; a security module.

Whatever becomes of us, all of it ends with us: a process outside reads a pipe that we hold, and kills the first one.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

from rig.root import ENTER, KINDS, PATIENCE_S, Root, child

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "python3", "python3-systemd", "procps"),
    *("iproute2", "passwd", "ca-certificates", "openssl"),
)
_BOOT_S = 180.0  # a second or two, when nobody else wants the machine

# $1: the base, $2: a directory of ours; the rest is for unshare. Both groups are opened before the namespace is made:
# with cgroup2 mounted as systemd does it (nsdelegate), only so can they be entered from in there.
# No process of ours stays in the guest's own group, else systemd could not hand its controllers down.
_SUPERVISE = """
set -eu
mkdir -p "$2/cgroup"
mount -t cgroup2 cgroup2 "$2/cgroup"
group="$2/cgroup/pysendmail-guest-$$"
mkdir "$group" "$group/outside" "$group/guest"
base=$1 directory=$2
shift 2
exec 7<&0
( exec 5>"$group/outside/cgroup.procs" 6>"$group/guest/cgroup.procs" 7<&-
  echo 0 >&6
  exec unshare --cgroup sh -c 'echo 0 >&5; exec unshare "$@"' sh "$@" boot "$base" "$directory" ) &
guest=$!
( read -r nothing <&7 || :; kill -KILL $guest ) &
wait $guest || :
kill $! 2>/dev/null || :
until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.05; done  # the guest's last ones end
"""

# systemd tells NOTIFY_SOCKET that it has started.
_BEFORE_WE_LEAVE = 'mkdir run/host; mount --bind "$directory/notify" run/host\npivot_root'
_BOOT = f"""
echo 0 >&6
exec 5>&- 6>&-
{ENTER.replace("pivot_root", _BEFORE_WE_LEAVE)}
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/tests
cat /proc/sys/kernel/random/uuid >/run/boot_id  # else journalctl takes all boots for one
mount --bind /proc/sys /proc/sys
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
mount -o remount,bind,ro /proc/sys
[ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null /proc/sysrq-trigger
mount --make-rshared /  # else LoadCredential= leaves an empty place
echo box >/etc/hostname
echo '127.0.0.1 localhost\n127.0.1.1 box.example.com box' >/etc/hosts
echo up
exec env -i container=test NOTIFY_SOCKET=/run/host/socket PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb \\
  setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-wake_alarm,-block_suspend,-mac_override,-mac_admin \\
  /lib/systemd/systemd --log-target=journal-or-kmsg </dev/null
"""


class Guest(Root):
    """See the module. Up between __enter__ and __exit__."""

    def __init__(self, base: Path, directory: Path) -> None:
        super().__init__(base, directory)
        self._directory = directory
        kinds = [*KINDS, "--fork", "--kill-child", "--propagation=private", "sh", "-c", _BOOT]
        supervise = ["sh", "-c", _SUPERVISE, "supervise", str(base), str(directory)]
        self._command = ["unshare", "--mount", "--propagation=private", *supervise, *kinds]

    def __enter__(self) -> Self:
        (self._directory / "notify").mkdir(exist_ok=True)
        (self._directory / "notify" / "socket").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, self._console.open("wb") as console:
            told.bind(str(self._directory / "notify" / "socket"))
            # In a session of its own: what a terminal or timeout(1) sends to all of us would end only those who watch.
            self._first = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=console, stderr=console, start_new_session=True
            )
            if not self._finished(told):
                self.__exit__()
                said = self._console.read_text("utf-8", "replace")
                if not said.startswith("up\n"):
                    pytest.skip(f"this machine does not let us have namespaces or mounts: {said[-1000:].strip()}")
                raise AssertionError(f"systemd has not finished its start:\n{said}")
        guest, _reader = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        self._pid = child(int(guest))
        state = self.run("systemctl", "is-system-running").stdout.decode().strip()
        if state != "running":
            failed = self.run("systemctl", "--failed").stdout.decode()
            self.__exit__()
            raise AssertionError(f"the guest is {state}:\n{failed}")
        return self

    def _finished(self, told: socket.socket) -> bool:
        """Whether systemd says that its start is finished, before it ends or our patience does."""
        told.settimeout(1.0)
        for _ in range(int(_BOOT_S)):
            try:
                if "READY=1" in told.recv(4096).decode().split("\n"):
                    return True
            except TimeoutError:
                if self._first.poll() is not None:
                    return False
        return False

    @property
    def _console(self) -> Path:
        return self._directory / "console"

    def reboot(self) -> None:
        """Power off and boot again: the files stay, all else is anew."""
        self.must("systemctl", "poweroff", "--no-block")
        self._first.wait(PATIENCE_S)
        self.__exit__()
        self.__enter__()

    def command(self, *argv: str, user: str = "root", environment: Mapping[str, str] | None = None) -> list[str]:
        """As Root's. It is in a control group of the guest's: systemd wants nothing to do with any other."""
        enter = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', f"/proc/{self._pid}/root/sys/fs/cgroup/tests/cgroup.procs"]
        nsenter, *rest = super().command(*argv, user=user, environment=environment)
        return [*enter, nsenter, "--cgroup", *rest]

    def fetch(self, *argv: str) -> str:
        """A command that has to succeed, in everything of the guest's but its network: it has the machine's."""
        self.path("/etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
        command = [word for word in self.command(*argv) if word != "--net"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
