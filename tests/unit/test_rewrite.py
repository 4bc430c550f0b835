"""The sender's addresses as each smarthost is to see them: what is rewritten, what stays, octet by octet."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysendmail.address import AddressError, parse_list
from pysendmail.config import BounceSection, Config, Rewrite, Smarthost
from pysendmail.message import Intake, split_header
from pysendmail.rewrite import MAX_LIST_OCTETS, Rewritten, Rule, rewrite, rule
from rig.store import config

BOX = "box@provider.example"


def settings(*, masquerade: tuple[str, ...] = (), **keys: Any) -> Config:
    return config(Path("/nowhere"), rewrite=Rewrite(masquerade=masquerade), **keys)


def smarthost(mode: Any = None, force_from: str = "") -> Smarthost:
    return Smarthost(name="main", host="smtp.example.com", from_=mode, force_from=force_from)


def found(given: Rule | None) -> Rule:
    assert given is not None
    return given


FORCE = found(rule(settings(masquerade=("box.lan",)), smarthost("force", BOX)))
QUALIFY = found(rule(settings(masquerade=("box.lan", "xn--bcher-kva.example")), smarthost("qualify")))
KEEP = found(rule(settings(masquerade=("box.lan", "localhost")), smarthost("keep")))


def header(text: str, rule: Rule) -> str:
    """A header, written without CR, as it leaves."""
    octets = text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
    return rewrite("me@example.org", octets, rule).header.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


QUALIFIED: dict[str, tuple[str, str]] = {
    "bare": ("From: root\n", "From: root@example.com\n"),
    "cron": ("From: root (Cron Daemon)\nTo: root\n", "From: root@example.com (Cron Daemon)\nTo: root@example.com\n"),
    "newer cron": ('From: "(Cron Daemon)" <root>\n', 'From: "(Cron Daemon)" <root@example.com>\n'),
    "localhost": ("From: R <root@LocalHost>\n", "From: R <root@example.com>\n"),
    "the host name": ("From: root@BOX.example.com\n", "From: root@example.com\n"),
    "masqueraded": ("From: joe@Box.LAN\n", "From: joe@example.com\n"),
    "masqueraded, internationalised": ("From: joe@Bücher.example\n", "From: joe@example.com\n"),
    "another domain": ("From:  Joe   <joe@example.org>\n", "From:  Joe   <joe@example.org>\n"),
    "a part of the host name": ("From: root@sub.box.example.com\n", "From: root@sub.box.example.com\n"),
    "several": ("From: a, B <b@x.org>,\n c@localhost\n", "From: a@example.com, B <b@x.org>,\n c@example.com\n"),
    "a group": ("From: us: a, b@x.org;\n", "From: us: a@example.com, b@x.org;\n"),
    "an empty group": ("From: us:;\n", "From: us:;\n"),
    "a quoted name": ('From: "a b"@localhost\n', 'From: "a b"@example.com\n'),
    "a quoted bare name with an @": ('From: "a@x.org"\n', 'From: "a@x.org"@example.com\n'),
    "quotes that are not needed": ('From: "root"\n', "From: root@example.com\n"),
    "a phrase with everything": (
        'From: "a, <b@c> (d" (x\\)y (z)) <root (me) @ localhost (here)> (out)\n',
        'From: "a, <b@c> (d" (x\\)y (z)) <root@example.com (here)> (out)\n',
    ),
    "a route": ("From: <@a,@b:root@localhost>\n", "From: <root@example.com>\n"),
    "folded": ("From: Root\n\t<root\n @localhost>\n", "From: Root\n\t<root@example.com>\n"),
    "begun on the next line": ("From:\n root\n", "From:\n root@example.com\n"),
    "white space before the colon": ("From \t: root\n", "From \t: root@example.com\n"),
    "no space behind the colon": ("FROM:root\n", "FROM:root@example.com\n"),
    "an encoded name": ("From: =?utf-8?Q?J=C3=BC?= <root>\n", "From: =?utf-8?Q?J=C3=BC?= <root@example.com>\n"),
    "a name of any octets": ("From: J\udcfc <root>\n", "From: J\udcfc <root@example.com>\n"),
    "an address of any octets": ("From: \udcfc@localhost\n", "From: \udcfc@localhost\n"),
    "no address": ("From: a b c\n", "From: a b c\n"),
    "nothing": ("From: \nSubject: x\n", "From: \nSubject: x\n"),
    "fields of the sender": (
        "Sender: a\nReply-To: b, c@x.org\nResent-From: d\nResent-Sender: e\n",
        "Sender: a@example.com\nReply-To: b@example.com, c@x.org\n"
        "Resent-From: d@example.com\nResent-Sender: e@example.com\n",
    ),
    "recipients": (
        "To: a, b@localhost, c@box.lan\nCc: g: d;\nResent-To: e\nResent-Cc: f\n",
        "To: a@example.com, b@localhost, c@box.lan\nCc: g: d@example.com;\n"
        "Resent-To: e@example.com\nResent-Cc: f@example.com\n",
    ),
    "no other field": ("Subject: root\nX-From: root\nFrom-: root\nReceived: by root\n", ""),
    "what is no field": ("root\n: root\nFrom root\n", ""),
    "a line that becomes long": (
        f"From: {'A' * 60} <root@box.lan> (x)\n",
        f"From: {'A' * 60}\n <root@example.com> (x)\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), QUALIFIED.values(), ids=QUALIFIED)
def test_qualify(text: str, expected: str) -> None:
    """Local names and masqueraded domains get `domain`, where they stand; every other octet stays."""
    assert header(text, QUALIFY) == (expected or text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("From: root\nTo: root\n", ""),
        ("From: root@box.example.com\n", ""),
        ("From: R <root@box.lan>\nReply-To: a@localhost\n", "From: R <root@example.com>\nReply-To: a@example.com\n"),
        ("To: root@box.lan\n", ""),
    ],
)
def test_keep_masquerades_only(text: str, expected: str) -> None:
    """At keep only the domains that are named are written as `domain`, and only in the sender's fields."""
    assert header(text, KEEP) == (expected or text)


