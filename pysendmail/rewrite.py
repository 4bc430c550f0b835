"""Rewrite: the sender's addresses as one smarthost is to see them (pysendmail.toml(5), [rewrite]). Pure.

Applied when a message is sent, never to what is stored: through each smarthost by its own rule, so that a retry
elsewhere begins with the original again, and bounces of ours go to the sender that the caller gave.

    keep      only masquerade: addresses at these domains are written at `domain`
    qualify   and so are local names: bare, at localhost, at the host name
    force     the reverse-path, and the address in From, Sender and the newest Resent-From and Resent-Sender, is
              force_from. Names and comments stay. Without a Reply-To the addresses of From, qualified, become one

`keep` and `qualify` are for the reverse-path, From, Sender, Reply-To, Resent-From, Resent-Sender; what stands in To and
Cc stays, but for bare names from `qualify` on: many servers refuse a header with such. The null reverse-path stays
null unless [bounce] sender is set.

Promises: bytes in, bytes out, field by field; only the address within a field is replaced, and a field in which none
is comes out as it was. Same input and rule, same bytes (promise 5); done twice it changes nothing more. A changed
field is folded at white space to lines of 78 octets where it has any, to 998 as far as `message.fold` can. A field
that is no list of addresses stays, but at `force` in the fields of which only one address is accepted: there its text
becomes the name of a well-formed one. What is beyond MAX_LIST_OCTETS stays, or is replaced without a name. A signature
(DKIM) over what is changed no longer holds: `signed` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pysendmail.address import Address, AddressError, find_in_list, parse_path
from pysendmail.config import Config, Smarthost
from pysendmail.message import Field, fold, mailbox, newest_resent, split_header

# RFC 5322 §2.1.1: what a line should not exceed.
PREFERRED_LINE_OCTETS = 78
# Of lists of addresses in one header, the sender's first; a thousand recipients fit. What is beyond is not looked into,
# or each attempt at a message could cost seconds.
MAX_LIST_OCTETS = 64 * 1024

_AUTHORS = (b"from", b"sender")
_RESENDERS = (b"resent-from", b"resent-sender")
_REPLY_TO = b"reply-to"
_SENDERS = (*_AUTHORS, *_RESENDERS, _REPLY_TO)
_RECIPIENTS = (b"to", b"cc", b"resent-to", b"resent-cc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one smarthost wants. `domains`: for each domain that is rewritten, in lower-case ASCII, the new one."""

    force_from: str  # "" but for `force`
    domains: Mapping[str, str]  # "" is that of a bare name
    null_sender: str = ""  # the reverse-path instead of the null one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A message as it leaves. `signed`: the header is changed, and it had a DKIM signature."""

    sender: str
    header: bytes
    changed: bool
    signed: bool


def rule(config: Config, smarthost: Smarthost) -> Rule | None:
    """The rule of this smarthost; None: mail goes there as it is stored."""
    mode = smarthost.from_ or config.rewrite.from_
    domains = {domain.lower(): config.domain for domain in config.rewrite.masquerade}
    if mode != "keep":
        own = domains.get(config.sender_domain.lower(), config.sender_domain)
        domains = dict.fromkeys(("", "localhost", config.hostname.lower()), own) | domains
    elif not domains and not config.bounce.sender:
        return None
    force_from = (smarthost.force_from or config.rewrite.force_from) if mode == "force" else ""
    return Rule(
        force_from=_in_ascii(force_from) if force_from else "",
        domains=MappingProxyType(domains),
        null_sender=config.bounce.sender,
    )


def _in_ascii(address: str) -> str:
    parsed = parse_path(address)
    return str(Address(parsed.local, parsed.ascii_domain))


def sender(reverse_path: str, rule: Rule) -> str:
    """The reverse-path as the smarthost is to see it; "" is the null one."""
    address = reverse_path or rule.null_sender
    return (rule.force_from or qualified(address, rule.domains)) if address else ""


def qualified(address: str, domains: Mapping[str, str]) -> str:
    """The address at its new domain; as it is, where there is none, or it cannot be written there."""
    written = address.rpartition("@")[2].lower()
    if "@" in address and written.isascii() and not written.endswith('"') and written not in domains:
        return address  # by far the most are of elsewhere, and need not be understood
    try:
        parsed = parse_path(address)
        domain = domains.get(parsed.ascii_domain.lower())
        return address if domain is None else str(Address(parsed.local, domain))
    except AddressError:
        return address


