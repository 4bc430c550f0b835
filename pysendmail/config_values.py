"""config_values: one value of pysendmail.toml, as tomllib gives it, to the value that Config holds.

`read(kind, value)` has one reader for each `Kind` of config.py. A value that will not do raises Wrong: `text`
says what is the matter, `mend` what to write instead. Names are brought into the form that the wire needs
(IDN to ASCII, fingerprints to bare lower-case hex). Pure: nothing here looks at a file or at another key.

A text that might be a secret (the keys of credentials) is never repeated in an error.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pysendmail import units
from pysendmail.address import Address, AddressError, parse_path
from pysendmail.config import Kind
from pysendmail.hostname import is_domain
from pysendmail.smtp.reply import printable

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
# sun_path is 108 octets with its NUL (unix(7)).
MAX_SOCKET_OCTETS = 107
MAX_PATTERN = 320
# Of a value that is shown in an error.
MAX_SHOWN = 60

_NAME = re.compile(r"[A-Za-z0-9\[:][A-Za-z0-9._:\[\]-]{0,254}\Z")
_RATE = re.compile(r"([1-9][0-9]{0,6})/([smhd])\Z")
_RATE_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACE_OR_CONTROL = re.compile("[\x00-\x20\x7f-\xa0\ud800-\udfff]")
_HEX = re.compile(r"[0-9a-f]+\Z")


class Wrong(ValueError):
    """The value will not do. `mend`: what to write instead, "" where the text says it all."""

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.mend = mend


def read(kind: Kind, value: object) -> object:
    """The value as Config holds it; Wrong if it is not of that kind or out of its bounds."""
    return _READERS[kind.name](value, kind)


def read_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong(f"{shown(value)} is neither true nor false", "write true or false, without quotes")
    return value


def read_choice(choices: Sequence[str], value: object) -> str:
    if isinstance(value, str) and value in choices:
        return value
    if isinstance(value, float) and str(value) in choices:
        raise Wrong(f"{shown(value)} is a number, not text", f'write "{value}", in quotes')
    raise Wrong(f"{shown(value)} is not one of {listed(choices)}", nearest(value, choices))


def nearest(value: object, known: Iterable[str]) -> str:
    """ "did you mean ...?", or nothing where nothing known is near."""
    import difflib  # hardly ever needed, and large

    close = difflib.get_close_matches(str(value).lower()[:100], list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def listed(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def shown(value: object) -> str:
    """The value as the file has it, as far as a line of an error has room."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{printable(value, MAX_SHOWN)}"'
        case int() | float():
            return printable(str(value) if abs(value) < 10**18 else "this number", MAX_SHOWN)
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _text(value: object, what: str = "text") -> str:
    if not isinstance(value, str):
        mend = f'write "{value}", in quotes' if isinstance(value, int) and not isinstance(value, bool) else ""
        raise Wrong(f"{shown(value)} is not {what}", mend or f'write {what} in quotes: "..."')
    return value


def _plain_text(value: object, _kind: Kind) -> str:
    if not isinstance(value, str):
        raise Wrong("this is not text", 'write it in quotes: "..."')
    if _CONTROL.search(value):
        raise Wrong("there is a control character in it")
    return value


def _strings(value: object, example: str) -> list[str]:
    if not isinstance(value, list):
        raise Wrong(f"{shown(value)} is not a list", f"write {example}")
    for item in value:
        if not isinstance(item, str):
            raise Wrong(f"{shown(item)} in the list is not text", f"write {example}")
    return list(dict.fromkeys(value))


def _duration(value: object, kind: Kind) -> float:
    mend = 'write a number and a unit (s, m, h, d, w), such as "30s", "1h30m" or "5d"'
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        value = "0"
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a duration", mend)
    try:
        seconds = units.duration(value)
    except ValueError:
        raise Wrong(f"{shown(value)} is not a duration", mend) from None
    if not kind.low <= seconds <= kind.high:
        raise Wrong(
            f"{shown(value)} is out of bounds",
            f"it must be {'more than' if kind.low else 'at least'} 0 and at most {int(kind.high // 86400)}d",
        )
    return seconds


def _size(value: object, kind: Kind) -> int:
    mend = 'write a number and a unit (B, KiB, MiB, GiB, KB, MB, GB), such as "50MiB"'
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        value = "0"
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a size", mend)
    try:
        octets = units.size(value)
    except ValueError:
        raise Wrong(f"{shown(value)} is not a size", mend) from None
    if not kind.low <= octets <= kind.high:
        low, high = int(kind.low), int(kind.high)
        raise Wrong(f"{shown(value)} is out of bounds", f'it must be from "{low}B" to "{high >> 30}GiB"')
    return octets