FORCED: dict[str, tuple[str, str]] = {
    "cron": (
        "From: root (Cron Daemon)\nTo: root\n",
        f"From: {BOX} (Cron Daemon)\nReply-To: root@example.com (Cron Daemon)\nTo: root@example.com\n",
    ),
    "newer cron": (
        'From: "(Cron Daemon)" <root>\n',
        f'From: "(Cron Daemon)" <{BOX}>\nReply-To: "(Cron Daemon)" <root@example.com>\n',
    ),
    "a name": ("From: Joe <joe@x.org>\n", f"From: Joe <{BOX}>\nReply-To: Joe <joe@x.org>\n"),
    "an address alone": ("From: joe@x.org\n", f"From: {BOX}\nReply-To: joe@x.org\n"),
    "a Reply-To": ("From: joe@x.org\nReply-To: sue@x.org\n", f"From: {BOX}\nReply-To: sue@x.org\n"),
    "a local Reply-To": ("Reply-To: sue\nFrom: joe\n", f"Reply-To: sue@example.com\nFrom: {BOX}\n"),
    "an empty Reply-To": ("Reply-To: \nFrom: joe@x.org\n", f"From: {BOX}\nReply-To: joe@x.org\n"),
    "the forced one": (f"From: Box <{BOX}>\n", f"From: Box <{BOX}>\n"),
    "the forced one in another case": ("From: box@PROVIDER.example\n", f"From: {BOX}\n"),
    "Sender": (
        "From: joe@x.org\nSender: Sue <sue@x.org>\n",
        f"From: {BOX}\nReply-To: joe@x.org\nSender: Sue <{BOX}>\n",
    ),
    "several": (
        "From: Joe <joe@x.org>,\n Sue <sue>\n",
        f"From: Joe <{BOX}>\nReply-To: Joe <joe@x.org>,\n Sue <sue@example.com>\n",
    ),
    "a group": (
        "From: us: Joe <joe@x.org>, sue@x.org;\n",
        f"From: Joe <{BOX}>\nReply-To: us: Joe <joe@x.org>, sue@x.org;\n",
    ),
    "an empty group": ("From: us:;\n", f"From: {BOX}\n"),
    "nothing": ("From:\n", f"From: {BOX}\n"),
    "two fields": (
        "From: joe@x.org\nSubject: x\nFrom: sue@x.org\n",
        f"From: {BOX}\nReply-To: joe@x.org, sue@x.org\nSubject: x\nFrom: {BOX}\n",
    ),
    "no address": ("From: Joe at @ Home\n", f'From: "Joe at @ Home" <{BOX}>\n'),
    "an address that is cut": ("From: Joe <joe@x.org\n", f'From: "Joe <joe@x.org" <{BOX}>\n'),
    "no letter": ("From: <>\n", f"From: {BOX}\n"),
    "a name of any octets": (
        "From: \udcfc\udce4 <a@x.org>\n",
        f"From: \udcfc\udce4 <{BOX}>\nReply-To: \udcfc\udce4 <a@x.org>\n",
    ),
    "the newest resending": (
        "Received: by us\nResent-From: Sue <sue@x.org>\nResent-Sender: a\nReceived: x\nResent-From: b@y.org\n"
        "From: c@y.org\n",
        f"Received: by us\nResent-From: Sue <{BOX}>\nResent-Sender: {BOX}\nReceived: x\nResent-From: b@y.org\n"
        f"From: {BOX}\nReply-To: c@y.org\n",
    ),
    "no From": ("Subject: x\n", "Subject: x\n"),
    "a long name": (
        f"From: {'A' * 30} {'B' * 30} <joe@x.org>\n",
        f"From: {'A' * 30} {'B' * 30}\n <{BOX}>\nReply-To: {'A' * 30} {'B' * 30}\n <joe@x.org>\n",
    ),
}


