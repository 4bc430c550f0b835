"""/etc/aliases: what it says, what is refused in it, and whom a recipient stands for."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysendmail import aliases as aliases_module
from pysendmail.aliases import (
    MAX_DEPTH,
    MAX_EXPANSION,
    AliasError,
    Aliases,
    AliasesUnread,
    expand_recipients,
    is_local,
)
from pysendmail.config import Config
from pysendmail.config_file import Instance, parse


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aliases"


def load(file: Path, text: str) -> Aliases:
    file.write_text(text, "utf-8", "surrogateescape")
    return Aliases.load(file)


# text, a name, whom it stands for
EXPANSIONS: dict[str, tuple[str, str, list[str]]] = {
    "an address": ("root: me@example.com\n", "root", ["me@example.com"]),
    "no alias": ("root: me@example.com\n", "other", ["other"]),
    "case": ("Root: me@example.com\n", "rOOT", ["me@example.com"]),
    "alias of an alias": ("a: b\nb: c@x.example\n", "a", ["c@x.example"]),
    "several": ("a: b@x.example, c@x.example,d@x.example\n", "a", ["b@x.example", "c@x.example", "d@x.example"]),
    "each once": ("a: b@x.example, c\nc: b@X.example, B@x.example\n", "a", ["b@x.example", "B@x.example"]),
    "a local name without alias": ("a: b, c@x.example\n", "a", ["b", "c@x.example"]),
    "continued": ("a: b@x.example,\n  c@x.example\n\td@x.example\n", "a", ["b@x.example"]),
    "continued after a comma": ("a: b@x.example,\n  c@x.example\n", "a", ["b@x.example", "c@x.example"]),
    "begun on the next line": ("a:\n  b@x.example\n", "a", ["b@x.example"]),
    "comment between": ("a: b@x.example,\n# c@x.example,\n  d@x.example\n", "a", ["b@x.example", "d@x.example"]),
    "comment behind": ("a: b@x.example # c@x.example\n", "a", ["b@x.example"]),
    "# within a name": ("a: b#c@x.example\n", "a", ["b#c@x.example"]),
    "white space around": ("  \na  :   b@x.example  ,  \n", "a", ["b@x.example"]),
    "CRLF": ("a: b@x.example\r\nc: d@x.example\r\n", "a", ["b@x.example"]),
    "quoted name": ('"a b": c@x.example\n', '"a b"', ["c@x.example"]),
    "quoted name with a colon": ('"a:b": c@x.example\n', '"a:b"', ["c@x.example"]),
    "quoted target": ('a: "b c"@x.example\n', "a", ['"b c"@x.example']),
    "comma in quotes": ('a: "b,c"@x.example, d@x.example\n', "a", ['"b,c"@x.example', "d@x.example"]),
    "display name": ("a: Me <b@x.example>\n", "a", ["b@x.example"]),
    "comment in parentheses": ("a: b@x.example (me, at home)\n", "a", ["b@x.example"]),
    "a name that is its own target": ("root: root, me@x.example\n", "root", ["root", "me@x.example"]),
    "a name that is final": ("a: \\b\nb: c@x.example\n", "a", ["b"]),
    "the first of two holds": ("a: b@x.example\nA: c@x.example\n", "a", ["b@x.example"]),
    "a command beside an address": ("a: |/bin/x, b@x.example\n", "a", ["b@x.example"]),
    "a command alone": ('a: "|/bin/x y"\n', "a", ["a"]),
    "not ASCII": ("a: bü@x.example\n", "a", ["bü@x.example"]),
    "continued by a backslash": (
        "a: b@x.example, \\\nc@x.example\nd: e@x.example\n",
        "a",
        ["b@x.example", "c@x.example"],
    ),
    "the name after one": ("a: b@x.example, \\\nc@x.example\nd: e@x.example\n", "d", ["e@x.example"]),
    "a backslash and CRLF": ("a: \\\r\nb@x.example\r\n", "a", ["b@x.example"]),
    "a backslash and nothing": ("a: b@x.example \\\n\nc: d@x.example\n", "a", ["b@x.example"]),
    "a backslash in a comment": ("# x \\\na: b@x.example\n", "a", ["b@x.example"]),
    "a comment that is indented": ("a: b@x.example,\n  # no\n  c@x.example\n", "a", ["b@x.example", "c@x.example"]),
    "a mark of the octets' order": ("\ufeffa: b@x.example\n", "a", ["b@x.example"]),
    "many commas": ("a: ,, b@x.example,,\n", "a", ["b@x.example"]),
    "a name with every special": ('"a b#c:d@e,f": g@x.example\n', '"a b#c:d@e,f"', ["g@x.example"]),
    "a quoted name that needs none": ('"Root": b@x.example\n', "root", ["b@x.example"]),
    "a quoted target that needs none": ('a: "b"\nb: c@x.example\n', "a", ["c@x.example"]),
    "owner- is a name": ("list: b@x.example\nowner-list: c@x.example\n", "list", ["b@x.example"]),
    "owner- by itself": ("list: b@x.example\nowner-list: c@x.example\n", "owner-list", ["c@x.example"]),
    "two ways to one name": ("a: b, c\nb: d\nc: d\nd: e@x.example\n", "a", ["e@x.example"]),
}


@pytest.mark.parametrize(("text", "name", "expected"), EXPANSIONS.values(), ids=EXPANSIONS.keys())
def test_expand(file: Path, text: str, name: str, expected: list[str]) -> None:
    """A name stands for its targets, in the order of the file, each once."""
    assert expected == load(file, text).expand(name)


# text, what the one problem says
PROBLEMS: dict[str, tuple[str, str]] = {
    "command": ("a: b@x.example\nc: |/usr/bin/vacation\n", "2: c: |/usr/bin/vacation: pysendmail runs no command"),
    "an alias that is indented": ("a: b@x.example,\n  c: d@x.example\n", '2: a: c: d@x.example: a ":" in a target'),
    "quoted command": ('c: "|/usr/bin/x -y, z"\n', "1: c: |/usr/bin/x -y, z: pysendmail runs no command"),
    "file": ("a: b@x.example,\n  /var/mail/a\n", "2: a: /var/mail/a: pysendmail writes no message into a file"),
    "nowhere": ("a: /dev/null\n", "1: a: /dev/null: pysendmail writes"),
    "Exim's words": ("a: :blackhole:\n", "1: a: :blackhole:: only :include:"),
    "no colon": ("# x\nroot me@example.com\n", '2: there is no ":" after the name'),
    "no colon after a quoted name": ('"a" b\n', '1: there is no ":" after the name'),
    "no target": ("a:\nb: c@x.example\n", "1: a: it stands for nobody"),
    "no name": (": b@x.example\n", "1: "),
    "a name with a domain": ("a@x.example: b@x.example\n", "1: a@x.example has a domain"),
    "catch all": ("*: b@x.example\n", '1: "*" is no name here'),
    "twice": ("a: b@x.example\n\nA: c@x.example\n", "3: A: it is there already, in line 1"),
    "nothing to continue": ("  a: b@x.example\n", "1: it begins with white space"),
    "no address": ("a: b@@x.example\n", "1: a: "),
    "an option": ("a: -oQ/tmp\n", '1: a: -oQ/tmp: begins with "-"'),
    "quotes that never end": ('a: "b@x.example, c@x.example\n', "1: a: "),
    "quotes of a name that never end": ('"a: b@x.example\n', '1: a " without its partner'),
    "not UTF-8": ("# x\na: b\udce9@x.example\nc: d@x.example\n", "2: "),
    "include without a file": ("a: :include:/nowhere/at/all\n", "/nowhere/at/all: a"),
    "include of a relative file": ("a: :include:list\n", "1: a: :include:list: write the whole path"),
    "controls": ("a: b\x1b[2J@x.example\n", "1: a: b\\x1b"),
}


@pytest.mark.parametrize(("text", "expected"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_problem_names_file_and_line(file: Path, text: str, expected: str) -> None:
    """What will not do is a problem with file, line and name; it raises nothing."""
    found = load(file, text).problems
    if "/nowhere" not in expected:
        assert str(found[0]).startswith(f"{file}:{expected}")
    assert "\x1b" not in str(found[0])


def test_broken_line_hides_no_other(file: Path) -> None:
    """The lines around a broken one hold."""
    found = load(file, "a: b@x.example\nbroken\na@b: y\nc: d@x.example\n")
    assert {"a", "c"} == set(found.targets)
    assert len(found.problems) == 2


LOOPS = {
    "two names": ("a: b\nb: a\n", "a -> b -> a"),
    "three names": ("a: b\nb: c\nc: a, d@x.example\n", "a -> b -> c -> a"),
    "behind an honest one": ("a: x@x.example, b\nb: c\nc: b\n", "b -> c -> b"),
}


@pytest.mark.parametrize(("text", "way"), LOOPS.values(), ids=LOOPS.keys())
def test_loop(file: Path, text: str, way: str) -> None:
    """A loop is an error that names file and way, and `loops` finds it without any mail."""
    found = load(file, text)
    with pytest.raises(AliasError, match=f"{file}: a loop: {way}"):
        found.expand("a")
    assert any("a loop: " in str(problem) for problem in found.loops())


def test_no_loops(file: Path) -> None:
    """A name that is its own target, and two ways to one name, are no loops."""
    assert load(file, "root: root, x@x.example\na: b, c\nb: d\nc: d\nd: e@x.example\n").loops() == ()


def test_names_that_need_quotes_are_looked_into(file: Path) -> None:
    """A name with a space, a colon or an @ in it does not upset newaliases, and a loop through it is found."""
    text = '"a b": c@x.example\n"a:b": "x y"\n"x y": "a:b"\n'
    assert [str(problem) for problem in load(file, text).loops()] == [
        f"{file}:2: a:b: a loop: a:b -> x y -> a:b",
        f"{file}:3: x y: a loop: x y -> a:b -> x y",
    ]


def test_too_many_in_a_row(file: Path) -> None:
    """A chain of aliases beyond the bound is refused."""
    text = "".join(f"n{number}: n{number + 1}\n" for number in range(MAX_DEPTH + 1))
    with pytest.raises(AliasError, match="in a row"):
        load(file, text).expand("n0")


def test_too_many_addresses(file: Path) -> None:
    """An expansion beyond the bound is refused."""
    text = "a: " + ", ".join(f"u{number}@x.example" for number in range(MAX_EXPANSION + 1))
    with pytest.raises(AliasError, match=f"more than {MAX_EXPANSION}"):
        load(file, text).expand("a")


def test_many_ways_take_no_time(file: Path) -> None:
    """Aliases that double at each step are walked once each, not once a way."""
    text = "".join(
        f"n{number}: n{number + 1}, m{number}\nm{number}: n{number + 1}\n" for number in range(MAX_DEPTH // 2)
    )
    assert [f"n{MAX_DEPTH // 2}"] == load(file, text).expand("n0")


def test_include(tmp_path: Path, file: Path) -> None:
    """A list in a file of its own: a target a line, or several with commas, comments, and lists within it."""
    (tmp_path / "list").write_text(
        f"# the team\nb@x.example\n\nc@x.example, d@x.example\n:include:{tmp_path}/more\n|x\n"
    )
    (tmp_path / "more").write_text("e@x.example")
    found = load(file, f"a: :include:{tmp_path}/list, f@x.example\n")
    assert [f"{name}@x.example" for name in "bcdef"] == found.expand("a")
    (problem,) = found.problems
    assert str(problem).startswith(f"{tmp_path}/list:6: a: |x: ")


@pytest.mark.parametrize("written", [":include:{}", ":include: {}", ":INCLUDE:{}", '":include:{}"', '":include: {}"'])
def test_include_is_written_in_many_ways(tmp_path: Path, file: Path, written: str) -> None:
    """With a space, as Sendmail's manual has it, without, and in quotes."""
    (tmp_path / "the list").write_text("b@x.example\n")
    assert load(file, f"a: {written.format(tmp_path / 'the list')}, c@x.example\n").expand("a") == [
        "b@x.example",
        "c@x.example",
    ]


