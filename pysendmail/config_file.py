"""config_file: pysendmail.toml on disk to a Config, or an error that names file, line and key for everything
wrong.

`locate` says which file an instance has (-C, $PYSENDMAIL_CONFIG, the user's, /etc's) and where its
queue and sockets are by default; `load` reads and checks it. A missing file is all defaults, unless it was
named. `parse` is the same for a text. `save_last_good` and `load_last_good` keep a copy in the queue's
directory: with it a broken file never stops the daemon, also across a restart.

Errors: only ConfigError leaves this module (and OSError from `save_last_good`). It carries all problems
found, in the order of the file; its text is one line each, "FILE:LINE: KEY: what is wrong; what to write".
Nothing that could be a secret stands in it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pysendmail import config_values, hostname, small_file, spool
from pysendmail.config import Config, Kind, Rewrite, Route, Smarthost
from pysendmail.config_values import Wrong
from pysendmail.smtp.reply import printable
from pysendmail.toml_lines import KeyLines, KeyPath, key_lines

SYSTEM_FILE = Path("/etc/pysendmail/pysendmail.toml")
SYSTEM_QUEUE = Path("/var/lib/pysendmail")
SYSTEM_SOCKET = Path("/run/pysendmail/submit")
ENVIRONMENT = "PYSENDMAIL_CONFIG"
LAST_GOOD = "pysendmail.toml.good"

# A configuration of thousands of routes fits; a log named by mistake does not.
MAX_FILE_OCTETS = 1 << 20
# In one ConfigError: who has made more mistakes than this mends these first.
MAX_PROBLEMS = 50

# The form of the key that the sendmail command can read: it parses no TOML.
CLIENT_SOCKET_LINE = re.compile(r'^[ \t]*socket[ \t]*=[ \t]*"([^"\\\n]*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Which pysendmail: its file, whether somebody named that file, and the defaults that depend on whose it
    is.
    """

    path: Path
    explicit: bool = False
    user: bool = False  # a per-user instance
    queue_directory: Path = SYSTEM_QUEUE
    socket: Path = SYSTEM_SOCKET


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong. `line` is 0 and `key` "" where there is none to name; `mend` is "" where the text says
    it all.
    """

    file: Path
    line: int = 0
    key: str = ""
    text: str
    mend: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        what = f"{self.text}; {self.mend}" if self.mend else self.text
        return printable(": ".join(part for part in (place, self.key, what) if part))


class ConfigError(Exception):
    """The configuration cannot be used. `problems` is never empty; the text has a line for each."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


# Which file


def locate(
    argument: str | None,
    environ: Mapping[str, str] | Mapping[bytes, bytes],
    uid: int,
    home_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_dir,
    *,
    to_write: bool = False,
) -> Instance:
    """The instance for a command of `uid`: `argument` is -C or --config; `home_of` raises KeyError for an
    unknown uid. `to_write`: a user's own, also where he has none yet.
    """
    names = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}
    home = _absolute(names.get("HOME"))
    if home is None:
        with contextlib.suppress(KeyError):
            home = _absolute(home_of(uid))

    def xdg(name: str, below_home: str) -> Path | None:
        # The XDG base directory specification: a relative path there is as good as none.
        return _absolute(names.get(name)) or (home / below_home if home else None)

    own = xdg("XDG_CONFIG_HOME", ".config")
    own_file = own / "pysendmail" / "pysendmail.toml" if own and uid != 0 else None
    named = argument or names.get(ENVIRONMENT) or ""
    path = Path(os.path.abspath(named)) if named else None
    if own_file is not None and (path == own_file or (path is None and (to_write or os.path.exists(own_file)))):
        state = xdg("XDG_STATE_HOME", ".local/state") or own_file.parent
        runtime = _absolute(names.get("XDG_RUNTIME_DIR")) or Path(f"/run/user/{uid}")
        return Instance(
            path=own_file,
            explicit=bool(named),
            user=True,
            queue_directory=state / "pysendmail",
            socket=runtime / "pysendmail" / "submit",
        )
    return Instance(path=path or SYSTEM_FILE, explicit=bool(named))


def _absolute(text: str | None) -> Path | None:
    return Path(text) if text and text.startswith("/") else None


# Reading


def load(instance: Instance) -> Config:
    return parse(read(instance), instance)


