"""A whole pysendmail in a directory: configuration, installed commands as subprocesses, the daemon and its log.

    with Instance(tmp_path, smarthosts=[peer_table(peer)]) as instance:       # starts the daemon
        done = instance.sendmail("bob@example.org", text=b"Subject: x\\n\\nhello\\n")
        instance.wait_for("outcome", status="sent")

Nothing here sleeps: `wait_for` returns with the log line that was asked for. Commands are those installed beside
the Python that runs the tests, or those in $PYSENDMAIL_TEST_BIN.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rig.activation import Activation

PATIENCE_S = 30.0
LOG_OCTETS = 1 << 20  # of the log that wait for us: a line that finds no room is lost
BIN = Path(os.environ.get("PYSENDMAIL_TEST_BIN") or Path(sys.executable).parent)
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')

Table = Mapping[str, Any]


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(one) for one in value)}]"
    return json.dumps(value) if isinstance(value, str) else str(value)


def smarthost(peer: Any, name: str = "main", **settings: Any) -> dict[str, Any]:
    """The [[smarthost]] table for a peer of the rig (anything with `port`)."""
    return {"name": name, "host": getattr(peer, "host", "127.0.0.1"), "port": peer.port, **settings}


class Event(dict[str, str]):
    """One line of the log; missing keys read as "". `at`: when it was read; `pid`: of the process that was started."""

    at = 0.0
    pid = 0

    def __missing__(self, key: str) -> str:
        return ""


def parse_event(line: str) -> Event:
    pairs = ((m[1], m[2]) for m in _PAIR.finditer(line))
    return Event((k, json.loads(v) if v.startswith('"') and "\\x" not in v else v.strip('"')) for k, v in pairs)


class Daemon:
    """The daemon that `command` runs in the foreground, and what it logs."""

    def __init__(self, command: Sequence[str]) -> None:
        self.events: list[Event] = []
        self.lines: list[str] = []  # of the log
        self.process: subprocess.Popen[bytes] | None = None
        self.activation: Activation | None = None  # who holds the daemon's sockets, if somebody else does
        self._command = command
        self._news = threading.Condition()
        self._ended: subprocess.Popen[bytes] | None = None  # the daemon whose log has come to its end

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    @property
    def log(self) -> str:
        """All of it, whole."""
        return "".join(self.lines)

    def start(self, *, wrapper: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """Start the daemon; returns when it takes submissions. `wrapper` goes before the command (strace, ...)."""
        seen = len(self.events)
        self.launch(wrapper=wrapper, environment=environment)
        self.wait_for("start", after=seen)

    def launch(self, *, wrapper: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """As `start`, for a daemon that may not live to say so."""
        held = self.activation
        self.process = subprocess.Popen(
            [*wrapper, *(held.wrapper if held else ()), *self._command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pipesize=LOG_OCTETS,
            env={**os.environ, **(environment or {})},
            pass_fds=held.descriptors if held else (),
        )
        threading.Thread(target=self._read_log, args=(self.process,), daemon=True).start()

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                text = line.decode("utf-8", "replace")
                with self._news:
                    self.lines.append(text)
                    if text.startswith("event="):
                        event = parse_event(text)
                        event.at, event.pid = time.time(), process.pid
                        self.events.append(event)
                    self._news.notify_all()
        with self._news:
            self._ended = process
            self._news.notify_all()

    def stop(self) -> int:
        """SIGTERM, and the daemon's exit code."""
        return self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: the daemon has no last word."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def reload(self) -> Event:
        """SIGHUP; returns the daemon's word on it."""
        assert self.process is not None
        seen = len(self.events)
        self.process.send_signal(signal.SIGHUP)
        return self.wait_for("reload", after=seen)

    def wait_for(self, event: str, *, count: int = 1, after: int = 0, **fields: str) -> Event:
        """The `count`-th event of this name with these fields, of those after the first `after` events."""
        with self._news:
            self._news.wait_for(
                lambda: self._find(event, count, after, fields) or self._ended is self.process, PATIENCE_S
            )
            match = self._find(event, count, after, fields)
        assert match, f"no {event} {fields} (x{count}) in the log:\n{self.log}"
        return match

    def wait_quietly(self, true: Callable[[], Any]) -> None:
        """Wait until this holds, or the daemon is dead; it is looked at after each line of the log."""
        with self._news:
            assert self._news.wait_for(lambda: true() or self._ended is self.process, PATIENCE_S), self.log

    def wait_through_deaths(self, true: Callable[[], Any]) -> None:
        """As `wait_quietly`, for a daemon that somebody starts again when it dies."""
        assert self.happens(true, PATIENCE_S), self.log

    def happens(self, true: Callable[[], Any], seconds: float) -> bool:
        """Whether this holds within `seconds`; it is looked at after each line of the log."""
        with self._news:
            return bool(self._news.wait_for(true, seconds))

    def _find(self, event: str, count: int, after: int, fields: Mapping[str, str]) -> Event | None:
        matches = self.matching(event, after, fields)
        return matches[count - 1] if len(matches) >= count else None

    def matching(self, event: str, after: int = 0, fields: Mapping[str, str] | None = None) -> list[Event]:
        wanted = {"event": event, **(fields or {})}
        return [one for one in self.events[after:] if all(one[key] == value for key, value in wanted.items())]