# What systems install, shortened.
INSTALLED = {
    "Debian": "# /etc/aliases\nmailer-daemon: postmaster\npostmaster: root\nnobody: root\nhostmaster: root\nroot: me\n",
    "Red Hat": (
        "#\n#  Aliases in this file will NOT be expanded in the header from\n\n# Basic system aliases\n"
        "mailer-daemon:\tpostmaster\npostmaster:\troot\n\n# General redirections\nbin:\t\troot\n"
        "www:\t\twebmaster\nwebmaster:\troot\n\n# trap decode to catch security attacks\ndecode:\t\troot\n\n"
        "# Person who should get root's mail\nroot:\t\tme\n"
    ),
    "FreeBSD": 'MAILER-DAEMON: postmaster\npostmaster: root\n\n# "root" is somebody\nroot:\tme\n\n# abuse:\troot\n',
}


@pytest.mark.parametrize("text", INSTALLED.values(), ids=INSTALLED)
def test_files_that_systems_install(file: Path, text: str) -> None:
    """They are understood without a complaint, and lead to root's person."""
    found = load(file, text)
    assert (found.problems, found.loops()) == ((), ())
    assert found.expand("Mailer-Daemon") == ["me"]


def test_include_of_itself(tmp_path: Path, file: Path) -> None:
    """A list that includes itself is a problem, not a hang."""
    (tmp_path / "list").write_text(f"b@x.example\n:include:{tmp_path}/list\n")
    found = load(file, f"a: :include:{tmp_path}/list\n")
    assert found.expand("a") == ["b@x.example"]
    assert "includes itself" in str(found.problems[0])


