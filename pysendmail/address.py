"""Address: one mailbox of an envelope (RFC 5321 §4.1.2), and address lists as people write them (RFC 5322).

`parse_path` is the door into the envelope: what it lets through has no control character, no space outside
quotes, fits RFC 5321 §4.5.3.1 and cannot be taken for an option. `parse_list` only finds the addresses in To,
Cc, Bcc or an argument (RFC 5322 §3.4, §4.4); each of them goes through `parse_path` afterwards.

Errors: AddressError alone, whatever the bytes; it means that the message is refused (65). Both are linear in
time. Limits are octets, in UTF-8. Beyond the RFC, "_" is allowed in a domain, since machines are called so.
Not here: aliases, DNS, and source routes in an envelope (in a list they are read and dropped).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from pysendmail.smtp.reply import printable

# RFC 5321 §4.5.3.1.1-3. A path is at most 256 octets with its angle brackets.
MAX_LOCAL_OCTETS = 64
MAX_DOMAIN_OCTETS = 255
MAX_MAILBOX_OCTETS = 254
MAX_LABEL_OCTETS = 63

# By what it is not: to name all above ASCII takes 3 ms of each start wherever it stands.
_ATEXT = r'[^\x00-\x20\x7f()<>\[\]:;@\\,."]'
# Groups that repeat may give back (it stays linear): a possessive one lets a trailing dot pass in Python 3.11.2.
_DOT_ATOM = re.compile(rf"{_ATEXT}++(?:\.{_ATEXT}++)*")
_MAILBOX = re.compile(
    rf"""(?: (?P<atom> {_ATEXT}++ (?:\.{_ATEXT}++)* )
           | " (?P<quoted> (?: [^"\\] | \\[\x20-\x7e] )* ) " )
         (?: @ (?P<domain> .*+ ) )?+""",
    re.VERBOSE | re.DOTALL,
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_BACKSLASH = re.compile(r'["\\]')
_FOLD = re.compile(r"\r?\n(?=[ \t])")
# An address and nothing else, as nearly every argument is; tokens would say the same of it.
_ALONE = re.compile(rf"{_ATEXT}++(?:\.{_ATEXT}++)*(?:@{_ATEXT}++(?:\.{_ATEXT}++)*)?")
_TOKEN = re.compile(
    rf"""(?P<space>   [ \t]++ )
      | (?P<atom>    {_ATEXT}++ )
      | (?P<quoted>  " (?: [^"\\]++ | \\. )*+ " )
      | (?P<literal> \[ (?: [^\[\]\\]++ | \\. )*+ \] )
      | (?P<special> [<>@,;:.] )""",
    re.VERBOSE | re.DOTALL,
)
_IN_COMMENT = re.compile(r"[()]|\\.", re.DOTALL)


class AddressError(ValueError):
    """Text that is no address, or none that can be sent to. The words say what is wrong with which part."""


def _error(text: str, why: str) -> AddressError:
    return AddressError(f"{printable(text, 80) or '(nothing)'}: {why}")


# -- one address ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox, or with `domain` "" a bare local name. `local` has no quotes; `str()` is the wire form."""

    local: str
    domain: str = ""

    def __post_init__(self) -> None:
        text = f"{self.local}@{self.domain}" if self.domain else self.local
        if printable(text, len(text)) != text:
            raise _error(text, "control characters, or octets that are not UTF-8, cannot stand in an address")
        if not self.local:
            raise _error(text, "there is no name before the @")
        if self.local.startswith("-"):
            raise _error(text, 'begins with "-", so a program on its way could take it for an option')
        _check_length(text, "the name before the @", _wire_local(self.local), MAX_LOCAL_OCTETS)
        if self.domain:
            _check_length(text, "the domain", self.domain, MAX_DOMAIN_OCTETS)
            _check_domain(text, self.domain)
        _check_length(text, "the address", str(self), MAX_MAILBOX_OCTETS)

    def __str__(self) -> str:
        return f"{_wire_local(self.local)}@{self.domain}" if self.domain else _wire_local(self.local)

    @property
    def ascii_local(self) -> bool:
        """Whether the local part is ASCII; one that is not needs SMTPUTF8 (RFC 6531)."""
        return self.local.isascii()

    @property
    def ascii_domain(self) -> str:
        """The domain with A-labels (RFC 5890), as a server without SMTPUTF8 and the DNS know it."""
        return self.domain if self.domain.isascii() else _a_labels(str(self), self.domain)

    @property
    def key(self) -> str:
        """What makes two addresses one recipient: the case of a domain means nothing (RFC 5321 §2.4)."""
        return f"{_wire_local(self.local)}@{self.domain.lower()}"


@lru_cache(maxsize=1024)  # at each step of its way an address is asked about anew, and so is the next message's
def parse_path(text: str) -> Address:
    """The one mailbox or bare local name that `text` is, with nothing around it; raises AddressError."""
    if text.startswith("@") and ":" in text:
        raise _error(text, "source routes are obsolete (RFC 5321 §4.1.2); write the address alone")
    match = _MAILBOX.fullmatch(text)
    if match is None:
        raise _error(text, "not an address (RFC 5321 §4.1.2)")
    if match["domain"] == "":
        raise _error(text, "there is no domain after the @")
    local = match["atom"] if match["atom"] is not None else _QUOTED_PAIR.sub(r"\1", match["quoted"])
    return Address(local, match["domain"] or "")