@pytest.mark.parametrize(("text", "expected"), FORCED.values(), ids=FORCED)
def test_force(text: str, expected: str) -> None:
    """One address in From and Sender, names and comments kept; where the mail came from goes to Reply-To."""
    assert header(text, FORCE) == expected


NO_BOUNCES, BOUNCES = BounceSection(), BounceSection(sender="bounces@example.com")
SENDERS: dict[str, tuple[str, Any, BounceSection, str]] = {
    "keep": ("root@localhost", "keep", BOUNCES, "root@localhost"),
    "qualify": ("root@localhost", "qualify", NO_BOUNCES, "root@example.com"),
    "qualify, not local": ("a@x.org", "qualify", NO_BOUNCES, "a@x.org"),
    "force": ("a@x.org", "force", NO_BOUNCES, BOX),
    "null": ("", "qualify", NO_BOUNCES, ""),
    "null at force": ("", "force", NO_BOUNCES, ""),
    "null that is not wanted": ("", "keep", BOUNCES, "bounces@example.com"),
    "null that is not wanted, at force": ("", "force", BOUNCES, BOX),
    "masqueraded": ("a@box.lan", "keep", NO_BOUNCES, "a@example.com"),
    "not ASCII": ("jürgen@localhost", "qualify", NO_BOUNCES, "jürgen@example.com"),
}


@pytest.mark.parametrize(("sender", "mode", "bounce", "expected"), SENDERS.values(), ids=SENDERS)
def test_reverse_path(sender: str, mode: Any, bounce: BounceSection, expected: str) -> None:
    """The envelope follows the same rule; null stays null, unless [bounce] sender says that nobody takes it."""
    given = rule(settings(masquerade=("box.lan",), bounce=bounce), smarthost(mode, BOX))
    assert rewrite(sender, b"", found(given)).sender == expected


def test_rules() -> None:
    """The smarthost's own keys come before [rewrite]; nothing to rewrite is no rule at all."""
    shared = config(Path("/nowhere"), rewrite=Rewrite(from_="force", force_from=BOX))
    assert found(rule(shared, smarthost())).force_from == BOX
    assert found(rule(shared, smarthost("force", "own@x.example"))).force_from == "own@x.example"
    assert found(rule(shared, smarthost(None, "own@x.example"))).force_from == "own@x.example"
    assert found(rule(shared, smarthost("qualify"))).force_from == ""
    assert rule(shared, smarthost("keep")) is None
    assert found(rule(shared, smarthost("force", "box@Bücher.example"))).force_from == "box@xn--bcher-kva.example"


def test_a_public_domain_is_not_put_behind_a_name() -> None:
    """A mail provider's domain makes strangers of local names: they are written at the host name."""
    given = found(rule(settings(domain="gmail.com"), smarthost("qualify")))
    assert header("From: root\n", given) == "From: root@box.example.com\n"


def test_a_signature_that_breaks_is_told() -> None:
    """DKIM covers From: whoever rewrites it says so; where only the envelope is, it holds."""
    dkim = b"DKIM-Signature: v=1; h=from; b=x\r\n"
    one = rewrite("root@localhost", dkim + b"From: root\r\n", QUALIFY)
    assert (one.changed, one.signed) == (True, True)
    one = rewrite("root@localhost", dkim + b"From: a@x.org\r\n", QUALIFY)
    assert (one.changed, one.signed, one.header) == (True, False, dkim + b"From: a@x.org\r\n")
    one = rewrite("a@x.org", dkim + b"From: a@x.org\r\n", QUALIFY)
    assert (one.changed, one.signed) == (False, False)


def test_an_address_that_would_become_too_long_stays() -> None:
    """What cannot be an address is not written."""
    long = "a" * 64
    given = found(rule(settings(domain=".".join(["d" * 60] * 4)[:240]), smarthost("qualify")))
    assert header(f"From: {long}\n", given) == f"From: {long}\n"


