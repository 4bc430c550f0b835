"""advice: what the facts that `probe` found mean for a person, each with its mend. Pure.

A finding is an *error* when mail cannot go that way, a *warning* when it soon may not or is less safe than it could
be, a *note* when it is worth knowing. What a server sent is in the facts already escaped and capped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pysendmail import hints
from pysendmail.config import MIB, Smarthost

Facts = dict[str, Any]
Finding = dict[str, str]

SOON_DAYS = 14  # an automatic renewal has failed by then: they come at a third of the lifetime, 30 of 90 days
_TOKENS = {"XOAUTH2", "OAUTHBEARER"}
_UNTRUSTED = re.compile(r"self.signed|unable to get (local )?issuer|unable to verify")


def findings(facts: Facts, smarthost: Smarthost, max_message_size: int) -> list[Finding]:
    """All of them, the errors first."""
    found = [
        *_of_trouble(facts, smarthost),
        *_of_sender(facts),
        *_of_tls(facts, smarthost),
        *_of_certificate(facts, smarthost),
        *_of_extensions(facts, max_message_size),
    ]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda one: order.index(one["level"]))


def pin(fingerprint: str) -> str:
    """The two lines of [[smarthost]] that trust this certificate and no other."""
    return f'tls = "fingerprint", tls_fingerprints = ["{fingerprint}"]'


def _finding(level: str, text: str, mend: str) -> Finding:
    return {"level": level, "text": text, "mend": mend}


def _of_trouble(facts: Facts, smarthost: Smarthost) -> Iterator[Finding]:
    trouble = facts["trouble"]
    if trouble is None:
        return
    mend = {
        "connect": _no_connection,
        "greeting": _no_greeting,
        "starttls": _no_starttls,
        "tls": _no_handshake,
        "auth": _no_login,
    }.get(trouble["stage"])
    words = mend(facts, smarthost) if mend else hints.hint(trouble["status"], trouble["reason"])
    yield _finding("error", f"{trouble['stage']}: {trouble['reason']}", words)


def _no_connection(facts: Facts, smarthost: Smarthost) -> str:
    if facts["address"] is None:
        return "check the spelling of host, the network and /etc/resolv.conf"
    if smarthost.port == 25:
        return "many networks let nobody out to port 25: most providers take mail on port = 465 or 587"
    return "check host and port (465 or 587 at most providers), the network, and the firewalls in between"


def _no_greeting(facts: Facts, smarthost: Smarthost) -> str:
    if facts["trouble"]["code"] is not None:
        return "the server does not talk to this machine; its words say why, or its administrator can"
    if not smarthost.tls_implicit:
        return "a port that speaks TLS from the first byte says nothing until then: try tls_implicit = true (port 465)"
    return "this may be no mail server: check host and port"


def _no_starttls(facts: Facts, smarthost: Smarthost) -> str:
    if facts["tls"]["remembered"]:
        return f"if TLS was switched off there for good: pysendmail probe --forget {smarthost.name}"
    return "try port = 465, where TLS begins at once; or ask its administrator"


def _no_handshake(facts: Facts, smarthost: Smarthost) -> str:
    reason, chain = facts["trouble"]["reason"], facts["tls"]["chain"]
    own = chain[0] if chain else None
    if own is None and smarthost.tls_implicit:
        return "a port that begins in clear, as 587 does, knows no other beginning: leave tls_implicit out there"
    if own is None:
        return "the server's TLS is broken, or too old for tls_minimum; its administrator can mend that"
    if "ostname mismatch" in reason or "IP address mismatch" in reason:
        names = ", ".join(own["names"][:5]) or "no host at all"
        return f"the certificate is for {names}: if that is your server, write that name as host"
    if "expired" in reason:
        return "its administrator has to renew it; check this machine's clock, too"
    if "fingerprint" in reason:
        return f"only if its administrator says that it was changed: {pin(own['sha256'])}"
    if _UNTRUSTED.search(reason):
        return (
            "no authority that this machine trusts has signed it: name that authority's file as tls_ca_file, or, if "
            f"its administrator tells you the same SHA-256, write {pin(own['sha256'])}"
        )
    return f"if its administrator tells you the same SHA-256, write {pin(own['sha256'])}"


def _no_login(facts: Facts, smarthost: Smarthost) -> str:
    offered, trouble = facts["auth"]["offered"], facts["trouble"]
    if trouble["code"] is not None:
        words = "check username and password; many providers want a password of its own for each program (app password)"
        if offered and set(offered) <= _TOKENS | {"PLAIN-CLIENTTOKEN"}:
            words = 'the server takes tokens only: password_command that prints one, and auth = ["XOAUTH2"]'
        return words
    if "auth_in_clear" in trouble["reason"]:
        return "use TLS; auth_in_clear = true is for a smarthost on this very machine"
    if facts["greeting"] is None:
        return "pysendmail check says where the password is looked for, and what is wrong there"
    if offered and smarthost.auth:
        return f"auth asks for none that the server offers ({' '.join(offered[:5])}): leave it out"
    if offered:
        return 'a token is not a password: password_command that prints one, and auth = ["XOAUTH2"]'
    return "this port takes no logins: most providers do on 465 and 587; or leave username out"


def _of_sender(facts: Facts) -> Iterator[Finding]:
    sender = facts["sender"]
    if sender is None or sender["accepted"]:
        return
    which = "mail" if sender["rcpt"] is None else "rcpt"
    reply, status = sender[which], sender["status"]
    asked = f"MAIL FROM:<{sender['address']}>" if which == "mail" else f"RCPT TO:<{sender['recipient']}>"
    yield _finding("error", f"{asked} is refused: {reply}", hints.hint(status, reply))


def _of_tls(facts: Facts, smarthost: Smarthost) -> Iterator[Finding]:
    tls = facts["tls"]
    if facts["greeting"] is None or facts["trouble"] is not None:
        return
    if tls["version"] is None and tls["result"].startswith("in clear: "):
        text = f"{tls['result']}: everybody on the way can read the mail"
        yield _finding("warning", text, "its administrator can mend its TLS")
    elif tls["version"] is None and "STARTTLS" in (facts["extensions"] or []):
        yield _finding("warning", "the mail goes in clear, though TLS is offered", 'write tls = "verify"')
    elif tls["version"] is not None and smarthost.tls in ("may", "encrypt"):
        text = f'at tls = "{smarthost.tls}" nobody asks whose certificate it is'
        yield _finding("note", text, 'write tls = "verify", and probe again')


def _of_certificate(facts: Facts, smarthost: Smarthost) -> Iterator[Finding]:
    chain = facts["tls"]["chain"]
    days = chain[0]["days_left"] if chain else None
    if days is None or (days < 0 and facts["trouble"] is not None):
        return
    if days < 0:
        yield _finding("warning", f"the certificate expired {-days} days ago", "its administrator has to renew it")
    elif days < SOON_DAYS:
        mend = "its administrator has to renew it" if smarthost.tls == "verify" else "it will be another one soon"
        if smarthost.tls == "fingerprint":
            mend = "ask its administrator for the next one's SHA-256, and add that to tls_fingerprints"
        yield _finding("warning", f"the certificate expires in {days} days", mend)


def _of_extensions(facts: Facts, max_message_size: int) -> Iterator[Finding]:
    if facts["extensions"] is None or facts["trouble"] is not None:
        return
    words = {line.split(" ")[0].upper(): line.split(" ")[1:] for line in facts["extensions"]}
    size = words.get("SIZE", [])
    if size and size[0].isdecimal() and 0 < int(size[0]) < max_message_size:
        text = f"it takes messages up to {int(size[0]) / MIB:.1f} MiB, we up to {max_message_size / MIB:.1f} MiB"
        mend = f'write max_message_size = "{int(size[0])}B" in [queue]: then such mail is refused at once'
        yield _finding("note", text, mend)
    if "PIPELINING" not in words:
        yield _finding(
            "note", "it does not offer PIPELINING: a message takes several round trips", "nothing to be done"
        )
