"""An AppArmor profile as far as files go, and what a process did with files: whether the one allows the other.

    profile = Profile(path)                            # apparmor_parser takes its includes in
    for access in accesses(directory):                 # what strace wrote: WRAPPER before the command
        profile.allows(access)

Not judged: whose a file is (`owner`), capabilities, networks, signals. Where the kernel has no AppArmor, this is what
tells that a program would still work under the profile.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rig.debian import program

_RULE = re.compile(r"\s*(?P<deny>(?:audit )?deny )?(?:owner )?(?:file )?(?P<path>[/@]\S*) +(?P<rights>[a-zA-Z]+),")
_VARIABLE = re.compile(r"@\{(?P<name>\w+)\} *\+?= *(?P<values>.*)")
_USE = re.compile(r"@\{(\w+)\}")
_GLOB = re.compile(r"(?P<start>(?<=/))?\*\*|(?P<one>(?<=/))?\*|[?{},]|\[[^]]*\]|.")
_PLAIN = {"?": "[^/]", "{": "(?:", "}": ")", ",": "|"}

# With the paths of descriptors, one file for each thread; only what AppArmor has a rule for.
_CALLS = "open,openat,execve,connect,bind,unlink,unlinkat,rename,renameat,renameat2,mkdir,chmod,mmap,flock,fcntl"
_OPEN = re.compile(r'open(?:at)?\([^"]*"[^"]*", (?P<flags>[A-Z_|]+).*\) = \d+<(?P<path>/[^>]*)>$')
_NAMED = re.compile(r"(?P<call>execve|unlink|unlinkat|rename|renameat|renameat2|mkdir|chmod)\((?P<rest>.*)\) = 0$")
_SIMPLE = {
    "w": re.compile(r'(?:connect|bind)\(.*sun_path="(/[^"]*)".*\) = 0$'),
    "m": re.compile(r"mmap\(.*PROT_EXEC.*, \d+<(/[^>]*)>.*\) = 0x"),
    "k": re.compile(r"(?:flock|fcntl)\(\d+<(/[^>]*)>, (?:LOCK_|F_(?:OFD_)?SETLK).*\) = 0$"),
}
_STRING = re.compile(r'(?:<(?P<directory>/[^>]*)>, )?"(?P<path>[^"]+)"')


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """`right` is one of r, w, x, m (mapped as a program) and k (locked)."""

    path: str
    right: str


class Profile:
    """See the module."""

    def __init__(self, file: Path) -> None:
        parser = program("apparmor_parser", "apparmor")
        text = subprocess.run([parser, "--preprocess", file], capture_output=True, text=True, check=True).stdout
        self._variables: dict[str, list[str]] = {}
        self._rules: list[tuple[re.Pattern[str], str, bool]] = []
        for line in text.splitlines():
            if match := _VARIABLE.match(line):
                self._variables.setdefault(match["name"], []).extend(match["values"].replace('"', "").split())
            elif match := _RULE.match(line):
                for path in self._expanded(match["path"]):
                    self._rules.append((_pattern(path), match["rights"].lower(), bool(match["deny"])))

    def allows(self, access: Access) -> bool:
        fitting = [deny for path, rights, deny in self._rules if access.right in rights and path.fullmatch(access.path)]
        return bool(fitting) and not any(fitting)

    def _expanded(self, text: str) -> Iterator[str]:
        """With each value of its variables."""
        if (match := _USE.search(text)) is None:
            yield re.sub("/+", "/", text)
            return
        for value in self._variables[match[1]]:
            yield from self._expanded(text[: match.start()] + value + text[match.end() :])


def _pattern(text: str) -> re.Pattern[str]:
    """apparmor.d(5), "Globbing". A star after a slash stands for something."""

    def translated(match: re.Match[str]) -> str:
        one = match[0]
        if one.startswith("*"):
            some = "+" if match["start"] is not None or match["one"] is not None else "*"
            return ("." if one == "**" else "[^/]") + some
        return one.replace("[^", "[^/") if one.startswith("[") else _PLAIN.get(one, re.escape(one))

    return re.compile(_GLOB.sub(translated, text))


def wrapper(directory: Path) -> Sequence[str]:
    """What goes before the command."""
    strace = program("strace", "strace")
    return [strace, "-ff", "-y", "-qq", "-s", "4096", "-e", f"trace={_CALLS}", "-o", str(directory / "trace")]


def accesses(directory: Path, begin: str) -> set[Access]:
    """What was done, and worked, from the execve of `begin` on, by that process and its threads and children."""
    found: set[Access] = set()
    for trace in directory.glob("trace.*"):
        lines = trace.read_text().splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith(f'execve("{begin}"')]
        if not starts and any(line.startswith("execve(") for line in lines):
            continue  # what started it
        for line in lines[starts[0] if starts else 0 :]:
            found.update(_of(line))
    return found


def _of(line: str) -> Iterator[Access]:
    if (match := _OPEN.match(line)) and "O_PATH" not in match["flags"]:
        path = match["path"].removesuffix(" (deleted)")
        if "O_RDWR" in match["flags"] or "O_RDONLY" in match["flags"]:
            yield Access(path, "r")
        if "O_RDWR" in match["flags"] or "O_WRONLY" in match["flags"]:
            yield Access(path, "w")
    elif match := _NAMED.match(line):
        if match["call"] == "execve":
            yield Access(match["rest"].split('"')[1], "x")
            return
        for one in _STRING.finditer(match["rest"]):
            path = f"{one['directory']}/{one['path']}" if not one["path"].startswith("/") else one["path"]
            yield Access(path + "/" * (match["call"] == "mkdir"), "w")
    for right, call in _SIMPLE.items():
        if match := call.match(line):
            yield Access(match[1], right)