def read(instance: Instance) -> str:
    """The text of the instance's file; "" where there is none and nobody named it. ConfigError if it cannot
    be read.
    """

    def error(text: str, mend: str = "", line: int = 0) -> ConfigError:
        return ConfigError(Problem(file=instance.path, line=line, text=text, mend=mend))

    try:
        data = small_file.read(instance.path, MAX_FILE_OCTETS)
    except FileNotFoundError:
        if not instance.explicit:
            return ""
        raise error("there is no such file", f"it was named with -C, --config or ${ENVIRONMENT}") from None
    except OSError as problem:
        raise error(f"it cannot be read: {problem.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error("it is not UTF-8", "save it as UTF-8", line) from None


def parse(
    text: str,
    instance: Instance,
    *,
    machine_name: Callable[[], str] = hostname.machine_name,
    mail_name: Callable[[], str] = hostname.mail_name,
) -> Config:
    """The Config that `text` describes. The names of the machine are asked only where the text gives none."""
    tables = _toml(text, instance.path)
    reading = _Reading(instance, tables, key_lines(text))
    config = reading.config(machine_name, mail_name)
    reading.check_client_reads_socket(text)
    if config is None or reading.problems:
        ordered = sorted(reading.problems, key=lambda problem: problem.line)
        raise ConfigError(*ordered[:MAX_PROBLEMS])
    return config


# TOML

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)\Z")
# The mistake that is made most: lifetime = 5d
_BARE_WORD = re.compile(r"""\s*[\w."'-]+\s*=\s*(?!(?:true|false)\b)[\w/~*@.-]*[A-Za-z/~*@_]""")


def _toml(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        path, begun = key_lines(text).last
        line = int(place[1]) if place and place[1] else begun
        what = message[: place.start()] if place else message
        source = text.split("\n")[line - 1] if line else ""
        mend = 'text, times and sizes stand in quotes: key = "..."' if _BARE_WORD.match(source) else ""
        key = _key_name(path) if begun <= line else ""
        raise ConfigError(
            Problem(file=file, line=line, key=key, text=f"not TOML: {what[:1].lower()}{what[1:]}", mend=mend)
        ) from None
    except RecursionError:
        raise ConfigError(Problem(file=file, text="not TOML: nested too deeply")) from None
    except ValueError as error:  # a number that Python refuses
        path, line = key_lines(text).last
        raise ConfigError(Problem(file=file, line=line, key=_key_name(path), text=f"not TOML: {error}")) from None


def _key_name(path: KeyPath) -> str:
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in path if isinstance(part, str)
    )


# From tables to dataclasses


@cache
def _readers(table: type) -> dict[str, Callable[[object], Any]]:
    """What reads the value of each of a table's fields, by the types of config.py."""
    return {name: _reader(hint) for name, hint in _hints(table).items()}


def _hints(table: type) -> dict[str, Any]:
    return get_type_hints(table, include_extras=True)


@cache
def _sections() -> dict[str, type]:
    """[queue], [daemon] and so on, and the dataclass of each."""
    return {name: hint for name, hint in _hints(Config).items() if isinstance(hint, type) and is_dataclass(hint)}


@cache
def _lists() -> dict[str, type]:
    """[[smarthost]] and [[route]]."""
    return {
        name: get_args(hint)[0]
        for name, hint in _hints(Config).items()
        if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0])
    }


@cache
def _scalars() -> dict[str, Kind]:
    """The keys above the first table."""
    return {name: get_args(hint)[1] for name, hint in _hints(Config).items() if get_origin(hint) is Annotated}


def keys_of(table: type) -> tuple[str, ...]:
    """The names that a table's keys have in the file."""
    return tuple(_in_file(field.name) for field in fields(table))


def _in_file(name: str) -> str:
    return name.rstrip("_")  # from_: `from` is a word of Python's


def _reader(hint: Any) -> Callable[[object], Any]:
    if get_origin(hint) is Annotated:
        return partial(config_values.read, get_args(hint)[1])
    if get_origin(hint) in (Union, UnionType):
        return _reader(next(arg for arg in get_args(hint) if arg is not type(None)))
    if get_origin(hint) is Literal:
        return partial(config_values.read_choice, get_args(hint))
    if hint is bool:
        return config_values.read_switch
    raise TypeError(f"config.py has a field of type {hint}, for which the file has no form")


