"""Addresses: what may enter an envelope, and what is found in a list of them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysendmail.address import Address, AddressError, find_in_list, parse_list, parse_path
from pysendmail.smtp.reply import printable

# name: (text, local, domain, wire form)
GOOD_PATHS = {
    "plain": ("joe@example.com", "joe", "example.com", "joe@example.com"),
    "bare local name": ("root", "root", "", "root"),
    "bare quoted name": ('"john doe"', "john doe", "", '"john doe"'),
    "case is kept": ("Joe@Example.COM", "Joe", "Example.COM", "Joe@Example.COM"),
    "all of atext": (
        "!#$%&'*+/=?^_`{|}~-x@e.org",
        "!#$%&'*+/=?^_`{|}~-x",
        "e.org",
        "!#$%&'*+/=?^_`{|}~-x@e.org",
    ),
    "quotes that are needed": ('"a b"@e.org', "a b", "e.org", '"a b"@e.org'),
    "quotes that are not": ('"joe"@e.org', "joe", "e.org", "joe@e.org"),
    "an @ in quotes": ('"a@b"@e.org', "a@b", "e.org", '"a@b"@e.org'),
    "quoted pairs": (r'"a\"b\\c"@e.org', r'a"b\c', "e.org", r'"a\"b\\c"@e.org'),
    "one label": ("joe@localhost", "joe", "localhost", "joe@localhost"),
    "underscore in the domain": ("joe@my_box.lan", "joe", "my_box.lan", "joe@my_box.lan"),
    "IPv4 literal": ("joe@[192.0.2.1]", "joe", "[192.0.2.1]", "joe@[192.0.2.1]"),
    "IPv6 literal": ("joe@[IPv6:2001:db8::1]", "joe", "[IPv6:2001:db8::1]", "joe@[IPv6:2001:db8::1]"),
    "UTF-8 local part": ("jürgen@e.org", "jürgen", "e.org", "jürgen@e.org"),
    "UTF-8 domain": ("joe@bücher.example", "joe", "bücher.example", "joe@bücher.example"),
    "64 octets of local part": ("a" * 64 + "@e.org", "a" * 64, "e.org", "a" * 64 + "@e.org"),
}

# name: (text, a word that the error must have)
BAD_PATHS = {
    "empty": ("", "nothing"),
    "no local part": ("@e.org", "not an address"),
    "empty quotes": ('""@e.org', "no name before"),
    "no domain": ("joe@", "no domain"),
    "two @": ("a@b@c", "part of a domain"),
    "space": ("a b@e.org", "not an address"),
    "trailing newline": ("joe@e.org\n", "control"),
    "newline and a command": ("joe@e.org>\r\nDATA", "control"),
    "NUL": ("jo\0e@e.org", "not an address"),
    "NUL in quotes": ('"jo\0e"@e.org', "control"),
    "C1 control": ("jo\x85e@e.org", "control"),
    "text that changes direction": ("jo\u202ee@e.org", "control"),
    "octets that are not UTF-8": ("jo\udcffe@e.org", "UTF-8"),
    "begins with -": ("-oQ/tmp@e.org", "option"),
    "begins with - in quotes": ('"-x"@e.org', "option"),
    "bare name that begins with -": ("-bs", "option"),
    "source route": ("@a,@b:c@d", "source route"),
    "angle brackets": ("<joe@e.org>", "not an address"),
    "two dots": ("a..b@e.org", "not an address"),
    "leading dot": (".a@e.org", "not an address"),
    "trailing dot": ("a.@e.org", "not an address"),
    "dot at the end of the domain": ("a@e.org.", "part of a domain"),
    "two dots in the domain": ("a@e..org", "part of a domain"),
    "hyphen at the start of a label": ("a@-e.org", "part of a domain"),
    "label of 64": ("a@" + "e" * 64 + ".org", "part of a domain"),
    "space after the domain": ("a@e.org ", "part of a domain"),
    "local part of 65": ("a" * 65 + "@e.org", "64 octets"),
    "local part of 33 two-octet letters": ("ü" * 33 + "@e.org", "64 octets"),
    "domain of 256": ("a@" + ".".join(["e" * 50] * 5) + ".e", "255 octets"),
    "address of 255": ("a" * 60 + "@" + ".".join(["e" * 48] * 4)[: 254 - 60], "254 octets"),
    "bad IPv4 literal": ("a@[300.1.1.1]", "literal"),
    "literal without its end": ("a@[192.0.2.1", "literal"),
    "unknown literal": ("a@[x:y]", "literal"),
    "IPv6 with a zone": ("a@[IPv6:fe80::1%eth0]", "literal"),
    "not an IDN": ("a@\u2488.example", "internationalised"),
    "open quotes": ('"a@e.org', "not an address"),
}


@pytest.mark.parametrize(("text", "local", "domain", "wire"), GOOD_PATHS.values(), ids=GOOD_PATHS)
def test_a_mailbox_is_understood(text: str, local: str, domain: str, wire: str) -> None:
    """parse_path gives local part and domain, and the wire form keeps what matters."""
    address = parse_path(text)
    assert (local, domain, wire) == (address.local, address.domain, str(address))


@pytest.mark.parametrize(("text", "word"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_what_is_no_mailbox_is_refused_in_words(text: str, word: str) -> None:
    """parse_path refuses with an AddressError of one printable line that says why."""
    with pytest.raises(AddressError) as caught:
        parse_path(text)
    assert word in str(caught.value)
    assert printable(str(caught.value)) == str(caught.value)


def test_a_long_address_at_the_limit_passes() -> None:
    """254 octets in all are the most that fits a path of 256."""
    domain = ".".join(["e" * 60, "e" * 60, "e" * 60, "e" * 6])
    text = "a" * 64 + "@" + domain
    assert len(str(parse_path(text))) == 254
    with pytest.raises(AddressError):
        parse_path(text + "e")


def test_an_internationalised_domain_has_a_labels() -> None:
    """ascii_domain is what the DNS knows; the domain itself stays as it was typed."""
    address = parse_path("joe@Bücher.example")
    assert (
        address.domain,
        address.ascii_domain,
        address.ascii_local,
    ) == ("Bücher.example", "xn--bcher-kva.example", True)
    assert parse_path("jürgen@e.org").ascii_local is False
    assert parse_path("joe@e.org").ascii_domain == "e.org"


def test_the_case_of_a_domain_does_not_make_another_recipient() -> None:
    """`key` folds the domain and not the local part."""
    assert parse_path("joe@E.org").key == parse_path('"joe"@e.ORG').key
    assert parse_path("Joe@e.org").key != parse_path("joe@e.org").key


@pytest.mark.parametrize(("local", "domain"), [("a\nb", "e.org"), ("a", "e.org\r\nX"), ("", "e.org"), ("-a", "")])
def test_an_address_cannot_be_made_with_bad_parts(local: str, domain: str) -> None:
    """The constructor checks, so that an Address is always one that can be sent to."""
    with pytest.raises(AddressError):
        Address(local, domain)


# name: (bytes, addresses)
GOOD_LISTS: dict[str, tuple[bytes, list[str]]] = {
    "nothing": (b"", []),
    "white space": (b" \t ", []),
    "only commas": (b", ,,", []),
    "one": (b"joe@e.org", ["joe@e.org"]),
    "bare names": (b"root, operator", ["root", "operator"]),
    "order is kept": (b"c@e.org, a@e.org,b@e.org", ["c@e.org", "a@e.org", "b@e.org"]),
    "display name": (b"Joe Q. Public <joe@e.org>", ["joe@e.org"]),
    "quoted display name with a comma": (b'"Public, Joe" <joe@e.org>, x', ["joe@e.org", "x"]),
    "quoted pairs in it": (rb'"Joe \"J\" <x@y>" <joe@e.org>', ["joe@e.org"]),
    "angle brackets alone": (b"<joe@e.org>", ["joe@e.org"]),
    "encoded words": (b"=?utf-8?q?J=C3=BCrgen?= =?utf-8?b?w7w=?= <j@e.org>", ["j@e.org"]),
    "8-bit display name": ("Jürgen <j@e.org>".encode(), ["j@e.org"]),
    "8-bit display name in Latin-1": (b"J\xfcrgen <j@e.org>", ["j@e.org"]),
    "unquoted @ in a display name": (b"joe@e.org <joe@e.org>", ["joe@e.org"]),
    "brackets in a display name": (b"[list] Joe <joe@e.org>", ["joe@e.org"]),
    "comment after": (b"joe@e.org (Joe, Public)", ["joe@e.org"]),
    "nested comments": (rb"(a (b (c\)) <x@y>)) joe@e.org (d)", ["joe@e.org"]),
    "comments everywhere": (b"joe(a)@(b)e(c).(d)org(e)", ["joe@e.org"]),
    "folded": (b"joe@e.org,\r\n\tjim@e.org,\n jack@e.org", ["joe@e.org", "jim@e.org", "jack@e.org"]),
    "folded in quotes": (b'"a\r\n b"@e.org', ['"a b"@e.org']),
    "group": (b"Friends: a@e.org, B <b@e.org>;", ["a@e.org", "b@e.org"]),
    "empty group": (b"undisclosed-recipients:;", []),
    "empty group without its end": (b"undisclosed-recipients:", []),
    "group between": (b"x, g: a, b;, y", ["x", "a", "b", "y"]),
    "group without comma after it": (b"g: a; y", ["a", "y"]),
    "quoted group name": (b'"My, friends": a;', ["a"]),
    "route": (b"<@a.org,@b.org:c@d.org>", ["c@d.org"]),
    "route with empty hops": (b"Joe <,@a.org,,@b.org:c@d.org>", ["c@d.org"]),
    "spaces around dots and @": (b"joe . public @ e . org", ["joe.public@e.org"]),
    "quoted local part": (b'"joe public"@e.org', ['"joe public"@e.org']),
    "quotes without need": (b'"joe"@e.org', ["joe@e.org"]),
    "several words, one quoted": (b'joe."the man"@e.org', ['"joe.the man"@e.org']),
    "domain literal": (b"joe@[192.0.2.1], <joe@[IPv6:::1]>", ["joe@[192.0.2.1]", "joe@[IPv6:::1]"]),
    "begins with - (refused later)": (b"-f@e.org", ["-f@e.org"]),
    "UTF-8 address": ("jürgen@bücher.example".encode(), ["jürgen@bücher.example"]),
}

# name: (bytes, a word that the error must have)
BAD_LISTS = {
    "two words": (b"joe public", "comma"),
    "two addresses without comma": (b"a@e.org b@e.org", "comma"),
    "two angles without comma": (b"<a@e.org> <b@e.org>", "comma"),
    "words after the angle": (b"<a@e.org> Joe", "comma"),
    "semicolons": (b"a@e.org; b@e.org", "group"),
    "open quotes": (b'"Joe <a@e.org>', "never closed"),
    "open comment": (b"a@e.org (Joe", "never closed"),
    "open comment after a backslash": (b"a@e.org (Joe\\)", "never closed"),
    "closed comment only": (b"a@e.org)", "cannot stand"),
    "open angle": (b"Joe <a@e.org", "without its"),
    "closed angle only": (b"a@e.org>", "without its"),
    "empty angle": (b"Joe <>", "empty"),
    "no local part": (b"@e.org", "no name"),
    "no domain": (b"a@", "domain"),
    "two @": (b"a@b@c", "domain"),
    "two dots": (b"a..b@e.org", "unquoted"),
    "dot at the end": (b"a.@e.org", "cannot end"),
    "group in a group": (b"a: b: c;;", "group"),
    "address as a group": (b"a@b: c;", "group"),
    "group without name": (b": a;", "group"),
    "mailto": (b"<mailto:a@b>", "route"),
    "no route": (b"<:a@b>", "route"),
    "backslash": (b"\\root", "unquoted"),
    "NUL": (b"a\0@e.org", "unquoted"),
    "a line end that folds nothing": (b"a@e.org\nBcc: b", "unquoted"),
    "open domain literal": (b"a@[1.2.3.4", "unquoted"),
}


@pytest.mark.parametrize(("value", "addresses"), GOOD_LISTS.values(), ids=GOOD_LISTS)
def test_a_list_gives_its_addresses(value: bytes, addresses: list[str]) -> None:
    """parse_list finds the addresses of RFC 5322 §3.4 and §4.4, in order."""
    assert addresses == parse_list(value)


@pytest.mark.parametrize(("value", "word"), BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_list_that_is_not_understood_is_refused(value: bytes, word: str) -> None:
    """Nobody is better than somebody else: no guess is made."""
    with pytest.raises(AddressError) as caught:
        parse_list(value)
    assert word in str(caught.value)
    assert printable(str(caught.value)) == str(caught.value)


PIECES = rb"""a joe@e.org < > @ , ; : ( ) " \ . [ ] - =?utf-8?q?x?=""".split()
ADDRESS_BYTES = st.lists(st.sampled_from([*PIECES, b" ", b"\r\n ", b"\xff", b"\0", "ü".encode()]), max_size=25).map(
    b"".join
)


