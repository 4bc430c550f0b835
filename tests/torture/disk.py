"""Disk: what a power cut may leave of the files that a log of operations tells of.

    disk = Disk(tree)
    for operation in operations:
        disk.do(operation)
        image = disk.image(Choice.of(variant, random))      # path -> octets, as the next start may find it

Durable is what came before the last completed sync of the file, or of the directory for a name. Of all that came
later each write may be there, be missing, be there in some of its 512-octet sectors, or have left its size and no
octets; each name may be there or missing, whatever became of the file. So a file's fsync does not make its name
durable: ext4 is kinder, other file systems are not, and images of the kinder sort are among these.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Self, TypeVar

from torture.io_log import ROOT, Entries, Made, Operation, Resize, Sync, Tree, Write, is_scratch

T = TypeVar("T")
SECTOR = 512
KEPT = 16  # sums of contents that are durable no more
Image = dict[str, bytes | None]  # path -> octets; None: a directory
FIXED = 6  # variants that are the same for every cut; all others are random
MODES = ("all", "none", "torn last", "some", "few", "most", "late", "sizes")


@dataclass(frozen=True, slots=True)
class Choice:
    """How what is not durable fares: `files` and `names` are modes, "" is another one for each file."""

    files: str
    names: str
    random: Random

    @classmethod
    def of(cls, variant: int, random: Random) -> Self:
        fixed = (
            ("all", "all"),
            ("none", "none"),
            ("none", "all"),
            ("all", "none"),
            ("torn last", "all"),
            ("sizes", "all"),
        )
        assert len(fixed) == FIXED
        return cls(*fixed[variant], random) if variant < FIXED else cls("", "", random)

    def contents(self, durable: bytes, pending: Sequence[Write | Resize]) -> bytes:
        """One file, as it may be found."""
        content = bytearray(durable)
        mode = self.files or self.random.choice(MODES)
        last = len(pending) - 1
        first = self.random.randrange(len(pending)) if mode == "late" else 0
        odds = {"some": 0.5, "few": 0.1, "most": 0.95, "none": 0.0}.get(mode, 1.0)
        for number, operation in enumerate(pending[first:], first):
            if isinstance(operation, Resize):
                if self.random.random() < odds:
                    _resize(content, operation)
            elif mode == "sizes":
                _grow(content, operation.offset + len(operation.octets))
            elif mode == "torn last" and number == last:
                self._tear(content, operation)
            elif self.random.random() < odds:
                _write(content, operation.offset, operation.octets)
            elif odds > 0.0 and self.random.random() < 0.3:
                self._tear(content, operation)
        return bytes(content)

    def _tear(self, content: bytearray, operation: Write) -> None:
        """Some of the sectors: from the beginning up to one of them, or any."""
        start, end = operation.offset, operation.offset + len(operation.octets)
        edges = [start, *range((start // SECTOR + 1) * SECTOR, end, SECTOR), end]
        pieces = list(itertools.pairwise(edges))
        if self.random.random() < 0.5:
            pieces = pieces[: self.random.randrange(len(pieces))]
        else:
            pieces = [piece for piece in pieces if self.random.random() < 0.5]
        if self.random.random() < 0.5:
            _grow(content, end)
        for begin, stop in pieces:
            _write(content, begin, operation.octets[begin - start : stop - start])

    def entries(self, durable: dict[str, int], pending: Sequence[Entries]) -> dict[str, int]:
        """One directory, as it may be found."""
        names = dict(durable)
        odds = {"all": 1.0, "none": 0.0}.get(self.names or self.random.choice(("all", "none", "some")), 0.5)
        for operation in pending:
            if self.random.random() < odds:
                _enter(names, operation)
        return names


class Disk:
    def __init__(self, tree: Tree) -> None:
        self._files = dict(tree.files)
        self._writes: dict[int, list[Write | Resize]] = {}
        self._directories = {number: dict(names) for number, names in tree.directories.items()}
        self._moves: dict[int, list[Entries]] = {}
        self._sums: dict[int, tuple[bytes, bytes]] = {}  # of what is durable, by identity

    def do(self, operation: Operation) -> bool:
        """Whether that changed what a power cut may leave."""
        match operation:
            case Write(file=file) | Resize(file=file):
                self._writes.setdefault(file, []).append(operation)
            case Entries(directory=directory):
                self._moves.setdefault(directory, []).append(operation)
            case Made(directory=directory):
                self._directories[directory] = {}
            case Sync(node=node, but=but) if node in self._directories:
                for move in _taken(self._moves, node, but):
                    _enter(self._directories[node], move)
            case Sync(node=node, but=but):
                content = bytearray(self._files.get(node, b""))
                for write in _taken(self._writes, node, but):
                    _apply(content, write)
                self._files[node] = bytes(content)
            case _:
                return False
        return True

    def image(self, choice: Choice) -> Image:
        image: Image = {}
        self._collect(image, ROOT, "", choice)
        return image

    def digest(self, image: Image) -> bytes:
        """Equal for equal images."""
        summary = hashlib.blake2b(digest_size=12)
        for path, octets in image.items():
            summary.update(b"%s\0%s" % (path.encode(), b"" if octets is None else self._sum(octets)))
        return summary.digest()

    def _sum(self, octets: bytes) -> bytes:
        known = self._sums.get(id(octets))
        if known is not None and known[0] is octets:
            return known[1]
        summed = hashlib.blake2b(octets, digest_size=12).digest()
        if any(octets is durable for durable in self._files.values()):  # it stays, and most images have it
            if len(self._sums) > len(self._files) + KEPT:
                self._sums.clear()
            self._sums[id(octets)] = octets, summed
        return summed

    def _collect(self, image: Image, directory: int, path: str, choice: Choice) -> None:
        names = choice.entries(self._directories[directory], self._moves.get(directory, ()))
        for name, node in sorted(names.items()):
            if is_scratch(name):
                continue
            if node in self._directories:
                image[path + name] = None
                self._collect(image, node, f"{path}{name}/", choice)
                continue
            content, pending = self._files.get(node, b""), self._writes.get(node)
            image[path + name] = choice.contents(content, pending) if pending else content


def _taken(pending: dict[int, list[T]], node: int, but: int) -> list[T]:
    """What is pending no longer: all, but for the last so many, of which another sync may have made some durable."""
    found = pending.pop(node, [])
    if left := found[max(len(found) - but, 0) :]:
        pending[node] = left
    return found[: len(found) - len(left)]


def _enter(names: dict[str, int], operation: Entries) -> None:
    for name, node in operation.names:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _apply(content: bytearray, operation: Write | Resize) -> None:
    if isinstance(operation, Resize):
        _resize(content, operation)
    else:
        _write(content, operation.offset, operation.octets)


def _write(content: bytearray, offset: int, octets: bytes) -> None:
    _grow(content, offset)
    content[offset : offset + len(octets)] = octets


def _grow(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def _resize(content: bytearray, operation: Resize) -> None:
    _grow(content, operation.size)
    if not operation.grows:
        del content[operation.size :]
