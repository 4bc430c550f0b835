"""aliases: /etc/aliases, and what it makes of recipients (aliases(5)).

An alias stands for a local name: a bare one, `name@localhost`, `name@hostname`, and `name@domain` where domain and
hostname are one. Its targets are local names, which are looked up in turn, and addresses. `:include:/file` reads
targets from a file. `|command` and `/file` are refused: pysendmail delivers nothing on this machine and runs nothing
that a message names.

A line that will not do never stops mail: it is one of `problems`, the rest of the file holds, and a name that has no
target left is one without alias. Only a loop, an expansion beyond its bounds, and a name that would become an address
at a public mail provider are errors: AliasError means that the message is refused (65), since to guess who was meant
could send it to nobody, to everybody or to a stranger. For the same reason no local name is looked up in a file that
could not be read at this moment: AliasesUnread (75).

Followed are aliases(5) of Sendmail and of Postfix, whose formats are meant to be one. Of the two, owner-NAME is not
special here: it is an alias like others, and mail to NAME keeps its sender.

Names are compared without regard to case. A name among its own targets is final there (`root: root, a@b.example`),
as in sendmail and Postfix; so is one with a backslash before it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pysendmail import small_file
from pysendmail.address import Address, AddressError, parse_list, parse_path
from pysendmail.config import Config
from pysendmail.smtp.reply import printable

# The largest site's file fits; a log named by mistake does not.
MAX_FILE_OCTETS = 4 << 20
MAX_INCLUDES = 100
# root -> admin -> somebody@example.com is usual; this deep is a mistake that nobody can follow.
MAX_DEPTH = 30
# Addresses out of one name. Beyond it a list server is wanted.
MAX_EXPANSION = 5000
# Kept and shown; the next ones are like them.
MAX_PROBLEMS = 100

_SECOND_COLON = re.compile(
    r'[^"(<\[]*:'
)  # "  bob: b@example.com" would continue the line before, and look like a group
_FINAL = "\\"  # before a target: not looked up again
_JOINS = "\\"  # at the end of a line: the next one goes on with it, whatever it begins with (Sendmail)


class AliasError(ValueError):
    """The name cannot be expanded. The words name the file and the names on the way."""


class AliasesUnread(Exception):
    """Nobody knows for now whom a local name stands for. The words name the file and the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasProblem:
    """A line that is not used, or not all of it. `line` 0: the file as a whole."""

    file: Path
    line: int
    name: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return printable(": ".join(part for part in (place, self.name, self.text) if part))


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliases:
    """The aliases of one file. `targets` is by lower-case name; a target is an address, a bare name, or `\\name`."""

    file: Path
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[AliasProblem, ...] = ()
    read_from: tuple[tuple[Path, tuple[int, ...]], ...] = ()  # each file that was read, and its mark then
    unread: str = ""  # one of the files could not be read at that moment: which, and why

    @classmethod
    def load(cls, path: str | Path) -> Aliases:
        """Read the file, and what it includes. No file, or "" for a name: no aliases. Never raises."""
        if not str(path):
            return cls(file=Path("/dev/null"))
        reading = _Reading(Path(path))
        reading.read()
        return cls(
            file=reading.file,
            targets=MappingProxyType(reading.targets),
            lines=MappingProxyType(reading.lines),
            problems=tuple(reading.problems[:MAX_PROBLEMS]),
            read_from=tuple(reading.marks.items()),
            unread=reading.unread,
        )

    def refreshed(self) -> Aliases:
        """These, or those of the file as it is now, if it or a file that it includes has changed, or was not read."""
        if not self.unread and all(_mark(path) == mark for path, mark in self.read_from):
            return self
        return Aliases.load(self.file)

    def loops(self) -> tuple[AliasProblem, ...]:
        """Every name that cannot be expanded, for `check` and `newaliases`."""
        found = []
        for name in () if self.unread else self.targets:
            try:
                self.expand(str(Address(name)))
            except AliasError as error:
                text = str(error).removeprefix(f"{self.file}: ")
                found.append(AliasProblem(file=self.file, line=self.lines[name], name=name, text=text))
            if len(found) == MAX_PROBLEMS:
                break
        return tuple(found)

    def expand(self, name: str, local_name_of: Callable[[str], str | None] | None = None) -> list[str]:
        """Whom the local name stands for: addresses, and local names without alias; itself alone if it has none.

        In the order of the file, each once. `local_name_of` gives the local name in an address such as
        root@localhost, None for any other; without it only bare names are local. AliasError, AliasesUnread: see above.
        """
        of = local_name_of or _bare_name
        found: dict[str, str] = {}
        done: set[str] = set()

        def walk(target: str, way: tuple[str, ...]) -> None:
            final = target.startswith(_FINAL)
            local = target.removeprefix(_FINAL) if final else of(target)
            if self.unread and local is not None and not final:
                raise AliasesUnread(self.unread)
            key = "" if local is None else parse_path(local).local.lower()
            if local is None or final or key not in self.targets or way[-1:] == (key,):
                found.setdefault(parse_path(target).key if local is None else f"{key}@", local or target)
                if len(found) > MAX_EXPANSION:
                    raise self._error(f"{name} stands for more than {MAX_EXPANSION} addresses")
                return
            if key in way:
                raise self._error(f"a loop: {' -> '.join([*way[way.index(key) :], key])}")
            if len(way) == MAX_DEPTH:
                raise self._error(f"more than {MAX_DEPTH} aliases in a row: {' -> '.join(way[:3])} -> ...")
            if key not in done:  # else its targets are there already
                for inner in self.targets[key]:
                    walk(inner, (*way, key))
                done.add(key)

        walk(name, ())
        return list(found.values())

    def _error(self, text: str) -> AliasError:
        return AliasError(printable(f"{self.file}: {text}"))