class Instance(Daemon):
    """See the module. `tables` are further tables of the configuration, e.g. retry={"first": "1s"}."""

    def __init__(self, directory: Path, *, smarthosts: Sequence[Table] = (), **tables: Table | Sequence[Table]) -> None:
        self.directory = directory
        self.config = directory / "pysendmail.toml"
        self.queue_directory = directory / "queue"
        self.socket = directory / "run" / "submit"
        super().__init__([str(BIN / "pysendmail"), "-C", str(self.config), "daemon"])
        self.configure(smarthosts=smarthosts, **tables)

    def configure(self, *, smarthosts: Sequence[Table] = (), **tables: Table | Sequence[Table]) -> None:
        """Write the configuration; a running daemon takes it over at SIGHUP (`reload`)."""
        aliases = self.directory / "aliases"
        aliases.touch()
        merged: dict[str, Any] = {
            "queue": {"directory": str(self.queue_directory), "reserve": "64KiB"},
            "daemon": {"socket": str(self.socket)},
            "aliases": {"file": str(aliases)},
        }
        for name, table in tables.items():
            merged[name] = {**merged.get(name, {}), **table} if isinstance(table, Mapping) else table
        lines = ['hostname = "box.example.com"', 'domain = "example.com"']
        for name, table in [*merged.items(), ("smarthost", list(smarthosts))]:
            for one in [table] if isinstance(table, Mapping) else table:
                lines.append(f"[{name}]" if isinstance(table, Mapping) else f"[[{name}]]")
                lines += [f"{key.rstrip('_')} = {toml_value(value)}" for key, value in one.items()]
        self.write_configuration("\n".join(lines) + "\n")

    def write_configuration(self, text: str) -> None:
        """As editors do, in one step: a daemon that starts meanwhile never meets half a file, or an empty one."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    # -- commands --

    def run(
        self,
        name: str,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        uid: int | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """One of the installed commands with this instance's configuration; with `uid`, by that user."""
        return subprocess.run(
            [*as_user(uid), str(BIN / name), "-C", str(self.config), *arguments],
            input=stdin,
            capture_output=True,
            env={**os.environ, **(environment or {})},
            timeout=PATIENCE_S * 2,
            check=False,
            **options,
        )

    def under(self, wrapper: Sequence[str], name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """One of them with this before the command (strace, ...)."""
        command = [*wrapper, str(BIN / name), "-C", str(self.config), *arguments]
        return subprocess.run(command, input=b"", capture_output=True, timeout=PATIENCE_S * 2, check=False)

    def by_name(
        self, *command: str, stdin: bytes = b"", uid: int | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """A command with the configuration named by the environment: -C would only choose where to queue."""
        return subprocess.run(
            [*as_user(uid), str(BIN / command[0]), *command[1:]],
            input=stdin,
            capture_output=True,
            env={**os.environ, "PYSENDMAIL_CONFIG": str(self.config)},
            timeout=PATIENCE_S * 2,
            check=False,
            **options,
        )

    def named(self, command: Sequence[str], *, stdin: bytes = b"", uid: int | None = None) -> bytes:
        """The same for a command that must succeed; its output."""
        done = self.by_name(*command, stdin=stdin, uid=uid)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stderr!r}"
        return done.stdout

    def sendmail(
        self, *arguments: str, text: bytes = b"Subject: test\n\nhello\n", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        return self.run("sendmail", *arguments, stdin=text, **options)

    def submit(self, *arguments: str, text: bytes = b"Subject: test\n\nhello\n", **options: Any) -> None:
        """A submission that must succeed."""
        done = self.sendmail(*arguments, text=text, **options)
        assert done.returncode == 0, f"sendmail {shlex.join(arguments)}: {done.returncode} {done.stderr!r}"

    def pysendmail(self, *arguments: str, code: int | None = 0, **options: Any) -> str:
        """An administration command; its output."""
        done = self.run("pysendmail", *arguments, **options)
        assert code is None or done.returncode == code, (
            f"{arguments}: {done.returncode} {done.stdout!r} {done.stderr!r}"
        )
        return done.stdout.decode()

    def mailq(self, **options: Any) -> list[dict[str, Any]]:
        listed = self.listed(**options)
        assert listed is not None, f"mailq failed:\n{self.log}"
        return listed

    def listed(self, **options: Any) -> list[dict[str, Any]] | None:
        """What waits; None: nobody can say, as while a daemon starts."""
        done = self.run("mailq", "--json", **options)
        return list(json_lines(done.stdout)) if done.returncode == 0 else None

    def history(self, *arguments: str) -> list[dict[str, Any]]:
        return list(json_lines(self.pysendmail("history", "--json", *arguments).encode()))

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.pysendmail("status", "--json", code=None))
        return report


OTHERS = (66, 67, 68)  # uids that own nothing here


def can_be(uid: int) -> bool:
    """Whether we may run the installed commands as that user, and he can read the same Python as we."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return False
    look = [BIN / "python", "-c", "import os, pysendmail; print(os.__file__, pysendmail.__file__)"]
    ours, his = (subprocess.run([*as_user(who), *look], capture_output=True, check=False) for who in (None, uid))
    return (his.returncode, his.stdout) == (0, ours.stdout)


def as_user(uid: int | None) -> list[str]:
    """What goes before a command that this uid is to run."""
    if uid is None:
        return []
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]


def json_lines(output: bytes) -> Iterator[dict[str, Any]]:
    for line in output.splitlines():
        yield json.loads(line)
