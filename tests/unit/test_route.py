"""Which smarthosts a recipient's mail may take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail.config import Config
from pysendmail.config_file import Instance, parse
from pysendmail.route import matches, route

PATTERNS = {
    "everything": ("*", "a@b.example", True),
    "everything, null sender": ("*", "<>", True),
    "the null sender only": ("<>", "a@b.example", False),
    "a domain": ("*@b.example", "a@b.example", True),
    "a domain is not a subdomain": ("*@b.example", "a@c.b.example", False),
    "subdomains": ("*.b.example", "a@c.b.example", True),
    "a domain is not a longer one": ("*@b.example", "a@b.example.org", False),
    "case of the pattern": ("*@B.Example", "a@b.example", True),
    "case of the address": ("A@b.example", "a@B.EXAMPLE", True),
    "a whole address": ("a@b.example", "aa@b.example", False),
    "one character": ("?@b.example", "a@b.example", True),
    "one character is not none": ("a?@b.example", "a@b.example", False),
    "a dot is a dot": ("a@b.example", "a@bxexample", False),
    "brackets are brackets": ("*@[192.0.2.1]", "a@[192.0.2.1]", True),
    "brackets are no set": ("[ab]@x", "a@x", False),
    "several stars": ("*+*@*.example", "a+b@c.example", True),
    "several stars, in order": ("*b*a*", "ab", False),
    "two stars in a row": ("a**b", "ab", True),
    "a piece that fits twice": ("*ab", "abab", True),
    "a piece that must overlap to fit": ("*aba*ab", "abab", False),
    "a star may stand for nothing": ("a*@b.example", "a@b.example", True),
}


@pytest.mark.parametrize(("pattern", "address", "expected"), PATTERNS.values(), ids=PATTERNS.keys())
def test_pattern(pattern: str, address: str, expected: bool) -> None:
    """`*` and `?` over the whole address, case ignored, everything else literal."""
    assert expected is matches(pattern, address)


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=10))
def test_patterns_are_those_of_a_shell(pattern: str, address: str) -> None:
    """Taking each piece where it first fits gives the same answers as trying everything."""
    tried = re.fullmatch(pattern.replace("*", ".*").replace("?", "."), address) if "**" not in pattern else None
    if "**" not in pattern:
        assert (tried is not None) is matches(pattern, address)


def test_many_stars_do_not_take_forever() -> None:
    """A pattern that makes an ordinary regular expression go back exponentially ends at once."""
    assert not matches("*a" * 100 + "*b", "a" * 320)


CONFIG = """
[[smarthost]]
host = "one.example"
[[smarthost]]
host = "two.example"
[[smarthost]]
host = "three.example"
[[route]]
sender = "*@work.example"
recipient = "*@partner.example"
smarthost = ["three.example", "one.example", "three.example"]
[[route]]
sender = "*@work.example"
smarthost = ["two.example"]
[[route]]
sender = "<>"
recipient = "postmaster@*"
smarthost = ["one.example"]
"""
ROUTES = {
    "both patterns": ("a@work.example", "b@partner.example", ("three.example", "one.example")),
    "the first route that matches": ("a@work.example", "b@x.example", ("two.example",)),
    "recipient alone is not enough": (
        "a@x.example",
        "b@partner.example",
        ("one.example", "two.example", "three.example"),
    ),
    "null sender": ("", "postmaster@x.example", ("one.example",)),
    "no route": ("", "b@x.example", ("one.example", "two.example", "three.example")),
}


@pytest.fixture(scope="module")
def config() -> Config:
    return parse(CONFIG, Instance(path=Path("/x.toml")), machine_name=lambda: "box.example", mail_name=lambda: "")


@pytest.mark.parametrize(("sender", "recipient", "expected"), ROUTES.values(), ids=ROUTES.keys())
def test_route(config: Config, sender: str, recipient: str, expected: tuple[str, ...]) -> None:
    """The first match holds, each smarthost once; without one all of them, in the order of the file."""
    assert expected == route(sender, recipient, config)


def test_no_smarthost_is_no_route() -> None:
    """Without a smarthost there is nowhere to go; that is for the caller to say."""
    config = parse("", Instance(path=Path("/x.toml")), machine_name=lambda: "box.example", mail_name=lambda: "")
    assert route("a@b.example", "c@d.example", config) == ()