def _wire_local(local: str) -> str:
    if _DOT_ATOM.fullmatch(local):
        return local
    return '"' + _NEEDS_BACKSLASH.sub(r"\\\g<0>", local) + '"'


def _check_length(text: str, what: str, value: str, limit: int) -> None:
    # A string of more characters than octets allowed is refused before it is encoded.
    if len(value) > limit or len(value.encode()) > limit:
        raise _error(text, f"{what} is longer than {limit} octets (RFC 5321 §4.5.3.1)")


def _check_domain(text: str, domain: str) -> None:
    if domain.startswith("["):
        _check_literal(text, domain)
        return
    ascii_domain = domain if domain.isascii() else _a_labels(text, domain)
    for label in ascii_domain.split("."):
        if not _LABEL.fullmatch(label) or len(label) > MAX_LABEL_OCTETS:
            raise _error(text, f'"{printable(label, 70)}" cannot be part of a domain (RFC 5321 §4.1.2)')


def _check_literal(text: str, domain: str) -> None:
    import ipaddress  # rare, and not for free at start-up

    inside = domain[1:].removesuffix("]")
    try:
        if not domain.endswith("]") or "%" in inside:
            raise ValueError
        if inside[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inside[5:])
        else:
            ipaddress.IPv4Address(inside)
    except ValueError:
        raise _error(text, "not an address literal; write [192.0.2.1] or [IPv6:2001:db8::1]") from None


def _a_labels(text: str, domain: str) -> str:
    import idna  # its tables take longer to load than most messages to queue

    try:
        encoded = idna.encode(domain, uts46=True).decode("ascii")
    except UnicodeError as error:  # IDNAError is one
        raise _error(text, f"not an internationalised domain: {printable(str(error), 120)}") from None
    _check_length(text, "the domain", encoded, MAX_DOMAIN_OCTETS)
    return encoded


# -- lists of addresses -----------------------------------------------------------------------------------

_Token = tuple[str, str]


def parse_list(value: bytes) -> list[str]:
    """The addr-specs in an address list, in order: To, Cc and Bcc, folded or not, or one argument.

    Display names, comments, groups and routes are read and dropped, empty elements skipped. Where a phrase is
    broken (an unquoted "@" or "." in a display name) the address in angle brackets holds, for it can mean
    nothing else; a group without its ";" ends with the list. Raises AddressError for all else: better nobody
    than somebody else.
    """
    text = value.decode("utf-8", "surrogateescape")
    if _ALONE.fullmatch(text):
        return [text]
    text = _FOLD.sub("", text)
    found: list[str] = []
    element = _Element(text)
    in_group = False
    tokens = _tokens(text)
    for token in tokens:
        match token:
            case ("special", "<"):
                element.set_angle(_until_closing(text, tokens))
            case ("special", ","):
                found += element.take()
            case ("special", ":") if in_group or not element.is_phrase:
                raise _error(text, 'a ":" where no name of a group is before it')
            case ("special", ":"):
                element.clear()
                in_group = True
            case ("special", ">"):
                raise _error(text, 'a ">" without its "<"')
            case ("special", ";") if not in_group:
                raise _error(text, 'a ";" without a group; addresses are separated by commas')
            case ("special", ";"):
                found += element.take()
                in_group = False
            case _:
                element.add(token)
    return found + element.take()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an address stands in the text of a list: `start` to `end`, within an element from `begin` to `stop`.

    The element has the display name and the comments around the address, too. In angle brackets the address goes from
    the first token to the last, an obsolete route included, so that what is put in its place is a mailbox again.
    """

    address: str
    begin: int
    stop: int
    start: int
    end: int


def find_in_list(text: str) -> list[Place]:
    """The addresses of `parse_list`, and where each of them stands in the text, folded or not. Raises AddressError."""
    unfolded = _FOLD.sub(lambda fold: " " * len(fold[0]), text)
    addresses = parse_list(text.encode("utf-8", "surrogateescape"))
    return [
        Place(address=address, begin=begin, stop=stop, start=start, end=end)
        for address, (begin, stop, start, end) in zip(addresses, _elements(unfolded), strict=True)
    ]


def _elements(text: str) -> Iterator[tuple[int, int, int, int]]:
    """begin, stop, start and end of each element with an address, of a list that `parse_list` has understood."""
    begin, start, end = 0, -1, -1
    angle = ""  # "<" within, ">" behind
    for kind, part, place in _tokens_with_place(text):
        special = part if kind == "special" else ""
        if angle == "<" and special == ">":
            angle = ">"
        elif special == "<":
            angle, start = "<", -1
        elif not angle and special == ":":  # before it stood the name of a group
            begin, start = place + 1, -1
        elif angle != "<" and special and special in ",;":
            if start >= 0:
                yield begin, place, start, end
            begin, start, angle = place + 1, -1, ""
        else:
            start = place if start < 0 else start
            end = place + len(part)
    if start >= 0:
        yield begin, len(text), start, end


class _Element:
    """What stands between two commas: a display name and an address in "<>", or an address alone."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.clear()

    def clear(self) -> None:
        self._tokens: list[_Token] = []
        self._angle: str | None = None

    @property
    def is_phrase(self) -> bool:
        """Whether it could be the name of a group."""
        return bool(self._tokens) and self._angle is None and ("special", "@") not in self._tokens

    def add(self, token: _Token) -> None:
        if self._angle is not None:
            raise _error(self._text, 'something after ">"; a comma is missing')
        self._tokens.append(token)

    def set_angle(self, tokens: list[_Token]) -> None:
        if self._angle is not None:
            raise _error(self._text, "two addresses without a comma between them")
        self._angle = _addr_spec(_without_route(self._text, tokens))

    def take(self) -> list[str]:
        """The address, if there is one; the element is empty afterwards."""
        found = [self._angle] if self._angle is not None else []
        if not found and self._tokens:
            found = [_addr_spec(self._tokens)]
        self.clear()
        return found


