"""A throwaway Debian: a root of its own, with real users, their programs, and nothing on the network but loopback.

    base = debian(["cron", "mutt"])                    # built by mmdebstrap, kept for a week, shared by all runs
    with Root(base, tmp_path) as root:                 # an overlay on it: what is written here is gone afterwards
        root.run("id", "-u", user="alice")
        root.path("/etc/aliases").write_text("...")    # its files, from outside

Promises: a process tree, mounts, hostname, System V IPC and network of its own; whatever becomes of us, all of its
processes end with us (its first process reads a pipe that we hold). The base is never written to once it is built.
Needs root, Linux namespaces and mmdebstrap; the test is skipped by name otherwise.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from rig.debian import program

SUITE = "trixie"
PATIENCE_S = 180.0  # for one command, on a machine that is busy
_BUILD_S = 1200
_KEEP_S = 7 * 86400.0
KINDS = ("--mount", "--pid", "--uts", "--ipc", "--net")
# As long as the root lives: nobody reads manuals in there, and there are no power cuts.
_DPKG = (*(f"path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")), "force-unsafe-io")

# Stands for the MTA under test where a package wants one, so that apt-get brings no other.
STAND_IN = "interop-mta"
_STAND_IN = f"""\
Package: {STAND_IN}
Version: 1
Architecture: all
Maintainer: tests <tests@localhost>
Provides: mail-transport-agent
Description: the mail transport agent under test
"""

# $1: the base, $2: a directory of ours, then volumes: a path of ours and one in there, for each. After it, the shell is
# the first process of the root, and sees nothing else.
ENTER = """
set -eu
mkdir -p "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mkdir -m 1777 run/lock
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do : >dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
hostname box
directory=$2
shift 2
while [ $# -gt 0 ]; do mkdir -p "./$2"; mount --bind "$1" "./$2"; shift 2; done
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
"""
# Ends, and all others with it, with us. Until then it reaps, for the kernel, whom nobody else waits for.
BOOT = f"""{ENTER}
ip link set lo up
echo up
exec env --ignore-signal=CHLD cat
"""


def debian(packages: Sequence[str], *, suite: str = SUITE, stand_in: str = _STAND_IN) -> Path:
    """The directory of a Debian with these packages and what they depend on; from the cache if it is a week old.

    `stand_in`: the control file of the package that stands for the MTA; "" where one of the packages is the MTA.
    """
    if os.geteuid() != 0:
        pytest.skip("a Debian root can only be made by root")
    made_from = "\n".join([suite, stand_in, *_DPKG, *sorted(packages)])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysendmail-tests"
    cache.mkdir(parents=True, exist_ok=True)
    base = cache / f"{suite}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    with (cache / f"lock-{suite}").open("w") as lock:  # two suites are made at once, by who waits for them
        fcntl.flock(lock, fcntl.LOCK_EX)
        mmdebstrap = program("mmdebstrap", "mmdebstrap")
        program("unshare", "util-linux")
        for old in cache.iterdir():
            if old.name.startswith(f"{suite}-") and time.time() - old.stat().st_mtime > _KEEP_S:
                shutil.rmtree(old)
        if not base.exists():
            _build(mmdebstrap, suite, packages, stand_in, base)
    return base


def _build(mmdebstrap: str, suite: str, packages: Sequence[str], stand_in: str, base: Path) -> None:
    growing = base.with_name(f"growing-{base.name}")
    shutil.rmtree(growing, ignore_errors=True)
    growing.mkdir()
    try:
        included = [",".join(packages)]
        if stand_in:
            control = growing / "stand-in" / "DEBIAN" / "control"
            control.parent.mkdir(parents=True)
            control.write_text(stand_in)
            deb = growing / "stand-in.deb"
            _must(["dpkg-deb", "--root-owner-group", "-b", str(control.parent.parent), str(deb)])
            included.append(str(deb))
        _must(
            [
                *("nice", mmdebstrap, "--quiet", "--mode=root", "--variant=minbase"),
                *("--aptopt=Acquire::Retries 3", *(f"--dpkgopt={option}" for option in _DPKG)),
                "--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount",  # for the .deb that is a file
                *(*(f"--include={one}" for one in included), suite, str(growing / "root"), *_mirror(suite)),
            ]
        )
        (growing / "root").replace(base)
        os.utime(base)
    finally:
        shutil.rmtree(growing)


def _mirror(suite: str) -> list[str]:
    """What this machine's own apt uses, if that is a Debian; else mmdebstrap knows one."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    urls = [url.rstrip("/") for url in said.stdout.split()]
    return [f"deb {url} {suite} main" for url in urls if url.endswith("/debian")][:1]


def _must(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUILD_S, check=False
    )
    if done.returncode:
        pytest.skip(f"{command[0]} could not make a Debian root: {(done.stderr or done.stdout).strip()[-1000:]}")


class Root:
    """See the module. Up between __enter__ and __exit__."""

    boot = BOOT

    def __init__(self, base: Path, directory: Path, *, volumes: Mapping[str, Path] | None = None) -> None:
        """`volumes`: directories of ours, by their place in there, which several roots may have."""
        self._command = ["unshare", *KINDS, "--fork", "--kill-child", "--propagation=private"]
        self._command += ["sh", "-c", self.boot, "boot", str(base), str(directory)]
        for place, ours in (volumes or {}).items():
            self._command += [str(ours), place]

    def __enter__(self) -> Self:
        self._first = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._first.stdout is not None
        if self._first.stdout.readline() != b"up\n":
            self.__exit__()
            pytest.skip("no Debian root: this machine does not let us have namespaces or an overlay; see stderr")
        self._pid = child(self._first.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self._first.communicate()

    @property
    def network(self) -> Path:
        """Its network namespace, for a socket of ours that is to be in it."""
        return Path(f"/proc/{self._pid}/ns/net")

    def path(self, inside: str) -> Path:
        """A file of the root, by its absolute path there. To be opened as it is: resolved, it is a file of ours."""
        return Path(f"/proc/{self._pid}/root") / inside.lstrip("/")

    def command(self, *argv: str, user: str = "root", environment: Mapping[str, str] | None = None) -> list[str]:
        """What runs `argv` in there, as that user in his home directory, with no more than a user's environment."""
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "linux",
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            **(environment or {}),
        }
        enter = ["nsenter", f"--target={self._pid}", *KINDS, "--root", "--wd"]
        cwd = home if self.path(home).is_dir() else "/"
        clean = ["env", "-i", f"--chdir={cwd}", *(f"{name}={value}" for name, value in variables.items())]
        return [*enter, *clean, "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv]

    def run(
        self, *argv: str, user: str = "root", environment: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        command = self.command(*argv, user=user, environment=environment)
        return subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE_S, check=False)

    def must(self, *argv: str, user: str = "root", stdin: bytes = b"") -> str:
        """A command that has to succeed; its standard output."""
        done = self.run(*argv, user=user, stdin=stdin)
        said = done.stdout.decode("utf-8", "replace")
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{said}\n{done.stderr.decode('utf-8', 'replace')}"
        return said

    def talk(self, *argv: str, user: str, keys: Sequence[tuple[str, str]]) -> str:
        """Run it to its end on a terminal of its own: after each text, its keys are typed. What it has shown."""
        limit = ["timeout", "--signal=KILL", str(int(PATIENCE_S))]
        command = self.command(*limit, "script", "--quiet", "--command", shlex.join(argv), "/dev/null", user=user)
        shown = b""
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for text, answer in keys:
                while text.encode() not in shown and (more := os.read(process.stdout.fileno(), 1 << 16)):
                    shown += more
                os.write(process.stdin.fileno(), answer.encode())
            while more := os.read(process.stdout.fileno(), 1 << 16):
                shown += more
        return shown.decode("utf-8", "replace")

    @contextlib.contextmanager
    def service(self, *argv: str) -> Iterator[None]:
        """A program that stays in the foreground, until the end of this context."""
        with subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                stop(process)


def child(pid: int) -> int:
    """The one child of that process: nsenter and unshare wait for theirs, and pass no signal on."""
    (only,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(only)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for what nsenter runs."""
    if process.poll() is None:
        os.kill(child(process.pid), signal.SIGTERM)
    process.wait(PATIENCE_S)