def _number(value: object, kind: Kind) -> int:
    low, high = int(kind.low), int(kind.high)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong(f"{shown(value)} is not a whole number", f"write one from {low} to {high}, without quotes")
    if not low <= value <= high:
        raise Wrong(f"{shown(value)} is out of bounds", f"it must be from {low} to {high}")
    return value


def _factor(value: object, kind: Kind) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Wrong(f"{shown(value)} is not a number", f"write one from {kind.low:g} to {kind.high:g}, without quotes")
    if not kind.low <= value <= kind.high:
        raise Wrong(f"{shown(value)} is out of bounds", f"it must be from {kind.low:g} to {kind.high:g}")
    return float(value)


def ascii_domain(text: str) -> str:
    """The domain as the wire needs it: labels that are not ASCII as xn--..., the rest as written. Wrong if it
    is none.
    """
    plain = text
    if not text.isascii():
        try:
            plain = Address("postmaster", text).ascii_domain
        except AddressError:
            raise Wrong(f"{shown(text)} is not a domain") from None
    if not is_domain(plain):
        mend = "write it without the final dot" if plain.endswith(".") and is_domain(plain[:-1]) else ""
        raise Wrong(f"{shown(text)} is not a domain", mend or 'write one such as "mail.example.com"')
    return plain


def _domain(value: object, _kind: Kind) -> str:
    return ascii_domain(_text(value, "a domain"))


def _hostname(value: object, _kind: Kind) -> str:
    text = _text(value, "a host name")
    if text.startswith("[") and text.endswith("]"):  # an address literal, RFC 5321 §4.1.3
        try:
            ipaddress.ip_address(text[1:-1].removeprefix("IPv6:"))
        except ValueError:
            raise Wrong(f"{shown(text)} is not an address literal", 'such as "[192.0.2.1]"') from None
        return text
    return ascii_domain(text)


def _host(value: object, _kind: Kind) -> str:
    text = _text(value, "a host")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass  # then it is a name
    if re.fullmatch(r"[^:]+:[0-9]+", text):
        raise Wrong(f"{shown(text)} is not a host", "write the port as a key of its own, port = ...")
    if re.fullmatch(r"[0-9.]+", text):
        raise Wrong(f"{shown(text)} is not an address")
    return ascii_domain(text)


def _domains(value: object, _kind: Kind) -> tuple[str, ...]:
    return tuple(ascii_domain(text) for text in _strings(value, 'a list of domains such as ["box.example.com"]'))


def _name(value: object, _kind: Kind) -> str:
    text = _text(value, "a name")
    if not _NAME.match(text):
        raise Wrong(f"{shown(text)} is not a name", "use letters, digits, dots, hyphens and underscores")
    return text


def _absolute(text: str) -> str:
    if _CONTROL.search(text):
        raise Wrong("there is a control character in it")
    if not text.startswith("/"):
        mend = "write the whole path, beginning with /"
        raise Wrong("it is not an absolute path", mend + ("; ~ is not expanded" if text.startswith("~") else ""))
    return text


def _file(value: object, _kind: Kind) -> str:
    # The text is never shown: who writes a password here by mistake shall not find it in a log.
    if not isinstance(value, str):
        raise Wrong("this is not a file's name", 'write it in quotes: "/..."')
    return _absolute(value) if value else ""


def _directory(value: object, _kind: Kind) -> Path:
    return Path(_absolute(_text(value, "a directory")))


def _socket(value: object, _kind: Kind) -> Path:
    text = _absolute(_text(value, "a socket's name"))
    path = Path(text)
    if max(len(bytes(path)), len(bytes(path.with_name("control")))) > MAX_SOCKET_OCTETS:
        raise Wrong("the path is too long for a socket", f"at most {MAX_SOCKET_OCTETS} octets")
    if path.name == "control":
        raise Wrong('"control" is the name of the socket beside it', "use another name, such as submit")
    return path


def _mailbox(text: str) -> str:
    try:
        return str(parse_path(text))
    except AddressError as error:
        raise Wrong(f"{shown(text)} is not an address: {error}", 'such as "box@example.com"') from None