@given(st.one_of(st.binary(max_size=200), ADDRESS_BYTES))
@example(b"@\xe2\x84\x80")
def test_no_bytes_give_another_exception(value: bytes) -> None:
    """Only AddressError leaves; what passes is safe on the wire and reads back the same."""
    addresses = addresses_or_words(value)
    for address in addresses:
        wire = str(address)
        assert address == parse_path(wire)
        assert [wire] == parse_list(wire.encode())
        assert not set(wire) & set(map(chr, [*range(32), 127]))
        assert not wire.startswith("-")
        assert address.ascii_domain.isascii()


@given(st.lists(st.sampled_from([*b"ab.@-+=", 0x20, 0xC3, 0xBC, 0xFF]), max_size=12).map(bytes))
@example(b"a.@b")
@example(b"a@b.")
@example(b"a@b@c")
def test_an_address_alone_is_what_it_is_in_a_list(value: bytes) -> None:
    """White space around it, or the comma of a list, makes no difference: refused in one, refused in the other."""
    alone = addresses_or_words(value)
    assert alone == addresses_or_words(b" " + value)
    assert alone == addresses_or_words(value + b",")


def addresses_or_words(value: bytes) -> list[Address]:
    """What is found in a list, or nothing where it is refused in words fit to be shown."""
    try:
        return [parse_path(text) for text in parse_list(value)]
    except AddressError as error:
        words = str(error)
    assert words == printable(words)
    return []