def _tokens(text: str) -> Iterator[_Token]:
    return ((kind, part) for kind, part, _ in _tokens_with_place(text))


def _tokens_with_place(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and index of each token; white space and comments are none."""
    position = 0
    while position < len(text):
        if text[position] == "(":
            position = _after_comment(text, position)
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise _error(text, _what_is_wrong_with(text[position]))
        kind = match.lastgroup or ""
        if kind != "space":
            yield kind, match[0], position
        position = match.end()


def _what_is_wrong_with(character: str) -> str:
    if character == '"':
        return "a quotation mark that is never closed"
    return f"{printable(character)!r} cannot stand here unquoted"


def _after_comment(text: str, start: int) -> int:
    depth = 0
    for match in _IN_COMMENT.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise _error(text, "a comment that is never closed")


def _until_closing(text: str, tokens: Iterable[_Token]) -> list[_Token]:
    inside: list[_Token] = []
    for token in tokens:
        if token == ("special", ">"):
            return inside
        inside.append(token)
    raise _error(text, 'a "<" without its ">"')


def _without_route(text: str, tokens: list[_Token]) -> list[_Token]:
    """`<@a,@b:c@d>` is `c@d` (RFC 5322 §4.4: routes SHOULD be ignored)."""
    if ("special", ":") not in tokens:
        return tokens
    colon = tokens.index(("special", ":"))
    for hop in _split(tokens[:colon], ","):
        if colon == 0 or (hop and (hop[0] != ("special", "@") or _joined_domain(hop[1:]) is None)):
            raise _error(text, 'not a route before the ":" in angle brackets')
    return tokens[colon + 1 :]


def _addr_spec(tokens: list[_Token]) -> str:
    """Words with dots between them, and perhaps "@" and a domain; white space and comments are gone."""
    at = tokens.index(("special", "@")) if ("special", "@") in tokens else len(tokens)
    words = tokens[:at]
    if not words:
        raise _error(_shown(tokens), "an empty address" if at == len(tokens) else "there is no name before the @")
    for number, (kind, part) in enumerate(words):
        if number % 2 == 0 and kind not in ("atom", "quoted"):
            raise _error(_shown(tokens), f'"{printable(part, 80)}" cannot stand in the name before the @ unquoted')
        if number % 2 == 1 and part != ".":
            raise _error(_shown(tokens), "several words without a comma between them")
    if len(words) % 2 == 0:
        raise _error(_shown(tokens), 'a name cannot end with a "."')
    if all(kind != "quoted" for kind, _ in words):
        local = "".join(part for _, part in words)
    else:
        local = _wire_local("".join(_unquoted(kind, part) for kind, part in words))
    if at == len(tokens):
        return local
    domain = _joined_domain(tokens[at + 1 :])
    if domain is None:
        raise _error(_shown(tokens), "what follows the @ is no domain; is a comma missing?")
    return f"{local}@{domain}"


def _shown(tokens: list[_Token]) -> str:
    return " ".join(part for _, part in tokens).replace(" . ", ".").replace(" @ ", "@")


def _unquoted(kind: str, part: str) -> str:
    return _QUOTED_PAIR.sub(r"\1", part[1:-1]) if kind == "quoted" else part


def _joined_domain(tokens: list[_Token]) -> str | None:
    if len(tokens) == 1 and tokens[0][0] == "literal":
        return tokens[0][1]
    if len(tokens) % 2 == 0:
        return None
    for number, (kind, part) in enumerate(tokens):
        if (kind != "atom") if number % 2 == 0 else (part != "."):
            return None
    return "".join(part for _, part in tokens)


def _split(tokens: list[_Token], separator: str) -> Iterator[list[_Token]]:
    part: list[_Token] = []
    for token in tokens:
        if token == ("special", separator):
            yield part
            part = []
        else:
            part.append(token)
    yield part