def _address(value: object, _kind: Kind) -> str:
    text = _text(value, "an address")
    if not text:
        return ""
    if "@" not in text:
        raise Wrong(f"{shown(text)} has no domain", 'write a whole address, such as "box@example.com"')
    return _mailbox(text)


def _address_or_local(value: object, _kind: Kind) -> str:
    text = _text(value, "an address")
    return _mailbox(text) if text else ""


def _pattern(value: object, _kind: Kind) -> str:
    text = _text(value, "a pattern")
    if not text or len(text) > MAX_PATTERN or _SPACE_OR_CONTROL.search(text):
        raise Wrong(f"{shown(text)} is not a pattern", 'write one such as "*@example.com"; "*" is everything')
    return text


def _rate(value: object, _kind: Kind) -> tuple[int, float] | None:
    text = _text(value, "a rate")
    if not text:
        return None
    match = _RATE.match(text)
    if not match:
        raise Wrong(f"{shown(text)} is not a rate", 'write messages per s, m, h or d, such as "30/m"; "" is no limit')
    return int(match[1]), _RATE_SECONDS[match[2]]


def _fingerprints(value: object, _kind: Kind) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_fingerprint, _strings(value, "a list of SHA-256 fingerprints"))))


def _fingerprint(text: str) -> str:
    bare = text.strip().lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
    if _HEX.match(bare) and len(bare) == 64:
        return bare
    mend = "write the SHA-256 of the certificate, 64 hexadecimal digits; pysendmail probe shows it"
    if _HEX.match(bare) and len(bare) in (32, 40):
        raise Wrong(f"{shown(text)} is an {'MD5' if len(bare) == 32 else 'SHA-1'} fingerprint", mend)
    raise Wrong(f"{shown(text)} is not a fingerprint", mend)


def _mechanisms(value: object, _kind: Kind) -> tuple[str, ...]:
    words = [word.upper() for word in _strings(value, 'a list such as ["PLAIN"]')]
    for word in words:
        if word not in MECHANISMS:
            raise Wrong(f"{shown(word)} is not one of {listed(MECHANISMS)}")
    return tuple(dict.fromkeys(words))


def _command(value: object, _kind: Kind) -> tuple[str, ...]:
    # Never shown: an argument may be what it must not be, a password.
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise Wrong("this is not a list of words", 'write the program and each argument: ["pass", "show", "smtp"]')
    if value and (not value[0] or any("\0" in word for word in value)):
        raise Wrong("the program's name is empty, or there is a NUL in a word")
    return tuple(value)


def _listen(value: object, _kind: Kind) -> tuple[str, ...]:
    return tuple(_loopback(text) for text in _strings(value, 'a list such as ["127.0.0.1:2525"]'))


def _loopback(text: str) -> str:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    try:
        address = ipaddress.ip_address(match[1] or match[2]) if match else None
    except ValueError:
        address = None
    if match is None or address is None or not 1 <= int(match[3]) <= 65535:
        raise Wrong(f"{shown(text)} is not an address and a port", 'such as "127.0.0.1:2525" or "[::1]:2525"')
    if not address.is_loopback:
        raise Wrong(
            f"{shown(text)} is not a loopback address",
            "pysendmail takes no mail from the network: use 127.0.0.1 or [::1]",
        )
    return text


def _users(value: object, _kind: Kind) -> tuple[str, ...]:
    users = _strings(value, 'a list of user names such as ["www-data"], or ["*"] for everybody')
    for user in users:
        if not user or _SPACE_OR_CONTROL.search(user):
            raise Wrong(f"{shown(user)} is not a user name")
    return tuple(users)


def _smarthosts(value: object, _kind: Kind) -> tuple[str, ...]:
    names = _strings(value, 'a list of names of smarthosts, such as ["main"]')
    if not names:
        raise Wrong("the list is empty", "name at least one smarthost")
    return tuple(names)


_READERS: dict[str, Callable[[object, Kind], object]] = {
    "duration": _duration,
    "size": _size,
    "number": _number,
    "factor": _factor,
    "text": _plain_text,
    "host name": _hostname,
    "domain": _domain,
    "host": _host,
    "list of domains": _domains,
    "name": _name,
    "file": _file,
    "directory": _directory,
    "socket": _socket,
    "address": _address,
    "address or local name": _address_or_local,
    "pattern": _pattern,
    "rate": _rate,
    "list of fingerprints": _fingerprints,
    "list of mechanisms": _mechanisms,
    "command": _command,
    "list of loopback addresses": _listen,
    "list of user names": _users,
    "list of smarthosts": _smarthosts,
}
