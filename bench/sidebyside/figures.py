"""Figures: what is measured, what was measured, and the file that keeps it.

A figure is one line of JSON. `what` names the measure (a path: part, condition, quantity), `who` the MTA or its client,
`round` the turn, for in each turn everybody is measured once. Several of one (what, who) have a median and a range.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    what: str
    who: str
    value: float
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        each = list(values)
        return cls(median=statistics.median(each), least=min(each), most=max(each))


class Figures:
    """All of a run, in memory and as lines in a file. Parts that are run again replace what they gave before."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._all: list[Figure] = []
        self.about: dict[str, str] = {}  # part -> where, when and of which commit it was measured
        if file.exists():
            for line in file.read_text().splitlines():
                self._read(json.loads(line))

    def _read(self, record: Mapping[str, object]) -> None:
        if "about" in record:
            self.about[str(record["about"])] = str(record["words"])
        else:
            self._all.append(Figure(**record))  # type: ignore[arg-type]

    def begin(self, part: str, words: str) -> None:
        """Forget what is kept of this part."""
        self._all = [one for one in self._all if one.what.partition("/")[0] != part]
        self.about[part] = words
        lines = [json.dumps({"about": name, "words": text}) for name, text in self.about.items()]
        lines += [json.dumps(asdict(one)) for one in self._all]
        self._file.write_text("".join(f"{line}\n" for line in lines))

    def add(self, figure: Figure) -> None:
        self._all.append(figure)
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(figure)) + "\n")

    def measures(self, part: str) -> list[str]:
        """What was measured in it, in the order in which it was."""
        return list(dict.fromkeys(one.what for one in self._all if one.what.partition("/")[0] == part))

    def spread(self, what: str, who: str) -> Spread | None:
        values = [one.value for one in self._all if (one.what, one.who) == (what, who)]
        return Spread.of(values) if values else None

    def median(self, what: str, who: str) -> float | None:
        spread = self.spread(what, who)
        return spread.median if spread else None
