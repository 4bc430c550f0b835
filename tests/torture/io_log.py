"""IoLog: what a program did to the files below a directory, and what it told the world, in one order.

    before = Tree.of(queue_directory)
    with Tap(log_file) as tap:                          # a pipe that strace writes to; its end is strace's end
        subject.start(wrapper=tap.wrapper(strace))
        ...
    operations = Reader(queue_directory, before).read(log_file)     # again for the next program: files live on

An operation on a file stands where its system call returned, what is told to somebody where that call began: so
nothing counts as written, synced or unsaid before it is. strace stops a thread at each call and lets it go on only
when the line is written, so that what one thread did because of another is in the log behind it.

Whatever changes a file below the directory in a way that is not modelled (NOT_MODELLED, a shared writable mapping,
O_SYNC) raises Unmodelled instead of being left out. Two things are left out knowingly: what is written to the -shm
file, by mmap, since it is no part of the database and is dropped from every image; modes and owners.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from rig.instance import PATIENCE_S

NOT_MODELLED = [
    "truncate",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "copy_file_range",
    "sendfile",
    "splice",
    "sync_file_range",
    "pwritev",
    "pwritev2",
    "writev",
    "dup",
    "dup2",
    "dup3",
    "rmdir",
    "fork",
    "vfork",
    "io_uring_setup",
]
MODELLED = [
    "open",
    "openat",
    "creat",
    "close",
    "lseek",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync",
    "syncfs",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "mmap",
    "fcntl",
]
TOLD = ["sendto", "sendmsg", "recvfrom", "accept4", "exit_group"]
LONGEST = 64 << 20  # octets of one write that strace shows
ROOT = 0  # the directory above
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)\n")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(?:[ <].*)?$", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_UNFINISHED = " <unfinished ...>"
_NEVER_RETURNED = (" = ?", " <detached ...>")  # the process was killed: what is on the disk says what it had done
_HANDLE = re.compile(r"(\d+)<((?:[A-Z][A-Za-z0-9-]*:\[.*?\])|[^<>]*)>")
_STRING = re.compile(r'"([\\x0-9a-f]*)"(\.\.\.)?')


class Unmodelled(Exception):
    """A file was changed in a way that a power cut cannot be played for."""


# -- operations --


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    at: float  # time.time() of that machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Operation):
    file: int
    offset: int
    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize(Operation):
    """The file ends at `size` now; with `grows`, only if it was shorter."""

    file: int
    size: int
    grows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Operation):
    """All that was written to this file, or entered in this directory, is durable, `but` for the last so many.

    Those came while it was synced, and may be durable or not: nobody knows.
    """

    node: int
    but: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made(Operation):
    """A new directory, which has no name yet."""

    directory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries(Operation):
    """Names of one directory, all changed at once: to a node, or None for a name that is no more."""

    directory: int
    names: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Operation):
    """A conversation begins that was accepted."""

    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Said(Operation):
    channel: int
    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard(Operation):
    channel: int
    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Operation):
    """Written to standard error."""

    octets: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited(Operation):
    code: int


# -- what is there before --


@dataclass(slots=True, kw_only=True)
class Tree:
    """Files and directories by number; ROOT is the directory above `scope`, of which nothing else is seen."""

    directories: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    files: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, scope: Path) -> Self:
        tree = cls()
        if scope.exists():
            tree._add(ROOT, scope, itertools.count(1))
        return tree

    def _add(self, directory: int, path: Path, numbers: Iterator[int]) -> None:
        node = next(numbers)
        self.directories[directory][path.name] = node
        if path.is_dir():
            self.directories[node] = {}
            for one in sorted(path.iterdir()):
                self._add(node, one, numbers)
        else:
            self.files[node] = path.read_bytes()


# -- strace --


class Tap:
    """Where strace writes its log, and the reader of it, which is done when strace is."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._pipe = log.with_suffix(".pipe")
        os.mkfifo(self._pipe)
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def wrapper(self, strace: str, *, beside: bool, inject: str = "") -> list[str]:
        """What goes before the command. `beside`: the program is our child, and strace somebody in the background."""
        calls = ",".join(f"?{call}" for call in (*NOT_MODELLED, *MODELLED, *TOLD))
        # Stopped only at these calls, it is much faster, and injects no signal.
        more = ["-e", f"inject={inject}"] if inject else ["--seccomp-bpf"]
        options = ["-f", "-qqq", "-ttt", "-xx", "-yy", "-s", str(LONGEST), "-o", str(self._pipe)]
        return [strace, *(["-D"] if beside else []), *options, "-e", "signal=none", "-e", f"trace={calls}", *more]

    def _copy(self) -> None:
        with open(self._pipe, "rb") as source, open(self.log, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, problem: type[BaseException] | None, *_: object) -> None:
        """The traced program has ended, or is about to."""
        if problem is None:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive(), "strace has not ended"