def test_endless_lists_are_not_looked_into() -> None:
    """The sender's fields come first, wherever they stand; beyond the bound all stay, but From is forced."""
    endless = "To: " + "a, " * MAX_LIST_OCTETS + "b\n"
    assert header(endless + "From: Joe <joe>\nCc: c\n", FORCE) == (
        f"{endless}From: Joe <{BOX}>\nReply-To: Joe <joe@example.com>\nCc: c\n"
    )
    assert header(endless.replace("To", "From") + "Cc: c\n", FORCE) == f"From: {BOX}\nCc: c\n"
    assert header(endless.replace("To", "From"), QUALIFY) == endless.replace("To", "From")


# -- any header at all

SPECIALS = st.sampled_from(
    [*' \t<>@,;:."()\\[]', "\n ", "root", "localhost", "a@x.org", '"q"', "(c)", "=?utf-8?Q?x?=", "\udcff", "ü"]
)
TEXTS = st.lists(SPECIALS, max_size=20).map("".join)
NAMES = st.sampled_from(
    ["From", "from ", "Sender", "Reply-To", "To", "Resent-From", "Received", "Subject", "DKIM-Signature"]
)
FIELDS = st.lists(st.tuples(NAMES, TEXTS), max_size=6)
RULES = {"keep": KEEP, "qualify": QUALIFY, "force": FORCE}


def taken(text: str) -> bytes:
    """A header as submission leaves it: of any input, fields with CRLF."""
    intake = Intake(dot_ends=False)
    intake.feed(text.encode("utf-8", "surrogateescape"))
    intake.finish()
    return b"".join(field.raw for field in intake.fields)


def once(octets: bytes, rule: Rule) -> Rewritten:
    return rewrite("me@x.org", octets, rule)


@pytest.mark.parametrize("name", RULES)
@given(fields=FIELDS)
@example(fields=[("From", "a@x.org,\n ")])
@example(fields=[("From", '"a\n b"@localhost')])
def test_any_header_comes_out_well_formed(name: str, fields: list[tuple[str, str]]) -> None:
    """As many fields as before (but for Reply-To), no blank line, no stray line end; twice is as once."""
    octets = taken("".join(f"{field}: {text}\n" for field, text in fields))
    result = once(octets, RULES[name]).header
    assert result.replace(b"\r\n", b"").count(b"\n") == result.replace(b"\r\n", b"").count(b"\r") == 0
    before, after = ([field.name for field in split_header(each)] for each in (octets, result))
    assert [each for each in before if each != b"reply-to"] == [each for each in after if each != b"reply-to"]
    if not any(line.strip() == b"" for line in octets.split(b"\r\n")[:-1]):
        assert all(line.strip() for line in result.split(b"\r\n")[:-1])
    assert once(result, RULES[name]).header == result
    assert once(octets, RULES[name]).header == result


@given(fields=FIELDS)
def test_forced_fields_have_the_one_address(fields: list[tuple[str, str]]) -> None:
    """At force, whatever stood there, From and Sender are lists with force_from and nothing else."""
    for field in split_header(once(taken("".join(f"{field}: {text}\n" for field, text in fields)), FORCE).header):
        if field.name in (b"from", b"sender"):
            assert parse_list(field.value) == [BOX]


@given(text=TEXTS)
def test_only_addresses_change(text: str) -> None:
    """At qualify a list has as many addresses as before, and a field that is no list stays."""
    octets = taken(f"From: {text}\n")
    [before], [after] = split_header(octets), split_header(once(octets, QUALIFY).header)
    try:
        addresses = parse_list(before.value)
    except AddressError:
        assert before == after
        return
    local = ("@localhost", "@box.lan")
    expected = [
        one.partition("@")[0] + "@example.com" if "@" not in one or one.endswith(local) else one for one in addresses
    ]
    if '"' not in text and "\udcff" not in text and max(map(len, addresses), default=0) <= 64:
        assert parse_list(after.value) == expected


def test_another_reader_understands_the_forced_header() -> None:
    """Python's own parser, which shares no code with ours, finds one author and the replies' way."""
    octets = taken("From: Jürgen (at home) <root>, Sue <sue@x.org>\nTo: root\nSubject: x\n")
    message = email.message_from_bytes(once(octets, FORCE).header, policy=email.policy.SMTP)
    assert [each.addr_spec for each in message["From"].addresses] == [BOX]
    assert [each.addr_spec for each in message["Reply-To"].addresses] == ["root@example.com", "sue@x.org"]