def test_include_without_end(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of lists is bounded."""
    monkeypatch.setattr(aliases_module, "MAX_INCLUDES", 3)
    for number in range(9):
        (tmp_path / f"l{number}").write_text(f":include:{tmp_path}/l{number + 1}\nu{number}@x.example\n")
    found = load(file, f"a: :include:{tmp_path}/l0\n")
    assert "more than 3 files" in str(found.problems[0])
    assert "u0@x.example" in found.expand("a")


def test_no_file(tmp_path: Path) -> None:
    """No file is no aliases and no problem; so is "" for its name."""
    for path in (tmp_path / "none", ""):
        found = Aliases.load(path)
        assert ((dict(found.targets), found.problems), found.expand("root")) == (({}, ()), ["root"])


def test_not_a_file(tmp_path: Path) -> None:
    """A directory or a FIFO in place of the file is a problem, at once."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        assert "not a file" in str(Aliases.load(path).problems[0])


def test_refreshed(tmp_path: Path, file: Path) -> None:
    """A change of the file, or of one that it includes, is seen; without one nothing is read."""
    (tmp_path / "list").write_text("b@x.example")
    old = load(file, f"a: :include:{tmp_path}/list\n")
    assert old.refreshed() is old
    (tmp_path / "list").write_text("b@x.example, c@x.example")
    assert old.refreshed().expand("a") == ["b@x.example", "c@x.example"]
    file.unlink()
    assert old.refreshed().expand("a") == ["a"]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """No file can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_that_cannot_be_read_at_the_moment(file: Path) -> None:
    """No name is looked up then: it would be taken for one without alias, or for what it was. Later all is well."""
    file.write_text("team: a@example.org\n")
    old = Aliases.load(file)
    file.write_text("team: b@example.org\nteam2: c@example.org\n")
    with no_descriptor_left():
        none = old.refreshed()
    with pytest.raises(AliasesUnread, match="Too many open files"):
        none.expand("team")
    assert expand_recipients(["x@example.net"], none, config()) == [("x@example.net", "x@example.net")]
    assert none.refreshed().expand("team") == ["b@example.org"]


@given(st.text(alphabet='ab:,"\\@#|/ \t\n()<>', max_size=80))
def test_any_text_is_survived(text: str) -> None:
    """No text raises anything but AliasError, at reading or at expanding."""
    reading = aliases_module._Reading(Path("/aliases"))
    for entry in aliases_module._entries(text, lambda line, what: reading.report(reading.file, line, "", what)):
        reading.entry(entry)
    found = Aliases(file=reading.file, targets=reading.targets, lines=reading.lines)
    for name in ("a", "b", "ab"):
        try:
            assert found.expand(name)
        except AliasError:
            assert found.loops()


# Recipients


def config(text: str = "") -> Config:
    return parse(text or "hostname = 'box.example.com'\ndomain = 'example.com'\n", Instance(path=Path("/x.toml")))


SAME = "hostname = 'box.example.com'\ndomain = 'box.example.com'\n"
LOCAL = {
    "bare": ("root", "", True),
    "localhost": ("root@localhost", "", True),
    "localhost in any case": ("root@LocalHost", "", True),
    "hostname": ("root@box.example.com", "", True),
    "hostname in any case": ("root@BOX.example.com", "", True),
    "domain": ("root@example.com", "", False),
    "domain where it is the hostname": ("root@box.example.com", SAME, True),
    "elsewhere": ("root@x.example", "", False),
    "quoted": ('"root"@localhost', "", True),
    "an address in quotes": ('"a@x.example"@localhost', "", True),
}


@pytest.mark.parametrize(("address", "text", "expected"), LOCAL.values(), ids=LOCAL.keys())
def test_is_local(address: str, text: str, expected: bool) -> None:
    """Aliases apply to bare names, @localhost, @hostname, and @domain only where that is the hostname."""
    assert expected is is_local(address, config(text))


FILE = "root: admin, me@x.example\nadmin: root@y.example\nboth: root@localhost\nto-domain: root@example.com\n"
CATCH = "hostname = 'box.example.com'\ndomain = 'example.com'\n[aliases]\ncatch_all = '{}'\n"
RECIPIENTS: dict[str, tuple[list[str], str, list[tuple[str, str]]]] = {
    "elsewhere": (["a@z.example"], "", [("a@z.example", "a@z.example")]),
    "alias": (["root"], "", [("root@y.example", "root"), ("me@x.example", "root")]),
    "at the host": (
        ["Root@box.example.com"],
        "",
        [("root@y.example", "Root@box.example.com"), ("me@x.example", "Root@box.example.com")],
    ),
    "at the domain": (["root@example.com"], "", [("root@example.com", "root@example.com")]),
    "a target at localhost": (["both"], "", [("root@y.example", "both"), ("me@x.example", "both")]),
    "a target at the domain": (["to-domain"], "", [("root@example.com", "to-domain")]),
    "no alias": (["other"], "", [("other@example.com", "other")]),
    "no alias, at localhost": (["other@localhost"], "", [("other@example.com", "other@localhost")]),
    "no alias, quoted": (['"a b"'], "", [('"a b"@example.com', '"a b"')]),
    "no alias, an address in quotes": (
        ['"a@z.example"@localhost'],
        "",
        [('"a@z.example"@example.com', '"a@z.example"@localhost')],
    ),
    "each once, the first wins": (
        ["me@X.example", "root", "root@localhost"],
        "",
        [("me@X.example", "me@X.example"), ("root@y.example", "root")],
    ),
    "catch_all": (["other"], CATCH.format("all@z.example"), [("all@z.example", "other")]),
    "catch_all with an alias": (
        ["other"],
        CATCH.format("root"),
        [("root@y.example", "other"), ("me@x.example", "other")],
    ),
    "catch_all without an alias": (["other"], CATCH.format("someone"), [("someone@example.com", "other")]),
    "catch_all is for local names": (["a@z.example"], CATCH.format("all@z.example"), [("a@z.example", "a@z.example")]),
    "catch_all at localhost": (["other"], CATCH.format("someone@localhost"), [("someone@example.com", "other")]),
    "nobody": ([], "", []),
}


@pytest.mark.parametrize(("addresses", "text", "expected"), RECIPIENTS.values(), ids=RECIPIENTS.keys())
def test_expand_recipients(file: Path, addresses: list[str], text: str, expected: list[tuple[str, str]]) -> None:
    """Each recipient becomes the addresses that it stands for, each of them once, with what was given."""
    assert expected == expand_recipients(addresses, load(file, FILE), config(text))


def test_loop_among_recipients(file: Path) -> None:
    """A loop through @localhost is one, too."""
    with pytest.raises(AliasError, match="a loop: a -> b -> a"):
        expand_recipients(["a"], load(file, "a: b@localhost\nb: a@box.example.com\n"), config())


PUBLIC = "hostname = 'box.example.com'\ndomain = 'Gmail.com'\n[aliases]\ncatch_all = '{}'\n"


@pytest.mark.parametrize("catch_all", ["", "someone", "someone@localhost"])
def test_no_name_becomes_a_strangers_address(file: Path, catch_all: str) -> None:
    """A local name without alias is never made an address at a public mail provider; an alias and catch_all help."""
    aliases = load(file, "root: me@gmail.com\n")
    assert expand_recipients(["root"], aliases, config(PUBLIC.format(catch_all))) == [("me@gmail.com", "root")]
    with pytest.raises(AliasError, match=r"at Gmail\.com it may be a stranger's"):
        expand_recipients(["root", "pi"], aliases, config(PUBLIC.format(catch_all)))
    assert expand_recipients(["pi"], aliases, config(PUBLIC.format("me@gmail.com"))) == [("me@gmail.com", "pi")]
