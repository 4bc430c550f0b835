"""importing: `pysendmail import`: another program's configuration as one of ours, shown, and written if that is wanted.

The configuration goes to standard output, without a password; what could not be carried over to standard error, file
and line first. Nothing is written without `--write`, and then as `placing` does it. A result that pysendmail would not
take is shown too, with what is wrong in it, and ends with 78.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pysendmail import config_file, foreign, placing, small_file
from pysendmail.config import Config
from pysendmail.config_file import ConfigError, Instance, Problem
from pysendmail.draft import Draft, Fate, Remark
from pysendmail.exits import EX_CANTCREAT, EX_CONFIG, EX_NOINPUT, EX_USAGE
from pysendmail.smtp.reply import printable

MAX_FOREIGN_OCTETS = 1 << 20  # of one file; maps of a null client are small


class ImportFailed(Exception):
    """Nothing to import, or nowhere to put it; exit code, and why, and what to do."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    program: str
    file: Path
    draft: Draft
    text: str  # of the configuration
    problems: tuple[Problem, ...]  # what pysendmail would not take of it
    before: str = ""  # the configuration that is there, if it says anything
    config: Config | None = None  # None: there are problems


def run(instance: Instance, file: str = "", program: str = "") -> Imported:
    """What a file says, or the one that is found in a usual place. Raises ImportFailed."""
    program, path = choose(file, program, _places())
    try:
        text = _read(path)
    except OSError as error:
        raise ImportFailed(EX_NOINPUT, f"{path}: {error.strerror}") from None
    draft = foreign.READERS[program](path, text, _read)
    try:
        before, tables = placing.present(instance.path)
    except (OSError, ValueError) as error:
        raise ImportFailed(
            EX_CONFIG, f"{instance.path}: it is no configuration: {error}; mend it, or move it"
        ) from None
    draft.tables = placing.merged(tables, draft.tables)
    written = f"# From {printable(str(path))}.\n{draft.toml(instance.path.parent)}"
    config = None
    problems: tuple[Problem, ...] = ()
    try:
        config = config_file.parse(written, instance)
    except ConfigError as error:
        problems = error.problems
    return Imported(
        program=program,
        file=path,
        draft=draft,
        text=written,
        problems=problems,
        before=before if tables else "",
        config=config,
    )


def write(instance: Instance, imported: Imported, *, replace: bool) -> Iterator[str]:
    """Put configuration and passwords where they belong; what was done, a line each. Raises ImportFailed."""
    assert imported.config is not None, "what pysendmail does not take is not written"
    if imported.before and not replace:
        changes = placing.difference(instance.path, imported.before, imported.text)
        raise ImportFailed(EX_CANTCREAT, f"{instance.path} is there: --replace writes this, and keeps it:\n{changes}")
    try:
        yield from placing.write(
            instance.path, imported.text, imported.draft, imported.config.queue.directory, time.time()
        )
    except OSError as error:
        raise ImportFailed(EX_CANTCREAT, f"{error.filename or instance.path}: {error.strerror}") from None
    yield "next: pysendmail check; pysendmail probe; then let the daemon read it (systemctl reload pysendmail)"


def _read(path: Path) -> str:
    return small_file.read(path, MAX_FOREIGN_OCTETS).decode("utf-8", "replace")


def _places() -> list[tuple[str, Path]]:
    """The usual places where there is something."""
    found = [(program, Path(os.path.expanduser(place))) for program, place in foreign.PLACES]
    return [(program, path) for program, path in found if path.exists()]


def choose(file: str, program: str, there: Sequence[tuple[str, Path]]) -> tuple[str, Path]:
    """Whose file, and which. Raises ImportFailed where that cannot be told."""
    if file:
        path = Path(os.path.abspath(file))
        program = program or foreign.of_name(path)
        if not program:
            raise ImportFailed(
                EX_USAGE, f"{file}: its name does not tell whose it is: --from {'|'.join(foreign.READERS)}"
            )
        return program, path
    found = [one for one in there if program in ("", one[0])]
    if not found:
        looked = ", ".join(place for whose, place in foreign.PLACES if program in ("", whose))
        raise ImportFailed(EX_NOINPUT, f"there is nothing to import in {looked}: name a FILE")
    if len(found) > 1:
        raise ImportFailed(
            EX_USAGE, f"there are several: {', '.join(str(path) for _, path in found)}: name one of them"
        )
    return found[0]


def report(imported: Imported) -> Iterator[str]:
    """What became of the settings that are not simply there, a line each; what is not needed in one line."""
    by_place = sorted(
        imported.draft.remarks, key=lambda remark: (remark.file != imported.file, str(remark.file), remark.line)
    )
    for remark in by_place:
        if remark.fate is not Fate.NEEDLESS or remark.text:
            yield printable(f"{_place(remark)}: {remark.what}: {remark.fate}{': ' if remark.text else ''}{remark.text}")
    if rest := [remark for remark in by_place if remark.fate is Fate.NEEDLESS and not remark.text]:
        names = ", ".join(f"{remark.what} ({remark.line})" for remark in rest)
        yield printable(f"{imported.file}: {Fate.NEEDLESS} here, by line: {names}")
    for problem in imported.problems:
        place = f"line {problem.line} of the result" if problem.line else "the result"
        mend = f"; {problem.mend}" if problem.mend else ""
        yield printable(f"{place}: {problem.key}: {problem.text}{mend}")


def _place(remark: Remark) -> str:
    return f"{remark.file}:{remark.line}" if remark.line else str(remark.file)
