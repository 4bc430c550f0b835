"""pysendmail.toml(5) and config.py say the same: every key, its kind and its default, both ways."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from pysendmail.config import Config, Kind, Smarthost
from pysendmail.config_file import ConfigError, Instance, keys_of, parse

MAN = Path(__file__).parents[2] / "man" / "pysendmail.toml.5"
TOP = "Above the first table"
# These depend on the machine, on the user or on other keys; the page says how.
NO_FIXED_DEFAULT = {
    (TOP, "hostname"),
    (TOP, "domain"),
    ("[queue]", "directory"),
    ("[daemon]", "socket"),
    ("[[smarthost]]", "name"),
    ("[[smarthost]]", "host"),
    ("[[smarthost]]", "from"),
    ("[[route]]", "smarthost"),
}
# What a table must have beside the key that is tried.
NEEDED = {
    "[[smarthost]]": {"host": '"smtp.example.com"'},
    "[[route]]": {"smarthost": '["main"]'},
}
MAIN = '[[smarthost]]\nname = "main"\nhost = "smtp.example.com"\n'


def entries() -> Iterator[tuple[str, str, str, str]]:
    """(table as it is headed, key, default as it is written, kind) for each key in the page."""
    table = ""
    lines = MAN.read_text().replace(r"\(dq", '"').split("\n")
    keys = lines[lines.index(".Sh KEYS") : lines.index(".Sh SECRETS")]
    for number, line in enumerate(keys):
        if line.startswith(".Ss "):
            table = line.removeprefix(".Ss ").removesuffix(r"\&")
        if match := re.fullmatch(r"\.It Li (\w+) = (.*)", line):
            assert keys[number + 1].startswith(".Em "), f"{table} {match[1]}: no kind"
            yield table, match[1], match[2], keys[number + 1].removeprefix(".Em ")


PAGE = list(entries())
NAMES = [f"{table} {key}" for table, key, _, _ in PAGE]


def tables() -> dict[str, type]:
    """Each table as the page heads it, and its dataclass."""
    found: dict[str, type] = {TOP: Config}
    for name, hint in get_type_hints(Config).items():
        if get_origin(hint) is tuple:
            found[f"[[{name}]]"] = get_args(hint)[0]
        elif hint not in (str, Path):
            found[f"[{name}]"] = hint
    return found


def test_every_key_is_in_the_page_and_no_other() -> None:
    """No key is missing in the page, none is there twice, none is invented."""
    sections = {name.strip("[]") for name in tables()}
    expected = [
        (table, key)
        for table, cls in tables().items()
        for key in keys_of(cls)
        if cls is not Config or key not in {"file", *sections}
    ]
    found = [(table, key) for table, key, _, _ in PAGE]
    assert sorted(expected) == sorted(found)


def field_of(table: str, key: str) -> tuple[Any, Any]:
    """The field's type and its default, MISSING if it has none."""
    cls = tables()[table]
    (field,) = [field for field in fields(cls) if field.name.rstrip("_") == key]
    return get_type_hints(cls, include_extras=True)[field.name], field.default


@pytest.mark.parametrize(("table", "key", "written", "kind"), PAGE, ids=NAMES)
def test_kind(table: str, key: str, written: str, kind: str) -> None:
    """The kind of a value in the page is that by which it is read."""
    hint, _ = field_of(table, key)
    choices = next((h for h in (hint, *get_args(hint)) if get_origin(h) is Literal), None)
    if get_origin(hint) is Annotated:
        assert get_args(hint)[1].name == kind
        assert isinstance(get_args(hint)[1], Kind)
    elif choices is not None:
        assert " | ".join(get_args(choices)) == kind
    else:
        assert (bool, "true or false") == (hint, kind)


@pytest.mark.parametrize(("table", "key", "written", "kind"), PAGE, ids=NAMES)
def test_default(table: str, key: str, written: str, kind: str) -> None:
    """What the page gives as the default is taken by the loader, and is what holds without the key."""
    others = "".join(f"{other} = {value}\n" for other, value in NEEDED.get(table, {}).items() if other != key)
    head = "" if table == TOP else f"{table}\n"
    text = f"{'' if table == TOP else MAIN if table != '[[smarthost]]' else ''}{head}{key} = {written}\n{others}"
    config = parse(text, Instance(path=Path("/x.toml")), machine_name=lambda: "box", mail_name=lambda: "")
    if (table, key) in NO_FIXED_DEFAULT:
        return
    inner: Any = getattr(config, table.strip("[]"))
    if table.startswith("[["):
        inner = inner[-1]
    _, default = field_of(table, key)
    assert default is not MISSING
    assert default == getattr(inner, "from_" if key == "from" else key)


def test_fixed_defaults_of_a_system_instance() -> None:
    """The defaults that depend on whose instance it is are those of the machine's."""
    written = {(table, key): value for table, key, value, _ in PAGE}
    config = parse("", Instance(path=Path("/x.toml")), machine_name=lambda: "box", mail_name=lambda: "")
    assert f'"{config.queue.directory}"' == written["[queue]", "directory"]
    assert f'"{config.daemon.socket}"' == written["[daemon]", "socket"]


def examples() -> list[str]:
    text = MAN.read_text()
    return re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text[text.index(".Sh EXAMPLES") :], re.DOTALL | re.MULTILINE)


def test_examples_are_good() -> None:
    """Who copies an example has a configuration that works."""
    assert len(examples()) == 2
    for text in examples():
        tomllib.loads(text)
        assert parse(text, Instance(path=Path("/x.toml"))).smarthost


def test_dependent_defaults_are_as_the_page_says() -> None:
    """tls with credentials, tls_implicit on 465, name."""

    def smarthost(text: str) -> Smarthost:
        return parse(f"[[smarthost]]\nhost = 'a.example'\n{text}", Instance(path=Path("/x.toml"))).smarthost[0]

    assert (
        smarthost("username = 'u'").tls,
        smarthost("").tls_implicit,
        smarthost("").name,
    ) == ("verify", False, "a.example")
    assert smarthost("port = 465").tls_implicit


def test_bounds_are_as_the_page_says() -> None:
    """The bounds that the page names are those that hold."""
    page = " ".join(MAN.read_text().split())
    for words, good, bad in (
        ("At most 3650 days", "[queue]\nlifetime = '3650d'", "[queue]\nlifetime = '3651d'"),
        ("1 to 100", "[retry]\nfactor = 100", "[retry]\nfactor = 101"),
        ("0 to 0.9", "[retry]\njitter = 0.9", "[retry]\njitter = 0.91"),
        ("At least 1 KiB", "[queue]\nmax_message_size = '1KiB'", "[queue]\nmax_message_size = '1023B'"),
    ):
        assert words in page
        assert parse(good, Instance(path=Path("/x.toml")))
        with pytest.raises(ConfigError):
            parse(bad, Instance(path=Path("/x.toml")))