# Recipients


def local_name(address: str, config: Config) -> str | None:
    """The bare name for which an alias may stand; None for an address of elsewhere."""
    parsed = parse_path(address)
    here = parsed.ascii_domain.lower() in ("", "localhost", config.hostname.lower())
    return str(Address(parsed.local)) if here else None


def _bare_name(address: str) -> str | None:
    return None if parse_path(address).domain else address


def is_local(address: str, config: Config) -> bool:
    return local_name(address, config) is not None


def expand_recipients(
    addresses: Iterable[str], aliases: Aliases, config: Config, *, most: int = sys.maxsize
) -> list[tuple[str, str]]:
    """(address to send to, address as it was given), each of the former once, in order.

    `addresses` have been through `parse_path`. A local name without alias goes to catch_all, or else is qualified
    with `domain`, unless that is a public mail provider's. Once there are more than `most` the rest is not looked at.
    Raises AliasError, AliasesUnread, and AddressError where an address becomes too long by that.
    """

    def of(address: str) -> str | None:
        return local_name(address, config)

    def qualified(target: str) -> str:
        if of(target) is None:
            return target
        if config.public_domain:
            raise AliasError(
                f"{printable(target, 80)} is a name on this machine without alias, and at {config.domain} it may be a "
                "stranger's: name an address in the aliases, or in catch_all"
            )
        return str(Address(parse_path(target).local, config.domain))

    def caught(target: str) -> list[str]:
        if of(target) is None or not config.aliases.catch_all:
            return [qualified(target)]
        # What catch_all leads to is qualified and not caught again, or it could lead in a circle.
        return [qualified(inner) for inner in aliases.expand(config.aliases.catch_all, of)]

    found: dict[str, tuple[str, str]] = {}
    for address in dict.fromkeys(addresses):
        if len(found) > most:
            break
        if of(address) is None:  # of elsewhere, as most are: it stands for itself
            found.setdefault(parse_path(address).key, (address, address))
            continue
        for target in aliases.expand(address, of):
            for final in caught(target):
                found.setdefault(parse_path(final).key, (final, address))
    return list(found.values())