def rewrite(reverse_path: str, header: bytes, rule: Rule) -> Rewritten:
    """The message with this reverse-path and header as the smarthost of the rule is to see it."""
    fields = split_header(header) if rule.domains else []
    newest = {id(field) for field in newest_resent(fields)}
    readable = _readable(fields)
    reply_to = _reply_to(fields, rule, readable) if rule.force_from else b""
    pending = [reply_to] if reply_to else []
    out: list[bytes] = []
    for field in fields:
        if field.name == _REPLY_TO and reply_to:
            continue  # one without a value, else it would be the only one
        out.append(_field(field, rule, newest=id(field) in newest, readable=id(field) in readable))
        if field.name == b"from" and pending:
            out.append(pending.pop())
    new_sender, new_header = sender(reverse_path, rule), b"".join(out) if rule.domains else header
    return Rewritten(
        sender=new_sender,
        header=new_header,
        changed=(new_sender, new_header) != (reverse_path, header),
        signed=new_header != header and any(field.name == b"dkim-signature" for field in fields),
    )


def _readable(fields: Sequence[Field]) -> set[int]:
    """The ids of the fields whose lists of addresses are looked into."""
    found, room = set(), MAX_LIST_OCTETS
    lists = (field for field in fields if field.name in _SENDERS or field.name in _RECIPIENTS)
    for field in sorted(lists, key=lambda field: field.name in _RECIPIENTS):
        room -= len(field.raw)
        if room >= 0:
            found.add(id(field))
    return found


def _field(field: Field, rule: Rule, *, newest: bool, readable: bool) -> bytes:
    """One field, rewritten if it is one that is."""
    if rule.force_from and (field.name in _AUTHORS or (field.name in _RESENDERS and newest)):
        return _forced(field, rule.force_from, readable=readable)
    if readable and field.name in _SENDERS:
        return _each(field, rule.domains)
    if readable and "" in rule.domains:
        return _each(field, {"": rule.domains[""]})
    return field.raw


def _text(field: Field) -> str:
    return field.raw.partition(b":")[2].removesuffix(b"\r\n").decode("utf-8", "surrogateescape")


def _with_text(field: Field, text: str) -> bytes:
    """The field with another text; the very same where it is the same text."""
    name, colon, _ = field.raw.partition(b":")
    raw = name + colon + text.encode("utf-8", "surrogateescape") + b"\r\n"
    return field.raw if raw == field.raw else fold(raw, PREFERRED_LINE_OCTETS)


def _each(field: Field, domains: Mapping[str, str]) -> bytes:
    """Every address in the field at its new domain."""
    text = _text(field)
    try:
        return _with_text(field, _qualified_text(text, domains))
    except AddressError:
        return field.raw


def _qualified_text(text: str, domains: Mapping[str, str]) -> str:
    pieces: list[str] = []
    done = 0
    for place in find_in_list(text):
        new = qualified(place.address, domains)
        if new != place.address:
            pieces += (text[done : place.start], new)
            done = place.end
    return "".join((*pieces, text[done:]))


def _forced(field: Field, address: str, *, readable: bool) -> bytes:
    """The field with this address alone. What stands around the first of several stays, the others go."""
    text = _text(field) if readable else ""
    try:
        places = find_in_list(text)
    except AddressError:
        name = text if any(map(str.isalnum, text)) else ""
        return _with_text(field, " " + "\r\n ".join(mailbox(name, address)))
    if not places:
        return _with_text(field, f" {address}")
    first = places[0]
    element = text[first.begin : first.start] + address + text[first.end : first.stop]
    alone = (first.begin, first.stop) == (0, len(text))
    return _with_text(field, element if alone else f" {element.strip()}")


def _reply_to(fields: Sequence[Field], rule: Rule, readable: set[int]) -> bytes:
    """The Reply-To that the original addresses become; nothing where there is one, or no other address."""
    if any(field.name == _REPLY_TO and field.value for field in fields):
        return b""
    texts: list[str] = []
    for field in fields:
        author = field.name == b"from" and id(field) in readable
        if author and (text := _with_another_address(_text(field), rule)):
            texts.append(text)
    raw = f"Reply-To: {', '.join(texts)}\r\n".encode("utf-8", "surrogateescape")
    return fold(raw, PREFERRED_LINE_OCTETS) if texts else b""


def _with_another_address(text: str, rule: Rule) -> str:
    """The text, qualified, if it has an address that is not the forced one; else nothing."""
    try:
        whole = _qualified_text(text, rule.domains).strip()
        addresses = [place.address for place in find_in_list(whole)]
    except AddressError:
        return ""
    return whole if any(_key(address) != _key(rule.force_from) for address in addresses) else ""


def _key(address: str) -> str:
    try:
        return parse_path(address).key
    except AddressError:
        return address