# -- its log --


@dataclass(slots=True)
class _Handle:
    """An open file below the directory."""

    node: int
    position: int = 0


class Reader:
    """Reads the logs of programs that ran one after another. `tree` is what was there before the first one."""

    def __init__(self, scope: Path, tree: Tree) -> None:
        self._above = str(scope.parent)
        self._scope = str(scope)
        self._mark = _escaped(self._scope)
        self._directories = {number: dict(names) for number, names in tree.directories.items()}
        self._numbers = itertools.count(max((ROOT, *tree.files, *tree.directories)) + 1)
        self._channels = itertools.count()
        self._handles: dict[int, _Handle] = {}
        self._sockets: dict[int, int] = {}  # descriptor -> channel
        self._names: dict[int, str] = {}  # nodes that are no part of an image, by number
        self._operations: list[Operation] = []
        self._at = 0.0

    def read(self, log: Path) -> list[Operation]:
        """One program, from its first instruction to its end."""
        self._handles.clear()
        self._sockets.clear()
        self._operations = []
        begun: dict[str, tuple[float, str, int]] = {}
        with open(log, encoding="ascii") as lines:
            for line in lines:
                match = _LINE.fullmatch(line)
                if match is None:
                    raise Unmodelled(f"{log}: {line[:200]!r}")
                thread, at, text = match.groups()
                self._at = float(at)
                if text.endswith(_UNFINISHED) and not text.startswith("<"):
                    text = text.removesuffix(_UNFINISHED)
                    # What is said may be heard from now on.
                    self._operations.append(Operation(at=self._at))
                    begun[thread] = (self._at, text, len(self._operations) - 1)
                    continue
                place = None
                if resumed := _RESUMED.match(text):
                    if thread not in begun:
                        continue
                    _, beginning, place = begun.pop(thread)
                    text = beginning + text[resumed.end() :]
                elif text.startswith(("+", "-")):
                    continue
                self._call(text, place)
        return [one for one in self._operations if type(one) is not Operation]

    def _call(self, text: str, place: int | None) -> None:
        """One system call that has returned; `place` is where it began, if others came in between."""
        match = _CALL.match(text)
        if match is None:
            if text.startswith("exit_group("):
                self._operations.append(Exited(at=self._at, code=int(text[11:].partition(")")[0])))
            elif not text.endswith(_NEVER_RETURNED):
                raise Unmodelled(f"not understood: {text[:200]!r} ... {text[-80:]!r}")
            return
        name, arguments, result = match.groups()
        if name == "exit_group":
            self._operations.append(Exited(at=self._at, code=int(arguments)))
            return
        if result == "?" or result.startswith("-"):
            return
        if name in NOT_MODELLED or name in ("sync", "syncfs"):
            if self._mark in arguments or name in ("fork", "vfork", "io_uring_setup"):
                raise Unmodelled(f"{name}: {text[:200]!r}")
            return
        answer = getattr(self, f"_on_{name}", None)
        if answer is not None:
            before = len(self._operations)
            answer(arguments, result)
            if len(self._operations) > before and place is not None:
                self._began_earlier(place)

    def _began_earlier(self, place: int) -> None:
        """The last operation began at `place`, and others came in between."""
        last = self._operations[-1]
        if isinstance(last, (Said, Logged)):
            self._operations[place] = self._operations.pop()
        elif isinstance(last, Sync):
            meanwhile = sum(
                last.node in (getattr(one, "file", None), getattr(one, "directory", None))
                for one in self._operations[place:-1]
            )
            self._operations[-1] = replace(last, but=meanwhile)

    def _add(self, kind: type[Operation], **values: Any) -> None:
        self._operations.append(kind(at=self._at, **values))

    # -- names --

    def _find(self, path: str) -> tuple[int, str, int | None] | None:
        """Directory, name and node of a path below the scope; None for any other."""
        if path != self._scope and not path.startswith(self._scope + "/"):
            return None
        directory, node = ROOT, None
        *parents, name = path[len(self._above) :].lstrip("/").split("/")
        for parent in parents:
            node = self._directories[directory].get(parent)
            if node is None:
                return None
            directory = node
        return directory, name, self._directories[directory].get(name)

    def _enter(self, directory: int, *names: tuple[str, int | None]) -> None:
        for name, node in names:
            if node is None:
                self._directories[directory].pop(name, None)
            else:
                self._directories[directory][name] = node
        self._add(Entries, directory=directory, names=names)

    # -- system calls on files --

    def _on_openat(self, arguments: str, result: str) -> None:
        path = _strings(arguments)[0].decode()
        found = self._find(path)
        number = int(result)
        self._handles.pop(number, None)
        self._sockets.pop(number, None)
        if found is None:
            return
        directory, name, node = found
        flags = arguments.rpartition('"')[2]
        if "O_TMPFILE" in flags:  # never has a name, so is in no image: who gives it one (linkat) is not modelled
            node, name = next(self._numbers), ""
        elif node is None:
            if "O_CREAT" not in flags:
                raise Unmodelled(f"{path} was opened, and nobody made it")
            node = next(self._numbers)
            self._enter(directory, (name, node))
        elif "O_TRUNC" in flags:
            self._add(Resize, file=node, size=0)
        if any(word in flags for word in ("O_SYNC", "O_DSYNC", "O_APPEND")):
            raise Unmodelled(f"{path}: opened with {flags}")
        self._handles[number] = _Handle(node)
        self._names[node] = name

    _on_open = _on_creat = _on_openat

    def _on_close(self, arguments: str, _: str) -> None:
        number = _number(arguments)
        self._handles.pop(number, None)
        self._sockets.pop(number, None)

    def _on_fcntl(self, arguments: str, _: str) -> None:
        if "F_DUPFD" in arguments and _number(arguments) in self._handles:
            raise Unmodelled(f"a second descriptor for a file: fcntl({arguments})")

    def _on_lseek(self, arguments: str, result: str) -> None:
        if handle := self._handles.get(_number(arguments)):
            handle.position = int(result)

    def _on_write(self, arguments: str, result: str) -> None:
        number, octets = _number(arguments), _strings(arguments)[0][: int(result)]
        if handle := self._handles.get(number):
            self._add(Write, file=handle.node, offset=handle.position, octets=octets)
            handle.position += len(octets)
        elif number in self._sockets:
            self._add(Said, channel=self._sockets[number], octets=octets)
        elif number == 2:
            self._add(Logged, octets=octets)

    def _on_pwrite64(self, arguments: str, result: str) -> None:
        if handle := self._handles.get(_number(arguments)):
            octets = _strings(arguments)[0][: int(result)]
            self._add(Write, file=handle.node, offset=int(arguments.rpartition(", ")[2]), octets=octets)

    def _on_ftruncate(self, arguments: str, _: str) -> None:
        if handle := self._handles.get(_number(arguments)):
            self._add(Resize, file=handle.node, size=int(arguments.rpartition(", ")[2]))

    def _on_fallocate(self, arguments: str, _: str) -> None:
        if handle := self._handles.get(_number(arguments)):
            mode, offset, length = arguments.split(", ")[-3:]
            if mode != "0":
                raise Unmodelled(f"fallocate({arguments})")
            self._add(Resize, file=handle.node, size=int(offset) + int(length), grows=True)

    def _on_fsync(self, arguments: str, _: str) -> None:
        if handle := self._handles.get(_number(arguments)):
            self._add(Sync, node=handle.node)
        elif _HANDLE.match(arguments)[2] == _escaped(self._above):  # type: ignore[index]
            self._add(Sync, node=ROOT)

    _on_fdatasync = _on_fsync

    def _on_unlink(self, arguments: str, _: str) -> None:
        if found := self._find(_strings(arguments)[0].decode()):
            self._enter(found[0], (found[1], None))

    _on_unlinkat = _on_unlink

    def _on_rename(self, arguments: str, _: str) -> None:
        old, new = (self._find(path.decode()) for path in _strings(arguments))
        if old is None and new is None:
            return
        if old is None or new is None or old[0] != new[0] or "RENAME_" in arguments:
            raise Unmodelled(f"from one directory to another: rename({arguments})")
        self._enter(old[0], (old[1], None), (new[1], old[2]))

    _on_renameat = _on_renameat2 = _on_rename

    def _on_mkdir(self, arguments: str, _: str) -> None:
        if found := self._find(_strings(arguments)[0].decode()):
            node = next(self._numbers)
            self._directories[node] = {}
            self._add(Made, directory=node)
            self._enter(found[0], (found[1], node))

    _on_mkdirat = _on_mkdir

    def _on_mmap(self, arguments: str, _: str) -> None:
        if "MAP_SHARED" in arguments and "PROT_WRITE" in arguments and self._mark in arguments:
            handle = self._handles.get(int(_HANDLE.search(arguments)[1]))  # type: ignore[index]
            if handle is None or not is_scratch(self._names[handle.node]):
                raise Unmodelled(f"a file is written by a mapping: mmap({arguments})")

    # -- what is told --

    def _on_accept4(self, _: str, result: str) -> None:
        self._sockets[int(result)] = next(self._channels)
        self._handles.pop(int(result), None)
        self._add(Opened, channel=self._sockets[int(result)])

    def _channel(self, arguments: str) -> int | None:
        """The conversation; the daemon's own connections begin with the first word."""
        match = _HANDLE.match(arguments)
        assert match is not None
        number = int(match[1])
        if number not in self._sockets and match[2].startswith("TCP"):
            self._sockets[number] = next(self._channels)
        return self._sockets.get(number)

    def _on_sendto(self, arguments: str, result: str) -> None:
        if (channel := self._channel(arguments)) is not None:
            self._add(Said, channel=channel, octets=b"".join(_strings(arguments))[: int(result)])

    _on_sendmsg = _on_sendto

    def _on_recvfrom(self, arguments: str, result: str) -> None:
        if "MSG_PEEK" in arguments:
            return  # only looked at: it is read once more
        if (channel := self._channel(arguments)) is not None and int(result):
            self._add(Heard, channel=channel, octets=_strings(arguments)[0])


def is_scratch(name: str) -> bool:
    """SQLite's shared memory: made anew by whoever comes first after a start of the machine."""
    return name.endswith("-shm")


def _escaped(text: str) -> str:
    return "".join(f"\\x{octet:02x}" for octet in text.encode())


def _number(arguments: str) -> int:
    return int(arguments.partition("<")[0].partition(",")[0])


def _strings(arguments: str) -> Sequence[bytes]:
    """The strings among the arguments, without those in the description of a descriptor."""
    if match := _HANDLE.match(arguments):
        arguments = arguments[match.end() :]
    found = []
    for match in _STRING.finditer(arguments):
        if match[2]:
            raise Unmodelled("strace has cut a string")
        found.append(bytes.fromhex(match[1].replace("\\x", "")))
    return found