# Reading


def _mark(path: Path) -> tuple[int, ...]:
    """What changes when the file does; () for no file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class _Bad(ValueError):
    """A target or a line that will not do."""


class _Reading:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.targets: dict[str, tuple[str, ...]] = {}
        self.lines: dict[str, int] = {}
        self.problems: list[AliasProblem] = []
        self.marks: dict[Path, tuple[int, ...]] = {}
        self.unread = ""

    def report(self, file: Path, line: int, name: str, text: str) -> None:
        self.problems.append(AliasProblem(file=file, line=line, name=name, text=text))

    def read(self) -> None:
        text = self.text_of(self.file, missing_ok=True)
        for entry in _entries(text, lambda line, what: self.report(self.file, line, "", what)):
            self.entry(entry)

    def text_of(self, file: Path, *, missing_ok: bool = False) -> str:
        self.marks[file] = _mark(file)  # before reading: a change in between is seen as one
        try:
            data = small_file.read(file, MAX_FILE_OCTETS)
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.report(file, data.count(b"\n", 0, error.start) + 1, "", "it is not UTF-8; what is not is not used")
            return data.decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            if not missing_ok:
                self.report(file, 0, "", "there is no such file")
        except OSError as error:
            self.report(file, 0, "", f"it cannot be read: {error.strerror}")
            if error.errno not in small_file.LASTING:
                self.unread = str(self.problems[-1])
        return ""

    def entry(self, entry: list[tuple[int, str]]) -> None:
        line = entry[0][0]
        try:
            name, rest = _name(entry[0][1])
        except _Bad as bad:
            self.report(self.file, line, "", str(bad))
            return
        key = name.lower()
        if key in self.targets:
            self.report(self.file, line, name, f"it is there already, in line {self.lines[key]}, which holds")
            return
        targets = self.targets_of(self.file, name, [(line, rest), *entry[1:]], frozenset())
        if targets:
            self.targets[key] = tuple(dict.fromkeys(targets))
            self.lines[key] = line

    def targets_of(
        self, file: Path, name: str, segments: Sequence[tuple[int, str]], within: frozenset[Path]
    ) -> list[str]:
        found: list[str] = []
        items = 0
        for line, item in _items(segments):
            items += 1
            try:
                included = _include(item)
                if included is None:
                    found += _target(item)
                elif included in within:
                    raise _Bad(f"{included} includes itself")
                elif len(self.marks) > MAX_INCLUDES:
                    raise _Bad(f"more than {MAX_INCLUDES} files are included")
                else:
                    text = self.text_of(included)
                    lines = [(number, text) for number, text in enumerate(text.split("\n"), 1) if _matters(text)]
                    for segment in lines:  # a line of a list ends a target, comma or not
                        found += self.targets_of(included, name, [segment], within | {included})
            except (_Bad, AddressError) as bad:
                self.report(file, line, name, str(bad))
        if not items and not within:
            self.report(file, segments[0][0], name, "it stands for nobody; write an address after the colon")
        return found


def _matters(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("#")


def _entries(text: str, report: Callable[[int, str], None]) -> Iterator[list[tuple[int, str]]]:
    """Logical lines: each a list of (line number, text), the first of which begins in the first column."""
    entry: list[tuple[int, str]] = []
    joined = False  # by a backslash at the end of the line before
    for number, whole in enumerate(text.split("\n"), 1):
        line = whole.removesuffix("\r").removesuffix(_JOINS)
        if joined or _matters(line):
            begins = not joined and line[:1] not in ("", " ", "\t")
            joined = line != whole.removesuffix("\r")
            if begins and entry:
                yield entry
                entry = []
            if begins or entry:
                entry.append((number, line))
            else:
                report(number, "it begins with white space, but there is no line before it that it could continue")
    if entry:
        yield entry


def _name(line: str) -> tuple[str, str]:
    """The name before the colon, without quotes, and what is after it."""
    if line.startswith('"'):
        end = _end_of_quoted(line, 0)
        name, rest = _unquoted(line[:end]), line[end:].lstrip()
        if not rest.startswith(":"):
            raise _Bad('there is no ":" after the name')
        rest = rest[1:]
    else:
        name, colon, rest = line.partition(":")
        name = name.strip()
        if not colon:
            raise _Bad('there is no ":" after the name')
    if name == "*":
        raise _Bad('"*" is no name here; write catch_all in [aliases] of pysendmail.toml')
    try:
        if parse_path(name if not line.startswith('"') else str(Address(name))).domain:
            raise _Bad(f"{printable(name, 80)} has a domain; aliases are for local names only")
    except AddressError as error:
        raise _Bad(str(error)) from None
    return name, rest


def _end_of_quoted(text: str, start: int) -> int:
    position = start + 1
    while position < len(text) and text[position] != '"':
        position += 2 if text[position] == "\\" else 1
    if position >= len(text):
        raise _Bad('a " without its partner')
    return position + 1


def _unquoted(text: str) -> str:
    inner, out, position = text[1:-1], [], 0
    while position < len(inner):
        position += inner[position] == "\\"
        out.append(inner[position : position + 1])
        position += 1
    return "".join(out)


def _items(segments: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """What stands between commas, with the line it begins in. A comma in quotes or in a comment separates nothing."""
    pending: list[str] = []  # of the item that has begun, in line `at`
    at = segments[0][0]
    depth = 0  # of comments in parentheses
    for line, text in segments:
        position = 0
        while position < len(text):
            end = position + 1
            character = text[position]
            if character == "#" and (position == 0 or text[position - 1].isspace()):
                break
            if character == '"':
                try:
                    end = _end_of_quoted(text, position)
                except _Bad:  # then the whole rest is one item, which its reader refuses
                    end = len(text)
            depth = max(0, depth + (character == "(") - (character == ")"))
            if character == "," and depth == 0:
                if pending:
                    yield at, "".join(pending).strip()
                pending = []
            elif pending or not character.isspace():
                at = at if pending else line
                pending.append(text[position:end])
            position = end
        if pending:
            pending.append(" ")
    if pending:
        yield at, "".join(pending).strip()


def _bare(item: str) -> str:
    """The item without quotes around the whole of it: "|command arg" is written so."""
    if item.startswith('"') and item.endswith('"') and len(item) > 1 and _end_of_quoted(item, 0) == len(item):
        return _unquoted(item).strip()
    return item


def _include(item: str) -> Path | None:
    bare = _bare(item)
    if not bare.lower().startswith(":include:"):
        return None
    file = bare[len(":include:") :].strip().strip('"')
    if not file.startswith("/"):
        raise _Bad(f"{printable(bare, 80)}: write the whole path, beginning with /")
    return Path(os.path.normpath(file))


def _target(item: str) -> list[str]:
    bare = _bare(item)
    if bare.startswith("|"):
        raise _Bad(f"{printable(bare, 80)}: pysendmail runs no command for a message; this target is not used")
    if bare.startswith("/"):
        raise _Bad(f"{printable(bare, 80)}: pysendmail writes no message into a file; this target is not used")
    if bare.startswith(":"):
        raise _Bad(f"{printable(bare, 80)}: only :include:/file is known here; this target is not used")
    if _SECOND_COLON.match(item):
        raise _Bad(f'{printable(item, 80)}: a ":" in a target; an alias of its own begins in the first column')
    if item.startswith(_FINAL):
        name = parse_path(item[1:])
        return [str(name) if name.domain else f"{_FINAL}{name}"]
    return [str(parse_path(text)) for text in parse_list(item.encode("utf-8", "surrogateescape"))]