@given(st.text(max_size=80))
@example("ß。example")
@example("xn--\u00fc")
def test_no_text_gives_another_exception(text: str) -> None:
    """parse_path knows one exception, also for domains that the IDNA rules know how to dislike."""
    for candidate in (text, f"a@{text}", f"a@{text}.example"):
        with contextlib.suppress(AddressError):
            address = parse_path(candidate)
            assert address == parse_path(str(address))


@pytest.mark.parametrize(
    "unit", [b"(", b'"\\', b"<", b"a@b,", b"a.", b"\\", b"[", b"(a)", b"a:", b"a ", b"<a>", b"<@a,"]
)
def test_a_list_takes_linear_time(unit: bytes) -> None:
    """Half a megabyte of anything is done in a moment; if it were quadratic, this test would not end."""
    with contextlib.suppress(AddressError):
        parse_list(unit * (500_000 // len(unit)))


@given(
    st.lists(st.sampled_from([*' \t<>@,;:."()\\[]', "\r\n ", "ab", '"q, r"', "(c)", "x.example"]), max_size=20).map(
        "".join
    )
)
def test_addresses_are_found_where_they_stand(text: str) -> None:
    """find_in_list knows the addresses of parse_list, each between its own commas, and its place alone is it again."""
    try:
        expected = parse_list(text.encode())
    except AddressError:
        with pytest.raises(AddressError):
            find_in_list(text)
        return
    places = find_in_list(text)
    assert [place.address for place in places] == expected
    for place in places:
        assert place.begin <= place.start < place.end <= place.stop
        assert parse_list(text[place.begin : place.stop].encode()) == [place.address]
        assert parse_list(text[place.start : place.end].join("<>").encode()) == [place.address]
