"""Certificate: what an X.509 certificate says of itself, for people (RFC 5280 §4.1).

The standard library tells this only of certificates that it has verified, and `probe` is most needed for the others.
So this reads the few fields of the DER encoding that a person asks for. Nothing is decided by them: policy is
OpenSSL's and the fingerprint's. A certificate that cannot be read has its fingerprint, and empty fields.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from pysendmail.smtp.reply import printable

MAX_NAMES = 100
MAX_NAME = 200  # characters

_SEQUENCE, _OID, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x06, 0x17, 0x18
_VERSION, _EXTENSIONS, _DNS_NAME, _IP_ADDRESS = 0xA0, 0xA3, 0x82, 0x87
_OCTETS = 0x04
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")
_LETTERS = {
    bytes.fromhex("550403"): "CN",
    bytes.fromhex("550406"): "C",
    bytes.fromhex("550407"): "L",
    bytes.fromhex("550408"): "ST",
    bytes.fromhex("55040a"): "O",
    bytes.fromhex("55040b"): "OU",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The fields in words; times are RFC 3339 in UTC."""

    sha256: str
    subject: str = ""
    issuer: str = ""
    not_before: str = ""
    not_after: str = ""
    names: tuple[str, ...] = ()  # the host names and addresses that it is for


def describe(der: bytes) -> Certificate:
    """The certificate in words."""
    fingerprint = sha256(der).hexdigest()
    try:
        fields = list(_items(_inside(_inside(der))))
        if fields[0][0] == _VERSION:
            del fields[0]
        _serial, _algorithm, issuer, validity, subject = (content for _, content in fields[:5])
        not_before, not_after = _items(validity)
        extensions = next((content for tag, content in fields[5:] if tag == _EXTENSIONS), b"")
        return Certificate(
            sha256=fingerprint,
            subject=_name(subject),
            issuer=_name(issuer),
            not_before=_time(*not_before),
            not_after=_time(*not_after),
            names=tuple(_alternative_names(extensions)),
        )
    except (ValueError, IndexError):
        return Certificate(sha256=fingerprint)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that follow each other in `data`: tag and content."""
    place = 0
    while place < len(data):
        tag, length = data[place], data[place + 1]
        place += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[place : place + octets])
            place += octets
        if place + length > len(data):
            raise ValueError("an element longer than what holds it")
        yield tag, data[place : place + length]
        place += length


def _inside(data: bytes) -> bytes:
    """The content of the first element."""
    return next(_items(data), (0, b""))[1]


def _name(data: bytes) -> str:
    parts = []
    for _, attributes in _items(data):
        for _, attribute in _items(attributes):
            (_, oid), (_, value) = _items(attribute)
            parts.append(f"{_LETTERS.get(oid, oid.hex())}={printable(value, MAX_NAME)}")
    return ", ".join(parts[:MAX_NAMES])


def _time(tag: int, value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if tag == _UTC_TIME:  # RFC 5280 §4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _alternative_names(extensions: bytes) -> list[str]:
    names: list[str] = []
    for _, extension in _items(_inside(extensions)):
        fields = list(_items(extension))
        if fields[0] != (_OID, _SUBJECT_ALT_NAME) or fields[-1][0] != _OCTETS:
            continue
        for tag, value in _items(_inside(fields[-1][1])):
            if tag == _DNS_NAME:
                names.append(printable(value, MAX_NAME))
            elif tag == _IP_ADDRESS:
                with suppress(ValueError):
                    names.append(str(ipaddress.ip_address(value)))
    return names[:MAX_NAMES]