# Words that others use, and what they are here.
_FOREIGN = {
    "password": "name a password_file or a password_command: secrets are never in this file",
    "pass": "name a password_file or a password_command: secrets are never in this file",
    "user": 'did you mean "username"?',
    "login": 'did you mean "username"?',
    "server": 'did you mean "host"?',
    "relayhost": "write a [[smarthost]] table with host = ...",
    "starttls": 'did you mean "tls"?',
}


class _Reading:
    """One pass over the tables of a file: collects problems, and builds what can be built all the same."""

    def __init__(self, instance: Instance, tables: dict[str, Any], lines: KeyLines) -> None:
        self.instance = instance
        self.tables = tables
        self.lines = lines
        self.problems: list[Problem] = []
        self.broken: set[KeyPath] = set()  # tables with a problem: what depends on their other keys is not judged

    def report(self, path: KeyPath, text: str, mend: str = "") -> None:
        self.problems.append(
            Problem(file=self.instance.path, line=self.lines.at(path), key=_key_name(path), text=text, mend=mend)
        )
        self.broken.update(path[:length] for length in range(1, len(path) + 1))

    def config(self, machine_name: Callable[[], str], mail_name: Callable[[], str]) -> Config | None:
        for name in self.tables:
            if name not in _scalars() and name not in _sections() and name not in _lists():
                self.unknown((), name, Config)
        scalars = {name: self.scalar(name, kind) for name, kind in _scalars().items()}
        sections = {name: self.section(name, table) for name, table in _sections().items()}
        smarthosts = list(self.items("smarthost", Smarthost, _with_defaults))
        routes = list(self.items("route", Route))
        self.check_smarthosts(smarthosts)
        self.check_routes(routes)
        self.check_rewrite(smarthosts, sections["rewrite"])
        self.check_sections(sections)
        if self.problems:
            return None
        host = scalars["hostname"] or machine_name()
        return Config(
            file=self.instance.path,
            hostname=host,
            domain=scalars["domain"] or mail_name() or host,
            smarthost=tuple(value for _, value in smarthosts),
            route=tuple(value for _, value in routes),
            **sections,
        )

    def scalar(self, name: str, kind: Kind) -> Any:
        if name not in self.tables:
            return None
        try:
            return config_values.read(kind, self.tables[name])
        except Wrong as wrong:
            self.report((name,), wrong.text, wrong.mend)
            return None

    def section(self, name: str, table: type) -> Any:
        defaults: dict[str, Any] = {}
        if name == "queue":
            defaults = {"directory": str(self.instance.queue_directory)}
        elif name == "daemon":
            defaults = {"socket": str(self.instance.socket)}
        given = self.tables.get(name, {})
        if isinstance(given, list) and given and isinstance(given[0], dict):
            self.report((name,), f"there is only one [{name}]", f"write [{name}], with single brackets")
            return None
        if not isinstance(given, dict):
            self.report(
                (name,),
                f"{config_values.shown(given)} is not a table",
                f"write [{name}] on a line, then its keys",
            )
            return None
        return self.structure((name,), table, defaults | given)

    def items(
        self, name: str, table: type, defaults: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """The elements that are well formed, each with its index in the file."""
        given = self.tables.get(name, [])
        if not isinstance(given, list):
            self.report((name,), "it is not a list of tables", f"write [[{name}]], with double brackets")
            return
        for index, item in enumerate(given):
            path = (name, index)
            if not isinstance(item, dict):
                self.report(
                    path,
                    f"{config_values.shown(item)} is not a table",
                    f"write [[{name}]] on a line, then its keys",
                )
                continue
            value = self.structure(path, table, defaults(item) if defaults else item)
            if value is not None:
                yield index, value

    def structure(self, path: KeyPath, table: type, given: dict[str, Any]) -> Any:
        """The table's value; None when one of its keys is wrong or missing, or there is no such key."""
        values: dict[str, Any] = {}
        found = len(self.problems)
        for field in fields(table):
            name = _in_file(field.name)
            if name in given:
                try:
                    values[field.name] = _readers(table)[field.name](given[name])
                except Wrong as wrong:
                    self.report((*path, name), wrong.text, wrong.mend)
                except Exception as error:  # a bug of ours, but the file is what can be changed
                    self.report((*path, name), f"it cannot be used: {error}")
            elif field.default is MISSING:
                self.report((*path, name), "it is missing", f"[[{path[0]}]] needs it")
        for name in sorted(given.keys() - set(keys_of(table))):
            self.unknown(path, name, table)
        return table(**values) if len(self.problems) == found else None

    def unknown(self, path: KeyPath, name: str, table: type) -> None:
        self.report((*path, name), "there is no such key", _where_instead(name, table))

    # What no key can say alone

    def check_smarthosts(self, smarthosts: list[tuple[int, Any]]) -> None:
        first: dict[str, int] = {}
        for index, host in smarthosts:
            path: KeyPath = ("smarthost", index)
            if host.name in first:
                other = self.lines.at(("smarthost", first[host.name]))
                self.report(
                    (*path, "name"),
                    f'a smarthost named "{host.name}" is there already, in line {other}',
                    "give each a name = ... of its own",
                )
            first.setdefault(host.name, index)
            for key, text, mend in _contradictions(host, self.tables["smarthost"][index]):
                self.report((*path, key), text, mend)

    def check_routes(self, routes: list[tuple[int, Any]]) -> None:
        known = self.names_of_smarthosts()
        for index, route in routes:
            for name in route.smarthost:
                if name not in known:
                    mend = config_values.nearest(name, known) or (
                        f"there are {config_values.listed(known)}" if known else "there is no [[smarthost]] at all"
                    )
                    self.report(
                        ("route", index, "smarthost"),
                        f"there is no smarthost {config_values.shown(name)}",
                        mend,
                    )

    def names_of_smarthosts(self) -> list[str]:
        """Also of those that have a problem of their own: a route to one of them is not wrong for that."""
        given = self.tables.get("smarthost", [])
        items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
        return [name for item in items if isinstance(name := _with_defaults(item).get("name"), str)]

    def check_rewrite(self, smarthosts: list[tuple[int, Any]], rewrite: Rewrite | None) -> None:
        if rewrite is None:
            return
        mend = 'write the address that the smarthost accepts, force_from = "box@example.com"'
        shared_missing = rewrite.from_ == "force" and not rewrite.force_from and not smarthosts
        for index, host in smarthosts:
            if (host.from_ or rewrite.from_) == "force" and not (host.force_from or rewrite.force_from):
                if host.from_ is None:
                    shared_missing = True
                else:
                    self.report(("smarthost", index, "from"), '"force" without force_from', mend)
        if shared_missing and ("smarthost",) not in self.broken:
            self.report(("rewrite", "from"), '"force" without force_from', mend)

    def check_sections(self, sections: dict[str, Any]) -> None:
        retry = sections["retry"]
        if retry is not None and retry.maximum < retry.first:
            self.report(("retry", "maximum"), "it is less than first", "the intervals grow from first up to maximum")
        bounce = sections["bounce"]
        if bounce is not None and not bounce.postmaster:
            self.report(("bounce", "postmaster"), "it is empty", 'name a person, or keep the default, "root"')

    def check_client_reads_socket(self, text: str) -> None:
        """The sendmail command takes the first line that reads socket = "...": it must find this one and no
        other.
        """
        daemon = self.tables.get("daemon")
        given = daemon.get("socket") if isinstance(daemon, dict) else None
        match = CLIENT_SOCKET_LINE.search(text)
        judged = any(problem.key.endswith("socket") for problem in self.problems)
        if (match[1] if match else None) != given and not judged:
            self.report(
                ("daemon", "socket"),
                "the sendmail command would not find it",
                'write it under [daemon] as socket = "/...", on a line of its own, without a backslash',
            )


def _with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """A smarthost's defaults that depend on its other keys."""
    defaults: dict[str, Any] = {}
    try:
        defaults["name"] = str(config_values.read(Kind("host"), given.get("host")))
    except Wrong:
        defaults["name"] = "unnamed"  # never used: the host itself is reported
    if given.get("username"):
        defaults["tls"] = "verify"
    if given.get("port") == 465:
        defaults["tls_implicit"] = True
    return defaults | given


def _contradictions(host: Smarthost, given: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Keys of one smarthost that cannot hold together: (key to name, text, mend)."""
    if host.tls_implicit and host.tls == "none":
        if "tls_implicit" in given:
            yield "tls_implicit", 'implicit TLS and tls = "none" exclude each other', "leave one of them out"
        else:
            yield (
                "tls",
                'port 465 speaks TLS from the first byte, which tls = "none" forbids',
                ("use another port, or write tls_implicit = false if the server really is in clear there"),
            )
    if host.tls == "fingerprint" and not host.tls_fingerprints:
        yield (
            "tls",
            '"fingerprint" without tls_fingerprints',
            "pysendmail probe shows the fingerprint to write there",
        )
    if host.tls_fingerprints and host.tls != "fingerprint":
        yield (
            "tls_fingerprints",
            f'they mean nothing at tls = "{host.tls}"',
            'write tls = "fingerprint", or leave them out',
        )
    if host.password_file and host.password_command:
        yield "password_command", "password_file is there as well", "leave one of them out"
    if not host.username:
        for key in ("password_file", "password_command", "auth"):
            if getattr(host, key):
                yield key, "there is no username to go with it", "write username = ..., or leave it out"


def _where_instead(name: str, table: type) -> str:
    """Where an unknown key should stand, or what was meant by it."""
    homes = [
        *([] if table is Config or name not in _scalars() else ["at the top of the file, above the first table"]),
        *(f"in [{section}]" for section, other in _sections().items() if other is not table and name in keys_of(other)),
        *(f"in [[{section}]]" for section, other in _lists().items() if other is not table and name in keys_of(other)),
    ]
    if homes:
        return f"it belongs {' or '.join(homes)}"
    here = [key for key in keys_of(table) if key != "file" or table is not Config]
    return _FOREIGN.get(name.lower(), "") or config_values.nearest(name, here)


# The last good copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the daemon starts with. `error`: why `config` is the last good one and not the file's; None if it
    is the file's.
    """

    config: Config
    text: str
    error: ConfigError | None = None


def load_or_last_good(instance: Instance) -> Loaded:
    """The file's configuration, or else the last good one; the file's ConfigError where there is neither.

    A file that was named and cannot be read says nothing of its queue: the system's must not take its place. Nor does a
    copy that is of another queue than the one it lies in: it was written by its owner, as whom root is going to work,
    and must not name another.
    """
    text = ""
    try:
        text = read(instance)
        return Loaded(config=parse(text, instance), text=text)
    except ConfigError as error:
        if instance.explicit and not text:
            raise
        directory = queue_directory_of_broken(text) or instance.queue_directory
        try:
            good = _read_last_good(directory)
            config = parse(good, instance)
            if config.queue.directory != directory:
                raise error
            return Loaded(config=config, text=good, error=error)
        except (ConfigError, OSError, UnicodeError):
            raise error from None


def load_last_good(directory: Path, instance: Instance) -> Config:
    """The last good configuration. ConfigError where there is none, or this version does not take it."""
    try:
        return parse(_read_last_good(directory), instance)
    except (OSError, UnicodeError) as error:
        raise ConfigError(Problem(file=directory / LAST_GOOD, text=f"it cannot be read: {error}")) from None


def _read_last_good(directory: Path) -> str:
    return small_file.read(directory / LAST_GOOD, MAX_FILE_OCTETS).decode("utf-8")


def save_last_good(config_text: str, directory: Path) -> None:
    """Keep a text that has been parsed, so that it survives a crash at any moment: the old copy or the new,
    whole.
    """
    with contextlib.suppress(OSError, UnicodeError):
        if _read_last_good(directory) == config_text:
            return  # two fsyncs saved at every start
    small_file.replace(directory / LAST_GOOD, config_text.encode("utf-8"), 0o600)
    spool.sync(directory)


_TABLE_LINE = re.compile(r"\s*\[\s*([^\[\]]*?)\s*\]\s*(?:#.*)?\Z")
_DIRECTORY_LINE = re.compile(r"""\s*(queue\s*\.\s*)?directory\s*=\s*(?:"([^"\\]*)"|'([^']*)')""")


def queue_directory_of_broken(text: str) -> Path | None:
    """The queue's directory from a file that cannot be used, as well as can be told; None if not given."""
    found: object = None
    try:
        queue = tomllib.loads(text).get("queue")
        found = queue.get("directory") if isinstance(queue, dict) else None
    except (ValueError, RecursionError):
        table = ""
        for line in text.splitlines():
            if header := _TABLE_LINE.match(line):
                table = header[1].strip("\"'")
            elif line.lstrip().startswith("["):
                table = "another"
            elif (match := _DIRECTORY_LINE.match(line)) and (table == "queue" or (match[1] and not table)):
                found = match[2] or match[3]
                break
    return Path(found) if isinstance(found, str) and found.startswith("/") and "\0" not in found else None
